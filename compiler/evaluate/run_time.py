"""Dims whose size is known at run time only, up to a bound: `dim t = count <= 64`.

Values have the bound's size, in memory, in price and in every graph; what lies beyond the count is there and means
nothing. So nothing behind evaluation knows of such dims: wherever an op would let elements beyond the count reach
others, what it reads is masked here. Ops that cannot be masked so are refused (E0220).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from compiler.evaluate import static
from compiler.evaluate.expressions import evaluate, tensor
from compiler.evaluate.scope import Scope, check_dim
from compiler.evaluate.values import is_static
from compiler.graph import RANGES, Dim, Type, Value
from compiler.ops.base import Op
from compiler.ops.create import Iota
from compiler.ops.elementwise import Map
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.reduce import Cumsum
from compiler.ops.shape import Rename
from dsl import ast
from dsl.diagnostics import fail
from dsl.source import Span


def is_bounded(size: ast.Expr) -> bool:
    """Whether a dim's size is written `count <= bound`."""
    return isinstance(size, ast.Binary) and size.op == "<="


def declare_bounded(name: ast.Name, size: ast.Expr, scope: Scope) -> None:
    """`dim t = count <= 64`: of the bound's size, of which `count` counts."""
    assert isinstance(size, ast.Binary)
    making = scope.making
    if scope.what != "model" or scope.in_repeat:
        help = "functions learn of it by their patterns: `x[b,t]`"
        raise fail("E0220", "a dim with a run-time size is declared in a model, outside of loops", name.span, help=help)
    given = evaluate(size.left, scope)
    if is_static(given):
        help = f"`dim {name.id} = …` of a number, without a bound"
        raise fail("E0220", f"the size of `{name.id}` is known: it needs no bound", size.left.span, help=help)
    count = tensor(given, scope, size.left.span, f"the size of `{name.id}`")
    if count.type != Type("int32"):
        raise fail("E0202", f"the size of `{name.id}` is an int32 scalar, got {count.type}", size.left.span)
    bound = static.integer(evaluate(size.right, scope), f"the bound of dim `{name.id}`", size.right.span)
    check_dim(bound, name.id, size.right.span)
    if name.id in making.dim_names or name.id in making.used_dims:
        raise fail("E0220", f"`{name.id}` is a dim already", name.span, help="choose another name")
    making.dim_names.add(name.id)
    extent = making.extents.get(count)
    if extent is None or extent.high > bound:  # more there are not, and means divide by what there is
        count = scope.emit(Map("minimum", (None, bound)), count, span=size.span)
    making.counts[name.id] = count
    scope.dims[name.id] = Dim(name.id, bound)


def masked(op: Op, inputs: Sequence[Value], scope: Scope, span: Span) -> list[Value]:
    """The operands of an op, of which elements beyond the count of a dim reach no others."""
    counts = scope.making.counts
    found = list(inputs)
    rows = op.dim.name if isinstance(op, ScatterAdd) else op.dim if isinstance(op, Take | Scatter) else ""
    if rows in counts:  # rows beyond the count are not there
        beyond = scope.emit(Map("ge", (None, None)), found[-1], counts[rows], span=span)
        found[-1] = _where(beyond, -1, found[-1], scope, span)
    types = [v.type for v in found]
    if not any(n in counts for t in types for n in t.names):
        return found
    i = _with_pole(op)
    if i is not None and found[i].type.is_float and not _held_off(found[i], scope):
        for d in (d for d in found[i].type.dims if d.name in counts):
            found[i] = _where(mask(d, scope, span), 1, found[i], scope, span, True)
    for loop in op.loops(types, op.infer(*types)):
        dim = next((n for n in loop.ins if n in counts), None)
        if dim is None or dim == rows or isinstance(op, Cumsum):
            continue
        if loop.kind in ("sum", "max"):
            for i, name in enumerate(loop.ins):
                if name == dim:
                    found[i] = _kept(found[i], dim, loop.kind, scope, span)
        elif isinstance(op, Rename):
            _renamed(dim, loop.outs[0] or dim, scope, span)
        elif loop.kind != "pass" or not {*loop.ins, *loop.outs} <= {dim, None}:
            message = f"`{op.builtin or op.mnemonic}` cannot be along `{dim}`, whose size is known at run time only"
            help = (
                "sums, means, maxima, products, `cumsum`, `take` and `scatter` can; else declare it of the bound's size"
            )
            raise fail("E0220", message, span, help=help)
    return found


