"""Sums, means, largest and smallest elements: over dims, over the batch, or `per microbatch`.

What is taken of each micro-batch by itself (`mean(x, over (b, s) per microbatch)`) has its groups of samples as a dim
of the graph: that of the samples is split into micro-batches and what is in each. So the serial program means the same
as what devices run, and layouts, derivatives, memory and proofs follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from compiler.evaluate import static
from compiler.evaluate.arguments import Args
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.run_time import counted
from compiler.evaluate.scope import Scope
from compiler.evaluate.values import Bound, Number, plain
from compiler.graph import Dim, Value
from compiler.ops.elementwise import Broadcast, Map
from compiler.ops.reduce import Reduce
from compiler.ops.shape import Merge, Split
from dsl import ast
from dsl.diagnostics import fail
from dsl.source import Span

Reduction = Callable[[Args, Value, Sequence[Dim], str | None], Value]
"""Of a tensor, over dims of it, under a name."""


def _taken(a: Args, x: Value, reduce: Reduction) -> Value:
    """The reduction over the dims that are given, or of each micro-batch by itself."""
    a.per_microbatch = True
    over = a.expr("over") if a.has("over") else None
    dims = a.dims_in("over", x)
    if not dims and x.type.dims:
        return x  # a weight without columns
    if isinstance(over, ast.Over) and over.per_microbatch:
        return each_microbatch(a.scope, x, dims, over.span, a.hint, lambda part, own: reduce(a, part, own, None))
    return reduce(a, x, dims, a.hint)


def _reduced(a: Args, x: Value, fn: str, dims: Sequence[Dim], name: str | None) -> Value:
    return a.scope.emit(Reduce(fn, tuple(d.name for d in dims)), x, span=a.span, name=name)


def _highest(a: Args, x: Value, dims: Sequence[Dim], name: str | None) -> Value:
    return _reduced(a, x, "max", dims, name)


def _lowest(a: Args, x: Value, dims: Sequence[Dim], name: str | None) -> Value:
    negative = a.scope.emit(Map("neg", (None,)), x, span=a.span)
    return a.scope.emit(Map("neg", (None,)), _reduced(a, negative, "max", dims, None), span=a.span, name=name or "min")


def total(a: Args) -> Bound:
    """`sum`."""
    return _taken(a, a.tensor("x"), lambda a, x, dims, name: _reduced(a, x, "sum", dims, name))


def mean(a: Args) -> Bound:
    """`mean`."""
    x = a.tensor("x")
    if not x.type.is_float:
        raise fail("E0202", f"mean needs floats, got {x.type}", a.expr("x").span, help="cast it: `cast(x, compute)`")
    return _taken(a, x, _mean_of)


def _mean_of(a: Args, x: Value, dims: Sequence[Dim], name: str | None) -> Value:
    size = prod(x.type.size(d.name) for d in dims)
    added = _reduced(a, x, "sum", dims, None)
    count = counted(dims, a.scope, a.span, x.type.dtype)
    if count is not None:
        return a.scope.emit(Map("div", (None, None)), added, count, span=a.span, name=name or "mean")
    return a.scope.emit(Map("div", (None, float(size))), added, span=a.span, name=name or "mean")


def extreme(fn: str) -> Callable[[Args], Bound]:
    """`max` or `min`: of numbers, or of a tensor."""

    def make(a: Args) -> Bound:
        value = plain(a.value("x"))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers: list[Number] = [value]
            for expr in a.given.get("others", []):
                numbers.append(static.number(evaluate(expr, a.scope), f"an argument of `{fn}`", expr.span))
            return max(numbers) if fn == "max" else min(numbers)
        if a.has("others"):
            help = f"elementwise: `{fn}imum(a, b)`"
            raise fail("E0111", f"`{fn}` of a tensor takes one tensor", a.given["others"][0].span, help=help)
        x = a.tensor("x") if not isinstance(value, Value) else value
        return _taken(a, x, _highest if fn == "max" else _lowest)

    return make


def norm(a: Args) -> Bound:
    """`norm`: the square root of the sum of squares."""
    x = a.tensor("x")
    own = tuple(d.name for d in a.own_dims(x))
    square = a.scope.emit(Map("mul", (None, None)), x, x, span=a.span)
    added = a.scope.emit(Reduce("sum", own), square, span=a.span)
    return a.scope.emit(Map("sqrt", (None,)), added, span=a.span, name=a.hint or "norm")


# --- of each micro-batch by itself ---------------------------------------------------------------------------


def microbatches(scope: Scope, dim: Dim) -> int:
    """How many micro-batches the job's strategy makes of the dim: 1 if it divides another."""
    count, of = scope.session.microbatches()
    if of is None:
        inputs = scope.making.inputs
        of = inputs[0].value.type.names[0] if inputs and inputs[0].value.type.dims else dim.name
    return count if of == dim.name else 1


def each_microbatch(
    scope: Scope,
    x: Value,
    dims: Sequence[Dim],
    span: Span,
    name: str | None,
    reduce: Callable[[Value, Sequence[Dim]], Value],
) -> Value:
    """The reduction of each micro-batch by itself; each sample has that of its own. The first dim is the samples'."""
    dim, *others = dims
    count = microbatches(scope, dim)
    if any(microbatches(scope, d) > 1 for d in others):
        help = "the first of the dims is that of the samples, which micro-batches divide"
        raise fail("E0210", f"micro-batches do not divide `{dim.name}`", span, help=help)
    size = x.type.size(dim.name)
    if size % count:
        legal = ", ".join(str(n) for n in range(1, min(size, 4096) + 1) if size % n == 0)
        message = f"dim {dim.name} has size {size}, which does not split into {count} pieces (micro-batches)"
        help = f"legal numbers of micro-batches here: {legal}; what each has of its own, all have of as many samples"
        raise fail("E0501", message, span, help=help)
    groups, each = (
        Dim(_name(scope, x, f"{dim.name}_microbatch"), count),
        Dim(_name(scope, x, f"{dim.name}_sample"), size // count),
    )
    parts = scope.emit(Split(dim.name, (groups, each)), x, span=span)
    found = reduce(parts, (each, *others))
    at = found.type.index(groups.name) + 1
    spread = scope.emit(Broadcast((*found.type.dims[:at], each, *found.type.dims[at:])), found, span=span)
    return scope.emit(Merge((groups.name, each.name), dim.name), spread, span=span, name=name)


def _name(scope: Scope, x: Value, name: str) -> str:
    """A name that no dim of the model has."""
    while name in scope.making.dim_names or x.type.has(name):
        name += "_"
    return name
