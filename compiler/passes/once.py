"""What a pipeline computes once, of what its stages could each make for themselves from data and weights.

A loop that is cut into stages may read values of before it: masks and tables of positions, which every stage makes for
itself, and what is dear: products, and what is made of data and weights together (an encoder that every layer of a
decoder reads, an embedding that comes in again further on). That is made once and handed from stage to stage, unless
the strategy says `place SCOPE on AXIS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from compiler.graph import Graph, Node, Value
from compiler.layout import Layout
from compiler.ops.comm import MaskPad, Relayout
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat

FIRST, EACH, LAST = 1, 2, 4
"""Who reads a value: the first stage, each stage that runs iterations of a loop that is cut, the last."""

DATA, WEIGHT, DEAR = 1, 2, 4
"""What a value is made of. Data and weights together are dear."""


def made_once(
    graph: Graph, cut: Collection[str], weights: Collection[str], by_each: Callable[[Node], bool]
) -> frozenset[Value]:
    """The values that a pipeline's first stage makes for others, of a forward graph, placed or not.

    cut: labels of the loops at the top that are cut into stages; weights: names of the inputs that are weights;
    by_each: of which nodes the strategy says that each stage makes what it reads.
    """
    known = {v: WEIGHT if v.name in weights else DATA for v in graph.inputs}
    behind: set[Value] = set()
    for node in graph.nodes:
        if _is_cut(node, cut) or not behind.isdisjoint(node.inputs):
            behind.update(node.outputs)
            continue
        found = DEAR if _has_product(node) else 0
        for v in node.inputs:
            found |= known.get(v, 0)
        if by_each(node):
            found = 0
        elif found & (DATA | WEIGHT) == DATA | WEIGHT:
            found |= DEAR
        known.update(dict.fromkeys(node.outputs, found))
    readers: dict[Value, int] = {}
    once: set[Value] = set()
    for node in reversed(graph.nodes):
        mine = 0
        for v in node.outputs:
            mine |= readers.get(v, 0)
        if node.outputs[0] in behind:
            mine = EACH if _is_cut(node, cut) else LAST
        elif mine not in (0, FIRST, LAST) and known[node.outputs[0]] & DEAR and _is_sent(node, cut):
            once.update(node.outputs)
            mine = FIRST
        carries = node.op.carries if isinstance(node.op, Repeat) and mine == EACH and _is_cut(node, cut) else 0
        for i, v in enumerate(node.inputs):
            readers[v] = readers.get(v, 0) | (FIRST if i < carries else mine)
    return frozenset(once)


def _is_cut(node: Node, cut: Collection[str]) -> bool:
    return isinstance(node.op, Repeat) and node.op.label in cut


def _has_product(node: Node) -> bool:
    """Whether a node multiplies and sums, itself or in a loop."""
    if isinstance(node.op, Repeat):
        return any(map(_has_product, node.op.body.nodes))
    return isinstance(node.op, Contract)


def _is_sent(node: Node, cut: Collection[str]) -> bool:
    """Whether a result is rather sent than what it is made from: where making it is some work, or makes it smaller."""
    if any(v.type.has(label) for v in node.outputs for label in cut):
        return False  # each stage makes those of its own iterations
    if isinstance(node.op, MaskPad):
        return False  # a message does not tell what the unused elements hold
    if isinstance(node.op, Relayout):
        (x,) = node.inputs
        return bool(x.layout.pending) or _pieces(x.layout) < _pieces(node.output.layout)
    return not node.op.cheap() or sum(v.type.bytes for v in node.outputs) < sum(v.type.bytes for v in node.inputs)


def _pieces(layout: Layout) -> int:
    """How many axes cut a value to pieces."""
    return len(layout.split_axes)