def _with_pole(op: Op) -> int | None:
    """The operand at which the derivative has a pole at zero: what lies beyond the count may be zero."""
    if not isinstance(op, Map) or op.fn not in ("div", "log", "pow", "rsqrt", "sqrt"):
        return None
    at = 1 if op.fn == "div" else 0
    power = op.slots[1] if op.fn == "pow" else None
    if op.slots[at] is not None or (power is not None and power >= 1):
        return None
    return op.slots[:at].count(None)


def _held_off(x: Value, scope: Scope) -> bool:
    """Whether it is kept off zero already: `mean(x * x) + eps`, `maximum(size, 1.0)`."""
    made = next((n for n in reversed(scope.frame.builder.nodes) if x in n.outputs), None)
    if made is None or not isinstance(made.op, Map) or made.op.fn not in ("add", "maximum"):
        return False
    return any(s is not None and s > 0 and (s < 0.01 or made.op.fn == "maximum") for s in made.op.slots)


def _renamed(dim: str, into: str, scope: Scope, span: Span) -> None:
    """Another name of a dim has the same size."""
    counts = scope.making.counts
    known = into in scope.making.used_dims or scope.find_dim(into) is not None
    if counts.get(into, counts[dim]) is not counts[dim] or (into not in counts and known):
        message = f"`{dim}` has a size that is known at run time, the dim `{into}` has another"
        raise fail("E0220", message, span, help="rename it to a dim that is nothing else")
    counts[into] = counts[dim]


def check_made(op: Op, inputs: Sequence[Value], types: Sequence[Type], scope: Scope, span: Span) -> None:
    """Refuse a dim of a known size under the name of one whose size is not known."""
    counts = scope.making.counts
    for loop in op.loops([v.type for v in inputs], types):
        for name in loop.outs:
            if name in counts and any(n is not None and n not in counts for n in loop.ins):
                message = f"the dim `{name}` has a size that is known at run time only, this has another"
                raise fail("E0220", message, span, help="give it another name")


def mask(dim: Dim, scope: Scope, span: Span) -> Value:
    """Whether each position of a dim counts."""
    key = scope.frame, dim.name
    known = scope.making.masks
    if key not in known:
        at = scope.emit(Iota(dim), span=span)
        known[key] = scope.emit(Map("lt", (None, None)), at, scope.making.counts[dim.name], span=span)
    return known[key]


def _kept(x: Value, dim: str, kind: str, scope: Scope, span: Span) -> Value:
    lowest = -inf if x.type.is_float else RANGES[x.type.dtype][0]
    return _where(mask(Dim(dim, x.type.size(dim)), scope, span), 0 if kind == "sum" else lowest, x, scope, span, True)


def _where(test: Value, number: float, x: Value, scope: Scope, span: Span, keep: bool = False) -> Value:
    """`x` where the test holds, if `keep`, else where it does not; the number elsewhere."""
    literal = float(number) if x.type.is_float else number
    slots = (None, None, literal) if keep else (None, literal, None)
    return scope.emit(Map("where", slots), test, x, span=span)


def cleared(x: Value, scope: Scope, span: Span) -> Value:
    """A result for whoever asked: zero where nothing counts."""
    for d in x.type.dims:
        if d.name in scope.making.counts:
            x = _kept(x, d.name, "sum", scope, span)
    return x


def counted(dims: Sequence[Dim], scope: Scope, span: Span, dtype: str) -> Value | None:
    """How many elements there are along these dims, at least one; None where that is known."""
    from compiler.ops.elementwise import Cast

    known = scope.making.counts
    total: Value | None = None
    size = 1
    for d in dims:
        if d.name not in known:
            size *= d.size
            continue
        count = scope.emit(Map("maximum", (None, 1)), known[d.name], span=span)
        total = count if total is None else scope.emit(Map("mul", (None, None)), total, count, span=span)
    if total is None:
        return None
    return scope.emit(Map("mul", (None, float(size))), scope.emit(Cast(dtype), total, span=span), span=span)
