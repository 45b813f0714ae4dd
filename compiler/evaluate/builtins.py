"""The built-in functions: name -> its parameters and what a call of it gives."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from compiler.evaluate import dtypes, reductions, rows, static
from compiler.evaluate.arguments import Args, P
from compiler.evaluate.expressions import Want, elementwise, evaluate, tensor
from compiler.evaluate.run_time import mask
from compiler.evaluate.scope import Scope, check_dim
from compiler.evaluate.session import listed
from compiler.evaluate.values import AxisRef, Bound, WeightVar, is_static, plain
from compiler.evaluate.written import MESSAGES, no_random, positions, renamed, turned
from compiler.graph import FLOATS, Value
from compiler.loop_pieces import whole_path
from compiler.model import STEP_DTYPE
from compiler.ops.create import Full, Iota, Normal, Random
from compiler.ops.elementwise import Cast, Map, StopGradient
from compiler.ops.functions import FUNCTIONS
from compiler.ops.reduce import Cumsum
from compiler.ops.shape import Concat, Flip, Merge, Pad, Rename, Shift, Slice, Split
from compiler.ops.window import Window, span
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.source import Span


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in function."""

    params: tuple[P, ...]
    make: Callable[[Args], Bound]


# --- elementwise ------------------------------------------------------------------------------------------


def _map(fn: str) -> Callable[[Args], Bound]:
    names = ("x", "y")[: FUNCTIONS[fn].operands]

    def make(a: Args) -> Bound:
        values = [a.value(n, a.want) for n in names]
        if all(is_static(v) for v in values):
            numbers = tuple(static.number(v, f"`{n}` of `{fn}`", a.expr(n).span) for n, v in zip(names, values))
            return static.function(fn, numbers, a.span)
        return elementwise(fn, values, [a.expr(n).span for n in names], a.scope, a.span, a.hint)

    return make


