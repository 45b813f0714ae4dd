"""What placing asks of the sizes of axes. All else that it goes by are names, so that strategies of the same axes that
answer alike are placed alike: each choice by bytes is kept as a question that other sizes can be asked as well."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from math import prod
from typing import Any, TypeVar

from compiler.graph import Dim, Type
from compiler.layout import Layout, correspond, has_gaps, is_padded, local_type, nested
from compiler.relayout import relayout_bytes

Answer = TypeVar("Answer")
Sizes = Mapping[str, int]


class Question:
    """A function of sizes, and what stands beside them. Who has several has equal ones once, and finds each by its
    identity: texts are long."""

    __slots__ = ("about", "of")

    def __init__(self, of: Callable[..., Any], about: tuple[Hashable, ...]) -> None:
        self.of, self.about = of, about

    def answer(self, sizes: Sizes) -> Any:
        """For these sizes."""
        return self.of(sizes, *self.about)


Questions = dict[Question, Any]
"""With their answers."""


def divides(sizes: Sizes, size: int, axes: tuple[str, ...], axis: str) -> bool:
    """Whether `axis` divides a device's piece of a dim that `axes` split already."""
    return nested(size, (sizes[a] for a in axes))[-1] % sizes[axis] == 0


def has_room(
    sizes: Sizes,
    size: int,
    axes: tuple[str, ...],
    pad: bool,
    others: frozenset[int],
    majors: tuple[tuple[tuple[str, ...], int], ...],
) -> bool:
    """Whether the last of the axes can split a loop of a size besides the others. others: sizes of parts of it, and of
    what strides pass over; majors: axes and sizes of the parts of its dim that have to be split as a whole before."""
    if not as_a_whole(sizes, majors):
        return False
    counts = [sizes[a] for a in axes]
    if size % prod(counts) == 0:
        return True
    *_, piece, _ = nested(size, counts)
    if not pad and piece % counts[-1]:
        return False
    # The order of the axes is not known yet, in which they would fit.
    return not others or (len(counts) == 1 and all(correspond(size, other, counts) for other in others))


def as_a_whole(sizes: Sizes, parts: tuple[tuple[tuple[str, ...], int], ...]) -> bool:
    """Whether axes split parts of a dim, given with their sizes, into single elements."""
    return all(prod(sizes[a] for a in of) == whole for of, whole in parts)


def even(sizes: Sizes, size: int, axes: tuple[str, ...]) -> bool:
    """Whether the axes divide a size."""
    return size % prod(sizes[a] for a in axes) == 0


def padded(sizes: Sizes, dim: Dim, axes: tuple[str, ...]) -> bool:
    """Whether the pieces of a dim are uneven."""
    return is_padded(dim, axes, sizes)


def gaps(sizes: Sizes, dim: Dim, axes: tuple[str, ...]) -> bool:
    """Whether there is anything unused between its pieces."""
    return has_gaps(dim, axes, sizes)


def nearest(sizes: Sizes, type: Type, sources: tuple[Layout, ...], target: Layout) -> int:
    """From which of the layouts a value comes into another with the fewest bytes sent: the first of these."""

    def cost(source: Layout) -> float:
        try:
            return relayout_bytes(type, source, target, sizes)
        except ValueError:
            return float("inf")

    return min(range(len(sources)), key=lambda i: cost(sources[i]))


Held = tuple[Layout, Type | None]
"""A layout in which a value is there, and the type by whose bytes a piece counts; None: it does not."""

Piece = tuple[Type, Layout] | None
"""What a device has of a value; None: nothing that counts."""


def bytes_of(sizes: Sizes, piece: Piece) -> int:
    """Of a piece."""
    return local_type(*piece, sizes).bytes if piece is not None else 0


def largest(sizes: Sizes, operands: tuple[tuple[int, Piece], ...]) -> int:
    """Which operand most axes split already: of several the first of the largest."""
    return max(range(len(operands)), key=lambda i: (operands[i][0], bytes_of(sizes, operands[i][1])))
