"""What a value of U is on the stages: a piece, a part, or the same on all that need it; and what that says of ops."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.ops.base import Loop
from compiler.program import DeviceClass, StateDecl
from dsl.data import dataclass

Source = tuple[str, frozenset[str], int]
"""What is added up: "piece", "gradient" or "same"; of which buffers (logical names); of which chunk."""


@dataclass(frozen=True, slots=True)
class Same:
    """The same on `groups`; made of the buffers and reductions `of`; alike along the dims `flat`; `zero`: all zeros."""

    groups: frozenset[int]
    of: frozenset[str] = frozenset()
    flat: frozenset[str] = frozenset()
    zero: bool = False


@dataclass(frozen=True, slots=True)
class StagePiece:
    """The chunk's iterations, along `dim`. shared: the copies of its stage have other parts of their gradients."""

    dim: str
    chunk: int
    of: frozenset[str]
    shared: bool = False


@dataclass(frozen=True, slots=True)
class StagePart:
    """One of the parts that `fn` brings together; made from `sources`."""

    fn: str
    sources: frozenset[Source]

    @property
    def of(self) -> frozenset[str]:
        return frozenset[str]().union(*(names for _, names, _ in self.sources))


State = Same | StagePiece | StagePart


class Wrong(Exception):
    """What is wrong with an instruction."""


def cut_dim(decl: StateDecl, cls: DeviceClass) -> str | None:
    """The dim of the cut loop of which the buffer holds the chunk's iterations."""
    first = decl.type.dims[0].name if decl.type.dims else None
    return next((r.dim for r in cls.ranges if r.chunk == decl.chunk and r.dim == first and r.count < r.total), None)


def counted_sources(value: Same | StagePiece | StagePart) -> frozenset[Source]:
    """What a value that is the same on several groups adds to a sum; nothing, for a constant."""
    return frozenset((("same", value.of, 0),)) if value.of else frozenset()


def told_part(part: StagePart) -> str:
    names = ", ".join(sorted(part.of))
    return f"the operand is this stage's part of a {part.fn} over {names or 'what they hold'}"


def walking_loop(loops: Sequence[Loop], given: Sequence[State]) -> Loop:
    """The one loop that walks the pieces."""
    found = [
        loop
        for loop in loops
        if any(isinstance(s, StagePiece) and s.dim == name for s, name in zip(given, loop.ins, strict=True))
    ]
    if len(found) > 1:
        found = [loop for loop in found if loop.kind != "minor"]
    if len(found) != 1:
        raise Wrong("pairs iterations with each other, of which each stage has its own")
    return found[0]


def flat_dims(loops: Sequence[Loop], given: Sequence[State], out: int) -> frozenset[str]:
    """Dims of a result along which all of its elements are alike."""
    return frozenset(
        name
        for loop in loops
        if (name := loop.outs[out]) is not None and loop.kind == "pass" and not loop.placed
        and all(n is None or (isinstance(s, Same) and n in s.flat) for s, n in zip(given, loop.ins, strict=True))
    )  # fmt: skip
