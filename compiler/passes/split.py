"""`split`: for zero-bubble schedules, the backward pass in two: B, which other stages wait for, and W, which can wait.

The placed graph is split, so W's layouts and collectives are those that it has with any other schedule (zero-bubble
pipeline parallelism: Qi et al. 2023, section 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from compiler.graph import Graph, Names, Value
from compiler.ops.repeat import Repeat
from compiler.passes.place.place import Placed
from compiler.passes.prune import prune_nodes
from compiler.passes.readers import readers
from compiler.passes.split_backward import Halves, split_backward
from compiler.passes.stage import ALL, Stage, Staged
from compiler.schedules.actions import WEIGHTS
from compiler.schedules.by_hand import kinds_of
from compiler.strategy import PipelineRule


class SplitGraphs(NamedTuple):
    """The graphs as they are lowered: with the backward pass in two, where the schedule wants that."""

    placed: Placed
    staged: Staged


def split(placed: Placed, staged: Staged) -> SplitGraphs:
    """Both as they are, unless the schedule is a zero-bubble one and there is more than one stage."""
    trains = placed.training.trains
    if not trains or staged.groups < 2 or staged.rule is None or not in_two(staged.rule):
        return SplitGraphs(placed, staged)
    addends = dict.fromkeys(v for parts in staged.addends for v in parts)
    urgent = dict.fromkeys(_awaited(placed.backward, addends, staged))
    sent = frozenset(urgent)
    while True:
        outputs = (*urgent, *(v for v in addends if v not in urgent))
        whole = Graph(placed.backward.name, placed.backward.inputs, placed.backward.nodes, outputs)
        halves = split_backward(whole, tuple(urgent), Names(placed.names), sent)
        at_hand = [v for v in halves.crossing if v in addends and v not in urgent]
        if not at_hand:
            break
        urgent.update(dict.fromkeys(at_hand))  # B has this gradient anyway: it adds it up itself
    where = _places(halves, staged)
    late = [v for v in halves.second.outputs if v not in halves.crossing]
    names = [*(k.name for k in placed.kept), *(v.name for v in halves.crossing)]
    late_loads = readers(halves.second, late, names, staged, where)
    early = [v for v in addends if v in urgent]
    loads = readers(halves.first, early, names, staged, where, late_loads)
    return SplitGraphs(
        replace(placed, backward=halves.first, late=halves.second, crossing=halves.crossing),
        replace(staged, backward=where, loads=loads, late_loads=late_loads),
    )


def in_two(rule: PipelineRule) -> bool:
    """Whether its schedule has gradients of weights in a pass of their own."""
    return rule.schedule == "zero_bubble" or WEIGHTS in kinds_of(rule.orders)


def _awaited(graph: Graph, roots: Iterable[Value], staged: Staged) -> Iterable[Value]:
    """What one stage makes and another reads, and all that the cut loop carries from stage to stage."""
    for node in prune_nodes(graph.nodes, tuple(roots)):
        cut = staged.cut_at(node)
        if cut is not None:
            assert isinstance(node.op, Repeat)
            yield from node.outputs[: node.op.carries]
        place = staged.backward.get(node.outputs[0].name)
        for i, v in enumerate(node.inputs):
            source = staged.backward.get(v.name)
            if source in (None, ALL):
                continue
            if cut is not None:
                assert isinstance(node.op, Repeat)
                if i >= node.op.carries or source != cut.end:
                    yield v
            elif place not in (None, ALL, source):
                yield v


def _places(halves: Halves, staged: Staged) -> dict[str, Stage]:
    """Stages of all values of both halves: what is new lies where the loop that puts it out, or its original, lies."""
    where: dict[str, Stage] = dict(staged.backward)
    where.update((new.name, where.get(old.name)) for new, old in halves.copies.items())
    for graph in (halves.first, halves.second):
        for node in graph.nodes:
            if not isinstance(node.op, Repeat):
                continue
            if staged.is_cut(node):
                where.update((v.name, ALL) for v in node.outputs[node.op.carries :])
                continue
            known = next((where[v.name] for v in node.outputs if v.name in where), None)
            for v in node.outputs:
                where.setdefault(v.name, known)
    return where
