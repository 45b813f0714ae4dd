"""How numbers that are packed in words are written."""

from __future__ import annotations

from compiler.graph import Node
from compiler.ops.packed import Dequantise, Expand, Integers, Pack
from compiler.weight_format import BITS, levels, words
from parc.exporting.torch.writer import Writer, emit, tuple_of


@emit(Dequantise)
def dequantise(op: Dequantise, node: Node, w: Writer) -> str:
    x, scale, *zeros = node.inputs
    own = scale.type.names
    order = tuple_of([str(own.index(n)) if n in own else "None" for n in node.output.type.names])
    zero = w.ref(zeros[0]) if zeros else "None" if op.code == "fp8" else str(-levels(op.code)[0])
    numbers = f"{x.type.index(op.dim)}, {words(op.code)}, {BITS[op.code]}"
    return f"{w.use('dequantised')}({w.ref(x)}, {numbers}, {w.ref(scale)}, {zero}, {order})"


@emit(Integers)
def integers(op: Integers, node: Node, w: Writer) -> str:
    (x,) = node.inputs
    numbers = f"{x.type.index(op.dim)}, {words(op.code)}, {BITS[op.code]}"
    return f"({w.use('unpacked')}({w.ref(x)}, {numbers}) - {-levels(op.code)[0]}).to(torch.int32)"


@emit(Expand)
def expand(op: Expand, node: Node, w: Writer) -> str:
    x, kept = node.inputs
    return f"{w.use('expanded_twos')}({w.ref(x)}, {x.type.index(op.dim)}, {w.aligned(kept, node.output.type.names)})"


@emit(Pack)
def pack(op: Pack, node: Node, w: Writer) -> str:
    (x,) = node.inputs
    return f"{w.use('packed')}({w.ref(x)}, {x.type.index(op.dim)}, {words(op.code)}, {BITS[op.code]})"
