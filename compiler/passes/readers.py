"""Which stages read the values of a graph, themselves or through nodes that stages may make for themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat

if TYPE_CHECKING:
    from compiler.passes.place.place import Placed
    from compiler.passes.stage import Stage, Staged


def readers(
    graph: Graph,
    wanted: Iterable[Value],
    names: Iterable[str],
    staged: Staged,
    where: Mapping[str, Stage],
    taken: Mapping[str, frozenset[int]] | None = None,
) -> dict[str, frozenset[int]]:
    """Stages of a backward graph that read each of `names`, themselves or through movable nodes.

    `wanted`: values that are needed where they are made; `taken`: stages that need a value besides.
    """
    ends = [(v.name, staged.stages_of(v, where)) for v in wanted]
    users, _ = users_of(graph, staged, where, [*(taken or {}).items(), *ends], False)
    return {name: users.get(name, frozenset()) for name in names}


def users_of(
    graph: Graph,
    staged: Staged,
    where: Mapping[str, Stage],
    ends: Iterable[tuple[str, frozenset[int]]],
    forward: bool,
) -> tuple[dict[str, frozenset[int]], list[tuple[Node, frozenset[int]]]]:
    """Stages that read each value, and the movable nodes with the stages that make what they give.

    ends: what is wanted of the graph, in which stages; forward: whether it is the forward pass.
    """
    users: dict[str, frozenset[int]] = {}

    def use(name: str, stages: frozenset[int]) -> None:
        users[name] = users.get(name, frozenset()) | stages

    for name, stages in ends:
        use(name, stages)
    movable = []
    for node in reversed(graph.nodes):
        place = where.get(node.outputs[0].name)
        here = frozenset[int]().union(*(users.get(v.name, frozenset()) for v in node.outputs))
        cut = staged.cut_at(node)
        if cut is not None:
            here = cut.stages
        elif here and place is not None and place >= 0:
            here = frozenset((place,))
        elif here and place is None:
            movable.append((node, here))
        for i, v in enumerate(node.inputs):
            enters = cut is not None and isinstance(node.op, Repeat) and i < node.op.carries
            use(v.name, frozenset((cut.way(forward)[0],)) if enters and cut is not None else here)
    return users, movable


def readers_of_inputs(
    placed: Placed, staged: Staged, where: Mapping[str, Stage], names: Iterable[str]
) -> dict[str, set[int]]:
    """The stages that read inputs of the forward graph, themselves or through what is made where it is read (casts), in
    what is made of whole batches before it as well (`staged.rounds`).

    Nothing where there is but one stage.
    """
    found: dict[str, set[int]] = {name: set() for name in names}
    if staged.stages == 1:
        return found
    _read(placed.forward, staged, where, found)
    for round, stages in zip(placed.rounds, staged.rounds):  # none before they are known
        _read(round.batch, staged, stages, found)
    return found


def _read(graph: Graph, staged: Staged, where: Mapping[str, Stage], found: dict[str, set[int]]) -> None:
    reached = {name: {name} for name in found}
    for node in graph.nodes:
        for i, v in enumerate(node.inputs):
            place = where.get(node.outputs[0].name)
            stages = set() if place is None or place < 0 else {place}
            cut = staged.cut_at(node)
            if cut is not None:
                assert isinstance(node.op, Repeat)
                stages = {cut.begin} if i < node.op.carries else set(cut.stages)
            for w in reached.get(v.name, ()):
                found[w] |= stages
            if place is None:
                for out in node.outputs:
                    reached.setdefault(out.name, set()).update(reached.get(v.name, ()))
