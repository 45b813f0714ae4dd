"""Makes the syntax tree while the parser reduces: one method per rule (or alias) of `grammar.lark`.

Every method gets what its rule matched, keywords and punctuation included, as tokens and finished nodes; rules whose
names begin with `_` are spliced into their parents. Nothing here recurses, so depth costs nothing; expressions whose
depth passes the limit are refused here, once, for all the passes that do recurse.
"""

from __future__ import annotations

from typing import TypeVar, cast

from dsl import ast, limits
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.lexer import Token, split_quantity, unquote
from dsl.source import Span

Child = Token | ast.Syntax
Children = list[Child]
_S = TypeVar("_S", bound=ast.Syntax)
_D = TypeVar("_D", bound=ast.Definition)


@dataclass(frozen=True, slots=True)
class _Names(ast.Syntax):
    """Names that belong to the enclosing rule. This and the next classes are never in a finished tree."""

    names: tuple[ast.Name, ...]
    rest: bool = False


@dataclass(frozen=True, slots=True)
class _Group(ast.Syntax):
    """Nodes that belong to the enclosing rule."""

    children: tuple[ast.Syntax, ...]


@dataclass(frozen=True, slots=True)
class _Clause(ast.Syntax):
    """A keyword and what follows it, in a statement that is made of clauses in any order."""

    keyword: str
    values: tuple[ast.Syntax, ...]


def _all(kind: type[_S], children: Children) -> tuple[_S, ...]:
    return tuple(c for c in children if isinstance(c, kind))


def _one(kind: type[_S], children: Children) -> _S | None:
    return next((c for c in children if isinstance(c, kind)), None)


def _find(keyword: str, children: Children) -> int:
    """Where the keyword stands; beyond the end if it does not."""
    return next((i for i, c in enumerate(children) if isinstance(c, Token) and c.type == keyword), len(children))


