"""How collectives are written: calls of the file's own functions, with dims by number and sizes of pieces."""

from __future__ import annotations

from compiler.graph import Node
from compiler.ops.comm import AllGather, AllReduce, AllToAll, MaskPad, OnlyFirst, ReduceScatter, Shard
from compiler.ops.neighbours import Halo, HaloAdd, ShiftAcross
from compiler.ops.zigzag import ZigZagAcross
from parc.exporting.torch.writer import Writer, emit, number, quoted, string


def _size(node: Node, dim: str, w: Writer) -> int:
    """What a piece of the result has along a dim."""
    return w.local(node.output).size(dim)


def _at(node: Node, dim: str) -> int:
    return node.output.type.index(dim)


@emit(AllReduce)
def all_reduce(op: AllReduce, node: Node, w: Writer) -> str:
    """16-bit values are added in wider ones and rounded once."""
    x = f"{w.ref(node.inputs[0])}{'.detach()' * w.derived}"  # of what a step tells, nothing is derived
    return f"{w.use('all_reduce')}({x}, {string(op.fn)}, {quoted(op.axes)})"


@emit(AllGather)
def all_gather(op: AllGather, node: Node, w: Writer) -> str:
    """Everybody's pieces in a row."""
    at, size = _at(node, op.dim), _size(node, op.dim, w)
    return f"{w.use('all_gather')}({w.ref(node.inputs[0])}, {at}, {size}, {quoted(op.axes)})"


@emit(ReduceScatter)
def reduce_scatter(op: ReduceScatter, node: Node, w: Writer) -> str:
    """Each device gets its own piece of the reduction."""
    at = _at(node, op.dim)
    return f"{w.use('reduce_scatter')}({w.ref(node.inputs[0])}, {string(op.fn)}, {at}, {quoted(op.axes)})"


@emit(AllToAll)
def all_to_all(op: AllToAll, node: Node, w: Writer) -> str:
    """Cut along one dim, joined along another."""
    joined = f"{_at(node, op.gather)}, {_size(node, op.gather, w)}"
    cut = _at(node, op.scatter)
    return f"{w.use('all_to_all')}({w.ref(node.inputs[0])}, {joined}, {cut}, {quoted(op.axes)})"


@emit(Shard)
def shard(op: Shard, node: Node, w: Writer) -> str:
    """The own piece of what is here already."""
    return f"{w.use('shard')}({w.ref(node.inputs[0])}, {_at(node, op.dim)}, {w.place(op.axes)})"


@emit(OnlyFirst)
def only_first(op: OnlyFirst, node: Node, w: Writer) -> str:
    """Zeros but on the first device; but in the first micro-batch, if these are an axis."""
    return f"{w.use('only_first')}({w.ref(node.inputs[0])}, {w.place(op.axes)})"


@emit(MaskPad)
def mask_pad(op: MaskPad, node: Node, w: Writer) -> str:
    """Unused elements become a value."""
    x = node.inputs[0]
    at = x.type.index(op.dim)
    place = w.place(w.axes(x, at))
    return f"{w.use('mask_pad')}({w.ref(x)}, {at}, {x.type.shape[at]}, {number(op.value)}, {place})"


@emit(Halo)
def halo(op: Halo, node: Node, w: Writer) -> str:
    """Borders from the neighbours."""
    x, at = node.inputs[0], _at(node, op.dim)
    borders = f"{at}, {op.left}, {op.right}, {number(op.fill)}, {x.type.shape[at]}"
    return f"{w.use('halo')}({w.ref(x)}, {borders}, {quoted(op.axes)})"


@emit(HaloAdd)
def halo_add(op: HaloAdd, node: Node, w: Writer) -> str:
    """Borders back to the neighbours, who add them up."""
    x, at = node.inputs[0], _at(node, op.dim)
    return f"{w.use('halo_add')}({w.ref(x)}, {at}, {op.left}, {op.right}, {x.type.shape[at]}, {quoted(op.axes)})"


@emit(ShiftAcross)
def shift_across(op: ShiftAcross, node: Node, w: Writer) -> str:
    """Elements move on, from piece to piece."""
    x, at = node.inputs[0], _at(node, op.dim)
    fill = f"{number(op.fill)}, {x.type.shape[at]}"
    if op.around:
        return f"{w.use('shift_around')}({w.ref(x)}, {at}, {op.by}, {x.type.shape[at]}, {quoted(op.axes)})"
    return f"{w.use('shift_across')}({w.ref(x)}, {at}, {op.by}, {fill}, {quoted(op.axes)})"


@emit(ZigZagAcross)
def zigzag_across(op: ZigZagAcross, node: Node, w: Writer) -> str:
    """Blocks to whoever has them in the other order."""
    x, at = node.inputs[0], _at(node, op.dim)
    order = f"{op.parts}, {op.back}, {x.type.shape[at]}"
    return f"{w.use('zigzag_across')}({w.ref(x)}, {at}, {order}, {quoted(op.axes)})"
