"""How far what stands in the seats of experts looks: each seat is of one position, and keeps to itself."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from compiler.graph import Node, Value
from compiler.incremental.between import between
from compiler.incremental.dispatch import Dispatch
from compiler.incremental.known import Reach
from compiler.ops.elementwise import Broadcast, Map, StopGradient, Transpose
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename, Split

if TYPE_CHECKING:
    from compiler.incremental.reach import Analysis


def found(a: Analysis, node: Node) -> Sequence[Reach] | None:
    """Of an op of seats; None: of another one. Says what of its results are seats, too."""
    for v in node.outputs:
        for known in (a.seated, a.numbers, a.unmasked, a.spread):
            known.pop(v, None)
    if node in a.dispatches:
        return [_copies(a, node, a.dispatches[node])]
    if node.inputs and node.inputs[0] in a.spread:
        return [_gathered(a, node)] * len(node.outputs)
    of = {a.seated[v] for v in node.inputs if v in a.seated}
    if not of:
        return None
    if not a.unmasked.keys().isdisjoint(node.inputs):
        return [_masked(a, node)] * len(node.outputs)
    (dispatch, *others), (first, *_) = of, node.inputs
    if any(a.of(v).ahead is not None for v in node.inputs) and not isinstance(node.op, Take):
        return None
    numbers = [a.numbers[v] for v in node.inputs if v in a.numbers]
    if isinstance(node.op, (Take, ScatterAdd)) and node.inputs[1] in a.numbers:
        good = first not in a.numbers and not others
        reach = _taken(a, node, node.op) if isinstance(node.op, Take) else _back(a, node, node.op)
        if not good or reach is None:
            return [Reach(ahead=node)]
        if isinstance(node.op, Take):
            a.seated[node.output] = dispatch
        return [reach]
    if isinstance(node.op, Repeat) or others or (numbers and not _keeps_number(a, node, numbers)):
        return [Reach(ahead=node)] * len(node.outputs)
    reaches = a.by_rule(node)
    for v, reach in zip(node.outputs, reaches, strict=True):
        if reach.bound and reach.ahead is None:
            a.seated[v] = dispatch
    return reaches


def _copies(a: Analysis, node: Node, dispatch: Dispatch) -> Reach:
    """The numbers of copies: seats fill in the order of positions."""
    chosen = a.of(dispatch.chosen)
    if chosen.ahead is not None or not chosen.bound <= {dispatch.dim}:
        return Reach(ahead=chosen.ahead or dispatch.merged)
    a.seated[node.output], a.numbers[node.output] = dispatch, dispatch.unit
    return Reach(frozenset((dispatch.seats,)))


def _keeps_number(a: Analysis, node: Node, numbers: Sequence[int]) -> bool:
    """Whether it makes of numbers of copies those of fewer for each position, or only looks whether there is one."""
    op = node.op
    if isinstance(op, (Rename, Transpose, StopGradient, Broadcast)):
        a.numbers[node.output] = numbers[0]
        return True
    if not isinstance(op, Map) or len(node.inputs) != 1:
        return False
    if op.fn == "floordiv" and op.slots[0] is None and op.slots[1] is not None:
        by = int(op.slots[1])
        if by < 1 or numbers[0] % by:
            return False
        a.numbers[node.output] = numbers[0] // by
        return True
    return (op.fn, *op.slots) in (
        ("ge", None, 0),
        ("lt", None, 0),
        ("gt", None, -1),
        ("eq", None, -1),
        ("ne", None, -1),
    )


def _taken(a: Analysis, node: Node, op: Take) -> Reach | None:
    """What seats have of their positions, or of their copies."""
    table, index = node.inputs
    merged = a.merges.get(table)
    x, dim, unit = table, op.dim, 1
    if merged is not None and merged.op.into == dim:  # type: ignore[attr-defined]
        x, dim = merged.inputs[0], merged.op.dims[0]  # type: ignore[attr-defined]
        unit = table.type.size(op.dim) // x.type.size(dim)
    known = a.of(x)
    if unit != a.numbers[index] or known.ahead is not None or not known.bound <= {dim} or dim not in a.positions.of(x):
        return None
    if (each := _numbered(a, x, dim)) is not None:
        a.unmasked[node.output] = each
    return Reach(a.of(index).bound)


def _numbered(a: Analysis, x: Value, dim: str) -> int | None:
    """Of numbers of places, so many of each position: how many, where each is one of its own position."""
    node = a.made.get(x)
    if node is None or not isinstance(node.op, Map) or node.op.fn != "add" or len(node.inputs) != 2:
        return None
    for first, other in (node.inputs, node.inputs[::-1]):
        affine, found = a.of(first).affine, between(other, a.made)
        if affine is None or found is None or [*affine[0]] != [dim]:
            continue
        each, low = affine[0][dim], affine[1]
        if low + found[0] >= 0 and low + found[1] < each:
            return each
    return None


def _masked(a: Analysis, node: Node) -> Reach:
    """`where(copy >= 0, numbers, -1)`: of empty seats there is none."""
    op = node.op
    if isinstance(op, Map) and op.fn == "where" and op.slots == (None, None, -1):
        test, numbers = a.made.get(node.inputs[0]), node.inputs[1]
        looks = test is not None and isinstance(test.op, Map) and (test.op.fn, *test.op.slots) == ("ge", None, 0)
        if test is not None and looks and test.inputs[0] in a.numbers and numbers in a.unmasked:
            a.numbers[node.output], a.seated[node.output] = a.unmasked[numbers], a.seated[numbers]
            return Reach(a.of(numbers).bound)
    return Reach(ahead=node)


def _gathered(a: Analysis, node: Node) -> Reach:
    """Places of positions, told apart again."""
    op, each = node.op, a.spread[node.inputs[0]]
    if isinstance(op, Split) and a.made[node.inputs[0]].op.dim.name == op.dim:  # type: ignore[attr-defined]
        major, *minor = op.into
        if major.name in a.positions.of(node.output) and prod(d.size for d in minor) == each:
            return Reach(frozenset((major.name,)))
    return Reach(ahead=node)


def _back(a: Analysis, node: Node, op: ScatterAdd) -> Reach | None:
    """What seats give to the positions that they have."""
    src, index = node.inputs
    bound, dim = a.of(index).bound, op.dim.name
    if not a.of(src).bound <= bound or not bound.isdisjoint(op.dims):
        return None
    if a.numbers[index] == 1 and dim in a.positions.of(node.output):
        return Reach(frozenset((dim,)))
    if op.dim.size != a.numbers[index] * a.positions.size:
        return None
    a.spread[node.output] = a.numbers[index]
    return Reach()
