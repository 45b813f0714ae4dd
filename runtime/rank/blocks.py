"""Fused regions, block by block: what a region computes and reads inside only is never larger than a block.

Written against `runtime.backend.Backend` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from compiler.graph import ITEMSIZE, Dim, Node, Type, names_of
from compiler.in_place import operands_of
from compiler.regions.fused import FusedNodes
from runtime.backend import Array, Kernel, LocalValue, Position, Shape
from runtime.rank.buffers import HeldArray

if TYPE_CHECKING:
    from runtime.rank.interpreter import Rank

WIDE = "f32"
"""Sums of narrower numbers are added up in these, and rounded at the end."""

BLOCK = 1 << 14
"""Elements of the largest value in a block, at most (but for values of which a single row has more)."""


def fused(
    rank: Rank, instr: Node, op: FusedNodes, operands: Sequence[HeldArray], dying: Collection[str]
) -> dict[str, HeldArray]:
    """The results of a region on a device: in memory of operands that nothing needs any more, as far as it goes."""
    key = id(instr), rank.chunk
    if key not in rank.plans:
        rank.plans[key] = instr, BlockedRegion(op, instr, rank)
    free = {k for k, v in enumerate(instr.inputs) if v.name in dying and operands[k].buffer.sole}
    made: dict[str, HeldArray] = {}
    for out, k in zip(instr.outputs, op.taken(free, operands_of(rank.reuses, instr)), strict=True):
        if k is None:
            shape, dtype = rank.local(out).shape, out.type.dtype
            new = rank.backend.full(shape, dtype, 0.0) if out.name in op.sums else rank.backend.empty(shape, dtype)
            made[out.name] = rank.new(new, dtype)
        else:
            made[out.name] = operands[k].shared()
    rank.plans[key][1].run(rank.ctx, [h.array for h in operands], {n: h.array for n, h in made.items()})
    return made


class BlockedRegion:
    """A region as one device computes it. Results may lie where operands of the same type do."""

    def __init__(self, op: FusedNodes, instr: Node, rank: Rank) -> None:
        self.op, self.inputs = op, names_of(instr.inputs)
        self.backend, self.position = rank.backend, Position(rank.program.sizes, rank.at)
        self.values = {v.name: rank.value(v) for node in op.nodes for v in (*node.inputs, *node.outputs)}
        last = {v.name: i for i, node in enumerate(op.nodes) for v in (*node.outputs, *node.inputs)}
        leaving = names_of(instr.outputs)
        self.gone = [[n for n, at in last.items() if at == i and n not in leaving] for i in range(len(op.nodes))]
        types = [v.type for v in self.values.values()]
        sizes = {n: {t.size(n) for t in types if t.has(n)} for n in op.rows}
        self.rows = {n: min(found) for n, found in sizes.items() if len(found) == 1}
        self.largest = max(t.elements for t in types)
        self.narrow = [n for n in op.sums if ITEMSIZE[self.values[n].type.dtype] < ITEMSIZE[WIDE]]
        self.kernels: dict[Shape, list[Kernel]] = {}

    def run(self, ctx: Any, operands: Sequence[Array], results: Mapping[str, Array]) -> None:
        """Compute it, and write into the arrays of its results."""
        for block in _blocks(self.rows, self.largest):
            index = {name: tuple([block.get(n, slice(None)) for n in v.type.names]) for name, v in self.values.items()}
            part = self.backend.part
            here = {name: part(a, index[name]) for name, a in zip(self.inputs, operands, strict=True)}
            for i, (node, kernel) in enumerate(zip(self.op.nodes, self._planned(block))):
                out = node.outputs[0].name
                here[out] = kernel(ctx, *(here[v.name] for v in node.inputs))
                if out in results:  # it may look into an operand in whose place another result is written
                    here[out] = self.backend.own(here[out])
                for name in self.gone[i]:
                    del here[name]
            for name, into in results.items():
                if name in self.op.sums:
                    self.backend.accumulate(part(into, index[name]), here[name], "sum")
                else:
                    self.backend.assign(part(into, index[name]), here[name])
        for name in self.narrow:
            self.backend.assign(results[name], self.backend.rounded(results[name], self.values[name].type.dtype))

    def _planned(self, block: Mapping[str, slice]) -> list[Kernel]:
        """The kernels of blocks of this size."""
        size = {n: s.stop - s.start for n, s in block.items()}
        key = tuple(size.values())
        if key not in self.kernels:
            of = {name: _cut(v, size, WIDE if name in self.narrow else "") for name, v in self.values.items()}
            self.kernels[key] = [
                self.backend.plan(n.op, [of[v.name] for v in n.inputs], [of[v.name] for v in n.outputs], self.position)
                for n in self.op.nodes
            ]
        return self.kernels[key]


def _cut(value: LocalValue, part: Mapping[str, int], dtype: str = "") -> LocalValue:
    """A block of the value: `part` elements along these dims. dtype: of its numbers, if not its own."""
    own = value.type
    dims = tuple(Dim(d.name, part.get(d.name, d.size)) for d in own.dims)
    return replace(value, type=Type(dtype or own.dtype, dims))


def _blocks(size: Mapping[str, int], elements: int) -> Iterator[dict[str, slice]]:
    """Pieces of the rows, outer dims first, as few as leave no value larger than a block."""
    cuts: list[tuple[str, int]] = []
    for name, n in size.items():
        elements //= max(1, n)  # of one row
        step = max(1, min(n, BLOCK // max(1, elements)))
        cuts.append((name, step))
        if step > 1:
            break
    names = [name for name, _ in cuts]
    for starts in product(*(range(0, size[name], step) for name, step in cuts)):
        yield {name: slice(at, min(at + step, size[name])) for at, (name, step) in zip(starts, cuts)} | {
            n: slice(0, size[n]) for n in size if n not in names
        }
