"""What only implementations say: pieces of tensors along mesh axes, messages, weights of the scope that is replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from math import prod
from typing import TYPE_CHECKING

from compiler.evaluate.session import listed
from compiler.evaluate.values import AxisRef, Bound, WeightVar, kind_of
from compiler.graph import Dim, Node, Type, Value
from compiler.implement.written import (
    UnevenPieces,
    WrittenAllGather,
    WrittenAllReduce,
    WrittenAllToAll,
    WrittenClaim,
    WrittenMessage,
    WrittenPositions,
    WrittenRank,
    WrittenReduceScatter,
    WrittenShard,
    WrittenShift,
    WrittenType,
    cut,
)
from compiler.ops.base import Op
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span

if TYPE_CHECKING:
    from compiler.evaluate.arguments import Args
    from compiler.evaluate.scope import Scope

Dims = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(eq=False, slots=True)
class ByHand:
    """An implementation that is being evaluated.

    weights: of the scope, by path, as the graph around it sees them (None: those of a loop inside). pieces: dims of
    which devices have pieces: the size of one, the axes, major first. orders: dims of the model with the axes along
    which the strategy says that they lie in zig-zag order; zigzag: of `pieces`, those that do, with the axis.
    """

    weights: Mapping[str, Value | None]
    inputs: list[tuple[Value, str, Dims]] = field(default_factory=list)
    variables: dict[str, WeightVar] = field(default_factory=dict)
    pieces: dict[str, tuple[int, tuple[AxisRef, ...]]] = field(default_factory=dict)
    orders: Mapping[str, str] = field(default_factory=dict)
    zigzag: dict[str, str] = field(default_factory=dict)
    lies: list[frozenset[str]] = field(default_factory=list)
    """Of each of the inputs, the dims that lie in zig-zag order."""


def not_by_hand(span: Span, what: str) -> ParcError:
    """Pieces and messages where nobody works on pieces."""
    help = "a model says what is computed; in a strategy, `implement SCOPE by FN(…)` says by which function of pieces"
    return fail("E0431", f"{what} is for implementations only", span, help=help)


def axis_of(name: ast.Name, scope: Scope) -> AxisRef:
    """The mesh axis that a name stands for in an implementation."""
    value = scope.vars.get(name.id)
    if isinstance(value, AxisRef):
        return value
    axes = [n for n, v in scope.vars.items() if isinstance(v, AxisRef)]
    what = (
        f"`{name.id}` is {kind_of(value)}, not a mesh axis"
        if value is not None
        else f"there is no mesh axis `{name.id}` here"
    )
    help = did_you_mean(name.id, axes) or (
        f"here are {listed(axes)}" if axes else f"make it a parameter: `implement … by FN({name.id})`"
    )
    raise fail("E0432", what, name.span, help=help)


def axes_of(target: ast.Target, names: tuple[str, ...], scope: Scope) -> tuple[tuple[str, tuple[AxisRef, ...]], ...]:
    """The axes behind the dims of a target; names: of the last dims of the tensor."""
    found: list[tuple[str, tuple[AxisRef, ...]]] = []
    used: dict[str, str] = {}
    for name, axes in zip(names, target.axes, strict=True):
        refs = tuple(axis_of(a, scope) for a in axes)
        for ref, at in zip(refs, axes):
            if ref.name in used:
                message = f"axis `{ref.name}` splits both `{used[ref.name]}` and `{name}`"
                raise fail("E0407", message, at.span, help="pieces along an axis are pieces of one dim")
            used[ref.name] = name
        found.append((name, refs))
    return tuple(found)


def local(type: Type, dims: tuple[tuple[str, tuple[AxisRef, ...]], ...], span: Span) -> Type:
    """The type of a piece. Raises E0429 for uneven ones."""
    try:
        for dim, axes in dims:
            for axis in axes:
                type = cut("", type, dim, axis.size)
    except UnevenPieces as error:
        raise uneven(error, span) from None
    return type


def uneven(error: UnevenPieces, span: Span) -> ParcError:
    """Pieces would not be of one size."""
    message = f"`{error.dim}` of size {error.size} does not divide into {error.devices} equal pieces"
    return fail(
        "E0429", message, span, help="pieces of implementations are even: choose another size or another degree"
    )


def pieces_meet(operands: Sequence[Value], by_hand: ByHand, nodes: Sequence[Node]) -> str | None:
    """What makes operands fit of which one has pieces of a dim along more axes than another; nodes: all before."""
    from compiler.implement.check import Checker
    from compiler.implement.messages import one_is_whole
    from compiler.implement.pieces import of_dims

    sizes = {a.name: a.size for _, axes in by_hand.pieces.values() for a in axes}
    sizes |= {node.op.axis: node.op.devices for node in nodes if isinstance(node.op, WrittenMessage)}
    checker = Checker(sizes)
    checker.known.update(
        (v, of_dims(dims, lies)) for (v, _, dims), lies in zip(by_hand.inputs, by_hand.lies, strict=True)
    )
    try:
        checker.run(nodes)
    except ParcError:
        return None  # something before is wrong, too: nothing is known of what follows from it
    for dim in dict.fromkeys(n for v in operands for n in v.type.names):
        sized = sorted((v.type.size(dim), i) for i, v in enumerate(operands) if v.type.has(dim))
        small, large = operands[sized[0][1]], operands[sized[-1][1]]
        if sized[0][0] != sized[-1][0] and small in checker.known and large in checker.known:
            more, fewer = checker.known[small].split(dim), checker.known[large].split(dim)
            if more[: len(fewer)] == fewer and prod(sizes[a] for a in more[len(fewer) :]) * sized[0][0] == sized[-1][0]:
                return one_is_whole(small, dim, more[len(fewer) :])
    return None


def state_pieces(target: ast.Target, x: Value, scope: Scope, span: Span) -> Value:
    """The value, of which the target says how its pieces lie; the types look whether it is so."""
    if scope.making.by_hand is None:
        raise not_by_hand(target.span, f"`{target.name.id}` in pieces")
    names = x.type.names[len(x.type.names) - len(target.axes) :]
    pieces = tuple((d, tuple(a.name for a in axes)) for d, axes in axes_of(target, names, scope))
    return scope.emit(WrittenType(pieces), x, span=span, name=target.name.id)


def enter(target: ast.Target, type: Type, name: str, scope: Scope, by_hand: ByHand, span: Span) -> Value:
    """A value of the model, called `name` there, enters in the pieces that the target states."""
    dims = axes_of(target, type.names[len(type.names) - len(target.axes) :], scope) if target.axes else ()
    piece = local(type, dims, span)
    lies: list[str] = []
    for dim, axes in dims:
        if axes:
            by_hand.pieces[dim] = (piece.size(dim), axes)
            by_hand.zigzag.pop(dim, None)
        axis = by_hand.orders.get(dim)
        if name not in by_hand.weights and any(a.name == axis and a.size > 1 for a in axes):
            expect_zigzag(dim, piece.size(dim), axes, axis or "", target.span)
            by_hand.zigzag[dim] = axes[0].name
            lies.append(dim)
    by_hand.lies.append(frozenset(lies))
    value = scope.frame.param(target.name.id, piece, target.span)
    by_hand.inputs.append((value, name, tuple((d, tuple(a.name for a in axes)) for d, axes in dims)))
    return value


def expect_zigzag(dim: str, size: int, axes: Sequence[AxisRef], axis: str, span: Span) -> None:
    """Pieces of this size can be two blocks each. Raises E0435 and E0438."""
    if axes[0].name != axis:
        message = f"`{dim}` lies in zig-zag order along `{axis}`, but its pieces are those of `{axes[0].name}` first"
        raise fail("E0438", message, span, help=f"`{'/'.join((dim, axis))}/…`: the axis of the order comes first")
    if (size * prod(a.size for a in axes[1:])) % 2:
        message = f"pieces of `{dim}` in zig-zag order are two blocks, but have {size} elements each"
        raise fail("E0435", message, span, help="choose a size that divides by twice the devices")


def own_weight(target: ast.Target, scope: Scope, by_hand: ByHand) -> WeightVar:
    """`weight w[d, f/tp]`: the weight of this path in the scope that is replaced."""
    from compiler.evaluate.calls import match_pattern

    name = target.name.id
    path = f"{scope.path}.{name}" if scope.path else name
    if path not in by_hand.weights:
        help = did_you_mean(path, by_hand.weights)
        others = f"its weights are {listed(by_hand.weights)}" if by_hand.weights else "it has no weights"
        raise fail("E0428", f"the scope has no weight `{path}`", target.span, help=help or others)
    value = by_hand.weights[path]
    if value is None:
        message = f"the weight `{path}` is one of a loop in the scope"
        raise fail("E0428", message, target.span, help="implement what the loop calls")
    if target.dims is None or target.rest:
        help = f"`weight {name}[…]`, or `{name}[]` for a single number"
        raise fail("E0208", f"the weight `{name}` needs dims", target.span, help=help)
    if scope.frame.parent is not None:
        raise fail("E0428", f"the weight `{name}` is read in a loop", target.span, help="declare it before the loop")
    if path in by_hand.variables:
        raise fail("E0102", f"there are two weights `{name}`", target.span)
    if len(target.dims) != len(value.type.dims):
        message = f"the weight `{path}` is {value.type}, not [{', '.join(n.id for n in target.dims)}]"
        raise fail("E0428", message, target.span, help=f"`weight {name}[{', '.join(value.type.names)}]`")
    raw = enter(target, value.type, path, scope, by_hand, target.span)
    match_pattern(target, raw, scope, target.span, path)
    by_hand.variables[path] = found = WeightVar(raw, raw)
    return found


# --- built-in functions -------------------------------------------------------------------------------------


def _axis(a: Args) -> AxisRef:
    if a.scope.making.by_hand is None:
        raise not_by_hand(a.span, f"`{a.name}`")
    return axis_of(a.word("axis"), a.scope)


def _emit(a: Args, op: Op, *inputs: Value) -> Value:
    try:
        return a.scope.emit(op, *inputs, span=a.span, name=a.hint)
    except UnevenPieces as error:
        raise uneven(error, a.span) from None


def _fn(a: Args) -> str:
    fn = a.value("by") if a.has("by") else "sum"
    if fn not in ("sum", "max"):
        raise fail("E0206", f"`{a.name}` takes sums or maxima", a.expr("by").span, help='`"sum"` or `"max"`')
    return str(fn)


def _zigzag(a: Args, dim: str, axis: AxisRef) -> bool:
    """Whether the pieces of the dim along the axis lie in zig-zag order."""
    by_hand = a.scope.making.by_hand
    return by_hand is not None and by_hand.zigzag.get(dim) == axis.name


def _in_zigzag(a: Args) -> Bound:
    (dim,) = a.scope.dim_list(a.dim_names("dim")[0][:1])[:1]
    by_hand = a.scope.making.by_hand
    if by_hand is None:
        raise not_by_hand(a.span, f"`{a.name}`")
    return dim.name in by_hand.zigzag


def _all_reduce(a: Args) -> Bound:
    axis = _axis(a)
    return _emit(a, WrittenAllReduce(axis.name, axis.size, _fn(a)), a.tensor("x"))


def _all_gather(a: Args) -> Bound:
    axis, x = _axis(a), a.tensor("x")
    dim, _, new = a.one_dim("over", x)
    into = a.scope.new_name(new) if new else dim
    found = _emit(a, WrittenAllGather(axis.name, axis.size, dim, into, _zigzag(a, dim, axis)), x)
    if new:
        a.scope.learn(new, found.type.size(into))
    return found


def _into(of: type[WrittenReduceScatter] | type[WrittenShard]) -> Callable[[Args], Bound]:
    def make(a: Args) -> Bound:
        axis, x = _axis(a), a.tensor("x")
        dim, _, new = a.one_dim("over", x)
        if new:
            raise fail("E0210", f"`{a.name}` does not rename", a.expr("over").span)
        zigzag = _zigzag(a, dim, axis)
        if of is WrittenReduceScatter:
            return _emit(a, WrittenReduceScatter(axis.name, axis.size, dim, _fn(a), zigzag), x)
        return _emit(a, WrittenShard(axis.name, axis.size, dim, zigzag), x)

    return make


def _all_to_all(a: Args) -> Bound:
    axis, x = _axis(a), a.tensor("x")
    dim, _, new = a.one_dim("over", x)
    if new is None:
        raise fail("E0209", "`all_to_all` takes pieces from one dim to another", a.span, help="`over s -> h`")
    into = a.scope.dim(new).name
    zigzag = _zigzag(a, dim, axis), _zigzag(a, into, axis)
    return _emit(a, WrittenAllToAll(axis.name, axis.size, dim, into, *zigzag), x)


def turned(a: Args, axis: AxisRef) -> Bound:
    """`shift(x, cp, 1)`: along a mesh axis."""
    return _emit(a, WrittenShift(axis.name, axis.size, a.integer("by", 1)), a.tensor("x"))


def _rank(a: Args) -> Bound:
    axis = _axis(a)
    return _emit(a, WrittenRank(axis.name, axis.size))


def _as_split(a: Args) -> Bound:
    axis, x = _axis(a), a.tensor("x")
    dim, _, _ = a.one_dim("over", x)
    return _emit(a, WrittenClaim(axis.name, axis.size, dim, _zigzag(a, dim, axis)), x)


def _as_sum(a: Args) -> Bound:
    axis = _axis(a)
    return _emit(a, WrittenClaim(axis.name, axis.size), a.tensor("x"))


def no_random(span: Span) -> ParcError:
    """Random bits are by position in the whole, which a piece does not know."""
    help = "draw them outside of the scope that is implemented"
    return fail("E0427", "random numbers cannot be drawn piece by piece", span, help=help)


def positions(dim: Dim, scope: Scope, span: Span, hint: str | None) -> Value | None:
    """`iota` of a dim of which devices have pieces: where they stand in the whole; None for any other dim."""
    by_hand = scope.making.by_hand
    size, axes = by_hand.pieces.get(dim.name, (0, ())) if by_hand is not None else (0, ())
    if size != dim.size:
        return None
    zigzag = by_hand is not None and dim.name in by_hand.zigzag
    op = WrittenPositions(dim, tuple((a.name, a.size) for a in axes), zigzag)
    return scope.emit(op, span=span, name=hint)


def renamed(old: Dim, new: str, scope: Scope) -> None:
    """A dim of which devices have pieces has another name, too."""
    by_hand = scope.making.by_hand
    if by_hand is not None and old.name in by_hand.pieces:
        by_hand.pieces[new] = by_hand.pieces[old.name]
        by_hand.zigzag.pop(new, None)
        if old.name in by_hand.zigzag:
            by_hand.zigzag[new] = by_hand.zigzag[old.name]


MESSAGES: dict[str, Callable[[Args], Bound]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _into(WrittenReduceScatter),
    "all_to_all": _all_to_all,
    "shard": _into(WrittenShard),
    "rank": _rank,
    "as_split": _as_split,
    "as_sum": _as_sum,
    "in_zigzag": _in_zigzag,
}
"""Built-in functions of implementations; `shift` is one of all functions."""
