"""The built-in functions that find rows by number: taking, adding and setting them, and what gives their numbers."""

from __future__ import annotations

from math import prod

from compiler.evaluate.arguments import Args
from compiler.evaluate.ranges import Extent
from compiler.evaluate.values import Bound, CallResults
from compiler.graph import Dim, Type
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.reduce import ArgMax, TopK
from dsl.diagnostics import did_you_mean, fail


def take(a: Args) -> Bound:
    """`take(table, index, over v)`."""
    table, index = a.tensor("table"), a.tensor("index")
    dim, _, new = a.one_dim("over", table)
    if new:
        raise fail("E0210", "`take` does not rename", a.expr("over").span)
    _check_rows(a, table.type.size(dim), dim, a.scope.making.extents.get(index))
    return a.scope.emit(Take(dim), table, index, span=a.span, name=a.hint)


def touched(a: Args) -> Bound:
    """`touched(g)`: which rows of the weight the step has taken; `true` for a weight of which no rows are taken."""
    making = a.scope.making
    if making.kind != "optimizer":
        raise fail("E0339", "`touched` is for optimizers: which rows of the weight the step has taken", a.span)
    if (g := a.tensor("g")) is not making.gradient:
        raise fail("E0339", "`touched` is asked of the gradient `g`", a.expr("g").span, help="`touched(g)`")
    if not making.taken:
        return True
    if making.touched is None:
        making.touched = a.scope.frame.param("touched", Type("bool", (g.type.dims[g.type.index(making.rows)],)), a.span)
    return making.touched


def scatter_add(a: Args) -> Bound:
    """`scatter_add(x, index, n -> v)`."""
    x, index = a.tensor("x"), a.tensor("index")
    before, after = a.dim_names("dims")
    if not before or len(after) != 1:
        raise fail("E0209", "`scatter_add` adds up into one dim: `scatter_add(x, index, n -> v)`", a.expr("dims").span)
    gone = a.scope.dim_list(before)
    for dim, name in zip(gone, before):
        if not index.type.has(dim.name):
            message = f"`scatter_add`: the index {index.type} has no dim `{dim.name}`"
            raise fail("E0204", message, name.span, help=did_you_mean(dim.name, index.type.names))
    into = a.scope.dim(after[0])
    names = [d.name for d in gone]
    kept = [into.name if n == names[0] else n for n in x.type.names if n == names[0] or n not in names]
    _check_rows(a, into.size, into.name, a.scope.making.extents.get(index))
    return a.scope.emit(ScatterAdd(into, tuple(kept)), x, index, span=a.span, name=a.hint)


def _check_rows(a: Args, rows: int, dim: str, index: Extent | None) -> None:
    """E0219 where the index is known to be, for some data, none of the table's rows."""
    if index is None or not index.attained or (index.low >= 0 and index.high < rows):
        return
    span = a.expr("index").span
    message = f"the index lies in {index.low:.0f}..{index.high + 1:.0f}, the table has {rows} rows along `{dim}`"
    notes = [("this is what it comes from", index.at)] if index.at and index.at != span else []
    help = f"declare the input `in 0..{rows}`" if index.at else f"its rows are 0 to {rows - 1}"
    raise fail("E0219", message, span, notes=notes, help=help)


def within(a: Args) -> Bound:
    """`within(x, 0..v)`."""
    x = a.tensor("x")
    low, high = a.range("range")
    known = a.scope.making.extents.get(x)
    return known is not None and low <= known.low and known.high < high


def top_k(a: Args) -> Bound:
    """`top_k(x, over e -> j)`."""
    x = a.tensor("x")
    dim, written, new = a.one_dim("over", x)
    target = new or written
    if a.has("k"):
        size = a.integer("k", 1, 1)
        if new:
            a.scope.learn(new, size)
    else:
        size = a.scope.dim(target).size
    into = Dim(a.scope.new_name(new) if new else dim, size)
    return CallResults(a.scope.emit_many(TopK(dim, into), x, span=a.span, name=a.hint))


def argmax(a: Args) -> Bound:
    """`argmax(x, over e)`."""
    x = a.tensor("x")
    dim, _, new = a.one_dim("over", x)
    if new:
        raise fail("E0210", "`argmax` does not rename", a.expr("over").span)
    return a.scope.emit(ArgMax(dim), x, span=a.span, name=a.hint)


def scatter(a: Args) -> Bound:
    """`scatter(table, rows, index, over v)`."""
    table, src, index = (a.tensor(n) for n in ("table", "rows", "index"))
    dim, _, new = a.one_dim("over", table)
    if new:
        raise fail("E0210", "`scatter` does not rename", a.expr("over").span)
    _check_rows(a, table.type.size(dim), dim, a.scope.making.extents.get(index))
    if (count := prod(index.type.shape)) > 2**31 - 1:  # its derivative numbers them
        message = f"`scatter`: the index {index.type} has {count} rows, and int32 counts up to {2**31 - 1}"
        raise fail("E0206", message, a.expr("index").span, help="scatter fewer rows at once")
    return a.scope.emit(Scatter(dim), table, src, index, span=a.span, name=a.hint)
