"""Backward in two (zero-bubble schedules): what other stages wait for, and the weights' gradients, which can wait.

Loops are split as well: the urgent one puts out, iteration by iteration, what the other one needs of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from compiler.graph import Graph, Names, Node, Value
from compiler.ops.repeat import Repeat
from compiler.passes.prune import Live, prune, pruned_repeat
from compiler.passes.recompute import Recompute
from compiler.passes.residuals import Closing, ResidualContext
from compiler.passes.transpose import OpenRepeat
from compiler.walk import graph_values


class Halves(NamedTuple):
    """`first` is B, `second` W; `copies`: values that W computes again -> the values of B that they are equal to."""

    first: Graph
    second: Graph
    crossing: tuple[Value, ...]
    copies: Mapping[Value, Value]


def split_backward(
    graph: Graph, urgent: Sequence[Value], names: Names | None = None, sent: frozenset[Value] = frozenset()
) -> Halves:
    """B puts out `urgent`, then `crossing`; W takes crossing (first) and puts out the graph's
    other outputs, in order. Both keep the graph's values; inputs are those that they use, in the graph's order.

    `urgent` are outputs of the graph; one may cross as well. A gradient that is a mere sum (of a bias) is better named
    urgent: else what it sums up has to cross. `names` must know all names of the graph; left out, they are collected.
    `sent`: what reaches other stages in B; W takes it from there, rather than compute it again of what they lack.
    """
    names = names or Names(v.name for v in graph_values(graph))
    sooner = set(urgent)
    rest = [v for v in graph.outputs if v not in sooner]
    early = Live((), graph.nodes, ())
    for v in urgent:
        early.need(v)
    late, _ = _late_nodes(graph.nodes, _Early(early, graph.inputs, 0), rest)
    context = ResidualContext(names, Recompute(graph, ()), lambda v: v, sent)
    closing = Closing(context, None, graph.inputs, graph.nodes, 0, frozenset())
    outputs = closing.close(late, rest)
    crossing = tuple(closing.saved)
    wide = prune(Graph(graph.name, graph.inputs, tuple(closing.early), (*urgent, *crossing)))
    first = Graph(graph.name, _used(graph.inputs, wide), wide.nodes, wide.outputs)
    taken = tuple(v for v in graph.inputs if v in closing.read)
    second = Graph(f"{graph.name}.weights", (*crossing, *taken), tuple(closing.nodes), outputs)
    return Halves(first, second, crossing, context.copies)


class _Early:
    """Which values of one level the first part computes, or is given (`available`)."""

    def __init__(self, live: Live, inputs: Sequence[Value], carries: int) -> None:
        self.live = live
        self.shared = set(inputs[carries:])
        self.carries = {v: i for i, v in enumerate(inputs[:carries])}

    def has(self, v: Value) -> bool:
        if v in self.shared:
            return True
        if v in self.carries:
            return self.carries[v] in self.live.live_outputs
        node, i = self.live.made[v]
        if node not in self.live.nodes:
            return False
        return not isinstance(node.op, Repeat) or i in self.live.inner[node].live_outputs

    def body(self, node: Node) -> _Early | None:
        """Of the loop's body; None if the first part does not run the loop."""
        inner = self.live.inner.get(node)
        return None if inner is None else _Early(inner, cast(Repeat, node.op).body.inputs, inner.carries)


def _late_nodes(nodes: Sequence[Node], early: _Early, wanted: Iterable[Value]) -> tuple[list[Node], set[Value]]:
    """The nodes of the second part, open towards the first, and everything that it needs besides."""
    needed = {v for v in wanted if not early.has(v)}
    found: list[Node] = []
    for node in reversed(nodes):
        missing = [i for i, v in enumerate(node.outputs) if v in needed]
        if not missing:
            continue
        if not isinstance(node.op, Repeat):
            late: Node | None = node
        elif (inside := early.body(node)) is None:
            late = _whole(node, missing)
        else:
            late = _part(node, inside, missing, early)
        if late is not None:
            found.append(late)
            needed.update(v for v in late.inputs if not early.has(v))
    return found[::-1], needed


def _whole(node: Node, missing: Iterable[int]) -> Node:
    live = Live.body(node)
    for i in missing:
        live.need_output(i)
    return pruned_repeat(node, live)


def _part(node: Node, inside: _Early, missing: Sequence[int], early: _Early) -> Node | None:
    """The second part of a loop that both parts run; None if the first one has all that is missing at hand."""
    op = cast(Repeat, node.op)
    body = op.body
    outs = set(missing)
    while True:
        # A result like any other of the first part's; it may turn out to be one only as loops inside are looked at.
        there = {i for i in outs if i >= op.carries and inside.has(body.outputs[i])}
        for i in sorted(there):
            early.live.need(node.outputs[i])
        outs -= there
        if not outs:
            return None
        nodes, needed = _late_nodes(body.nodes, inside, [body.outputs[i] for i in outs])
        more = {i for v, i in inside.carries.items() if v in needed} - outs
        outs |= more
        if not more and not any(i >= op.carries and inside.has(body.outputs[i]) for i in outs):
            break
    order = sorted(outs)
    carries = [i for i in order if i < op.carries]
    graph = Graph(
        f"{body.name}.weights",
        tuple(body.inputs[i] for i in carries),
        tuple(nodes),
        tuple(body.outputs[i] for i in order),
    )
    loop = OpenRepeat(op.label, op.count, graph, len(carries), 0, op.reverse, op.scan, node)
    return Node(loop, tuple(node.inputs[i] for i in carries), tuple(node.outputs[i] for i in order), node.span)


def _used(inputs: Sequence[Value], graph: Graph) -> tuple[Value, ...]:
    used = {v for node in graph.nodes for v in node.inputs} | set(graph.outputs)
    return tuple(v for v in inputs if v in used)
