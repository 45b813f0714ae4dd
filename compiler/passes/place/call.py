"""Placing a call: a function is placed once for all calls with operands of the same layouts, under the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.graph import Graph, Node, Value
from compiler.layout import Layout
from compiler.ops.call import Call
from compiler.ops.repeat import Repeat
from compiler.passes.copying import copy_graph
from compiler.passes.place.node import place_node
from compiler.passes.place.region import GraphPlacer
from compiler.passes.place.repeat import place_repeat
from compiler.passes.prune import prune_nodes

Given = tuple[Layout, Layout | None]
"""The layout of an operand, and that in which the function alone reads it, if another."""


def place_nodes(region: GraphPlacer, nodes: Sequence[Node]) -> None:
    """Place nodes in their order."""
    for node in nodes:
        if isinstance(node.op, Call):
            place_call(region, node, node.op)
        else:
            (place_repeat if isinstance(node.op, Repeat) else place_node)(region, node)


def place_call(region: GraphPlacer, node: Node, op: Call) -> None:
    """Append the call of a placed function."""
    shared = region.shared
    region.reader, region.span = node.outputs[0].name, node.span
    operands: list[Value] = []
    given: list[Given] = []
    for v in node.inputs:
        wanted = region.preferred.pop(v.name, None)
        operands.append(region.resolved(v) if wanted is None else region.versions[v.name][0].value)
        given.append((shared.layouts[operands[-1].name], wanted))
    key = id(op.body), tuple(given), id(region.rules.all_wishes(op.at, region.cls))
    if key not in shared.functions:
        shared.functions[key] = _placed(region, op, given)
    body = shared.functions[key]
    region.nodes.append(Node(replace(op, body=body), tuple(operands), node.outputs, node.span))
    for out, result in zip(node.outputs, body.outputs, strict=True):
        region.define(out, shared.layouts[result.name])


def _placed(region: GraphPlacer, op: Call, given: Sequence[Given]) -> Graph:
    """The function with operands of these layouts; the first keeps the names of its values."""
    shared, body = region.shared, op.body
    if id(body) in shared.once:
        body = copy_graph(body, shared.names, lambda v: (v.name, v.origin))
        body = replace(body, name=shared.names.fresh(body.name))
    shared.once.add(id(op.body))
    inner = GraphPlacer(shared, region.cls, region.axes)
    inner.path = op.at
    for v, (layout, wanted) in zip(body.inputs, given, strict=True):
        inner.define(v, layout)
        if wanted is not None:
            inner.preferred[v.name] = wanted
    place_nodes(inner, body.nodes)
    results = []
    for v in body.outputs:
        inner.reader = v.name
        results.append(inner.demand(v, inner.natural(v)))
    return Graph(body.name, body.inputs, prune_nodes(inner.nodes, results), tuple(results))
