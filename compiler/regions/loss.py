"""The loss: what lies between the last products and it, by way of a softmax, and back to their derivatives."""

from __future__ import annotations

from collections.abc import Collection

from compiler.graph import Graph, Node, Value
from compiler.ops.contract import Contract
from compiler.ops.effects import Load, Save
from compiler.ops.elementwise import Map
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.regions.region import FoundRegion, RegionKind


def loss(body: Graph, ends: Collection[Value]) -> FoundRegion | None:
    """The region before these values, if there is a softmax in it: exponentials that are summed. Its wide values have
    the dims of those, the results of the products that it begins with among them."""
    made = {v: node for node in body.nodes for v in node.outputs}
    nodes, first = _back(made, ends)
    summed = {v for node in nodes if isinstance(node.op, Reduce) and node.op.fn == "sum" for v in node.inputs}
    exponentials = [v for node in nodes if isinstance(node.op, Map) and node.op.fn == "exp" for v in node.outputs]
    dims = sorted({v.type.names for v in exponentials if v in summed})
    return FoundRegion(RegionKind.LOSS, nodes, first, over=tuple(dims)) if dims else None


def backward(body: Graph, forward: Graph, region: FoundRegion) -> FoundRegion:
    """The region of the pass backward: all that hangs together with what the forward region has saved, up to products.
    What it computes again of the forward region begins with products, too."""
    inside = {v for node in region.nodes | region.products for v in node.outputs}
    slots = {n.op.name for n in forward.nodes if isinstance(n.op, Save) and n.inputs[0] in inside}
    nodes = [n for n in body.nodes if not isinstance(n.op, (Contract, Repeat))]
    reads: dict[Value, list[Node]] = {}
    for node in nodes:
        for v in (*node.inputs, *node.outputs):
            reads.setdefault(v, []).append(node)
    todo = [node for node in nodes if isinstance(node.op, Load) and node.op.name in slots]
    found = set(todo)
    while todo:
        node = todo.pop()
        for v in (*node.inputs, *node.outputs):
            more = [other for other in reads[v] if other not in found]
            found.update(more)
            todo += more
    first = {n for n in body.nodes if isinstance(n.op, Contract) and any(v in reads for v in n.outputs)}
    first = {n for n in first if any(other in found for v in n.outputs for other in reads[v])}
    return FoundRegion(RegionKind.LOSS, frozenset(found), frozenset(first), over=region.over)


def _back(made: dict[Value, Node], ends: Collection[Value]) -> tuple[frozenset[Node], frozenset[Node]]:
    """What leads to values, as far as there are no products or loops; and the products that it begins with."""
    nodes, products = set[Node](), set[Node]()
    todo = list(ends)
    while todo:
        node = made.get(todo.pop())
        if node is None or node in nodes or isinstance(node.op, Repeat):
            continue
        if isinstance(node.op, Contract):
            products.add(node)
            continue
        nodes.add(node)
        todo += node.inputs
    return frozenset(nodes), frozenset(products)
