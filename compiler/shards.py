"""Which device writes which part of a program's weights and states, where all together are to be kept: each element of
each tensor once, by the device of the lowest rank that has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import prod

from compiler.declared import in_front, logical, logical_type, range_of
from compiler.graph import ITEMSIZE, Type
from compiler.layout import TIME, piece_of_dim
from compiler.numbering import Ranks
from compiler.origin import Role
from compiler.program import LASTING, DeviceClass, Program, StateDecl
from dsl.data import dataclass

Spans = tuple[tuple[int, int], ...]
"""A part of a tensor: from where to behind where, along each dim."""


@dataclass(frozen=True, slots=True)
class LastingTensor:
    """A tensor that lasts: its name in the serial program, what it is for, its whole type."""

    name: str
    role: Role
    type: Type


@dataclass(frozen=True, slots=True)
class Lot:
    """What one device writes of a buffer: this part of its tensor. micro: of which micro-batch, where each has one."""

    decl: StateDecl
    name: str
    spans: Spans
    micro: int = 0

    @property
    def bytes(self) -> int:
        return elements(self.spans) * ITEMSIZE[self.decl.type.dtype]


def elements(spans: Spans) -> int:
    """How many there are in a part."""
    return prod([high - low for low, high in spans])


def common(one: Spans, other: Spans) -> Spans | None:
    """What two parts of a tensor have in common; None if that is nothing."""
    found = tuple([(max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True)])
    return found if all([low < high for low, high in found]) else None


class ShardMap:
    """Who writes what of a program."""

    def __init__(self, program: Program) -> None:
        self.program, self.ranks, self.sizes = program, Ranks.of(program), program.sizes
        self.mesh = tuple(a.name for a in program.axes if a.kind == "mesh")
        self.tensors: dict[str, LastingTensor] = {}
        self._mine: dict[int, list[tuple[StateDecl, DeviceClass]]] = {}
        seen: set[tuple[object, ...]] = set()
        groups = sorted(((g, cls) for cls in program.classes for g in cls.groups), key=lambda x: x[0])
        for g, cls in groups:
            for decl in cls.states:
                if decl.role not in LASTING:
                    continue
                name, r = logical(decl), range_of(decl, cls)
                self.tensors.setdefault(name, LastingTensor(name, decl.role, logical_type(decl, cls)))
                part = name, in_front(decl), None if r is None else (r.whole[0], r.start.at(g), r.count)
                if part not in seen:
                    seen.add(part)
                    self._mine.setdefault(g, []).append((decl, cls))

    @property
    def devices(self) -> int:
        return self.ranks.devices

    @cached_property
    def bytes(self) -> int:
        """Of all tensors, each once."""
        return sum(t.type.bytes for t in self.tensors.values())

    @cached_property
    def parts(self) -> int:
        """How many devices write something, at most, or of how many micro-batches they do; counted, not listed."""
        most = {g: max((self._count(decl) for decl, _ in mine), default=0) for g, mine in self._mine.items()}
        return sum(most.values())

    def _count(self, decl: StateDecl) -> int:
        return prod(self.program.microbatches if a == TIME else self.sizes[a] for a in decl.layout.split_axes)

    @cached_property
    def writers(self) -> tuple[int, ...]:
        """The ranks of the devices that write something (or would, if pieces were even), in order: no others are gone
        through."""
        found = set[int]()
        for group, mine in self._mine.items():
            base = self.ranks.base(group)
            for split in {frozenset(decl.layout.split_axes) - {TIME} for decl, _ in mine}:
                found.update(self.ranks.along(base, split))
        return tuple(sorted(found))

    def at(self, rank: int) -> dict[str, int]:
        """The coordinates of a device along the mesh axes of its group."""
        return {a: rank // self.ranks.strides[a] % self.sizes[a] for a in self.mesh}

    def of(self, rank: int) -> Iterator[Lot]:
        """What the device of this rank writes, in the order of its buffers."""
        group, at = self.ranks.group(rank), self.at(rank)
        for decl, cls in self._mine.get(group, ()):
            split = decl.layout.split_axes
            if any(at[a] and a not in split for a in self.mesh):
                continue  # another one has the same
            for micro in range(self.program.microbatches if TIME in split else 1):
                spans = self._spans(decl, cls, group, {**at, TIME: micro})
                if spans is not None:
                    yield Lot(decl, logical(decl), spans, micro)

    def _spans(self, decl: StateDecl, cls: DeviceClass, group: int, at: Mapping[str, int]) -> Spans | None:
        """The part that a device has; None if that is nothing."""
        r, found = range_of(decl, cls), []
        for dim, split in zip(decl.type.dims, decl.layout.dims, strict=True):
            low, high = piece_of_dim(dim.size, split, self.sizes, at) if split else (0, dim.size)
            if low >= high:
                return None
            first = r.start.at(group) if r is not None and dim.name == r.dim else 0
            found.append((first + low, first + high))
        return (*in_front(decl), *found)


def cut(spans: Spans, itemsize: int, most: int) -> Iterator[Spans]:
    """A part in parts of at most so many bytes each (or one element), cut along the first dims, in order."""
    if elements(spans) * itemsize <= most or not spans:
        yield spans
        return
    dim = next((i for i, (low, high) in enumerate(spans) if high - low > 1), None)
    if dim is None:
        yield spans
        return
    low, high = spans[dim]
    row = elements(spans) // (high - low) * itemsize
    step = max(1, most // row)
    for start in range(low, high, step):
        part = (*spans[:dim], (start, min(start + step, high)), *spans[dim + 1 :])
        yield from cut(part, itemsize, most)


def files(lots: Sequence[tuple[str, Spans, int]], most: int) -> Iterator[list[tuple[str, Spans]]]:
    """The parts of tensors that a device writes, with the bytes of an element, as they go into files of at most so many
    bytes, in order."""
    found: list[tuple[str, Spans]] = []
    size = 0
    for name, whole, itemsize in lots:
        for spans in cut(whole, itemsize, most):
            more = elements(spans) * itemsize
            if found and size + more > most:
                yield found
                found, size = [], 0
            found.append((name, spans))
            size += more
    if found:
        yield found
