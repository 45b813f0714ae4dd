"""Jobs from what others have published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parc.api.options import File
    from parc.importing.importing import ImportedJob


def init(
    file: File, *, cluster: tuple[int, str] | None = None, ignored: Sequence[str] = (), precision: str | None = None
) -> ImportedJob:
    """Write a job from the `config.json` of a published model: `.text` is its `.par` file.

    Args:
        file: a path, or a `Source`.
        cluster: number and device, `(64, "h100")`; without it the job is for one device of no kind.
        ignored: keys of the configuration that change nothing, whatever parc knows of them.
        precision: what the job computes in; None: bf16 where it trains, f32 where it infers.

    Raises:
        ParcError: for what is wrong with the configuration, or not understood (E1001 to E1005).
    """
    from dsl.files import load
    from dsl.source import Source
    from parc.importing.importing import import_config

    return import_config(file if isinstance(file, Source) else load(file), cluster, ignored, precision)
