"""Makes the syntax tree while the parser reduces: one method per rule (or alias) of `grammar.lark`.

Every method gets what its rule matched, keywords and punctuation included, as tokens and finished nodes; rules whose
names begin with `_` are spliced into their parents. Nothing here recurses, so depth costs nothing; expressions whose
depth passes the limit are refused here, once, for all the passes that do recurse.
"""

from __future__ import annotations

from typing import TypeVar, cast

from dsl import ast
from dsl.builder.expressions import Expressions
from dsl.builder.shared import Children, KeywordClause, NameList, NodeGroup, every, find, first
from dsl.diagnostics import fail
from dsl.lexer import Token
from dsl.source import Span

_D = TypeVar("_D", bound=ast.Definition)


class TreeBuilder(Expressions):
    """The `transformer=` of the parser. Set `source` before parsing, and call `fresh` before each statement."""

    # --- top level ----------------------------------------------------------------------------------

    def start(self, c: Children) -> ast.File:
        return ast.File(every(ast.Item, c), span=self._span(c) if c else Span(self.source, 0, 0))

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
        return ast.ListExpr(every(ast.Expr, c), span=self._span(c))

    def check(self, c: Children) -> ast.Check:
        return ast.Check(cast(ast.Expr, c[1]), span=self._span(c))

    def _definition(self, kind: type[_D], c: Children) -> _D:
        group = first(NodeGroup, c)
        parameters = cast("tuple[ast.Parameter, ...]", group.children) if group else ()
        return kind(self._name(c[1]), parameters, every(ast.Statement, c), span=self._span(c))

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
        return ast.Strategy(self._name(c[1]), (), every(ast.Statement, c), model, span=self._span(c))

    def parameters(self, c: Children) -> NodeGroup:
        return NodeGroup(every(ast.Parameter, c), span=self._span(c))

    def parameter(self, c: Children) -> ast.Parameter:
        default = cast(ast.Expr, c[2]) if len(c) > 1 else None
        return ast.Parameter(cast(ast.Target, c[0]), default, span=self._span(c))

    # --- functions, models, optimizers --------------------------------------------------------------

    def dim(self, c: Children) -> ast.DimDecl:
        return ast.DimDecl(self._bindings(c), span=self._span(c))

    def _bindings(self, c: Children) -> tuple[tuple[ast.Name, ast.Expr], ...]:
        groups = every(NodeGroup, c)
        return tuple(cast("tuple[ast.Name, ast.Expr]", g.children) for g in groups)

    def binding(self, c: Children) -> NodeGroup:
        return NodeGroup((self._name(c[0]), cast(ast.Expr, c[2])), span=self._span(c))

    def weight(self, c: Children) -> ast.WeightDecl:
        return ast.WeightDecl(every(ast.Target, c), first(ast.Expr, c), span=self._span(c))

    def input(self, c: Children) -> ast.InputDecl:
        colon = find("COLON", c)
        dims = self._ids(c[colon + 2 : find("IN", c)])
        dtype = self._name(c[colon + 1])
        return ast.InputDecl(self._ids(c[:colon]), dtype, dims, first(ast.Range, c), span=self._span(c))

    def state(self, c: Children) -> ast.StateDecl:
        colon, init = find("COLON", c), first(ast.Expr, c)
        dtype, dims = None, tuple[ast.Name, ...]()
        if colon < len(c):
            dtype, dims = self._name(c[colon + 1]), self._ids(c[colon + 2 :])
        return ast.StateDecl(every(ast.Target, c), dtype, dims, init, span=self._span(c))

    def assign(self, c: Children) -> ast.Assign:
        return ast.Assign(every(ast.Target, c), cast(ast.Expr, c[-1]), span=self._span(c))

    def repeat(self, c: Children) -> ast.Repeat:
        body = cast("tuple[ast.Statement, ...]", cast(NodeGroup, c[4]).children)
        return ast.Repeat(cast(ast.Expr, c[1]), self._name(c[3]), body, span=self._span(c))

    def scan(self, c: Children) -> ast.Scan:
        body = cast("tuple[ast.Statement, ...]", cast(NodeGroup, c[5]).children)
        return ast.Scan(self._name(c[2]), self._name(c[4]), body, span=self._span(c))

    def if_else(self, c: Children) -> ast.If:
        then, *other = (cast("tuple[ast.Statement, ...]", g.children) for g in every(NodeGroup, c))
        made = ast.If(cast(ast.Expr, c[1]), then, other[0] if other else (), span=self._span(c))
        chained = other[0][0] if other and len(other[0]) == 1 and isinstance(other[0][0], ast.If) else None
        return self._deeper(made, (chained,)) if chained else made

    def else_block(self, c: Children) -> NodeGroup:
        return c[1] if isinstance(c[1], NodeGroup) else NodeGroup((cast(ast.If, c[1]),), span=self._span(c))

    def block(self, c: Children) -> NodeGroup:
        return NodeGroup(every(ast.Statement, c), span=self._span(c))

    def return_(self, c: Children) -> ast.Return:
        return ast.Return(every(ast.Expr, c), span=self._span(c))

    def loss(self, c: Children) -> ast.Loss:
        return ast.Loss(cast(ast.Expr, c[1]), span=self._span(c))

    def metric(self, c: Children) -> ast.Metric:
        return ast.Metric(self._name(c[1]), cast(ast.Expr, c[3]), span=self._span(c))

    def output(self, c: Children) -> ast.Output:
        return ast.Output(self._ids(c), span=self._span(c))

    def target(self, c: Children) -> ast.Target:
        listed = first(NameList, c)
        dims = listed.names if listed else () if len(c) > 1 else None
        axes = listed.axes if listed else ()
        return ast.Target(self._name(c[0]), dims, bool(listed and listed.rest), axes, span=self._span(c))

    def target_dims(self, c: Children) -> NameList:
        dims = every(NameList, c)
        axes = tuple(d.names[1:] for d in dims)
        rest = isinstance(c[0], Token) and c[0].type == "ELLIPSIS"
        return NameList(tuple(d.names[0] for d in dims), rest, axes if any(axes) else (), span=self._span(c))

    # --- devices, clusters --------------------------------------------------------------------------

    def device_use(self, c: Children) -> ast.DeviceUse:
        return ast.DeviceUse(self._name(c[1]), self._name(c[3]), span=self._span(c))

    def level(self, c: Children) -> ast.Level:
        bandwidth, latency = cast(ast.Expr, c[6]), cast(ast.Expr, c[8])
        count = cast(ast.Expr, c[3])
        return ast.Level(self._name(c[1]), count, self._name(c[4]), bandwidth, latency, span=self._span(c))

    def setting(self, c: Children) -> ast.Setting:
        keyword, *words = self._ids(c)
        listed = first(NodeGroup, c)
        values = cast("tuple[ast.Expr, ...]", listed.children) if listed else ()
        clauses = tuple(cast("tuple[ast.Name, tuple[ast.Expr, ...]]", x.values) for x in every(KeywordClause, c))
        return ast.Setting(keyword, tuple(words), values, clauses, span=self._span(c))

    def setting_values(self, c: Children) -> NodeGroup:
        return NodeGroup(every(ast.Expr, c), span=self._span(c))

    def clause(self, c: Children) -> KeywordClause:
        values = cast("tuple[ast.Syntax, ...]", (self._name(c[0]), every(ast.Expr, c)))
        return KeywordClause("over", values, span=self._span(c))

    # --- strategies, tactics ------------------------------------------------------------------------

    def mesh(self, c: Children) -> ast.Mesh:
        return ast.Mesh(self._bindings(c), span=self._span(c))

    def split(self, c: Children) -> ast.Split:
        on = find("ON", c)
        classes = first(NameList, c)
        pad = find("PAD", c) < len(c)
        names = classes.names if classes else ()
        dims, axis = self._ids(c[:on]), self._name(c[on + 1])
        order = next(iter(self._ids(c[on + 2 : on + 3])), None)
        return ast.Split(dims, axis, names, first(ast.Path, c), pad, order, span=self._span(c))

    def shard(self, c: Children) -> ast.Shard:
        on = find("ON", c)
        pad = find("PAD", c) < len(c)
        return ast.Shard(self._ids(c[:on]), self._name(c[on + 1]), first(ast.Path, c), pad, span=self._span(c))

    def reduce(self, c: Children) -> ast.ReduceDecl:
        on = find("ON", c)
        per = cast(Token, c[find("PER", c) + 1]).text
        return ast.ReduceDecl(self._ids(c[:on]), self._name(c[on + 1]), per, first(ast.Path, c), span=self._span(c))

    def offload(self, c: Children) -> ast.Offload:
        to = find("TO", c)
        given = (first(ast.Expr, c[find(word, c) :][:2]) for word in ("PREFETCH", "CACHE", "HITS"))
        return ast.Offload(self._ids(c[:to]), self._name(c[to + 1]), first(ast.Path, c), *given, span=self._span(c))

    def run_on(self, c: Children) -> ast.RunOn:
        on = find("ON", c)
        return ast.RunOn(self._ids(c[:on]), self._name(c[on + 1]), first(ast.Path, c), span=self._span(c))

    def store(self, c: Children) -> ast.Store:
        return ast.Store(self._name(c[1]), cast(ast.Call, c[3]), first(ast.Path, c), span=self._span(c))

    def fuse(self, c: Children) -> ast.FuseOff:
        return ast.FuseOff(span=self._span(c))

    def layout(self, c: Children) -> ast.LayoutDecl:
        dims = tuple((g.names[0], g.names[1:]) for g in every(NameList, c))
        tensor, *scope = every(ast.Path, c)
        return ast.LayoutDecl(tensor, dims, scope[0] if scope else None, span=self._span(c))

    def layout_dim(self, c: Children) -> NameList:
        return NameList(self._ids(c), span=self._span(c))

    def pipeline(self, c: Children) -> ast.Pipeline:
        clauses = self._clauses(c)
        schedule = cast(ast.Call, clauses["schedule"].values[0]) if "schedule" in clauses else None
        cuts = cast(ast.Expr, clauses["cuts"].values[0]) if "cuts" in clauses else None
        chunks = cast(ast.Expr, clauses["chunks"].values[0]) if "chunks" in clauses else None
        axis = self._name(c[find("ON", c) + 1])
        return ast.Pipeline(every(ast.Path, c), axis, schedule, cuts, chunks, span=self._span(c))

    def actions(self, c: Children) -> ast.Actions:
        return ast.Actions(self._name(c[0]), cast(ast.Expr, c[2]), span=self._span(c))

    def actions_loop(self, c: Children) -> ast.ActionsLoop:
        return ast.ActionsLoop(self._name(c[1]), cast(ast.Range, c[3]), every(ast.Actions, c), span=self._span(c))

    def order_row(self, c: Children) -> ast.OrderRow:
        items = tuple(x for x in c if isinstance(x, ast.Actions | ast.ActionsLoop))
        return ast.OrderRow(items, span=self._span(c))

    def order(self, c: Children) -> ast.Order:
        name = self._name(c[3]) if find("IN", c) < len(c) else None
        at = first(ast.Expr, c)
        assert at is not None
        return ast.Order(self._name(c[1]), at, name, every(ast.Statement, c), span=self._span(c))

    def _keyword_clause(self, c: Children) -> KeywordClause:
        value = c[1] if isinstance(c[1], ast.Syntax) else self._name(c[1])
        return KeywordClause(cast(Token, c[0]).text, (value,), span=self._span(c))

    schedule = cuts = chunks = master = loss_scale = prefill = _keyword_clause

    def microbatches(self, c: Children) -> ast.Microbatches:
        twice, pad = (find(word, c) < len(c) for word in ("TWO", "PAD"))
        return ast.Microbatches(cast(ast.Expr, c[1]), self._name_after("OVER", c), twice, pad, span=self._span(c))

    def place(self, c: Children) -> ast.PlaceDecl:
        scope, index = cast(ast.Path, c[1]), cast(ast.Expr, c[5]) if len(c) > 5 else None
        return ast.PlaceDecl(scope, self._name(c[3]), index, span=self._span(c))

    def recompute(self, c: Children) -> ast.Recompute:
        keep = find("KEEP", c)
        return ast.Recompute(first(ast.Path, c[:keep]), every(ast.Path, c[keep:]), span=self._span(c))

    def apply(self, c: Children) -> ast.Apply:
        return ast.Apply(cast(ast.Call, c[0]), first(ast.Path, c), span=self._span(c))

    def implement(self, c: Children) -> ast.Implement:
        return ast.Implement(cast(ast.Path, c[1]), cast(ast.Call, c[3]), span=self._span(c))

    def classes(self, c: Children) -> NameList:
        return NameList(self._ids(c), span=self._span(c))

    def in_scope(self, c: Children) -> ast.Path:
        return cast(ast.Path, c[1])

    # --- jobs ---------------------------------------------------------------------------------------

    def run(self, c: Children) -> ast.Task:
        model, *on = every(ast.Call, c)
        strategy = self._name_after("USING", c)
        return ast.Task(self._name(c[0]), model, on[0] if on else None, strategy, span=self._span(c))

    def optimizer_use(self, c: Children) -> ast.OptimizerUse:
        return ast.OptimizerUse(cast(ast.Call, c[1]), span=self._span(c))

    def frozen(self, c: Children) -> ast.Frozen:
        keep = find("KEEP", c)
        if len(c) == 1:
            help = "`frozen block, *.base` freezes those, `frozen keep head` all but `head`"
            raise fail("E0001", "expected a path of weights or `keep` after `frozen`", self._span(c), help=help)
        return ast.Frozen(every(ast.Path, c[:keep]), every(ast.Path, c[keep:]), span=self._span(c))

    def pattern(self, c: Children) -> ast.Path:
        parts = (x for x in c if isinstance(x, Token) and x.type != "DOT")
        return ast.Path(tuple(map(self._name, parts)), span=self._span(c))

    def precision(self, c: Children) -> ast.Precision:
        clauses = self._clauses(c)
        master = cast(ast.Name, clauses["master"].values[0]) if "master" in clauses else None
        scale = cast(ast.Expr, clauses["loss_scale"].values[0]) if "loss_scale" in clauses else None
        return ast.Precision(self._name(c[1]), master, scale, span=self._span(c))

    def decode(self, c: Children) -> ast.Decode:
        clauses = self._clauses(c)
        first = cast(ast.Expr, clauses["prefill"].values[0]) if "prefill" in clauses else None
        return ast.Decode(self._name(c[2]), first, span=self._span(c))

    def data(self, c: Children) -> ast.Data:
        return ast.Data(cast(ast.Call, c[1]), span=self._span(c))

    def seed(self, c: Children) -> ast.Seed:
        return ast.Seed(cast(ast.Expr, c[1]), span=self._span(c))

    def bare_call(self, c: Children) -> ast.Call:
        return ast.Call(self._name(c[0]), (), span=self._span(c))

    def scope(self, c: Children) -> ast.Path:
        parts = every(ast.Path, c)
        bounds = tuple(b for p in parts for b in p.bounds)
        names = tuple(n for p in parts for n in p.parts)
        return ast.Path(names, bounds if any(b is not None for b in bounds) else (), span=self._span(c))

    def scope_part(self, c: Children) -> ast.Path:
        return ast.Path((self._name(c[0]),), (first(ast.Expr, c),), span=self._span(c))

    def path(self, c: Children) -> ast.Path:
        return ast.Path(self._ids(c), span=self._span(c))
