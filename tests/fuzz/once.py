"""What several commands of a case would do alike with one file is done once: parsed, evaluated, compiled, read,
verified, prepared for the emulator.

The first of them has shown what there is to be seen of it; all that commands do with it is done by each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from compiler.model import TRAIN_STEP
from dsl.diagnostics import ParcError
from dsl.source import Source

Key = Callable[..., Hashable]
"""What a function's result depends on, of its arguments; None: it is called every time."""

MOST = 8
"""Results of a function that are kept: searches ask for many."""


@contextmanager
def once() -> Iterator[None]:
    """Inside, these functions are called once for the same arguments."""
    import compiler.driver
    import compiler.evaluate.modules
    import compiler.text
    import compiler.verify
    import dsl.parser
    import runtime.stacked.emulator

    shared: list[tuple[Any, str, Key]] = [
        (dsl.parser, "parse", lambda *text: text),
        (compiler.evaluate.modules, "parse", lambda *text: text),
        (compiler.evaluate, "evaluate_file", _of_file),
        (compiler.driver, "compile_job", _of_job),
        (compiler.text, "parse_located", lambda *text: text),
        (compiler.verify, "verify", lambda program, locations=None: (id(program), locations is None)),
        (runtime.stacked.emulator, "_prepare", lambda program, planner: (id(program), id(planner))),
    ]
    own = [getattr(module, name) for module, name, _ in shared]
    for (module, name, key), function in zip(shared, own, strict=True):
        setattr(module, name, _remembered(function, key))
    try:
        yield
    finally:
        for (module, name, _), function in zip(shared, own, strict=True):
            setattr(module, name, function)


def _of_file(
    path: str | os.PathLike[str] | Source,
    overrides: Mapping[str, str] | None = None,
    job: str | None = None,
    strategy: str | None = None,
    **more: Any,
) -> Hashable:
    """Other sizes are asked for once as it is."""
    if not isinstance(path, Source) or more.pop("sizes", None) is not None:
        return None
    return path.path, path.text, *sorted((overrides or {}).items()), job, strategy, *more.items()


def _of_job(given: object, entry: str = TRAIN_STEP, watch: object = None) -> Hashable:
    return (id(given), entry) if watch is None else None


def _remembered(function: Callable[..., Any], key: Key) -> Callable[..., Any]:
    known: dict[Hashable, tuple[Any, Any, ParcError | None]] = {}

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        of = key(*args, **options)
        if of is None:
            return function(*args, **options)
        if of not in known and len(known) == MOST:
            return function(*args, **options)
        if of not in known:  # the arguments live on, so that no other has their identity
            try:
                known[of] = args, function(*args, **options), None
            except ParcError as error:
                known[of] = args, None, error
        _, result, error = known[of]
        if error is not None:
            raise ParcError(*error.diagnostics)
        return result

    return called
