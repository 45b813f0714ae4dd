"""Attention piece by piece: its scores stand for some samples, heads and devices at a time.

What is cut are axes that all values of a fused region with products have, operands of products among them. So each
piece is of the very matrices and rows that the whole has, and no result differs by a bit, whatever the pieces. (Rows of
queries stay together: products of fewer rows may be added up in another order.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from compiler.graph import Dim, Graph, Node, Type, Value, names_of
from compiler.liveness import liveness
from compiler.ops.base import Op
from compiler.regions.fused import is_product, readers, stretches
from dsl.data import dataclass
from runtime.backend import Array, Planner
from runtime.numpy import CallContext, Env, Into, LocalValue, fuse, unfold
from runtime.numpy.base import inverse, laid

LARGE = 1 << 22
"""Elements of a region's largest value, of all devices, from which on it is computed piece by piece."""

PIECE = 1 << 20
"""Elements of it in a piece, at most (but for what cannot be cut further): few calls for each."""

Axis = int | str
"""A lead axis by its number, or a dim by its name."""

Block = Mapping[Axis, slice]
Local = Callable[[Value], LocalValue]


@dataclass(frozen=True, slots=True)
class InPieces(Op):
    """`nodes` as one, along `axes`, of which the first are cut first."""

    nodes: tuple[Node, ...]
    axes: tuple[Axis, ...]


def grouped(body: Graph, local: Local) -> Graph:
    """The body as kernels compute it: many instructions may be one. Bodies of loops are left to the caller."""
    return fuse(unfold(in_pieces(body, local), local), local)


def in_pieces(body: Graph, local: Local) -> Graph:
    """The body with each large attention as one node."""
    found, at, last = [], 0, readers(body)
    for first, end in sorted(stretches(body)):
        nodes = body.nodes[first : end + 1]
        axes = _axes(nodes, local) if any(map(is_product, nodes)) else ()
        if axes:
            made = {v.name for n in nodes for v in n.outputs}
            inputs = tuple({v.name: v for n in nodes for v in n.inputs if v.name not in made}.values())
            outputs = tuple(v for n in nodes for v in n.outputs if last.get(v.name, -1) > end)
            found += [*body.nodes[at:first], Node(InPieces(nodes, axes), inputs, outputs, nodes[0].span)]
            at = end + 1
    return replace(body, nodes=(*found, *body.nodes[at:])) if found else body


def _axes(nodes: Sequence[Node], local: Local) -> tuple[Axis, ...]:
    """The axes that all have, outermost first, if the largest value is worth it."""
    largest = max((local(v) for n in nodes for v in n.outputs), key=lambda v: prod(v.shape))
    if prod(largest.shape) < LARGE:
        return ()
    every: list[Axis] = [*range(len(largest.lead)), *largest.type.names]
    order = [every[i] for i in laid(largest) if largest.shape[i] > 1]
    return tuple(a for a in order if all(_has(n, a, _size(largest, a), local) for n in nodes))


def _has(node: Node, axis: Axis, size: int, local: Local) -> bool:
    """Whether the node computes along the axis, of this size, element by element."""
    ins, outs = ([_size(local(v), axis) == size for v in vs] for vs in (node.inputs, node.outputs))
    return all(outs) and (all(ins) if is_product(node) else any(ins))


def _size(value: LocalValue, axis: Axis) -> int:
    if isinstance(axis, int):
        return value.lead[axis]
    return value.type.size(axis) if value.type.has(axis) else 1


def plan_pieces(instr: Node, op: InPieces, local: Local, plan: Planner, env: Env) -> Callable[..., Any]:
    """A kernel that computes the node."""
    values = {v.name: v for v in (*instr.inputs, *(v for n in op.nodes for v in n.outputs))}
    locals = {name: local(v) for name, v in values.items()}
    largest = max(locals.values(), key=lambda v: prod(v.shape))
    sizes = {a: _size(largest, a) for a in op.axes}
    blocks = list(_blocks(sizes, prod(largest.shape)))
    orders = [_order(n, v, local, plan, env) for n in op.nodes for v in n.outputs if v in instr.outputs]
    body = Graph("", instr.inputs, op.nodes, instr.outputs)
    plans = {_key(b): _Piece(body, {n: _cut(v, b) for n, v in locals.items()}, plan, env) for b in blocks}
    inputs, results = ([locals[v.name] for v in vs] for vs in (instr.inputs, instr.outputs))

    def run(ctx: CallContext, *operands: Array) -> Any:
        whole: list[Array] = []
        for block in blocks:
            given = [x[_index(v, block, x.shape)] for v, x in zip(inputs, operands)]
            places = [x[_index(v, block)] for v, x in zip(results, whole)] or [None] * len(results)
            made = plans[_key(block)].run(ctx, given, places)
            whole = whole or [_room(ctx, x, v, sizes, order) for v, x, order in zip(results, made, orders)]
            for v, x, into, place in zip(results, made, whole, places):
                if x is not place:
                    into[_index(v, block)] = x
        return tuple(whole) if len(whole) > 1 else whole[0]

    return run


