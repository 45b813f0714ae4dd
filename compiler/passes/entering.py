"""What a stage runs of a graph, and what enters it for that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat
from compiler.passes.stage import ALL, Stage, Staged


def nodes_of(
    staged: Staged,
    graph: Graph,
    where: Mapping[str, Stage],
    stage: int,
    roots: Sequence[Value],
    sends: Iterable[str],
    forward: bool,
) -> tuple[list[Node], dict[str, Value]]:
    """The nodes of a stage for `roots` and what it sends, and the values that enter, by name.

    Its own nodes are those that are placed there, those that can be anywhere, and its part of the cut loop, whose
    carries come from the stage before.
    """
    needed = {v.name for v in roots} | set(sends)
    found: list[Node] = []
    for node in reversed(graph.nodes):
        cut = staged.cut_at(node)
        if (cut is not None and stage in cut.way(forward)) or (
            cut is None and any(v.name in needed and where.get(v.name) in (None, stage, ALL) for v in node.outputs)
        ):
            found.append(node)
            needed.update(v.name for v in _operands(staged, node, stage, forward))
    found.reverse()
    made = {v.name for n in found for v in n.outputs}
    entering: dict[str, Value] = {}
    for v in (*(v for node in found for v in _operands(staged, node, stage, forward)), *roots):
        if v.name not in made:
            entering.setdefault(v.name, v)
    return found, entering


def _operands(staged: Staged, node: Node, stage: int, forward: bool) -> Sequence[Value]:
    """Of a node, but for what the stage before hands over."""
    cut = staged.cut_at(node)
    if cut is None:
        return node.inputs
    assert isinstance(node.op, Repeat)
    carried = node.inputs[: node.op.carries] if stage == cut.way(forward)[0] else ()
    return (*carried, *(node.inputs[node.op.carries :] if cut.counts[stage] else ()))
