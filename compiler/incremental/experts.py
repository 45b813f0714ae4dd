"""Experts of new positions: copies take the seats behind those that earlier ones have taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.graph import Dim, Node, Type, Value
from compiler.incremental.demand import Demand, only_new
from compiler.incremental.dispatch import Dispatch
from compiler.model import Init
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Map
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Cumsum, TopK
from compiler.ops.shape import Merge, Split
from compiler.origin import Origin

if TYPE_CHECKING:
    from compiler.incremental.chunk import Increment

TWO = (None, None)


def copies(c: Increment, of: Dispatch, demand: Demand) -> Value:
    """The copies of new positions in the seats that these can need, numbered among themselves. Where experts have less
    seats than positions can ask for, it is kept how many are taken."""
    node, like = of.copy, of.copy.output
    goal = _merged(c, of.merged)
    number = goal.type.size(of.copies)
    experts = of.counts.output.type
    ones = c.add(Full(1.0, "int32", goal.type.dims), like=like, name="ones")
    by = of.counts.op
    assert isinstance(by, ScatterAdd)
    counts = c.add(by, ones, goal, like=of.counts.output, name="new")
    sorted = TopK(of.copies, Dim(of.copies, number))
    negative = c.add(Map("neg", (None,)), goal, like=like)
    order = c.put(sorted, [negative], of.order, sorted.infer(negative.type))[1]
    total = c.add(Cumsum(by.dim.name), counts, like=like)
    first = c.add(Map("sub", TWO), total, counts, like=like)
    places = c.add(Iota(Dim(of.seats, of.room(c.length))), like=like, name="seats")
    seat = c.add(Map("add", TWO), first, places, like=like, name="seat")
    taken = c.add(Take(of.copies), order, seat, like=like)
    admitted = counts
    if of.drops:
        path = of.counts.output.origin.path
        origin = Origin(f"{path}.before" if path else "")
        type = Type("int32", experts.dims)
        before, kept = c.around.state(f"{of.counts.output.name}.before", type, Init("zeros"), origin, of.counts.output)
        c.around.renew(kept, c.add(Map("add", TWO), before, counts, like=of.counts.output, name="after"))
        free = c.add(Map("sub", (like.type.size(of.seats), None)), before, like=like, name="free")
        admitted = c.add(Map("minimum", TWO), counts, free, like=like, name="admitted")
    there = c.add(Map("lt", TWO), places, admitted, like=like)
    (value,) = c.emit(Map("where", (None, None, -1)), [there, taken], node, demand)
    return value


def _merged(c: Increment, node: Node) -> Value:
    """Copies of the new positions, one behind the other."""
    op = node.op
    assert isinstance(op, Merge)
    rows = c.need(node.inputs[0], only_new(op.dims[0]))
    return c.add(Merge((c.new.name, *op.dims[1:]), op.into), rows, like=node.output)


def take(c: Increment, node: Node, demand: Demand) -> Value:
    """What seats have of new positions, or of their copies."""
    op, (table, index) = node.op, node.inputs
    assert isinstance(op, Take)
    if (merged := c.analysis.merges.get(table)) is not None:
        rows = _merged(c, merged)
    else:
        rows, op = c.need(table, only_new(op.dim)), Take(c.new.name)
    (value,) = c.emit(op, [rows, c.need(index, c.natural(index))], node, demand)
    if (each := c.analysis.unmasked.get(node.output)) is None:
        return value
    before = c.add(Map("mul", (None, each)), c.around.pos(), like=node.output, name="before")
    return c.add(Map("sub", TWO), value, before, like=node.output, name="new")  # numbered among the new ones


def split(c: Increment, node: Node, demand: Demand) -> Value:
    """New positions of what is numbered by places of them, of which each has some."""
    op, (x,) = node.op, node.inputs
    assert isinstance(op, Split)
    into = (c.new, *op.into[1:])
    if x in c.analysis.spread:
        made = c.made[x][0]
        assert isinstance(made.op, ScatterAdd)
        (src, index), size = made.inputs, c.length * c.analysis.spread[x]
        form = c.natural(index)
        added = ScatterAdd(Dim(op.dim, size), made.op.dims)
        rows = c.add(added, c.need(src, form), c.need(index, form), like=x)
        (value,) = c.emit(Split(op.dim, into), [rows], node, demand)
    else:
        (value,) = c.emit(Split(c.new.name, into), [c.need(x, only_new(op.dim))], node, demand)
    return value


def back(c: Increment, node: Node, demand: Demand) -> Value:
    """What seats give to new positions."""
    op, (src, index) = node.op, node.inputs
    assert isinstance(op, ScatterAdd)
    form = c.natural(index)
    dims = tuple(c.new.name if n == op.dim.name else n for n in op.dims)
    (value,) = c.emit(ScatterAdd(c.new, dims), [c.need(src, form), c.need(index, form)], node, demand)
    return value
