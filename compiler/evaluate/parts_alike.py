"""Whether an optimizer, evaluated for a part of a loop by itself, does what it does as it is written."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from compiler.graph import Dim, Graph
from compiler.model import LoopPiece


def alike(whole: Graph, part: Graph, piece: LoopPiece) -> bool:
    """Whether the graphs are the same but for the number of iterations, or the loop's dim where there is no loop."""
    names = {piece.label: piece.of} | {i.label: i.of for i in piece.inner}

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Graph) and isinstance(b, Graph):
            pairs = zip(a.nodes, b.nodes)
            return len(a.nodes) == len(b.nodes) and all(same(x.op, y.op) for x, y in pairs)
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

    return same(whole, part)
