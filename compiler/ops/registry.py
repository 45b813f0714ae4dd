"""All ops by mnemonic: every class of this folder's modules that has one. An op's attributes are its dataclass fields,
which is all that its text form needs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import compiler.ops
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.comm import Comm
from compiler.ops.effects import Effect
from compiler.ops.repeat import Repeat


def _classes() -> Iterator[type[Op]]:
    for found in iter_modules(compiler.ops.__path__):
        name = f"{compiler.ops.__name__}.{found.name}"
        if name == __name__:
            continue
        for thing in vars(import_module(name)).values():
            if isinstance(thing, type) and issubclass(thing, Op) and thing.__module__ == name and thing.mnemonic:
                yield thing


OPS: dict[str, type[Op]] = {c.mnemonic: c for c in _classes()}
"""Mnemonic -> class, of every op that a graph or a program may hold."""

COMM: tuple[type[Comm], ...] = tuple(c for c in OPS.values() if issubclass(c, Comm))
EFFECTS: tuple[type[Op], ...] = tuple(c for c in OPS.values() if issubclass(c, Effect))
COMPUTE: tuple[type[Op], ...] = tuple(c for c in OPS.values() if not issubclass(c, (Comm, Effect, Repeat, Call)))
"""What computes values: each has a kernel in every backend."""
