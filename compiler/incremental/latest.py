"""Outputs at the last of several new positions alone: what is made of each position by itself is made of that one."""

from __future__ import annotations

from compiler.graph import Dim, Node, Value
from compiler.incremental.chunk import Increment
from compiler.incremental.demand import Demand
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.reduce import Reduce
from compiler.ops.shape import Rename, Slice

APART = (Broadcast, Cast, Contract, Map, Reduce, Rename, StopGradient, Transpose)


class Latest(Increment):
    """The last new position of a graph of several, as a dim of its own: found by going back from the outputs to where
    positions meet, of which it takes a slice."""

    def __init__(self, of: Increment, new: Dim) -> None:
        super().__init__(of.analysis, of.windows, new, of.around, of.graph, of.builder, of.begun, of.keeps)
        self.of_all = of

    def once(self, v: Value) -> Value:
        return self.of_all.once(v)

    def _make(self, v: Value, demand: Demand) -> Value:
        if not demand.new:
            return self.of_all.need(v, demand)
        node, k = self.made.get(v, (None, 0))
        if node is not None and self._by_itself(node):
            return self.by_op(node, k, demand)
        rows, many = self.of_all.need(v, demand), self.of_all.new
        return self.add(Slice(many.name, many.size - 1, many.size, self.new.name), rows, like=v, name="latest")

    def _by_itself(self, node: Node) -> bool:
        """Whether positions keep apart, and none are summed up."""
        if not isinstance(node.op, APART) or node in self.analysis.guards:
            return False
        for loop in node.op.loops([x.type for x in node.inputs], [x.type for x in node.outputs]):
            walked = any(n in self.positions.of(x) for x, n in zip(node.inputs, loop.ins) if n is not None)
            if walked and (loop.kind != "pass" or loop.placed or all(n is None for n in loop.outs)):
                return False
        return True
