"""What the functions take: files, options, the names of stages, entries and executors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from dsl.limits import LOWERED

if TYPE_CHECKING:
    from dsl.diagnostics import Diagnostic
    from dsl.source import Source

    File = str | os.PathLike[str] | Source
    """A path, or a text that was read already."""


Stage = Literal["ast", "graph", "training", "placed", "program"]
Executor = Literal["stacked", "private"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
STAGES: tuple[Stage, ...] = get_args(Stage)
Backend = Literal["numpy", "fast"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Entry = Literal["train_step", "evaluate", "infer", "prefill", "decode"]
ENTRIES: tuple[Entry, ...] = get_args(Entry)
System = Literal["torch"]
SYSTEMS: tuple[System, ...] = get_args(System)
OURS = ("parc lowered the strategy to a program that is not legal: please report it", None)
"""The note of diagnostics that are not the user's fault."""


class Options(TypedDict, total=False):
    """Keyword arguments of most functions here.

    `params` override the file's `param`s, `job` chooses one where there are several, `strategy` replaces the job's own,
    `double` its precision by float64. `warned` hears of what `check` warns of, once the job has no errors. `entry` is
    what the program is asked to do; if left out, what the job is for: `train_step`, or `infer`.
    """

    params: Mapping[str, object]
    job: str | None
    strategy: str | None
    double: bool
    warned: Callable[[Diagnostic], None]
    entry: Entry


def is_stage(name: str) -> bool:
    """Tell whether a file of this name holds the text of a job after one of the stages before the program."""
    return name.endswith(LOWERED) and not is_program(name)


def is_program(name: str) -> bool:
    """Tell whether a file of this name holds a lowered program."""
    return name.endswith(".npu")


def name_of(file: File) -> str:
    """Get what a file is called in messages: its path as given."""
    from dsl.source import Source

    return file.name if isinstance(file, Source) else os.fspath(file)


def texts(params: Mapping[str, object] | None) -> dict[str, str]:
    """Write values as they would be written behind `-D name=`."""
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in (params or {}).items()}
