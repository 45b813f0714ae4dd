"""Dead code: values that no output needs, inside the bodies of rolled loops too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat


class Live:
    """What the needed outputs of a graph need; grows with every call of `need`. A `Repeat` node is looked into.

    Values that neither a node nor an input of the graph defines are let be: open graphs refer to another graph's.
    """

    def __init__(
        self, inputs: Sequence[Value], nodes: Iterable[Node], outputs: Sequence[Value], carries: int = 0
    ) -> None:
        self.outputs = outputs
        self.carries = carries
        self.made = {out: (node, i) for node in nodes for i, out in enumerate(node.outputs)}
        self.index = {param: i for i, param in enumerate(inputs)}
        self.values: set[Value] = set()
        self.nodes: set[Node] = set()
        self.inner: dict[Node, Live] = {}
        self.live_inputs: set[int] = set()
        self.live_outputs: set[int] = set()

    @staticmethod
    def body(node: Node) -> Live:
        """For the body of a `Repeat` node: a needed carry needs its next value."""
        op = cast(Repeat, node.op)
        return Live(op.body.inputs, op.body.nodes, op.body.outputs, op.carries)

    def need_output(self, i: int) -> list[int]:
        """Mark output `i`; returns the indices of inputs that became needed by that."""
        if i in self.live_outputs:
            return []
        self.live_outputs.add(i)
        found: list[int] = []
        work = [self.outputs[i]]
        if i < self.carries and i not in self.live_inputs:
            self.live_inputs.add(i)
            found.append(i)
        while work:
            for j in self.need(work.pop()):
                found.append(j)
                if j < self.carries and j not in self.live_outputs:
                    self.live_outputs.add(j)
                    work.append(self.outputs[j])
        return found

    def need(self, value: Value) -> list[int]:
        """Mark a value; returns the indices of inputs that became needed by that."""
        found: list[int] = []
        work = [value]
        while work:
            v = work.pop()
            if v in self.values:
                continue
            self.values.add(v)
            if v in self.index:
                i = self.index[v]
                if i not in self.live_inputs:
                    self.live_inputs.add(i)
                    found.append(i)
            elif v in self.made:
                work.extend(self.operands(*self.made[v]))
        return found

    def operands(self, node: Node, output: int) -> list[Value]:
        """Operands that became needed because output `output` of `node` is."""
        if not isinstance(node.op, Repeat):
            if node in self.nodes:
                return []
            self.nodes.add(node)
            return list(node.inputs)
        self.nodes.add(node)
        inner = self.inner.get(node)
        if inner is None:
            inner = self.inner[node] = Live.body(node)
        return [node.inputs[i] for i in inner.need_output(output)]

    def kept(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        """The needed nodes, their bodies pruned."""
        return tuple(
            [pruned_repeat(n, self.inner[n]) if isinstance(n.op, Repeat) else n for n in nodes if n in self.nodes]
        )


def pruned_repeat(node: Node, live: Live) -> Node:
    """The node with the outputs and operands that `live` (of its body) marks; the same node if that is all."""
    op = cast(Repeat, node.op)
    ins = [i for i in range(len(node.inputs)) if i in live.live_inputs]
    outs = [i for i in range(len(node.outputs)) if i in live.live_outputs]
    nodes = live.kept(op.body.nodes)
    same = len(nodes) == len(op.body.nodes) and all([a is b for a, b in zip(nodes, op.body.nodes)])
    if same and len(ins) == len(node.inputs) and len(outs) == len(node.outputs):
        return node
    inputs, outputs = tuple(op.body.inputs[i] for i in ins), tuple(op.body.outputs[i] for i in outs)
    body = replace(op.body, inputs=inputs, nodes=nodes, outputs=outputs)
    carries = sum(i < op.carries for i in outs)
    stacks = sum(op.carries <= i < op.carries + op.stacks for i in ins)
    new = replace(op, body=body, carries=carries, stacks=stacks)
    return Node(new, tuple(node.inputs[i] for i in ins), tuple(node.outputs[i] for i in outs), node.span)


def prune_nodes(nodes: Sequence[Node], outputs: Iterable[Value]) -> tuple[Node, ...]:
    """The nodes, in order, that the outputs need."""
    live = Live((), nodes, ())
    for v in outputs:
        live.need(v)
    return live.kept(nodes)


def prune(graph: Graph) -> Graph:
    """The graph without dead code; its inputs and outputs stay. Returns the same graph if there is none."""
    nodes = prune_nodes(graph.nodes, graph.outputs)
    if len(nodes) == len(graph.nodes) and all([a is b for a, b in zip(nodes, graph.nodes)]):
        return graph
    return Graph(graph.name, graph.inputs, nodes, graph.outputs)
