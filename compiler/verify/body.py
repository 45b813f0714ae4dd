"""Bodies, of graphs and of functions: every value is defined once and before its use; types follow from the ops; once
there are layouts, they follow by `local` and `comm`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.layout import TIME, Layout
from compiler.ops.base import Op, OpError
from compiler.ops.call import Call
from compiler.ops.comm import Comm, Relayout
from compiler.ops.effects import Effect
from compiler.ops.elementwise import Map
from compiler.ops.move import Move
from compiler.ops.numbers import expect_numbers
from compiler.ops.repeat import Repeat
from compiler.program import Program
from compiler.text.attrs import OPS
from compiler.text.locations import Site
from compiler.verify.comm import check_comm, check_relayout
from compiler.verify.local import Fills, check_layout, check_local, result_fills
from compiler.verify.report import Finding, Report, head
from compiler.verify.sizes import wrong_type
from dsl.data import dataclass
from dsl.diagnostics import plural


@dataclass(frozen=True, slots=True)
class Laws:
    """How strict a stage is. kinds: axis -> kind (`mesh`, `place`, `time`), sizes: axis -> size; None before there are
    layouts. lowered: effects, and collectives in the place of relayouts. timeless: the graphs (by position) that run
    once, not for each micro-batch."""

    sizes: Mapping[str, int] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    lowered: bool = False
    timeless: frozenset[int] = frozenset()

    @staticmethod
    def placed(sizes: Mapping[str, int], timeless: Iterable[int] = ()) -> Laws:
        """Of placed graphs; sizes: of the axes that split tensors, `TIME` among them."""
        return Laws(sizes, {a: "time" if a == TIME else "mesh" for a in sizes}, timeless=frozenset(timeless))


UNPLACED = Laws()
UNIQUE = "names are unique: within a function of a program, across all graphs of a stage before it"


@dataclass(slots=True)
class _Scope:
    """Values that a body sees; `taken`: those of the whole function or graph, by name; `fills`: what padding holds."""

    site: Site
    timeless: bool
    taken: dict[str, Value]
    known: dict[str, Value] = field(default_factory=dict)
    fills: dict[str, Fills] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # defined, but not well: not looked at any further

    def at(self, i: int | None) -> Site:
        """The i-th instruction of the body, or the body."""
        return self.site if i is None else self.site.inner(i)


def check_bodies(program: Program, report: Report) -> None:
    """All functions of all classes."""
    checker = _Checker(Laws(program.sizes, {a.name: a.kind for a in program.axes}, lowered=True), report)
    for c, cls in enumerate(program.classes):
        for i, function in enumerate(cls.functions):
            site = Site(c, "fn", i)
            if function.body.inputs or function.body.outputs:
                report.error("E0612", site, "functions take nothing and give nothing: their effects are instructions")
            checker.body(function.body, _Scope(site, not function.per_microbatch, {}))


def check_graphs(graphs: Sequence[Graph], laws: Laws, known: Iterable[Value], report: Report) -> None:
    """All graphs of a stage. One value may stand in several, as an input or as the same result."""
    checker = _Checker(laws, report)
    checker.outer = {v.name: v for v in known}
    taken: dict[str, Value] = {}
    for k, graph in enumerate(graphs):
        own: dict[str, Value] = {}
        scope = _Scope(Site(k), k in laws.timeless, own)
        for v in graph.inputs:
            checker.define(v, scope)
        checker.body(graph, scope)
        for v in graph.outputs:
            if checker.find(v.name, scope) is not v and v.name not in scope.broken:
                report.error("E0610", scope.site, f"it puts out %{v.name}, which is not defined")
        for name, value in own.items():
            if taken.setdefault(name, value) is not value:
                report.error("E0611", scope.site, f"%{name} is another value in another graph", UNIQUE)


class _Checker:
    def __init__(self, laws: Laws, report: Report) -> None:
        self.laws, self.report = laws, report
        self.sizes, self.kinds = laws.sizes, laws.kinds
        self.outer: Mapping[str, Value] = {}  # values of other graphs that these read
        self.fine: dict[object, list[Fills]] = {}  # what was found right -> what is known of its results
        self.formed: set[object] = set()
        self.called: dict[object, _Scope] = {}  # functions that were looked at, and what is known in them

    def body(self, body: Graph, scope: _Scope) -> None:
        for i, instr in enumerate(body.nodes):
            self.instr(instr, scope, i)

    def find(self, name: str, scope: _Scope) -> Value | None:
        """The value of this name that a body sees."""
        return scope.known.get(name) or self.outer.get(name)

    def define(self, var: Value, scope: _Scope, i: int | None = None) -> bool:
        """Make a value known; False if its layout is not well-formed."""
        if var.name in scope.taken:
            self.report.error("E0611", scope.at(i), f"%{var.name} is defined twice", UNIQUE)
        scope.taken[var.name] = var
        shape = (var.type, var.layout, scope.timeless)
        if shape in self.formed:
            scope.known[var.name] = var
            return True
        problems = [(code, f"%{var.name}: {what}", help) for code, what, help in wrong_type(var.type)]
        if not problems and self.sizes is not None:
            problems = check_layout(var, self.kinds, scope.timeless)
        for code, message, help in problems:
            self.report.error(code, scope.at(i), message, help)
        if problems:
            scope.broken.add(var.name)
        else:
            self.formed.add(shape)
            scope.known[var.name] = var
        return not problems

    def instr(self, instr: Node, scope: _Scope, i: int) -> None:
        here = scope.known
        unknown = [v.name for v in instr.inputs if here.get(v.name) is not v and self.find(v.name, scope) is not v]
        for name in unknown:
            if name in scope.broken:
                continue
            help = "a loop sees its own parameters only" if name in scope.taken else None
            self.report.error("E0610", scope.at(i), f"{head(instr)}: %{name} is not defined before", help)
        well_formed = [self.define(v, scope, i) for v in instr.outputs]
        if unknown or not all(well_formed):
            return
        ins = list(instr.inputs)
        fills = [scope.fills.get(v.name, {}) for v in instr.inputs]
        for code, message, help in self.findings(instr, ins, fills, scope, i):
            self.report.error(code, scope.at(i), f"{head(instr)}: {message}", help)

    def findings(self, instr: Node, ins: list[Value], fills: list[Fills], scope: _Scope, i: int) -> Sequence[Finding]:
        op, outs = instr.op, instr.outputs
        try:
            expect_numbers(op)
        except OpError as error:
            return [("E0612", error.message, error.help)]
        if isinstance(op, Repeat):
            return self.repeat(op, ins, outs, fills, scope, scope.at(i))
        if isinstance(op, Call):
            return self.call(op, ins, outs, fills, scope, scope.at(i))
        if isinstance(op, Effect) and self.laws.lowered:
            return ()  # `effects`
        exchange = isinstance(op, Comm) and self.sizes is not None
        key = None if exchange else (_key(op), _laid(ins), _laid(outs), tuple([tuple(f.items()) for f in fills]))
        known = self.fine.get(key) if key is not None else None
        if known is not None:  # layers and stages are alike: what was found right is right again
            for v, of in zip(outs, known):
                scope.fills[v.name] = of
            return ()
        if not self.has(op):
            return [("E0612", f"there is no op {op.mnemonic} in {self.stage}", None)]
        if isinstance(op, Comm) and self.sizes is not None:
            if len(ins) != 1:
                return [("E0612", f"{op.mnemonic} takes one operand, got {len(ins)}", None)]
            if [v.type for v in outs] != [ins[0].type]:
                return [("E0612", f"the result must have the operand's type {ins[0].type}", None)]
            given = ins[0], outs[0], fills[0], self.sizes, self.kinds
            found, after = check_relayout(op, *given) if isinstance(op, Relayout) else check_comm(op, *given)
            scope.fills[outs[0].name] = after
            return found
        try:
            types = op.infer(*(v.type for v in ins))
        except OpError as error:
            return [("E0612", error.message, error.help)]
        if types != tuple(v.type for v in outs):
            stated = ", ".join(str(v.type) for v in outs)
            return [("E0612", f"the results are {', '.join(map(str, types))}, stated {stated or 'nothing'}", None)]
        if self.sizes is None:
            self.fine[key] = [{} for _ in outs]
            return ()
        made = result_fills(op, ins, outs, fills)
        scope.fills.update(zip((v.name for v in outs), made, strict=True))
        found = check_local(op, ins, outs, self.sizes, fills)
        if not found:
            self.fine[key] = made
        return found

    @property
    def stage(self) -> str:
        return "lowered programs" if self.laws.lowered else "graphs" if self.sizes is None else "placed graphs"

    def has(self, op: Op) -> bool:
        """Whether the stage has such ops."""
        if isinstance(op, Relayout):
            return self.sizes is not None and not self.laws.lowered
        early = not isinstance(op, (Effect, Comm, Move)) or (self.sizes is not None and isinstance(op, Comm))
        return type(op) is OPS.get(op.mnemonic) and (self.laws.lowered or early)

    def repeat(
        self, op: Repeat, ins: list[Value], outs: tuple[Value, ...], fills: list[Fills], scope: _Scope, site: Site
    ) -> Sequence[Finding]:
        """Carries keep type and layout; slices and stacks differ by the loop's dim, which is whole, so that unused
        elements of a stack hold what those of its slices do. Of carries nothing is known."""
        params = op.body.inputs
        if len(ins) != len(params) or not 0 <= op.carries <= op.carries + op.stacks <= len(params) or op.count < 1:
            told = f"{plural(len(ins), 'operand')} and {plural(op.count, 'iteration')}"
            return [("E0612", f"{told} do not go with the body's parameters", None)]
        kept = {p.name: of for p, of in list(zip(params, fills, strict=True))[op.carries :]}
        inner = _Scope(site, scope.timeless, scope.taken, fills=kept)
        if not all([self.define(p, inner) for p in params]):
            return ()
        self.body(op.body, inner)
        found: list[Finding] = []
        for i, (given, param) in enumerate(zip(ins, params, strict=True)):
            stacked = op.carries <= i < op.carries + op.stacks
            found += _same(given, self.stack(param, op) if stacked else param, f"%{param.name} is given %{given.name}")
        results = [v.name for v in op.body.outputs]
        missing = [v.name for v in op.body.outputs if self.find(v.name, inner) is not v]
        if missing or len(results) != len(outs) or len(results) < op.carries:
            what = (
                f"%{missing[0]} is not defined in the loop"
                if missing
                else f"{plural(len(results), 'value')}, {plural(len(outs), 'result')}"
            )
            return [*found, ("E0610" if missing else "E0612", f"yield: {what}", None)]
        for i, made in enumerate(op.body.outputs):
            name = made.name
            if i < op.carries:
                found += _same(made, params[i], f"%{params[i].name} leaves an iteration as %{name}")
            if i >= op.carries:
                scope.fills[outs[i].name] = inner.fills.get(name, {})
            made = made if i < op.carries else self.stack(made, op)
            found += _same(outs[i], made, f"the result %{outs[i].name} is %{name}")
        return found

    def call(
        self, op: Call, ins: list[Value], outs: tuple[Value, ...], fills: list[Fills], scope: _Scope, site: Site
    ) -> Sequence[Finding]:
        """Operands are as the parameters, results as what the function makes. It is looked at once for all calls whose
        operands are padded alike."""
        params, results = op.body.inputs, op.body.outputs
        if len(ins) != len(params) or len(outs) != len(results):
            told = f"{plural(len(ins), 'operand')} and {plural(len(outs), 'result')}"
            return [("E0612", f"{told} do not go with {op.body.name}", None)]
        found: list[Finding] = []
        for given, param in zip(ins, params, strict=True):
            found += _same(given, param, f"%{param.name} is given %{given.name}")
        key = id(op.body), tuple([tuple(f.items()) for f in fills])
        if key not in self.called:
            inner = _Scope(site, scope.timeless, {}, fills={p.name: f for p, f in zip(params, fills, strict=True)})
            self.called[key] = inner
            if all([self.define(p, inner) for p in params]):
                self.body(op.body, inner)
            missing = [v.name for v in results if self.find(v.name, inner) is not v and v.name not in inner.broken]
            found += [("E0610", f"yield: %{name} is not defined in {op.body.name}", None) for name in missing]
        inner = self.called[key]
        for out, result in zip(outs, results, strict=True):
            if result.name in inner.known:
                found += _same(out, inner.known[result.name], f"the result %{out.name} is %{result.name}")
                scope.fills[out.name] = inner.fills.get(result.name, {})
        return found

    @staticmethod
    def stack(var: Value, op: Repeat) -> Value:
        type = Type(var.type.dtype, (Dim(op.label, op.count), *var.type.dims))
        layout = var.layout.stacked() if var.layout is not None else var.layout
        return Value(var.name, type, layout=layout)


def _key(op: Op) -> object:
    """The op, by which equal ones are the same: numbers that are equal may be of several types."""
    return (op, *map(type, op.slots)) if isinstance(op, Map) else op


def _laid(values: Sequence[Value]) -> tuple[tuple[Type, Layout], ...]:
    return tuple([(v.type, v.layout) for v in values])


def _same(got: Value, want: Value, what: str) -> list[Finding]:
    if got.type != want.type:
        return [("E0612", f"{what}: {got.type} instead of {want.type}", None)]
    if got.layout == want.layout or want.layout is None:
        return []
    lost = set(want.layout.pending) ^ set(got.layout.pending)
    return [("E0615" if lost else "E0614", f"{what}: its layout differs", "the layouts must be the same")]
