"""Which stage sends a value to which: straight to who needs it, or from stage to stage along a loop that is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from compiler.graph import Graph, Value
from compiler.ops.repeat import Repeat
from compiler.passes.prune import prune_nodes
from compiler.passes.stage import ALL, Stage, Staged

Messages = Mapping[str, Mapping[int, int]]
"""Value -> each stage that receives it -> the stage that sends it there."""


def messages(
    staged: Staged,
    graph: Graph,
    roots: Sequence[Value],
    where: Mapping[str, Stage],
    keeps: Iterable[tuple[Value, Iterable[int]]],
    forward: bool,
) -> Messages:
    """Of the nodes of a graph that `roots` need. keeps: what is saved, and the stages whose later functions load
    them.

    What a loop that is cut reads in every iteration goes through its stages one after the other: so all of them say the
    same, and no stage sends it many times.
    """
    found: dict[str, list[int]] = {}
    along: set[str] = set()
    if staged.stages == 1:
        return {}

    def need(value: Value, stages: Iterable[int]) -> None:
        source = where.get(value.name)
        if source is not None and source != ALL:
            known = found.setdefault(value.name, [])
            known += [s for s in stages if s != source and s not in known]

    for node in prune_nodes(graph.nodes, roots):
        cut, place = staged.cut_at(node), where.get(node.outputs[0].name)
        if cut is not None:
            assert isinstance(node.op, Repeat)
            for i, v in enumerate(node.inputs):
                if i < node.op.carries:
                    need(v, [cut.way(forward)[0]])
                else:
                    need(v, sorted(cut.stages))
                    along.add(v.name)
        elif place is not None and place != ALL:
            for v in node.inputs:
                need(v, [place])
    for v, loads in keeps:
        need(v, sorted(loads))
    result: dict[str, dict[int, int]] = {}
    for name, stages in found.items():
        source = where[name]
        assert source is not None
        if name in along:
            row = [source, *sorted(stages, reverse=not forward)]
            result[name] = dict(zip(row[1:], row))
        else:
            result[name] = dict.fromkeys(stages, source)
    return result
