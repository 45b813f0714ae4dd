"""`paged`: a function that renews stacks which rest elsewhere, as one that moves an iteration of them at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from compiler.graph import Dim, Graph, Names, Node, Type, Value
from compiler.layout import Layout
from compiler.memory.tiers import FIRST, RowCache
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.origin import Phase
from compiler.program import ORIGINS
from compiler.walk import graph_values


class Tier(NamedTuple):
    """Where a buffer rests, and how many are moved in ahead of the one that is read. rows: what needs rows of it alone
    reads them there; cache: of which the devices keep some."""

    memory: str
    ahead: int
    rows: bool = False
    cache: RowCache | None = None


BEFORE, INSIDE, BEHIND = 0, 1, 2
"""Where a node stands: before the loop over iterations, in it, or behind it."""


def paged(body: Graph, lead: Dim, tiers: Mapping[int, Tier], results: Mapping[int, int]) -> Graph | None:
    """The function with a loop over its element-wise work, into which slices are moved; None where it needs more of
    what rests elsewhere than an iteration at a time.

    lead: the dim that counts iterations, first of all stacks. tiers: by the number of a parameter, where it rests;
    results: by the number of a result, that of the parameter that it renews.
    """
    moved = {body.inputs[k] for k in tiers}
    if not all([_stacked(v, lead) for v in (*moved, *(body.outputs[j] for j in results))]):
        return None
    order = _order(body, lead, moved)
    made = {v: order[n] for n in body.nodes for v in n.outputs}
    reads_elsewhere = any(v in moved for n in body.nodes if order[n] != INSIDE for v in n.inputs)
    whole = any(made.get(body.outputs[j], INSIDE) != INSIDE for j in results)
    mixed = any(body.outputs[j] in moved and body.outputs[j] is not body.inputs[k] for j, k in results.items())
    behind = {v for n in body.nodes if order[n] == BEHIND for v in n.inputs}
    mixed = mixed or any(body.outputs[j] in behind or body.outputs.count(body.outputs[j]) > 1 for j in results)
    if reads_elsewhere or whole or mixed or INSIDE not in order.values():
        return None
    return _Paged(body, lead, tiers, results, order).made()


def _order(body: Graph, lead: Dim, moved: Collection[Value]) -> dict[Node, int]:
    """Element-wise work along the iterations stands in the loop, but for what something else needs before it or made
    it behind it."""
    depends, needed = set(moved), set[Value]()
    for node in body.nodes:
        if not depends.isdisjoint(node.inputs):
            depends.update(node.outputs)
    order: dict[Node, int] = {}
    for node in reversed(body.nodes):
        early = depends.isdisjoint(node.outputs)
        if early and (not _by_iteration(node, lead) or not needed.isdisjoint(node.outputs)):
            order[node] = BEFORE
            needed.update(node.inputs)
    late: set[Value] = set()
    for node in body.nodes:
        if node in order:
            continue
        order[node] = INSIDE
        if not _by_iteration(node, lead) or not late.isdisjoint(node.inputs):
            order[node] = BEHIND
            late.update(node.outputs)
    return order


def _stacked(value: Value, lead: Dim) -> bool:
    """Whether it has a slice for each iteration, on every device."""
    return value.type.dims[:1] == (lead,) and not value.layout.dims[0] and all(i for i, _, _ in value.layout.halo)


def _by_iteration(node: Node, lead: Dim) -> bool:
    """Whether each slice of the result is made of those of the operands, and of what has none, element by element."""
    stacked = [_stacked(v, lead) for v in node.inputs]
    alone = all(s or not v.type.has(lead.name) for v, s in zip(node.inputs, stacked, strict=True))
    return node.op.pointwise and alone and any(stacked) and all([_stacked(v, lead) for v in node.outputs])


def _slice(type: Type) -> Type:
    return Type(type.dtype, type.dims[1:])


def _slice_layout(layout: Layout) -> Layout:
    return Layout(layout.dims[1:], layout.pending, tuple((i - 1, left, right) for i, left, right in layout.halo))


class _Paged:
    def __init__(
        self,
        body: Graph,
        lead: Dim,
        tiers: Mapping[int, Tier],
        results: Mapping[int, int],
        order: Mapping[Node, int],
    ) -> None:
        self.body, self.lead, self.order = body, lead, order
        self.names = Names(v.name for v in graph_values(body))
        self.tier = {body.inputs[k]: t for k, t in tiers.items()}
        self.renews = {body.outputs[j]: body.inputs[k] for j, k in results.items()}
        self.far = {v: replace(v, memory=t.memory) for v, t in self.tier.items()}

    def made(self) -> Graph:
        """The function."""
        body, order = self.body, self.order
        inside = [n for n in body.nodes if order[n] == INSIDE]
        mine = {v for n in inside for v in n.outputs}
        read = dict.fromkeys(v for n in inside for v in n.inputs if v not in mine)
        each, same = ([v for v in read if _stacked(v, self.lead) == s] for s in (True, False))
        for old in dict.fromkeys(self.renews.values()):  # of which nothing is read
            if old not in each and any(r is not old and self.renews[r] is old for r in self.renews):
                each.append(old)
        behind = {v for n in body.nodes if order[n] == BEHIND for v in n.inputs}
        out = [v for n in inside for v in n.outputs if v in behind or v in body.outputs]
        outputs = tuple(replace(v, memory=self.far[self.renews[v]].memory) if v in self.renews else v for v in out)
        loop = Repeat(self.lead.name, self.lead.size, self._iteration(inside, each, same, out), 0, len(each))
        known = self.far | dict(zip(out, outputs, strict=True))
        node = Node(loop, tuple(known.get(v, v) for v in (*each, *same)), outputs)
        before, later = ([n for n in body.nodes if order[n] == at] for at in (BEFORE, BEHIND))
        inputs, results = (tuple(known.get(v, v) for v in row) for row in (body.inputs, body.outputs))
        return Graph(body.name, inputs, (*before, node, *later), results)

    def _iteration(self, inside: list[Node], each: list[Value], same: list[Value], out: list[Value]) -> Graph:
        """The body of the loop. each, same: what it takes a slice of, and what is the same in all; out: results."""
        env: dict[Value, Value] = {}
        slices = {v: self._sliced(v, f"{v.name}.slice", self.far.get(v, v).memory) for v in each}
        given = {v: replace(v, name=self.names.fresh(f"{v.name}.same")) for v in same}
        nodes: list[Node] = []
        for v, part in (slices | given).items():
            env[v] = part
            if v in self.tier and any(v in n.inputs for n in inside):
                env[v] = self._sliced(v, f"{v.name}.here", FIRST, Phase.MOVED)
                nodes.append(Node(Move(part.memory, FIRST, self.tier[v].ahead), (part,), (env[v],)))
        results: dict[Value, Value] = {}
        for n in inside:
            made = tuple(self._sliced(v, f"{v.name}.slice", FIRST) for v in n.outputs)
            nodes.append(Node(n.op, tuple(env[v] for v in n.inputs), made, n.span))
            env.update(zip(n.outputs, made, strict=True))
            for v in n.outputs:
                results[v] = env[v]
                if v in self.renews:
                    old = slices[self.renews[v]]
                    results[v] = self._sliced(v, f"{v.name}.away", old.memory, Phase.MOVED)
                    nodes.append(Node(Move(FIRST, old.memory), (env[v], old), (results[v],)))
        parameters = (*slices.values(), *given.values())
        return Graph(self.lead.name, parameters, tuple(nodes), tuple(results[v] for v in out))

    def _sliced(self, value: Value, name: str, memory: str, phase: Phase = Phase.UPDATE) -> Value:
        layout = _slice_layout(value.layout)
        return Value(self.names.fresh(name), _slice(value.type), value.span, ORIGINS[phase], layout, memory)