class _Piece:
    """The region for pieces of one size."""

    def __init__(self, body: Graph, locals: Mapping[str, LocalValue], plan: Planner, env: Env) -> None:
        local: Local = lambda v: locals[v.name]  # noqa: E731
        self.body = fuse(unfold(body, local), local)
        self.kernels = [
            plan(n.op, [local(v) for v in n.inputs], [local(v) for v in n.outputs], env) for n in self.body.nodes
        ]
        self.dying = liveness(self.body, len(body.outputs)).after

    def run(self, ctx: CallContext, operands: Sequence[Array], places: Sequence[Array | None]) -> list[Array]:
        """The results: in these places, as far as kernels can write there."""
        here = dict(zip(names_of(self.body.inputs), operands, strict=True))
        where = dict(zip(names_of(self.body.outputs), places, strict=True))
        for node, kernel, dying in zip(self.body.nodes, self.kernels, self.dying, strict=True):
            args, outs = [here[v.name] for v in node.inputs], names_of(node.outputs)
            if isinstance(kernel, Into):
                made = kernel.run(ctx, *args, out=[where.get(n) for n in outs])
            else:
                made = kernel(ctx, *args)
            here.update(zip(outs, made if len(outs) > 1 else (made,), strict=True))
            for name in dying:
                here.pop(name, None)
        return [here[n] for n in where]


def _blocks(sizes: Mapping[Axis, int], elements: int) -> Iterator[Block]:
    """Pieces, as few as leave no value larger than one."""
    counts: dict[Axis, int] = {}
    for axis, n in sizes.items():
        elements //= n
        counts[axis] = -(-n // max(1, min(n, PIECE // max(1, elements))))
        if counts[axis] < n:
            break
    for numbers in product(*map(range, counts.values())):  # as alike as can be
        places = ((a, i, sizes[a], n) for (a, n), i in zip(counts.items(), numbers))
        yield {a: slice(i * size // n, (i + 1) * size // n) for a, i, size, n in places}


def _key(block: Block) -> tuple[int, ...]:
    return tuple(s.stop - s.start for s in block.values())


def _cut(value: LocalValue, block: Block) -> LocalValue:
    """A piece of the value."""

    def size(axis: Axis, n: int) -> int:
        return block[axis].stop - block[axis].start if axis in block and n > 1 else n

    dims = tuple(Dim(d.name, size(d.name, d.size)) for d in value.type.dims)
    lead = tuple(size(i, n) for i, n in enumerate(value.lead))
    return replace(value, type=Type(value.type.dtype, dims), lead=lead)


def _index(value: LocalValue, block: Block, shape: Sequence[int] = ()) -> tuple[slice, ...]:
    """Where the piece is in an array of the value. shape: the array's, which may have one of what all devices have."""
    axes: list[Axis] = [*range(len(value.lead)), *value.type.names]
    sizes = shape or value.shape
    return tuple(block.get(a, slice(None)) if n > 1 else slice(None) for a, n in zip(axes, sizes, strict=True))


def _order(node: Node, v: Value, local: Local, plan: Planner, env: Env) -> tuple[int, ...]:
    """How a result lies in memory where it is computed as a whole: whoever reads it adds up in the order of that."""
    value = local(v)
    if is_product(node):
        wide = replace(value, type=Type("f32", value.type.dims))  # of narrower numbers kernels do not tell
        kernel = plan(node.op, [local(x) for x in node.inputs], [wide], env)
        if isinstance(kernel, Into) and kernel.order:
            return kernel.order
    return laid(value)


def _room(ctx: CallContext, piece: Array, value: LocalValue, cut: Mapping[Axis, int], order: tuple[int, ...]) -> Array:
    """An array for all pieces of a result."""
    axes: list[Axis] = [*range(len(value.lead)), *value.type.names]
    shape = [cut.get(a, n) if size > 1 else n for a, n, size in zip(axes, piece.shape, value.shape)]
    made: Array = ctx.empty(tuple(shape[i] for i in order), piece.dtype).transpose(inverse(order))
    return made
