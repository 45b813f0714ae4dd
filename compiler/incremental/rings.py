"""What is kept of the last positions only: as many rows as they are, in which new ones take the places of the oldest.

Position p has its place at `p % count`. One new position is written there, and the rows are read in the order in which
they lie: `places` says which position each is. Of several new ones the first still look at old rows that the last
ones take the places of: they are put behind a copy of the rows, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.graph import Dim, Type, Value
from compiler.model import Init
from compiler.ops.create import Iota
from compiler.ops.elementwise import Map, Transpose
from compiler.ops.index import Scatter, Take
from compiler.ops.shape import Rename, Slice
from compiler.origin import Origin

if TYPE_CHECKING:
    from compiler.incremental.chunk import Increment

TWO = (None, None)


def places(c: Increment, dim: str, count: int, like: Value) -> Value:
    """Which position each is of the last `count` and the new ones. A row in which nothing was put yet is that of the
    position that will be: a later one, at which nothing looks."""
    pos, name = c.around.pos(), f"{dim}.places"
    if c.length > 1:
        return c.add(Iota(Dim(dim, c.near(count))), _first(c, count, like), like=like, name=name)
    place = c.add(Iota(Dim(dim, count)), like=like, name=name)
    since = c.add(Map("sub", TWO), pos, place, like=like)
    since = c.add(Map("maximum", (None, 0)), since, like=like)
    turns = c.add(Map("floordiv", (None, count)), since, like=like)
    turned = c.add(Map("mul", (None, count)), turns, like=like)
    return c.add(Map("add", TWO), place, turned, like=like, name=name)


def _first(c: Increment, count: int, like: Value) -> Value:
    """The first of the last `count` positions, or an earlier one, so that all positions behind it are some."""
    first = c.add(Map("sub", (None, count)), c.around.pos(), like=like, name="first")
    first = c.add(Map("maximum", (None, 0)), first, like=like, name="first")
    rest = c.positions.size - c.near(count)
    return (
        first
        if c.near(count) == count + c.length
        else c.add(Map("minimum", (None, rest)), first, like=like, name="first")
    )


def kept(c: Increment, v: Value, dim: str, count: int, rows: Value, place: Value, origin: Origin) -> Value:
    """The value at the last `count` positions and the new ones: `rows`, at the places `place`."""
    type = Type(v.type.dtype, tuple(Dim(dim, count) if d.name == dim else d for d in v.type.dims))
    state, number = c.around.state(f"{v.name}.cache", type, Init("zeros"), origin, v)
    (new,) = place.type.names
    length = c.length
    found: Value | None = None
    if length > 1:
        found = _in_order(c, v, dim, count, state, rows, place)
    if length > count:  # only the last ones are kept
        rows, place = (c.add(Slice(new, length - count, length, new), x, like=v) for x in (rows, place))
    turned = c.add(Map("mod", (None, count)), place, like=v, name="turned")
    after = c.add(Scatter(dim), state, rows, turned, like=v, name="cached")
    c.around.renew(number, after)
    return found if found is not None else after


def _in_order(c: Increment, v: Value, dim: str, count: int, state: Value, rows: Value, place: Value) -> Value:
    """A copy of the rows kept, in the order of their positions, with the new ones behind them."""
    at = c.last_places(dim, count, v)
    before = c.add(Map("lt", TWO), at, c.around.pos(), like=v)
    turned = c.add(Map("mod", (None, count)), at, like=v)
    index = c.add(Map("where", (None, None, count)), before, turned, like=v)  # of later ones: no row
    old = c.add(Rename(((dim, f"{dim}_all"),)), state, like=v)
    old = c.add(Take(f"{dim}_all"), old, index, like=v)
    if old.type.names != v.type.names:
        old = c.add(Transpose(v.type.names), old, like=v)
    behind = c.add(Map("sub", TWO), place, _first(c, count, v), like=v)
    return c.add(Scatter(dim), old, rows, behind, like=v, name="with_last")
