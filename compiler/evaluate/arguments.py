"""Matches the arguments of a built-in function with its parameters and checks their kinds."""

from __future__ import annotations

from typing import Literal

from compiler.evaluate import static
from compiler.evaluate.expressions import Want, evaluate, static_of, tensor
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.evaluate.values import Bound, DimList, Number, WeightVar, is_static, kind_of
from compiler.graph import Dim, Value
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span

Kind = Literal["value", "dims", "arrow", "range", "word", "shape"]


@dataclass(frozen=True, slots=True)
class P:
    """A parameter: `value` any expression, `dims` (`over s`, `s`), `arrow`, `range`, `word` (a bare name).

    `many` takes all further positional arguments.
    """

    name: str
    kind: Kind = "value"
    optional: bool = False
    many: bool = False


class Args:
    """The arguments of one call of a built-in."""

    def __init__(self, call: ast.Call, params: tuple[P, ...], scope: Scope, want: Want, hint: str | None) -> None:
        self.call = call
        self.scope = scope
        self.want = want
        self.hint = hint
        self.given: dict[str, list[ast.Expr]] = {}
        self.per_microbatch = False  # whether dims may be those of each micro-batch
        self._match(params)

    @property
    def span(self) -> Span:
        return self.call.span

    @property
    def name(self) -> str:
        return self.call.function.id

    def _match(self, params: tuple[P, ...]) -> None:
        by_name = {p.name: p for p in params}
        for argument in self.call.arguments:
            value = argument.value
            if argument.name is not None:
                name = argument.name.id
                if name not in by_name or by_name[name].many:
                    help = did_you_mean(name, by_name) or f"it takes {listed(by_name)}"
                    raise fail("E0109", f"`{self.name}` has no argument `{name}`", argument.span, help=help)
                if name in self.given:
                    raise fail("E0111", f"`{name}` is given twice", argument.span)
                self.given[name] = [value]
                continue
            param = next((p for p in params if _fits(p, value) and (p.many or p.name not in self.given)), None)
            if param is None:
                help = f"it takes {listed(by_name)}" if by_name else "it takes none"
                raise fail("E0111", f"one argument too many for `{self.name}`", argument.span, help=help)
            self.given.setdefault(param.name, []).append(value)
        missing = [p.name for p in params if not p.optional and p.name not in self.given]
        if missing:
            raise fail("E0110", f"`{self.name}` needs {listed(missing)}", self.span)

    # --- access -------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return name in self.given

    def expr(self, name: str) -> ast.Expr:
        return self.given[name][0]

    def value(self, name: str, want: Want = None) -> Bound:
        """The argument evaluated."""
        return evaluate(self.expr(name), self.scope, want)

    def tensor(self, name: str, want: Want = None) -> Value:
        expr = self.expr(name)
        return tensor(evaluate(expr, self.scope, want), self.scope, expr.span, f"`{name}` of `{self.name}`")

    def tensors(self, name: str) -> list[Value]:
        found = []
        for expr in self.given[name]:
            found.append(tensor(evaluate(expr, self.scope), self.scope, expr.span, f"an argument of `{self.name}`"))
        return found

    def integer(self, name: str, default: int, low: int | None = None, high: int | None = None) -> int:
        if name not in self.given:
            return default
        return static.integer(self.value(name), f"`{name}` of `{self.name}`", self.expr(name).span, low, high)

    def number(self, name: str, default: float) -> Number:
        if name not in self.given:
            return default
        return static.number(self.value(name), f"`{name}` of `{self.name}`", self.expr(name).span)

    def word(self, name: str) -> ast.Name:
        expr = self.expr(name)
        if not isinstance(expr, ast.Name):
            raise fail("E0210", f"`{name}` of `{self.name}` is a word", expr.span)
        return expr

    def range(self, name: str) -> tuple[int, int]:
        expr = self.expr(name)
        if not isinstance(expr, ast.Range):
            raise fail("E0210", f"`{name}` of `{self.name}` is a range, such as `0..4`", expr.span)
        low, high = (static.integer(evaluate(e, self.scope), "a bound", e.span) for e in (expr.low, expr.high))
        return low, high

    def dim_names(self, name: str) -> tuple[tuple[ast.Name, ...], tuple[ast.Name, ...]]:
        """Names before and after the arrow of `over s -> t`, `s -> t`, or `s`."""
        expr = self.expr(name)
        match expr:
            case ast.Over():
                if expr.per_microbatch and not self.per_microbatch:
                    help = "`sum`, `mean`, `max` and `min` can be taken of each micro-batch by itself"
                    raise fail("E0210", f"`{self.name}` is not taken per micro-batch", expr.span, help=help)
                return expr.dims, expr.after
            case ast.Arrow():
                return expr.before, expr.after
            case ast.Name():
                return (expr,), ()
        raise fail("E0209", f"`{self.name}` needs dims here", expr.span, help="such as `over s`")

    def dims_in(self, name: str, x: Value) -> tuple[Dim, ...]:
        """The dims after `over`, each a dim of `x`; all dims of `x` if `over` is left out; `own` ones in optimizers."""
        if name not in self.given:
            return x.type.dims
        before, after = self.dim_names(name)
        if after:
            raise fail("E0210", f"`{self.name}` does not rename", self.expr(name).span)
        scope = self.scope
        word = before[0].id if len(before) == 1 and scope.making.kind == "optimizer" else ""
        if word in ("own", "columns") and scope.find_dim(word) is None:
            return tuple(d for d in self.own_dims(x) if word == "own" or d.name != scope.making.rows)
        dims = scope.dim_list(before)
        for dim in dims:
            if not x.type.has(dim.name):
                message = f"`{self.name}` over `{dim.name}`: {x.type} has no such dim"
                raise fail("E0204", message, self.expr(name).span, help=did_you_mean(dim.name, x.type.names))
        return dims

    def own_dims(self, x: Value) -> tuple[Dim, ...]:
        """Those that are not of loops: of a weight in a loop, the dims that it was declared with."""
        return tuple(d for d in x.type.dims if d.name not in self.scope.making.loop_labels)

    def one_dim(self, name: str, x: Value) -> tuple[str, ast.Name, ast.Name | None]:
        """For ops along one dim: its actual name, the name as written, and the name after the arrow if any."""
        before, after = self.dim_names(name)
        if len(before) != 1 or len(after) > 1:
            raise fail("E0209", f"`{self.name}` works along one dim", self.expr(name).span)
        dim = self.scope.dim(before[0])
        if not x.type.has(dim.name):
            message = f"`{self.name}`: {x.type} has no dim `{dim.name}`"
            raise fail("E0204", message, before[0].span, help=did_you_mean(dim.name, x.type.names))
        return dim.name, before[0], after[0] if after else None

    def shape(self, name: str) -> tuple[Dim, ...]:
        """Dims given one by one: names of dims, or of tensors whose dims are meant."""
        dims: dict[str, Dim] = {}
        for expr in self.given.get(name, []):
            if not isinstance(expr, ast.Name):
                raise fail("E0209", f"`{self.name}` takes dims here", expr.span, help="declare one: `dim n = …`")
            found: tuple[Dim, ...]
            bound = self.scope.vars.get(expr.id)
            if self.scope.find_dim(expr.id) is None and isinstance(bound, (Value, WeightVar)):
                found = (bound if isinstance(bound, Value) else bound.raw).type.dims
            else:
                found = self.scope.dim_list([expr])
            for dim in found:
                if dim.name in dims:
                    raise fail("E0205", f"dim `{dim.name}` twice", expr.span)
                dims[dim.name] = dim
        return tuple(dims.values())


def _fits(param: P, value: ast.Expr) -> bool:
    """Whether a positional argument of this form can be meant for the parameter."""
    match value:
        case ast.Over():
            return param.kind in ("dims", "arrow")
        case ast.Arrow():
            return param.kind == "arrow"
        case ast.Range():
            return param.kind == "range"
        case ast.Name():
            return param.kind != "range"
    return param.kind not in ("range", "arrow", "dims", "word")


__all__ = ["Args", "DimList", "P", "is_static", "kind_of", "static_of"]