def _where(a: Args) -> Bound:
    test = a.value("test", a.want)
    if isinstance(test, bool):
        return evaluate(a.expr("then" if test else "other"), a.scope, a.want, a.hint)
    values = [test, a.value("then", a.want), a.value("other", a.want)]
    spans = [a.expr(n).span for n in ("test", "then", "other")]
    numbers = [v for v in map(plain, values[1:]) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if isinstance(test, Value) and test.type.dtype == "bool" and len(numbers) == 2:
        values[1] = _of_two(numbers, test, a, spans[1])
    return elementwise("where", values, spans, a.scope, a.span, a.hint)


def _of_two(numbers: list[int | float], test: Value, a: Args, span: Span) -> Value:
    """The first of two numbers as a tensor, which says of what type they are: no operand does. As `full` of them, in
    `master` where the condition is a scalar, as sums are; integers are `int32`, but in optimizers nothing is. There,
    functions of the step alone are computed in a type of their own."""
    making = a.scope.making
    alone = test in making.of_step
    if alone:
        dtype = STEP_DTYPE
    elif making.kind == "optimizer" or any(isinstance(n, float) for n in numbers):
        dtype = making.precision.compute if test.type.dims else making.precision.master
    else:
        dtype = "int32"
    value = float(numbers[0]) if dtype in FLOATS else numbers[0]
    first = a.scope.emit(Full(value, dtype, ()), span=span)
    if alone:
        making.of_step.add(first)
    return first


def _cast(a: Args) -> Bound:
    dtype = dtype_of(a, "dtype")
    precision = a.scope.making.precision
    same = precision.compute == precision.master  # then this makes no node, and the name is the operand's
    x = evaluate(a.expr("x"), a.scope, a.want, a.hint if same else None)
    if isinstance(x, WeightVar) and dtype == x.raw.type.dtype:
        x.read = True
        return x.raw
    value = tensor(x, a.scope, a.expr("x").span, "`x` of `cast`")
    return value if value.type.dtype == dtype else a.scope.emit(Cast(dtype), value, span=a.span, name=a.hint)


def dtype_of(a: Args, name: str) -> str:
    """The dtype that a word names: one of all, or the job's `compute` or `master`."""
    word = a.word(name)
    known = a.scope.making.dtypes()
    if word.id not in known:
        raise fail("E0207", f"there is no dtype `{word.id}`", word.span, help=dtypes.meant(word.id, known))
    return known[word.id]


def _is_tensor(a: Args) -> Bound:
    return isinstance(a.value("x"), Value | WeightVar)


def _stop_gradient(a: Args) -> Bound:
    return a.scope.emit(StopGradient(), a.tensor("x", a.want), span=a.span, name=a.hint)


# --- shapes -----------------------------------------------------------------------------------------------


def _rename(a: Args) -> Bound:
    x = a.tensor("x")
    before, after = a.dim_names("dims")
    if len(before) != len(after):
        raise fail("E0209", "`rename` needs as many dims after the arrow as before", a.expr("dims").span)
    pairs = []
    for old, new in zip(before, after):
        dim = a.scope.dim(old)
        pairs.append((dim.name, a.scope.new_name(new)))
        renamed(dim, pairs[-1][1], a.scope)
    value = a.scope.emit(Rename(tuple(pairs)), x, span=a.span, name=a.hint)
    for (_, actual), new in zip(pairs, after):
        a.scope.learn(new, value.type.size(actual))
    return value


def _split(a: Args) -> Bound:
    x = a.tensor("x")
    before, after = a.dim_names("dims")
    if len(before) != 1 or len(after) < 2:
        raise fail("E0209", "`split` makes several dims of one: `split(x, d -> (h, k))`", a.expr("dims").span)
    old = a.scope.dim(before[0])
    sizes = [a.scope.find_dim(n.id) for n in after]
    known = prod(d.size for d in sizes if d)
    open_names = [n for n, d in zip(after, sizes) if d is None]
    whole = x.type.size(old.name) if x.type.has(old.name) else old.size
    if len(open_names) > 1:
        help = f"declare them: `dim {open_names[0].id} = …`"
        raise fail(
            "E0209", f"the sizes of {listed(n.id for n in open_names)} are not known", open_names[0].span, help=help
        )
    if open_names:
        if whole % known:
            message = f"`{old.name}` of size {whole} does not divide by {known}"
            raise fail("E0206", message, a.expr("dims").span)
        a.scope.learn(open_names[0], whole // known)
    into = a.scope.dim_list(after)
    return a.scope.emit(Split(old.name, into), x, span=a.span, name=a.hint)


def _merge(a: Args) -> Bound:
    x = a.tensor("x")
    before, after = a.dim_names("dims")
    if len(before) < 2 or len(after) != 1:
        raise fail("E0209", "`merge` makes one dim of several: `merge(x, (h, k) -> d)`", a.expr("dims").span)
    dims = a.scope.dim_list(before)
    into = a.scope.new_name(after[0])
    value = a.scope.emit(Merge(tuple(d.name for d in dims), into), x, span=a.span, name=a.hint)
    a.scope.learn(after[0], value.type.size(into))
    return value


def _slice(a: Args) -> Bound:
    x = a.tensor("x")
    dim, _, new = a.one_dim("dim", x)
    start, stop = a.range("range")
    into = a.scope.new_name(new) if new else dim
    op = Slice(dim, start, stop, into, a.integer("step", 1, 1))
    value = a.scope.emit(op, x, span=a.span, name=a.hint)
    if new:
        a.scope.learn(new, value.type.size(into))
    return value


def _shift(a: Args) -> Bound:
    along = a.expr("dim")
    axis = a.scope.vars.get(along.id) if isinstance(along, ast.Name) else None
    if isinstance(axis, AxisRef):
        return turned(a, axis)
    x = a.tensor("x")
    dim, _, new = a.one_dim("dim", x)
    if new:
        raise fail("E0210", "`shift` does not rename", a.expr("dim").span)
    around = a.has("around") and static.boolean(a.value("around"), "`around`", a.expr("around").span)
    op = Shift(dim, a.integer("by", 1), a.number("fill", 0), around)
    return a.scope.emit(op, x, span=a.span, name=a.hint)


def _pad(a: Args) -> Bound:
    x = a.tensor("x")
    dim, _, new = a.one_dim("dim", x)
    low, high = a.integer("low", 0, 0), a.integer("high", 0, 0)
    into = a.scope.new_name(new) if new else dim
    check_dim(x.type.size(dim) + low + high, into, a.span)
    op = Pad(dim, low, high, a.number("value", 0), into)
    value = a.scope.emit(op, x, span=a.span, name=a.hint)
    if new:
        a.scope.learn(new, value.type.size(into))
    return value


def _concat(a: Args) -> Bound:
    xs = a.tensors("x")
    dim, _, new = a.one_dim("over", xs[0])
    into = a.scope.new_name(new) if new else dim
    value = a.scope.emit(Concat(dim, into), *xs, span=a.span, name=a.hint)
    check_dim(value.type.size(into), into, a.span)
    if new:
        a.scope.learn(new, value.type.size(into))
    return value


def _window(a: Args) -> Bound:
    x = a.tensor("x")
    before, after = a.dim_names("dims")
    if len(before) != 1 or len(after) != 2:
        raise fail("E0209", "`window` makes two dims of one: `window(x, y -> (yo, ky))`", a.expr("dims").span)
    dim = a.scope.dim(before[0])
    kernel = a.scope.dim(after[1])
    stride, pad, dilation = a.integer("stride", 1, 1), a.integer("pad", 0, 0), a.integer("dilation", 1, 1)
    if x.type.has(dim.name):
        wide = span(kernel.size, dilation)
        a.scope.learn(after[0], max(1, (x.type.size(dim.name) + 2 * pad - wide) // stride + 1))
    out = a.scope.dim(after[0])
    op = Window(dim.name, out, kernel, stride, pad, a.number("fill", 0), dilation)
    return a.scope.emit(op, x, span=a.span, name=a.hint)


def _along(op: Callable[[str], Cumsum | Flip]) -> Callable[[Args], Bound]:
    def make(a: Args) -> Bound:
        x = a.tensor("x")
        dim, _, new = a.one_dim("over", x)
        if new:
            raise fail("E0210", f"`{a.name}` does not rename", a.expr("over").span)
        return a.scope.emit(op(dim), x, span=a.span, name=a.hint)

    return make


# --- tensors out of nothing -------------------------------------------------------------------------------


def _iota(a: Args) -> Bound:
    (dim,) = a.scope.dim_list(a.dim_names("dim")[0][:1])[:1]
    first = a.value("start") if a.has("start") else 0
    if isinstance(first, Value):
        return a.scope.emit(Iota(dim), first, span=a.span, name=a.hint)
    number = a.integer("start", 0)
    found = positions(dim, a.scope, a.span, a.hint) or a.scope.emit(Iota(dim), span=a.span, name=a.hint)
    return a.scope.emit(Map("add", (None, number)), found, span=a.span, name=a.hint) if number else found


def _microbatches(a: Args) -> Bound:
    (dim,) = a.scope.dim_list(a.dim_names("dim")[0][:1])[:1]
    return reductions.microbatches(a.scope, dim)


def _valid(a: Args) -> Bound:
    dims = [d for d in a.scope.dim_list(a.dim_names("dim")[0][:1])[:1] if d.name in a.scope.making.counts]
    return mask(dims[0], a.scope, a.span) if dims else True


def _filled(value: float) -> Callable[[Args], Bound]:
    def make(a: Args) -> Bound:
        dtype = dtype_of(a, "dtype") if a.has("dtype") else a.scope.making.precision.compute
        number = value if a.name != "full" else a.number("value", 0)
        number = float(number) if dtype in FLOATS else number
        return a.scope.emit(Full(number, dtype, a.shape("dims")), span=a.span, name=a.hint)

    return make


def _drawn(of: type[Random | Normal]) -> Callable[[Args], Bound]:
    def make(a: Args) -> Bound:
        scope = a.scope
        if scope.making.by_hand is not None:
            raise no_random(a.span)
        if scope.making.kind != "model":
            raise fail("E0302", "random numbers belong into models", a.span)
        frame = scope.frame
        operands = [frame.step(), *_apart(a), *(loop.index() for loop in frame.loops)]
        path = f"{scope.path}.{a.hint or a.name}" if scope.path else a.hint or a.name
        path = whole_path(path, scope.making.pieces)
        op = of(scope.making.streams.fresh(path), scope.making.precision.master, a.shape("dims"))
        return scope.emit(op, *operands, span=a.span, name=a.hint)

    return make


def _apart(a: Args) -> list[Value]:
    """The number of the iteration by itself that this is in, as the loop would have it."""
    apart = a.scope.making.apart
    return [] if apart is None else [a.scope.emit(Full(apart.piece.first, "int32", ()), span=a.span, name="index")]


_X = P("x")
_OVER = P("over", "dims", optional=True)
_AXIS = P("axis", "word")

BUILTINS: dict[str, Builtin] = {
    **{f.name: Builtin((_X, P("y"))[: f.operands], _map(f.name)) for f in FUNCTIONS.values() if f.builtin},
    "where": Builtin((P("test"), P("then"), P("other")), _where),
    "cast": Builtin((_X, P("dtype", "word")), _cast),
    "is_tensor": Builtin((_X,), _is_tensor),
    "stop_gradient": Builtin((_X,), _stop_gradient),
    "sum": Builtin((_X, _OVER), reductions.total),
    "mean": Builtin((_X, _OVER), reductions.mean),
    "max": Builtin((_X, P("others", optional=True, many=True), _OVER), reductions.extreme("max")),
    "min": Builtin((_X, P("others", optional=True, many=True), _OVER), reductions.extreme("min")),
    "norm": Builtin((_X,), reductions.norm),
    "microbatches": Builtin((P("dim", "dims"),), _microbatches),
    "rename": Builtin((_X, P("dims", "arrow")), _rename),
    "split": Builtin((_X, P("dims", "arrow")), _split),
    "merge": Builtin((_X, P("dims", "arrow")), _merge),
    "take": Builtin((P("table"), P("index"), P("over", "dims")), rows.take),
    "touched": Builtin((P("g"),), rows.touched),
    "scatter_add": Builtin((_X, P("index"), P("dims", "arrow")), rows.scatter_add),
    "within": Builtin((_X, P("range", "range")), rows.within),
    "scatter": Builtin((P("table"), P("rows"), P("index"), P("over", "dims")), rows.scatter),
    "argmax": Builtin((_X, P("over", "dims")), rows.argmax),
    "slice": Builtin((_X, P("dim", "arrow"), P("range", "range"), P("step", optional=True)), _slice),
    "shift": Builtin((_X, P("dim", "arrow"), *(P(n, optional=True) for n in ("by", "fill", "around"))), _shift),
    "pad": Builtin((_X, P("dim", "arrow"), P("low"), P("high"), P("value", optional=True)), _pad),
    "concat": Builtin((P("x", many=True), P("over", "arrow")), _concat),
    "window": Builtin(
        (_X, P("dims", "arrow"), *(P(n, optional=True) for n in ("stride", "pad", "fill", "dilation"))), _window
    ),
    "top_k": Builtin((_X, P("over", "arrow"), P("k", optional=True)), rows.top_k),
    "cumsum": Builtin((_X, P("over", "dims")), _along(Cumsum)),
    "flip": Builtin((_X, P("over", "dims")), _along(Flip)),
    "iota": Builtin((P("dim", "dims"), P("start", optional=True)), _iota),
    "valid": Builtin((P("dim", "dims"),), _valid),
    "zeros": Builtin((P("dims", "shape", optional=True, many=True), P("dtype", "word", optional=True)), _filled(0.0)),
    "ones": Builtin((P("dims", "shape", optional=True, many=True), P("dtype", "word", optional=True)), _filled(1.0)),
    "full": Builtin(
        (P("value"), P("dims", "shape", optional=True, many=True), P("dtype", "word", optional=True)), _filled(0.0)
    ),
    "all_reduce": Builtin((_X, _AXIS, P("by", optional=True)), MESSAGES["all_reduce"]),
    "reduce_scatter": Builtin((_X, _AXIS, P("over", "arrow"), P("by", optional=True)), MESSAGES["reduce_scatter"]),
    **{
        n: Builtin((_X, _AXIS, P("over", "arrow")), MESSAGES[n])
        for n in ("all_gather", "all_to_all", "shard", "as_split")
    },
    "as_sum": Builtin((_X, _AXIS), MESSAGES["as_sum"]),
    "rank": Builtin((_AXIS,), MESSAGES["rank"]),
    "in_zigzag": Builtin((P("dim", "dims"),), MESSAGES["in_zigzag"]),
    "uniform": Builtin((P("dims", "shape", optional=True, many=True),), _drawn(Random)),
    "normal": Builtin((P("dims", "shape", optional=True, many=True),), _drawn(Normal)),
}


def call_builtin(call: ast.Call, scope: Scope, want: Want, hint: str | None) -> Bound:
    """The value of a call of a built-in."""
    builtin = BUILTINS[call.function.id]
    if call.label is not None:
        message = "a label names the scope that a call opens; built-in functions open none"
        raise fail("E0302", message, call.label.span)
    return builtin.make(Args(call, builtin.params, scope, want, hint))