class Builder:
    """The `transformer=` of the parser. Set `source` before parsing, and call `fresh` before each statement."""

    def __init__(self) -> None:
        self.source = ""
        self._depths: dict[int, int] = {}

    def fresh(self) -> None:
        """Forget the depths of expressions that are finished."""
        self._depths.clear()

    # --- helpers ------------------------------------------------------------------------------------

    def _span(self, c: Children) -> Span:
        first, last = c[0], c[-1]
        start = first.start if isinstance(first, Token) else first.span.start
        return Span(self.source, start, last.end if isinstance(last, Token) else last.span.end)

    def _token_span(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    def _name(self, child: Child) -> ast.Name:
        token = cast(Token, child)
        return ast.Name(token.text, span=Span(self.source, token.start, token.end))

    def _ids(self, children: Children) -> tuple[ast.Name, ...]:
        return tuple(self._name(c) for c in children if isinstance(c, Token) and c.type in ("NAME", "WORD"))

    def _name_after(self, keyword: str, children: Children) -> ast.Name | None:
        at = _find(keyword, children) + 1
        return self._name(children[at]) if at < len(children) else None

    def _deeper(self, node: _S, parts: tuple[ast.Syntax, ...]) -> _S:
        """Note how deep `node` is; refuse it beyond the limit."""
        depths = self._depths
        depth = 1 + max((depths.get(id(p), 0) for p in parts), default=0)
        if depth > limits.MAX_DEPTH:
            message = f"this expression is more than {limits.MAX_DEPTH} operations deep"
            help = "give names to parts of it (a long sum is as deep as it has terms)"
            raise fail("E0903", message, node.span, help=help)
        depths[id(node)] = depth
        return node

    def _clauses(self, children: Children) -> dict[str, _Clause]:
        found: dict[str, _Clause] = {}
        for clause in _all(_Clause, children):
            if clause.keyword in found:
                notes = [("the first one", found[clause.keyword].span)]
                raise fail("E0008", f"`{clause.keyword}` is given twice", clause.span, notes=notes)
            found[clause.keyword] = clause
        return found

    def _dims(self, node: Child) -> tuple[ast.Name, ...]:
        """What stands before an arrow: one dim or a list of them."""
        if isinstance(node, _Names):
            return node.names
        if isinstance(node, ast.Name):
            return (node,)
        help = "write `d -> (h, k)`, `(h, k) -> d` or `s -> t`"
        raise fail("E0009", "only names of dims stand before `->`", self._span([node]), help=help)

    # --- top level ----------------------------------------------------------------------------------

    def start(self, c: Children) -> ast.File:
        return ast.File(_all(ast.Item, c), span=self._span(c) if c else Span(self.source, 0, 0))

    def use(self, c: Children) -> ast.Use:
        module = c[1] if isinstance(c[1], ast.Path) else self.string([c[1]])
        return ast.Use(module, self._ids(c[2:]), span=self._span(c))

    def param(self, c: Children) -> ast.Param:
        choices: tuple[ast.Expr, ...] | ast.Range | None = None
        if len(c) > 4:
            listed = c[5]
            choices = listed if isinstance(listed, ast.Range) else cast(ast.ListExpr, listed).items
        return ast.Param(self._name(c[1]), cast(ast.Expr, c[3]), choices, span=self._span(c))

    def set(self, c: Children) -> ast.ListExpr:
        return ast.ListExpr(_all(ast.Expr, c), span=self._span(c))

    def check(self, c: Children) -> ast.Check:
        return ast.Check(cast(ast.Expr, c[1]), span=self._span(c))

    def _definition(self, kind: type[_D], c: Children) -> _D:
        group = _one(_Group, c)
        parameters = cast("tuple[ast.Parameter, ...]", group.children) if group else ()
        return kind(self._name(c[1]), parameters, _all(ast.Statement, c), span=self._span(c))

    def fn(self, c: Children) -> ast.Function:
        return self._definition(ast.Function, c)

    def model(self, c: Children) -> ast.Model:
        return self._definition(ast.Model, c)

    def optimizer(self, c: Children) -> ast.Optimizer:
        return self._definition(ast.Optimizer, c)

    def device(self, c: Children) -> ast.Device:
        return self._definition(ast.Device, c)

    def cluster(self, c: Children) -> ast.Cluster:
        return self._definition(ast.Cluster, c)

    def tactic(self, c: Children) -> ast.Tactic:
        return self._definition(ast.Tactic, c)

    def job(self, c: Children) -> ast.Job:
        return self._definition(ast.Job, c)

    def strategy(self, c: Children) -> ast.Strategy:
        model = self._name_after("FOR", c)
        return ast.Strategy(self._name(c[1]), (), _all(ast.Statement, c), model, span=self._span(c))

    def parameters(self, c: Children) -> _Group:
        return _Group(_all(ast.Parameter, c), span=self._span(c))

    def parameter(self, c: Children) -> ast.Parameter:
        default = cast(ast.Expr, c[2]) if len(c) > 1 else None
        return ast.Parameter(cast(ast.Target, c[0]), default, span=self._span(c))

    # --- functions, models, optimizers --------------------------------------------------------------

    def dim(self, c: Children) -> ast.DimDecl:
        return ast.DimDecl(self._bindings(c), span=self._span(c))

    def _bindings(self, c: Children) -> tuple[tuple[ast.Name, ast.Expr], ...]:
        groups = _all(_Group, c)
        return tuple(cast("tuple[ast.Name, ast.Expr]", g.children) for g in groups)

    def binding(self, c: Children) -> _Group:
        return _Group((self._name(c[0]), cast(ast.Expr, c[2])), span=self._span(c))

    def weight(self, c: Children) -> ast.WeightDecl:
        return ast.WeightDecl(_all(ast.Target, c), _one(ast.Expr, c), span=self._span(c))

    def input(self, c: Children) -> ast.InputDecl:
        colon = _find("COLON", c)
        dims = self._ids(c[colon + 2 : _find("IN", c)])
        dtype = self._name(c[colon + 1])
        return ast.InputDecl(self._ids(c[:colon]), dtype, dims, _one(ast.Range, c), span=self._span(c))

    def state(self, c: Children) -> ast.StateDecl:
        return ast.StateDecl(self._ids(c), _one(ast.Expr, c), span=self._span(c))

    def assign(self, c: Children) -> ast.Assign:
        return ast.Assign(_all(ast.Target, c), cast(ast.Expr, c[-1]), span=self._span(c))

    def repeat(self, c: Children) -> ast.Repeat:
        body = cast("tuple[ast.Statement, ...]", cast(_Group, c[4]).children)
        return ast.Repeat(cast(ast.Expr, c[1]), self._name(c[3]), body, span=self._span(c))

    def scan(self, c: Children) -> ast.Scan:
        body = cast("tuple[ast.Statement, ...]", cast(_Group, c[5]).children)
        return ast.Scan(self._name(c[2]), self._name(c[4]), body, span=self._span(c))

    def if_else(self, c: Children) -> ast.If:
        then, *other = (cast("tuple[ast.Statement, ...]", g.children) for g in _all(_Group, c))
        made = ast.If(cast(ast.Expr, c[1]), then, other[0] if other else (), span=self._span(c))
        chained = other[0][0] if other and len(other[0]) == 1 and isinstance(other[0][0], ast.If) else None
        return self._deeper(made, (chained,)) if chained else made

    def else_block(self, c: Children) -> _Group:
        return c[1] if isinstance(c[1], _Group) else _Group((cast(ast.If, c[1]),), span=self._span(c))

    def block(self, c: Children) -> _Group:
        return _Group(_all(ast.Statement, c), span=self._span(c))

    def return_(self, c: Children) -> ast.Return:
        return ast.Return(_all(ast.Expr, c), span=self._span(c))

    def loss(self, c: Children) -> ast.Loss:
        return ast.Loss(cast(ast.Expr, c[1]), span=self._span(c))

    def metric(self, c: Children) -> ast.Metric:
        return ast.Metric(self._name(c[1]), cast(ast.Expr, c[3]), span=self._span(c))

    def output(self, c: Children) -> ast.Output:
        return ast.Output(self._ids(c), span=self._span(c))

    def target(self, c: Children) -> ast.Target:
        listed = _one(_Names, c)
        dims = listed.names if listed else () if len(c) > 1 else None
        return ast.Target(self._name(c[0]), dims, bool(listed and listed.rest), span=self._span(c))

    def target_dims(self, c: Children) -> _Names:
        return _Names(self._ids(c), cast(Token, c[0]).type == "ELLIPSIS", span=self._span(c))

    # --- devices, clusters --------------------------------------------------------------------------

    def device_use(self, c: Children) -> ast.DeviceUse:
        return ast.DeviceUse(self._name(c[1]), self._name(c[3]), span=self._span(c))

    def level(self, c: Children) -> ast.Level:
        bandwidth, latency = cast(ast.Expr, c[6]), cast(ast.Expr, c[8])
        count = cast(ast.Expr, c[3])
        return ast.Level(self._name(c[1]), count, self._name(c[4]), bandwidth, latency, span=self._span(c))

    def setting(self, c: Children) -> ast.Setting:
        keyword, *words = self._ids(c)
        listed = _one(_Group, c)
        values = cast("tuple[ast.Expr, ...]", listed.children) if listed else ()
        clauses = tuple(cast("tuple[ast.Name, tuple[ast.Expr, ...]]", x.values) for x in _all(_Clause, c))
        return ast.Setting(keyword, tuple(words), values, clauses, span=self._span(c))

    def setting_values(self, c: Children) -> _Group:
        return _Group(_all(ast.Expr, c), span=self._span(c))

    def clause(self, c: Children) -> _Clause:
        values = cast("tuple[ast.Syntax, ...]", (self._name(c[0]), _all(ast.Expr, c)))
        return _Clause("over", values, span=self._span(c))

    # --- strategies, tactics ------------------------------------------------------------------------

    def mesh(self, c: Children) -> ast.Mesh:
        return ast.Mesh(self._bindings(c), span=self._span(c))

    def split(self, c: Children) -> ast.Split:
        on = _find("ON", c)
        classes = _one(_Names, c)
        pad = _find("PAD", c) < len(c)
        names = classes.names if classes else ()
        dims, axis = self._ids(c[:on]), self._name(c[on + 1])
        return ast.Split(dims, axis, names, _one(ast.Path, c), pad, span=self._span(c))

    def shard(self, c: Children) -> ast.Shard:
        on = _find("ON", c)
        pad = _find("PAD", c) < len(c)
        return ast.Shard(self._ids(c[:on]), self._name(c[on + 1]), _one(ast.Path, c), pad, span=self._span(c))

    def offload(self, c: Children) -> ast.Offload:
        to = _find("TO", c)
        return ast.Offload(self._ids(c[:to]), self._name(c[to + 1]), _one(ast.Path, c), span=self._span(c))

    def layout(self, c: Children) -> ast.LayoutDecl:
        dims = tuple((g.names[0], g.names[1:]) for g in _all(_Names, c))
        return ast.LayoutDecl(cast(ast.Path, c[1]), dims, span=self._span(c))

    def layout_dim(self, c: Children) -> _Names:
        return _Names(self._ids(c), span=self._span(c))

    def pipeline(self, c: Children) -> ast.Pipeline:
        clauses = self._clauses(c)
        schedule = cast(ast.Call, clauses["schedule"].values[0]) if "schedule" in clauses else None
        cuts = cast(ast.Expr, clauses["cuts"].values[0]) if "cuts" in clauses else None
        return ast.Pipeline(cast(ast.Path, c[1]), self._name(c[3]), schedule, cuts, span=self._span(c))

    def _keyword_clause(self, c: Children) -> _Clause:
        value = c[1] if isinstance(c[1], ast.Syntax) else self._name(c[1])
        return _Clause(cast(Token, c[0]).text, (value,), span=self._span(c))

    schedule = cuts = master = loss_scale = _keyword_clause

    def microbatches(self, c: Children) -> ast.Microbatches:
        return ast.Microbatches(cast(ast.Expr, c[1]), self._name_after("OVER", c), span=self._span(c))

    def place(self, c: Children) -> ast.PlaceDecl:
        scope, index = cast(ast.Path, c[1]), cast(ast.Expr, c[5])
        return ast.PlaceDecl(scope, self._name(c[3]), index, span=self._span(c))

    def recompute(self, c: Children) -> ast.Recompute:
        keep = _find("KEEP", c)
        return ast.Recompute(_one(ast.Path, c[:keep]), _all(ast.Path, c[keep:]), span=self._span(c))

    def apply(self, c: Children) -> ast.Apply:
        return ast.Apply(cast(ast.Call, c[0]), _one(ast.Path, c), span=self._span(c))

    def classes(self, c: Children) -> _Names:
        return _Names(self._ids(c), span=self._span(c))

    def in_scope(self, c: Children) -> ast.Path:
        return cast(ast.Path, c[1])

    # --- jobs ---------------------------------------------------------------------------------------

    def run(self, c: Children) -> ast.Task:
        model, *on = _all(ast.Call, c)
        strategy = self._name_after("USING", c)
        return ast.Task(self._name(c[0]), model, on[0] if on else None, strategy, span=self._span(c))

    def optimizer_use(self, c: Children) -> ast.OptimizerUse:
        return ast.OptimizerUse(cast(ast.Call, c[1]), span=self._span(c))

    def frozen(self, c: Children) -> ast.Frozen:
        keep = _find("KEEP", c)
        if len(c) == 1:
            help = "`frozen block, *.base` freezes those, `frozen keep head` all but `head`"
            raise fail("E0001", "expected a path of weights or `keep` after `frozen`", self._span(c), help=help)
        return ast.Frozen(_all(ast.Path, c[:keep]), _all(ast.Path, c[keep:]), span=self._span(c))

    def pattern(self, c: Children) -> ast.Path:
        parts = (x for x in c if isinstance(x, Token) and x.type != "DOT")
        return ast.Path(tuple(map(self._name, parts)), span=self._span(c))

    def precision(self, c: Children) -> ast.Precision:
        clauses = self._clauses(c)
        master = cast(ast.Name, clauses["master"].values[0]) if "master" in clauses else None
        scale = cast(ast.Expr, clauses["loss_scale"].values[0]) if "loss_scale" in clauses else None
        return ast.Precision(self._name(c[1]), master, scale, span=self._span(c))

    def data(self, c: Children) -> ast.Data:
        return ast.Data(cast(ast.Call, c[1]), span=self._span(c))

    def seed(self, c: Children) -> ast.Seed:
        return ast.Seed(cast(ast.Expr, c[1]), span=self._span(c))

    def bare_call(self, c: Children) -> ast.Call:
        return ast.Call(self._name(c[0]), (), span=self._span(c))

    def path(self, c: Children) -> ast.Path:
        return ast.Path(self._ids(c), span=self._span(c))

    # --- expressions --------------------------------------------------------------------------------

    def range(self, c: Children) -> ast.Range:
        low, high = cast(ast.Expr, c[0]), cast(ast.Expr, c[2])
        return self._deeper(ast.Range(low, high, span=self._span(c)), (low, high))

    def conditional(self, c: Children) -> ast.Conditional:
        then, test, other = cast(ast.Expr, c[0]), cast(ast.Expr, c[2]), cast(ast.Expr, c[4])
        return self._deeper(ast.Conditional(then, test, other, span=self._span(c)), (then, test, other))

    def binary(self, c: Children) -> ast.Binary:
        left, op, right = cast(ast.Expr, c[0]), cast(Token, c[1]).text, cast(ast.Expr, c[2])
        return self._deeper(ast.Binary(op, left, right, span=self._span(c)), (left, right))

    def unary(self, c: Children) -> ast.Unary:
        operand = cast(ast.Expr, c[1])
        return self._deeper(ast.Unary(cast(Token, c[0]).text, operand, span=self._span(c)), (operand,))

    def attribute(self, c: Children) -> ast.Attribute:
        base = cast(ast.Expr, c[0])
        return self._deeper(ast.Attribute(base, cast(Token, c[2]).text, span=self._span(c)), (base,))

    def name(self, c: Children) -> ast.Name:
        return self._name(c[0])

    def number(self, c: Children) -> ast.Number:
        text = cast(Token, c[0]).text
        return ast.Number(int(text) if text.isdigit() else float(text), text, span=self._span(c))

    def quantity(self, c: Children) -> ast.Quantity:
        text, unit = split_quantity(cast(Token, c[0]).text)
        value = int(text) if text.isdigit() else float(text)
        return ast.Quantity(value, unit, text, span=self._span(c))

    def string(self, c: Children) -> ast.String:
        return ast.String(unquote(cast(Token, c[0]).text), span=self._span(c))

    def true(self, c: Children) -> ast.Boolean:
        return ast.Boolean(True, span=self._span(c))

    def false(self, c: Children) -> ast.Boolean:
        return ast.Boolean(False, span=self._span(c))

    def list(self, c: Children) -> ast.ListExpr:
        items = _all(ast.Expr, c)
        return self._deeper(ast.ListExpr(items, span=self._span(c)), items)

    def group(self, c: Children) -> ast.Syntax:
        return cast(ast.Syntax, c[1])

    def call(self, c: Children) -> ast.Call:
        arguments = _all(ast.Argument, c)
        made = ast.Call(self._name(c[0]), arguments, span=self._span(c))
        return self._deeper(made, tuple(a.value for a in arguments))

    def labelled(self, c: Children) -> ast.Call:
        call = cast(ast.Call, c[0])
        made = ast.Call(call.function, call.arguments, self._name(c[2]), span=self._span(c))
        return self._deeper(made, tuple(a.value for a in call.arguments))

    def argument(self, c: Children) -> ast.Argument:
        return ast.Argument(cast(ast.Expr, c[0]), span=self._span(c))

    def keyword_argument(self, c: Children) -> ast.Argument:
        return ast.Argument(cast(ast.Expr, c[2]), self._name(c[0]), span=self._span(c))

    def over(self, c: Children) -> ast.Over:
        dims, *after = (n.names for n in _all(_Names, c))
        return ast.Over(dims, after[0] if after else (), span=self._span(c))

    def arrow(self, c: Children) -> ast.Arrow:
        return ast.Arrow(self._dims(c[0]), cast(_Names, c[2]).names, span=self._span(c))

    def dims(self, c: Children) -> _Names:
        return c[0] if isinstance(c[0], _Names) else _Names((self._name(c[0]),), span=self._span(c))

    def tuple_(self, c: Children) -> _Names:
        return _Names(self._ids(c), span=self._span(c))
