"""How far back what is kept is looked at: only so many of the last positions are kept then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import lcm

from compiler.graph import Graph, Node, Value
from compiler.incremental.facts import Facts, both
from compiler.incremental.reach import Analysis
from compiler.model import Model
from compiler.ops.base import Loop
from compiler.ops.contract import Contract
from compiler.ops.elementwise import StopGradient, Transpose
from compiler.ops.reduce import Cumsum, Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename, Shift
from compiler.ops.window import Window
from compiler.walk import graph_values

Key = tuple[str, int, str]
"""Whose dim it is: that of a value, or what a value's is called later on."""


class Lookback:
    """By dims of values that hang on data, how many of the last positions all that is made of them looks at.

    Dims that ops walk in one loop are one: where any reader looks further back, so do all. What is called otherwise
    later (keys of a position as those that others look at) is another one.
    """

    def __init__(self, model: Model, analysis: Analysis, pieces: Mapping[str, int]) -> None:
        """pieces: into how many a strategy cuts dims: as many positions are kept as can be cut."""
        self.analysis, self.positions = analysis, analysis.positions
        self._up: dict[Key, Key] = {}
        self._counts: dict[Key, int | None] = {}
        self._made: dict[Value, Node] = {}
        self._ends: dict[Node, int | None] = {}
        names = set[str]()
        self._graph(model.graph)
        for v in graph_values(model.graph):
            names.update(self.positions.of(v))
        self._multiple = lcm(*(pieces.get(n, 1) for n in names))
        self._kept = model  # ids stay those of its values

    def of_loop(self, node: Node, loop: Loop) -> int | None:
        """Of a loop that ends in this op: how many of the last positions are looked at; None: all may be."""
        for v, n in zip(node.inputs, loop.ins):
            if n is not None and self._counts_for(v, n):
                found = self._counts.get(self._find(self._key(v, n)))
                found = found if found is None else self._rounded(found)
                return found if found is not None and found < self.positions.size else None
        return None

    def near(self, count: int, length: int) -> int:
        """How many positions are those of the last `count` and `length` new ones: one new one takes the place of the
        first of the last ones, at which it does not look any more."""
        return count if length == 1 else min(self._rounded(count + length), self.positions.size)

    def _rounded(self, count: int) -> int:
        return -(-count // self._multiple) * self._multiple

    def left_out(self, node: Node) -> float | None:
        """What a maximum has of positions further back: the number that a mask has put there."""
        if not isinstance(node.op, Reduce) or node.op.fn != "max":
            return None
        masked = [k for k, f in self.analysis.of(node.inputs[0]).zones.items() if self._back(node, f) is not None]
        return max(masked, default=None)

    # --- what is one ---

    def _graph(self, graph: Graph) -> None:
        for node in graph.nodes:
            self._made.update(dict.fromkeys(node.outputs, node))
            if isinstance(node.op, Repeat):
                self._repeat(node, node.op)
                continue
            loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
            for loop in loops:
                self._loop(node, loop)
            if isinstance(node.op, (Cumsum, Shift, Window)) and self._counts_for(node.inputs[0], node.op.dim):
                # a row that is kept has all positions: those of the last ones change their places until it is read
                for n in self.positions.of(node.inputs[0]):
                    if self._counts_for(node.inputs[0], n):
                        self._look(self._key(node.inputs[0], n), None)

    def _loop(self, node: Node, loop: Loop) -> None:
        sides = zip((*node.inputs, *node.outputs), (*loop.ins, *loop.outs))
        keys = [self._key(v, n) for v, n in sides if n is not None and self._counts_for(v, n)]
        if not keys or (isinstance(node.op, Rename) and loop.ins != loop.outs):
            return
        for key in keys[1:]:
            self._join(keys[0], key)
        if all(n is None for n in loop.outs):
            (summed,) = {n for n in loop.ins if n is not None}
            self._look(keys[0], self._count(node, summed) if loop.kind in ("sum", "max") else None)
        elif loop.kind != "pass" or loop.placed:
            self._look(keys[0], None)

    def _repeat(self, node: Node, op: Repeat) -> None:
        body, last = op.body, op.carries + op.stacks
        self._graph(body)
        pairs = [*zip(node.inputs, body.inputs), *zip(node.outputs, body.outputs)]
        pairs += zip(body.inputs[: op.carries], body.outputs)
        for a, b in pairs:
            for n in self.positions.of(b):
                if a.type.has(n) and self._counts_for(a, n) and self._counts_for(b, n):
                    self._join(self._key(a, n), self._key(b, n))
        for v in (*node.inputs[:last], *node.outputs):
            if op.label in self.positions.of(v) and self._counts_for(v, op.label):
                self._look(self._key(v, op.label), None)

    def _counts_for(self, v: Value, n: str) -> bool:
        """Whether it is one of positions, of a value that hangs on data."""
        return bool(self.analysis.of(v).bound) and n in self.positions.of(v)

    def _key(self, v: Value, n: str) -> Key:
        called, x, at = False, v, n
        while (node := self._made.get(x)) is not None and isinstance(node.op, (Rename, Transpose, StopGradient)):
            if isinstance(node.op, Rename):
                before = {new: old for old, new in node.op.pairs}.get(at, at)
                called, at = called or before != at, before
            x = node.inputs[0]
        return ("called otherwise", id(x), at) if called else ("its own", id(v), n)

    def _find(self, key: Key) -> Key:
        while (up := self._up.get(key, key)) != key:
            key = up
        return key

    def _join(self, a: Key, b: Key) -> None:
        left, right = self._find(a), self._find(b)
        if left == right:
            return
        self._up[left] = right
        if left in self._counts:
            self._look(right, self._counts.pop(left))

    def _look(self, key: Key, count: int | None) -> None:
        key = self._find(key)
        old = self._counts.get(key, 0)
        self._counts[key] = None if old is None or count is None else max(old, count)

    # --- how far back ---

    def _count(self, node: Node, summed: str) -> int | None:
        """How many of the last positions count along a dim that ends here."""
        found = [c for f in self._facts(node) if (c := self._back(node, f, summed)) is not None]
        return min(found, default=None)

    def _facts(self, node: Node) -> Iterator[Facts]:
        """Where what it sums up is something: outside of that it is 0, or what a mask has put there."""
        op, reaches = node.op, [self.analysis.of(v) for v in node.inputs]
        if isinstance(op, Contract):
            yield both(*(r.zones.get(0.0, {}) for r in reaches))
        elif isinstance(op, Reduce) and op.fn == "sum":
            yield reaches[0].zones.get(0.0, {})
        elif isinstance(op, Reduce) and op.fn == "max":
            yield from reaches[0].zones.values()
            if reaches[0].low is not None and node in self.analysis.guards:
                yield reaches[0].low[0]

    def _back(self, node: Node, facts: Facts, summed: str = "") -> int | None:
        """The last positions up to the new ones that the facts leave along `summed`, or a dim that ends here."""
        bound = self.analysis.of(node.outputs[0]).bound
        if not facts or len(bound) != 1:
            return None
        (here,) = bound
        ends = [summed] if summed else [n for n in node.inputs[0].type.names if not node.outputs[0].type.has(n)]
        found = [facts[here, n] + 1 for n in ends if (here, n) in facts]
        return max(1, min(found)) if found else None
