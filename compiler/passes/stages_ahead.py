"""The stages of values in the order in which the forward pass goes through them, in it and before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.graph import Graph, Node, Value
from compiler.ops.comm import MaskPad
from compiler.ops.repeat import Repeat
from compiler.passes.prune import prune_nodes

if TYPE_CHECKING:
    from compiler.passes.place.place import Placed
    from compiler.passes.stage import Staged

ALL = -1
Stage = int | None
Place = Callable[[Node, int | None], Stage]
"""Where rules say that a node is, by the last stage of its operands."""


def forward_stages(graph: Graph, staged: Staged, place: Place) -> dict[str, Stage]:
    """Explicit places, else the last stage of the operands, in the order in which values pass through them.

    What is made once, on the first stage, binds none of its readers."""
    found: dict[str, Stage] = {}
    for node in graph.nodes:
        cut = staged.cut_at(node)
        if cut is not None:
            found.update(of_cut(node, cut.end))
            continue
        stages = {s for v in node.inputs if v not in staged.once and (s := found.get(v.name)) is not None}
        last = max(stages, key=staged.rank, default=None)
        where = place(node, last)
        if node.outputs[0] in staged.once:
            where = 0
        elif ALL in stages:
            where = all_of(node, stages)
        elif where is None:
            where = last
        found.update((v.name, where) for v in node.outputs)
    return masked_at_readers(graph, found)


def round_stages(
    placed: Placed,
    staged: Staged,
    first: Mapping[str, Stage],
    place: Place,
    once: Callable[[Graph], frozenset[Value]],
) -> tuple[Mapping[str, Stage], ...]:
    """Of what is made of whole batches before the first micro-batch, the stages of the values of each round: what needs
    data alone is made by whoever reads it, what needs weights where the forward pass makes it (`first`).

    An evaluation's forward pass makes nothing again: where it does not, what stages share (`once`) is made as there."""
    model = placed.training.model
    kept = {*(w.value for w in model.weights), *(s.value for s in model.states)}

    def at(node: Node, before: int | None) -> Stage:
        of = node.outputs[0].origin.of
        return first[of] if of in first else place(node, before)

    found: list[Mapping[str, Stage]] = []
    for round, logical in zip(placed.rounds, placed.training.rounds, strict=True):
        if kept.isdisjoint(logical.graph.inputs):
            found.append({})
            continue
        shared = frozenset(v for v in once(round.batch) if v.origin.of not in first)
        found.append(forward_stages(round.batch, replace(staged, once=shared), at))
    return tuple(found)


def with_totals(
    placed: Placed, staged: Staged, rounds: Sequence[Mapping[str, Stage]], first: Mapping[str, Stage]
) -> dict[str, Stage]:
    """Where results are added up and states lie that are made of totals of whole batches, which all stages could have:
    where the last of these is made, as if a micro-batch had made it. So an entry that needs fewer of them has the
    results there, too."""
    owners: dict[str, int] = {}
    for round, logical, where in zip(placed.rounds, placed.training.rounds, rounds, strict=True):
        made = zip(round.batch.outputs, logical.totals, strict=True)
        owners.update((t.name, s) for v, t in made if (s := where.get(v.name)) not in (None, ALL))
    found: dict[str, Stage] = {}
    forward, training = placed.forward.outputs, placed.training
    results = [*forward[: training.scalars], *forward[training.asked : training.results]]
    for v in results if owners else ():
        if first.get(v.name) is None:
            used = {x.name for node in prune_nodes(placed.forward.nodes, [v]) for x in node.inputs}
            ends = [s for name, s in owners.items() if name in used]
            found.update([(v.name, max(ends, key=staged.rank))] if ends else [])
    return found


def masked_at_readers(graph: Graph, found: dict[str, Stage]) -> dict[str, Stage]:
    """The same, but padding is masked where it is read: a message does not tell what the unused elements hold."""
    readers: dict[str, set[Stage]] = {}
    for node in graph.nodes:
        for v in node.inputs:
            readers.setdefault(v.name, set()).add(found.get(node.outputs[0].name))
    for node in graph.nodes:
        if isinstance(node.op, MaskPad):
            stages = readers.get(node.output.name, set()) - {None, ALL}
            if len(stages) == 1:
                found[node.output.name] = stages.pop()
    return found


def of_cut(node: Node, end: int) -> dict[str, Stage]:
    """Stages of the cut loop's results: what it carries leaves it at `end`."""
    assert isinstance(node.op, Repeat)
    return {v.name: ALL if i >= node.op.carries else end for i, v in enumerate(node.outputs)}


def all_of(node: Node, stages: set[int]) -> Stage:
    # A loop hands on its carried variables only; what each stage holds a part of stays inside.
    assert stages == {ALL}, node.outputs[0].name
    return ALL
