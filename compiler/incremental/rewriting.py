"""What the rewrites of a model before it is taken apart have in common: what they do not change is the same object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from compiler.graph import Graph, Names, Node
from compiler.model import Model
from compiler.ops.repeat import Repeat
from compiler.walk import graph_values


def rewritten(model: Model, change: Callable[[Graph, Names], Graph]) -> Model:
    """The model with another graph. change: of a graph, with the names that there are."""
    graph = change(model.graph, Names(v.name for v in graph_values(model.graph)))
    return model if graph is model.graph else replace(model, graph=graph)


def in_loop(node: Node, change: Callable[[Graph], Graph]) -> Node:
    """The node; of a loop with its body changed."""
    if not isinstance(node.op, Repeat):
        return node
    body = change(node.op.body)
    return node if body is node.op.body else replace(node, op=replace(node.op, body=body))
