"""What a pipeline computes once, of what its stages could each make for themselves from data and weights.

A loop that is cut into stages may read values of before it: masks and tables of positions, which every stage makes for
itself, and what is dear: products, and what is made of data and weights together (an encoder that every layer of a
decoder reads, an embedding that comes in again further on). That is made once and handed from stage to stage, unless
the strategy says `place SCOPE on AXIS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from compiler.graph import Graph, Node, Value
from compiler.layout import Layout
from compiler.ops.comm import MaskPad, Relayout
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.origin import scopes
from compiler.passes.lanes import Lanes
from compiler.passes.places import node_path, scope_of
from dsl.data import dataclass

EACH = ""
"""Who reads a value, beside parts of rows, by name: each stage that runs iterations of a loop that is cut."""

DATA, WEIGHT, DEAR = 1, 2, 4
"""What a value is made of. Data and weights together are dear."""


@dataclass(frozen=True, slots=True)
class Sent:
    """by_first: what the first stage makes for others, which could make it for themselves; others: what is on one stage
    only, and read by others."""

    by_first: frozenset[Value]
    others: frozenset[Value] = frozenset()


NOTHING_SENT = Sent(frozenset())


def made_once(
    graph: Graph, rows: Sequence[Sequence[str]], weights: Collection[str], lane: Lanes, rounds: Sequence[Graph] = ()
) -> Sent:
    """What stages of a pipeline read and one of them makes, of a forward graph, placed or not.

    rows: labels of the loops at the top that are cut into stages, and paths of the scopes between them, row by row;
    weights: names of the inputs that are weights; lane: where the rows lie, and what is placed besides, on one stage or
    on each that reads it; rounds: what is made of whole batches before. Who reads a value there counts as well, so that
    it is in the same place in entries whose forward pass does not make all of that again.
    """
    read: dict[str, frozenset[str]] = {}
    for round in reversed(rounds):
        for v, by in _made_once(round, rows, weights, lane, read)[1].items():
            if v.origin.of:
                read[v.origin.of] = read.get(v.origin.of, frozenset()) | by
    return _made_once(graph, rows, weights, lane, read)[0]


def _made_once(
    graph: Graph,
    rows: Sequence[Sequence[str]],
    weights: Collection[str],
    lane: Lanes,
    read: Mapping[str, frozenset[str]],
) -> tuple[Sent, dict[Value, frozenset[str]]]:
    """Also who reads each value. read: by name, or that of the forward value that it is, who does besides."""
    said = {r.scope: r.index for r in lane.rules}
    first = {at: row[0] for at, row in reversed(list(zip(lane.of, rows, strict=True)))}  # rows of a lane begin together
    parts = {part: first[at] if part == row[0] else part for at, row in zip(lane.of, rows) for part in row}
    known = {v: WEIGHT if v.name in weights else DATA for v in graph.inputs}
    behind: dict[Value, str] = {}  # what can be on one stage only -> the part of a row that it has come from last
    for node in graph.nodes:
        part = _part(node, parts)
        scope = scope_of(node, said)
        if not part and scope is not None and said[scope] is not None:
            part = f"[{said[scope]}]"
        came = part or next((behind[v] for v in reversed(node.inputs) if v in behind), "")
        if came:
            behind.update(dict.fromkeys(node.outputs, came))
            continue
        found = DEAR if _has_product(node) else 0
        for v in node.inputs:
            found |= known.get(v, 0)
        if scope is not None:
            found = 0
        elif found & (DATA | WEIGHT) == DATA | WEIGHT:
            found |= DEAR
        known.update(dict.fromkeys(node.outputs, found))
    begin = rows[0][0]
    readers: dict[Value, frozenset[str]] = {}
    once: set[Value] = set()
    others: set[Value] = set()
    loops = {n.op.label for n in graph.nodes if isinstance(n.op, Repeat)}
    carried = {begin, *(p for p in parts.values() if p in loops)}
    for node in reversed(graph.nodes):
        cut = isinstance(node.op, Repeat) and node.op.label in parts
        mine = frozenset[str]().union(*(readers.get(v, frozenset()) for v in node.outputs))
        mine = mine.union(*(read.get(n, frozenset()) for v in node.outputs for n in (v.name, v.origin.of)))
        if node.outputs[0] in behind:
            part = behind[node.outputs[0]]
            if not cut and mine - carried - {part, f"behind {part}"}:
                others.update(node.outputs)
            # What the first loop leaves is where it ends, not where it begins.
            mine = frozenset((EACH,) if cut else (part if _part(node, parts) else f"behind {part}",))
        elif (EACH in mine or len(mine) > 1) and known[node.outputs[0]] & DEAR and _is_sent(node, parts):
            once.update(node.outputs)
            mine = frozenset((begin,))
        carries = node.op.carries if cut and isinstance(node.op, Repeat) else 0
        for i, v in enumerate(node.inputs):
            begins = {parts[node.op.label]} if isinstance(node.op, Repeat) and i < carries else mine
            readers[v] = readers.get(v, frozenset()) | begins
    return Sent(frozenset(once), frozenset(others)), readers


def _part(node: Node, parts: Mapping[str, str]) -> str:
    """Where the part of a row to which a node belongs begins: a part, by name; "" if it belongs to none."""
    if isinstance(node.op, Repeat) and node.op.label in parts:
        return parts[node.op.label]
    path = node_path(node)
    return next((parts[p] for p in (path, *scopes(path)) if p in parts), "")


def _has_product(node: Node) -> bool:
    """Whether a node multiplies and sums, itself or in a loop."""
    if isinstance(node.op, Repeat):
        return any(map(_has_product, node.op.body.nodes))
    return isinstance(node.op, Contract)


def _is_sent(node: Node, parts: Collection[str]) -> bool:
    """Whether a result is rather sent than what it is made from: where making it is some work, or makes it smaller."""
    if any(v.type.has(label) for v in node.outputs for label in parts):
        return False  # each stage makes those of its own iterations
    if isinstance(node.op, MaskPad):
        return False  # a message does not tell what the unused elements hold
    if isinstance(node.op, Relayout):
        (x,) = node.inputs
        return bool(x.layout.pending) or _pieces(x.layout) < _pieces(node.output.layout)
    return not node.op.cheap() or sum(v.type.bytes for v in node.outputs) < sum(v.type.bytes for v in node.inputs)


def _pieces(layout: Layout) -> int:
    """How many axes cut a value to pieces."""
    return len(layout.split_axes)
