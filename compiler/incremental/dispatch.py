"""Positions that go to experts by index: which copies sit in whose seats, found by what it is made of.

Each position is copied for the experts that are chosen for it, copies are sorted by expert, and an expert's seats hold
the first of its own, in the order of positions (`routed_experts` of the standard library, or the same by hand):

    goal = merge(chosen, (s, j) -> n)
    counts = scatter_add(ones, goal, n -> g)
    sorted, order = top_k(-goal, over n)
    copy = where(iota(slot) < counts, take(order, cumsum(counts, over g) - counts + iota(slot), over n), -1)

Which copy sits in a seat hangs on no later one: they fill in order. So what is computed in seats is causal where each
seat keeps to itself, and comes back to the position that it came from.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler.graph import Graph, Node, Value
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Map
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Cumsum, TopK
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Merge
from dsl.data import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Dispatch:
    """Copies of positions in the seats of experts.

    chosen: the experts of each position, with its dims `dim` (positions) and others that are merged to copies, `unit`
    of each position; copies: what they are called then. copy: the number of the copy in each seat, or -1; seats: their
    dim. most: how many copies of one position an expert can have.
    """

    chosen: Value
    merged: Node
    order: Node
    counts: Node
    copy: Node
    dim: str
    copies: str
    unit: int
    seats: str
    most: int

    def room(self, length: int) -> int:
        """How many seats an expert needs for the copies of so many positions."""
        return min(self.copy.output.type.size(self.seats), self.most * length)

    @property
    def drops(self) -> bool:
        """Whether an expert can have more copies than seats."""
        return self.copy.output.type.size(self.seats) < self.most * self.chosen.type.size(self.dim)


def dispatches(graph: Graph) -> dict[Node, Dispatch]:
    """By the nodes that make `copy`, in loops too."""
    found: dict[Node, Dispatch] = {}
    _look(graph, found)
    return found


def _look(graph: Graph, found: dict[Node, Dispatch]) -> None:
    made = {v: node for node in graph.nodes for v in node.outputs}
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            _look(node.op.body, found)
        elif (dispatch := _dispatch(node, made)) is not None:
            found[node] = dispatch


def _dispatch(node: Node, made: Mapping[Value, Node]) -> Dispatch | None:
    """`where(iota(slot) < counts, take(order, first + iota(slot), over n), -1)`."""
    if not _is(node, "where") or node.op.slots[2] != -1 or len(node.inputs) != 2:  # type: ignore[attr-defined]
        return None
    test, taken = (made.get(v) for v in node.inputs)
    if test is None or taken is None or not _is(test, "lt") or not isinstance(taken.op, Take) or len(test.inputs) != 2:
        return None
    places, counted = (made.get(v) for v in test.inputs)
    order, seat = (made.get(v) for v in taken.inputs)
    if places is None or not _counts_up(places) or counted is None or order is None or seat is None:
        return None
    seats, copies = places.op.dim.name, taken.op.dim  # type: ignore[attr-defined]
    if not isinstance(order.op, TopK) or order.outputs[1] is not taken.inputs[0] or not _is(seat, "add"):
        return None
    goal = _sorted_up(order, made)
    firsts = [first for v in seat.inputs if (first := made.get(v)) is not None and not _counts_up(first)]
    ups = [up for v in seat.inputs if (up := made.get(v)) is not None and _counts_up(up)]
    if goal is None or len(firsts) != 1 or [up.op.dim.name for up in ups] != [seats]:  # type: ignore[attr-defined]
        return None
    if not _before(firsts[0], counted.output, made) or not _counts(counted, goal, made):
        return None
    merged = made.get(goal)
    if merged is None or not isinstance(merged.op, Merge) or merged.op.into != copies:
        return None
    (chosen,), (dim, *others) = merged.inputs, merged.op.dims
    unit = goal.type.size(copies) // chosen.type.size(dim)
    by = made.get(chosen)
    distinct = by is not None and isinstance(by.op, TopK) and by.outputs[1] is chosen and [by.op.into.name] == others
    if by is None or not (isinstance(by.op, TopK) or _is(by, "mod")):
        return None  # there may be negative numbers, which come before all copies
    return Dispatch(chosen, merged, order, counted, node, dim, copies, unit, seats, 1 if distinct else unit)


def _is(node: Node, fn: str) -> bool:
    return isinstance(node.op, Map) and node.op.fn == fn


def _counts_up(node: Node) -> bool:
    return isinstance(node.op, Iota) and not node.inputs and not node.op.zigzag


def _sorted_up(order: Node, made: Mapping[Value, Node]) -> Value | None:
    """What is sorted from the lowest on, all of it."""
    op, negative = order.op, made.get(order.inputs[0])
    assert isinstance(op, TopK)
    whole = op.into.name == op.dim and op.into.size == order.inputs[0].type.size(op.dim)
    return negative.inputs[0] if whole and negative is not None and _is(negative, "neg") else None


def _before(node: Node, counts: Value, made: Mapping[Value, Node]) -> bool:
    """`cumsum(counts, over g) - counts`: how many copies are for experts before each."""
    if not _is(node, "sub") or len(node.inputs) != 2 or node.inputs[1] is not counts:
        return False
    total = made.get(node.inputs[0])
    return total is not None and isinstance(total.op, Cumsum) and not total.op.reverse and total.inputs[0] is counts


def _counts(node: Node, goal: Value, made: Mapping[Value, Node]) -> bool:
    """`scatter_add(ones, goal, n -> g)`."""
    if not isinstance(node.op, ScatterAdd) or node.inputs[1] is not goal:
        return False
    ones = made.get(node.inputs[0])
    per = {n for n in goal.type.names if n in node.op.dims}
    summed = set(goal.type.names) - per
    return ones is not None and isinstance(ones.op, Full) and ones.op.value == 1 and len(summed) == 1
