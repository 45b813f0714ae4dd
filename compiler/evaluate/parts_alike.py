"""Whether an optimizer, evaluated for a part of a loop by itself, does what it does as it is written."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from compiler.graph import Dim, Graph, Node
from compiler.model import LoopPiece
from compiler.ops.repeat import Repeat


def alike(whole: Graph, part: Graph, piece: LoopPiece) -> bool:
    """Whether the graphs are the same but for the number of iterations, or the loop's dim where there is no loop, and
    nothing is taken of all iterations, not of constants either: a part has fewer of these."""
    names = {piece.label: piece.of} | {i.label: i.of for i in piece.inner}

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Graph) and isinstance(b, Graph):
            return len(a.nodes) == len(b.nodes) and all(map(same_node, a.nodes, b.nodes))
        if isinstance(a, Dim) and isinstance(b, Dim):
            sizes = (a.size, a.size * piece.count // piece.total if a.name == piece.of else a.size)
            return same(a.name, b.name) and b.size == sizes[1]
        if isinstance(a, tuple) and isinstance(b, tuple):
            if piece.apart:
                a = tuple(x for x in a if (x.name if isinstance(x, Dim) else x) != piece.of)
            return len(a) == len(b) and all(map(same, a, b))
        if is_dataclass(a) and type(a) is type(b):
            return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
        return bool(a == (names.get(b, b) if isinstance(b, str) else b)) and type(a) is type(b)

    def same_node(a: Node, b: Node) -> bool:
        # Types tell of iterations that go on under another name.
        types = ([v.type for v in n.outputs] for n in (a, b))
        return same(a.op, b.op) and all(map(same, *types)) and not _gathers(a, piece.of)

    return same(whole, part)


def _gathers(node: Node, label: str) -> bool:
    """Whether results of an op are made of several iterations of the loop. (Bodies are looked at by themselves.)"""
    if isinstance(node.op, Repeat):
        return False
    loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
    return any(loop.kind != "pass" and label in loop.names for loop in loops)
