"""Products of matrices that are only added to something of their shape, or of that of their last dims: one call that
adds them up where that is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from compiler.graph import Graph, Node, Value
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from runtime.torch.fusing.ops import FusedProductSum

TYPES = ("f32", "f64")


def summed(body: Graph) -> Graph:
    """The body, and those of its loops, with such products in their sums."""
    made = {n.outputs[0]: n for n in body.nodes if isinstance(n.op, Contract)}
    reads = Counter(v for v in (*body.outputs, *(v for n in body.nodes for v in n.inputs)))
    gone: set[Node] = set()
    nodes: list[Node] = []
    for node in body.nodes:
        if isinstance(node.op, Repeat):
            node = replace(node, op=replace(node.op, body=summed(node.op.body)))
        for other, v in _terms(node):
            product = made.get(v)
            if product is None or product in gone or reads[v] != 1 or v.type != node.output.type:
                continue
            if other.type == v.type or _is_bias(other, product):
                assert isinstance(product.op, Contract)
                gone.add(product)
                node = replace(node, op=FusedProductSum(product.op), inputs=(other, *product.inputs))
                break
        nodes.append(node)
    return replace(body, nodes=tuple(n for n in nodes if n not in gone)) if gone or nodes != [*body.nodes] else body


def _terms(node: Node) -> list[tuple[Value, Value]]:
    """Both terms of a sum of two values of one type in both orders, the later product last in the first."""
    op = node.op
    if not isinstance(op, Map) or op.fn != "add" or op.slots != (None, None) or node.output.type.dtype not in TYPES:
        return []
    a, b = node.inputs
    if a.type.dtype != b.type.dtype:
        return []
    found = [(x, y) for x, y in ((a, b), (b, a)) if y.type == node.output.type]
    count = min(len(a.type.dims), len(b.type.dims))
    ends = [v.layout.dims[len(v.layout.dims) - count :] for v in (a, b)]
    return found if count and ends[0] == ends[1] else []


def _is_bias(c: Value, product: Node) -> bool:
    """Whether it has all the dims that the result has of one operand alone, which are its last."""
    x, y = product.inputs
    names = c.type.names
    return product.output.type.names[-len(names) :] == names and any(
        tuple(n for n in product.output.type.names if not v.type.has(n)) == names for v in (x, y)
    )
