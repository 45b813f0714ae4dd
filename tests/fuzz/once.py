"""What several commands of a case would do alike with one file is done once: parsed, evaluated, compiled, read,
verified, prepared for the emulator.

The first of them has shown what there is to be seen of it; all that commands do with it is done by each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from compiler.model import Job, Precision, Training
from compiler.passes.place.place import Placed
from compiler.program import Program
from compiler.text.locations import Locations
from dsl.diagnostics import ParcError
from dsl.source import Source

MOST = 8
"""Results of a function that are kept, unless more are asked for: searches ask for many."""


@contextmanager
def once(most: int = MOST) -> Iterator[None]:
    """Inside, these functions are called once for the same arguments, as far as their results are no more than `most`
    each."""
    import compiler.driver
    import compiler.evaluate.modules
    import compiler.text
    import compiler.verify
    import dsl.parser
    import runtime.stacked.emulator

    shared: list[tuple[Any, str]] = [
        (dsl.parser, "parse"),
        (compiler.evaluate.modules, "parse"),
        (compiler.evaluate, "evaluate_file"),
        (compiler.driver, "compile_job"),
        (compiler.text, "parse_located"),
        (compiler.verify, "verify"),
        (runtime.stacked.emulator, "_prepare"),
    ]
    own = [getattr(module, name) for module, name in shared]
    for (module, name), function in zip(shared, own, strict=True):
        setattr(module, name, _remembered(function, most))
    try:
        yield
    finally:
        for (module, name), function in zip(shared, own, strict=True):
            setattr(module, name, function)


def _key(value: object) -> Hashable:
    """What stands for an argument: what is given again is the same object, or the same text. TypeError for all else,
    such as what is told of the way."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Source):
        return value.path, value.text
    if isinstance(value, Precision):
        return value.compute, value.master
    if isinstance(value, Mapping):
        return tuple(sorted(value.items()))
    if isinstance(value, Job | Training | Placed | Program | Locations):
        return id(value)
    raise TypeError(type(value))


def _remembered(function: Callable[..., Any], most: int) -> Callable[..., Any]:
    known: dict[Hashable, tuple[Any, Any, ParcError | None]] = {}

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        try:
            of = tuple(map(_key, args)), tuple([(name, _key(value)) for name, value in options.items()])
        except TypeError:
            return function(*args, **options)
        if of not in known and len(known) == most:
            return function(*args, **options)
        if of not in known:  # the arguments live on, so that no other has their identity
            try:
                known[of] = (args, options), function(*args, **options), None
            except ParcError as error:
                known[of] = (args, options), None, error
        _, result, error = known[of]
        if error is not None:
            raise ParcError(*error.diagnostics)
        return result

    return called
