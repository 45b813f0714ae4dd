"""Cuts of what windows and pads made longer, taken before the ops between: there they move positions back.

A convolution is often padded on both sides, and cut when its windows are summed:
`slice(sum(window(…) * c, over k), so -> s, 0..n)`. The ops between keep positions apart, so that each operand may be
cut instead; `looked_back` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.graph import Dim, Graph, Names, Node, Value
from compiler.incremental.rewriting import in_loop, rewritten
from compiler.model import Model
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.reduce import Reduce
from compiler.ops.shape import Concat, Pad, Rename, Slice
from compiler.ops.window import Window

_BETWEEN = (Broadcast, Cast, Contract, Map, Reduce, StopGradient, Transpose)


def cut_earlier(model: Model) -> Model:
    """The model whose cuts are taken before elementwise ops, sums and products."""
    return rewritten(model, _graph)


def _graph(graph: Graph, names: Names) -> Graph:
    made = {v: node for node in graph.nodes for v in node.outputs}
    nodes: list[Node] = []
    changed = False
    for written in graph.nodes:
        node = in_loop(written, lambda body: _graph(body, names))
        changed |= node is not written
        op = node.op
        if isinstance(op, Slice) and op.step == 1 and _grown(node.inputs[0], op.dim, made):
            cut = _Cut(nodes, names, made, op, node)
            cut.of(node.inputs[0], op.dim, last=True)
            changed = True
            continue
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)) if changed else graph


def _grown(v: Value, dim: str, made: Mapping[Value, Node], first: bool = True) -> bool:
    """Whether ops that keep positions apart lie between the value and what has made the dim longer."""
    node = made.get(v)
    if node is None:
        return False
    if isinstance(node.op, Window):
        return not first and node.op.out.name == dim and node.op.stride == 1
    if isinstance(node.op, (Pad, Concat)):
        return not first and node.op.into == dim
    if isinstance(node.op, Rename):
        before = {new: old for old, new in node.op.pairs}.get(dim, dim)
        return _grown(node.inputs[0], before, made, first)
    if not isinstance(node.op, _BETWEEN):
        return False
    return any(_grown(x, dim, made, False) for x in node.inputs if x.type.has(dim))


class _Cut:
    """One of them, among the nodes so far: some elements of a dim, which is called otherwise then."""

    def __init__(self, nodes: list[Node], names: Names, made: Mapping[Value, Node], op: Slice, node: Node) -> None:
        self.nodes, self.names, self.made, self.op, self.node = nodes, names, made, op, node
        self.dim = Dim(op.into, op.stop - op.start)
        self.known: dict[tuple[Value, str], Value] = {}

    def of(self, v: Value, dim: str, last: bool = False) -> Value:
        """The elements of a value. last: it is what was cut."""
        if not v.type.has(dim):
            return v
        if (v, dim) not in self.known:
            self.known[v, dim] = self._cut(v, dim, last)
        return self.known[v, dim]

    def _cut(self, v: Value, dim: str, last: bool) -> Value:
        node = self.made.get(v)
        clash = dim != self.dim.name and any(x.type.has(self.dim.name) for x in (v, *(node.inputs if node else ())))
        if node is not None and not clash:
            if isinstance(node.op, Rename):
                before = {new: old for old, new in node.op.pairs}.get(dim, dim)
                pairs = tuple(p for p in node.op.pairs if p[1] != dim)
                if not any(old == self.dim.name for old, _ in pairs):
                    return self._add(Rename(pairs), v, last, self.of(node.inputs[0], before))
            elif isinstance(node.op, _BETWEEN):
                return self._add(self._called(node.op, dim), v, last, *(self.of(x, dim) for x in node.inputs))
        return self._add(replace(self.op, dim=dim), v, last, v)

    def _called(self, op: Op, dim: str) -> Op:
        """The op with the dim as it is called and as long as it is then."""
        if isinstance(op, Broadcast):
            return Broadcast(tuple(self.dim if d.name == dim else d for d in op.dims))
        if isinstance(op, (Contract, Transpose)):
            return replace(op, dims=tuple(self.dim.name if n == dim else n for n in op.dims))
        return op

    def _add(self, op: Op, like: Value, last: bool, *operands: Value) -> Value:
        (type,) = op.infer(*(x.type for x in operands))
        value = self.node.output
        if last:
            assert type == value.type, (type, value.type)
        else:
            value = Value(self.names.fresh(f"{like.name}.cut"), type, like.span, like.origin)
        self.nodes.append(Node(op, operands, (value,), self.node.span))
        return value
