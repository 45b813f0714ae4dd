"""Where a layout may hang on how many rows of the batch there are.

Which of several loops an axis splits is decided by bytes that move (`compiler/passes/place/choose.py`). If all of them
go with the rows, as many rows as there may be lead to the same. What is made of weights (one that is normalised before
it is used) is no weight, whose layout is stated, and is as large whatever the rows are: beside few of them another loop
is split than beside many, and a product of few rows may take less than its share of what many take.
"""

from __future__ import annotations

from collections.abc import Collection

from compiler.graph import Graph, Node, Value
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast
from compiler.ops.repeat import Repeat
from parc.planning.dims import Splittable


def turning(graph: Graph, weights: Collection[Value], split: Splittable) -> bool:
    """Whether the graph has such a choice. weights: those of its values that are weights."""
    stated = {*weights}
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Repeat):
            given = zip(node.inputs[op.carries :], op.body.inputs[op.carries :], strict=True)
            if turning(op.body, {inside for outside, inside in given if outside in stated}, split):
                return True
        elif isinstance(op, Cast) and node.inputs[0] in stated:
            stated.update(node.outputs)
        elif isinstance(op, Contract) and _turns(node, stated, split):
            return True
    return False


def _turns(product: Node, stated: Collection[Value], split: Splittable) -> bool:
    """Whether one factor has the batch and the other, which is no weight, has not, and an axis may split two loops."""
    values = (*product.inputs, *product.outputs)
    shared = {*split.inner, *split.experts}
    dims = {n for v in values for n in v.type.names}
    alone = [v for v in product.inputs if v not in stated and not v.type.has(split.batch)]
    several = len(dims & {*shared, *split.positions}) > 1
    return several and split.batch in dims and any(shared.intersection(v.type.names) for v in alone)
