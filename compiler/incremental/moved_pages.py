"""A page copied to another of the same pool, and what is kept of a sequence besides to another's row of the same part
of the batch: of a model whose caches lie in pages (`paged`). All of it stays within the parts into which the batch is
cut, over devices or in micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from compiler.graph import Builder, Dim, Names, Type, Value
from compiler.incremental.moved import SOURCE, TARGET, renewing
from compiler.incremental.paged import Paging
from compiler.incremental.positions import unused
from compiler.model import DataInput, Model
from compiler.ops.create import Iota
from compiler.ops.elementwise import Broadcast, Map
from compiler.ops.index import Scatter, Take
from compiler.ops.shape import Merge, Split
from compiler.origin import Origin
from compiler.walk import graph_values
from dsl.source import NOWHERE

SOURCE_PAGE, TARGET_PAGE = "source.page", "target.page"
"""What the data are called: of each pool, the page that is copied, and the one that becomes it; -1: none. Where there
is something besides pages, the rows come before them (`SOURCE`, `TARGET`), by their numbers within the part."""


def moved_pages(model: Model, by: Paging) -> Model:
    """The model of the same states, of which in each part of the batch one page becomes another one, and what is kept
    in a row of its own becomes another row's.

    Args:
        model: of new positions, with caches in pages.

    Its first output is its first data.
    """
    pools = {s.value.name: s.pool for s in model.states if s.pool is not None}
    (along,) = set(pools.values())
    held = next(s.value.type.size(along) for s in model.states if s.pool is not None) // by.pages
    besides = any(s.value.type.has(by.rows) and s.pool is None for s in model.states)
    names = Names(v.name for v in graph_values(model.graph))
    builder = Builder(names)
    parts = Dim(by.rows, by.pieces)

    def data(name: str, high: int) -> DataInput:
        return DataInput(Value(names.fresh(name), Type("int32", (parts,)), NOWHERE, Origin(name)), -1, high)

    pages = [data(SOURCE_PAGE, by.pages), data(TARGET_PAGE, by.pages)]
    rows = [data(n, by.count // by.pieces) for n in (SOURCE, TARGET)] if besides else []
    beside, slot, one = (unused(model, n) for n in ("beside", "slot", "moved"))
    lines = Dim(slot, held)

    def of_page(page: Value) -> Value:
        """The rows of a pool in which it lies; before the first one where there is none."""
        first = builder.add(Map("mul", (None, held)), page, name="first")
        first = builder.add(Broadcast((parts, lines)), first, name="first")
        return builder.add(Map("add", (None, None)), first, builder.add(Iota(lines), name="slots"), name="lines")

    def of_row(row: Value) -> Value:
        return builder.add(Broadcast((parts, Dim(one, 1))), row, name="row")

    def copied(inside: Builder, v: Value, given: Sequence[Value]) -> Value:
        if v.type.has(along):
            found = inside.add(Take(along), v, given[0], name=f"{v.name}.page")
            return inside.add(Scatter(along), v, found, given[1], name=v.name)
        split = inside.add(Split(by.rows, (parts, Dim(beside, by.count // by.pieces))), v, name=v.name)
        row = inside.add(Take(beside), split, given[2], name=f"{v.name}.row")
        split = inside.add(Scatter(beside), split, row, given[3], name=v.name)
        return inside.add(Merge((by.rows, beside), by.rows), split, name=v.name)

    given = (*(of_page(i.value) for i in pages), *(of_row(i.value) for i in rows))
    return renewing(model, by.rows, builder, (*rows, *pages), given, copied)
