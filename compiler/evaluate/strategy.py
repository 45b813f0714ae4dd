"""`strategy`: tactics are expanded into rules; every name in a rule is checked against the model and the mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from compiler.evaluate import limits, static
from compiler.evaluate.calls import bind, bind_defaults
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.index import ModelIndex
from compiler.evaluate.inner_loops import by_iteration, loops_around, take_apart
from compiler.evaluate.layers import LoopCuts, ScopeRange, bounds_of
from compiler.evaluate.offloads import classes_of, offload_rule, run_rule
from compiler.evaluate.orders import add_order
from compiler.evaluate.pipelines import Microbatches, pipeline_rule, schedule_microbatches
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import Session, SourceCall, is_std, listed
from compiler.evaluate.statics import static_scope
from compiler.evaluate.stores import ACTIVATIONS, CACHES, stored_format
from compiler.evaluate.strategy_rules import StrategyRules
from compiler.evaluate.values import AUTO, AxisRef, Bound, Defined, Skip, Words, kind_of
from compiler.evaluate.zigzags import in_zigzag
from compiler.loop_pieces import LoopPiece, parts_of, together
from compiler.model import Cluster
from compiler.origin import within
from compiler.strategy import (
    CLASSES,
    MOVED,
    LayoutRule,
    MeshAxis,
    PageRule,
    PlaceRule,
    RecomputeRule,
    ReduceRule,
    ShardRule,
    SplitRule,
    StoreRule,
)
from dsl import ast
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span

_SHARDED = ("optimizer", "gradients", "weights")
_REDUCED = ("gradients",)


class Expander:
    """Expands one strategy for one model and one cluster (None: names of the model, memories are not checked)."""

    def __init__(
        self, session: Session, entry: Defined, index: ModelIndex | None, cluster: Cluster | None = None
    ) -> None:
        self.session = session
        self.entry = entry
        self.index = index
        self.cluster = cluster
        self.rules = StrategyRules()
        self.within: ScopeRange | None = None  # what the applied tactics are narrowed to
        self.cuts: dict[str, LoopCuts] = {}  # loops of which rules speak in part, by path
        self.whole: list[tuple[Sequence[tuple[str, ast.Path]], AxisRef, Span]] = []  # rows on an axis of one place
        self.applied: list[ast.Apply] = []

    def run(self, body: Sequence[ast.Statement], scope: Scope) -> None:
        """Every rule, in order; errors are reported, the others are looked at all the same."""
        for statement in body:
            try:
                self._rule(statement, scope)
            except (ParcError, Skip) as error:
                self.session.failed(error)

    def _rule(self, statement: ast.Statement, scope: Scope) -> None:
        rules = self.rules
        match statement:
            case ast.Mesh():
                self._mesh(statement, scope)
            case ast.Split():
                axis, span = self.axis(statement.axis, scope), self.span(statement)
                dims = self.dims(statement.dims, scope)
                classes = classes_of(statement.classes, CLASSES) or CLASSES
                zigzag = in_zigzag(statement, dims, classes, axis, rules.by_hand)
                rule = SplitRule(dims, axis.name, classes, None, statement.pad, span, self.by, zigzag)
                rules.splits += [replace(rule, scope=where) for where in self._scopes(statement.scope, scope)]
            case ast.Shard():
                classes = classes_of(statement.classes, _SHARDED)
                axis, span = self.axis(statement.axis, scope), self.span(statement)
                for where in self._scopes(statement.scope, scope):
                    rules.shards.append(ShardRule(classes, axis.name, where, statement.pad, span, self.by))
            case ast.ReduceDecl():
                classes_of(statement.classes, _REDUCED)
                axis, span = self.axis(statement.axis, scope), self.span(statement)
                for where in self._scopes(statement.scope, scope):
                    rules.reductions.append(ReduceRule(axis.name, statement.per, where, span, self.by))
            case ast.LayoutDecl():
                rules.layouts += self._layouts(statement, scope)
            case ast.Pipeline():
                self._pipeline(statement, scope)
            case ast.Microbatches():
                count = static.integer(evaluate(statement.count, scope), "micro-batches", statement.count.span, 1)
                self.set_microbatches(count, statement.dim, statement.pad, scope, statement)
                rules.two_passes = statement.two_passes
            case ast.PlaceDecl():
                rules.places += self._places(statement, scope)
            case ast.Recompute():
                keep = [k for p in statement.keep for k in self._all(self._range(p, scope))]
                for where in self._scopes(statement.scope, scope):
                    own = tuple(k for k in keep if together(k, where, self.pieces))
                    rules.recomputes.append(RecomputeRule(where, own, self.span(statement), self.by))
            case ast.Offload():
                classes, span = classes_of(statement.classes, MOVED), self.span(statement)
                for where in self._scopes(statement.scope, scope):
                    rules.offloads.append(offload_rule(statement, classes, where, scope, self.cluster, span, self.by))
            case ast.RunOn():
                for where in self._scopes(statement.scope, scope):
                    rules.runs.append(run_rule(statement, where, self.cluster, self.span(statement), self.by))
            case ast.Store():
                format, what = stored_format(statement, scope)
                if isinstance(format, PageRule):
                    self._paged(format, statement)
                    return
                into = {CACHES: rules.caches, ACTIVATIONS: rules.activations}.get(what, rules.stores)
                for where in self._scopes(statement.scope, scope):
                    into.append(StoreRule(format, where, self.span(statement), self.by))
            case ast.FuseOff():
                rules.fuses = False
            case ast.Implement():
                self._implement(statement, scope)
            case ast.Order():
                rules.by_stage = add_order(statement, self.axis(statement.axis, scope), scope, rules.by_stage)
            case ast.Apply():
                self._apply(statement, scope)
            case ast.If():
                test = static.boolean(evaluate(statement.test, scope), "the test of `if`", statement.test.span)
                self.session.decided(statement.span, test)
                self.run(statement.then if test else statement.other, scope)
            case _:
                raise AssertionError(statement)

    def span(self, statement: ast.Statement) -> Span:
        """Where the rule stands; for one from the standard library, where its tactic is applied."""
        if is_std(statement.span):
            return next((a.span for a in reversed(self.applied) if not is_std(a.span)), statement.span)
        return statement.span

    @property
    def by(self) -> Span | None:
        """The strategy's own statement that applies the tactic whose rules are being read."""
        return self.applied[0].span if self.applied else None

    # --- names --------------------------------------------------------------------------------------------

    def axis(self, name: ast.Name, scope: Scope) -> AxisRef:
        """The mesh axis of this name, or that a tactic's parameter stands for."""
        value = scope.vars.get(name.id)
        if isinstance(value, AxisRef):
            return value
        axes = list(dict.fromkeys(a.name for a in self.rules.axes))
        if value is not None:
            raise fail("E0401", f"`{name.id}` is {kind_of(value)}, not a mesh axis", name.span)
        if self.applied and name.id in axes:
            help = "make it a parameter of the tactic"
            raise fail("E0401", f"a tactic does not see the axis `{name.id}`", name.span, help=help)
        others = f"the mesh has {listed(axes)}" if axes else f"declare it first: `mesh ({name.id} = …)`"
        message = f"there is no mesh axis `{name.id}`"
        raise fail("E0401", message, name.span, help=did_you_mean(name.id, axes) or others)

    def dims(self, names: Sequence[ast.Name], scope: Scope) -> tuple[str, ...]:
        """Names of dims. In a strategy each must be one of the model's; of a tactic's list, at least one."""
        found: list[tuple[str, Span]] = []
        for name in names:
            value = scope.vars.get(name.id)
            if isinstance(value, Words):
                found += [(n, name.span) for n in value.names]
            else:
                found.append((name.id, name.span))
        index = self.index
        if index is None:
            return tuple(n for n, _ in found)
        unknown = [(n, span) for n, span in found if n not in index.dims]
        if unknown and (not self.applied or len(unknown) == len(found)):
            first, span = unknown[0]
            help = did_you_mean(first, index.dims) or f"its dims are {listed(sorted(index.dims), 20)}"
            if not self.applied:
                raise fail("E0402", f"no tensor of `{index.model.name}` has a dim `{first}`", span, help=help)
            message = f"no tensor of `{index.model.name}` has {'any of the dims ' if len(unknown) > 1 else 'the dim '}"
            message += listed(n for n, _ in unknown)
            raise fail("E0402", message, span, help=help)
        return tuple(n for n, _ in found)

    @property
    def pieces(self) -> tuple[LoopPiece, ...]:
        """Of the model's loops, once they are cut."""
        return self.index.model.pieces if self.index is not None else ()

    def _scopes(self, path: ast.Path | None, scope: Scope) -> tuple[str | None, ...]:
        """A scope, within what the applied tactic is narrowed to: of loops that are cut, those of all pieces meant."""
        narrowed = self.within if path is None else self._range(path, scope)
        return (None,) if narrowed is None else self._all(narrowed)

    def _range(self, path: ast.Path, scope: Scope) -> ScopeRange:
        """A path, with the iterations of a loop that are meant (`block[0..4].mlp`)."""
        text, outer = self._path(path), self.within
        own = bounds_of(path, text, scope, self.index) if self.index is not None else None
        if own is None:
            inside = outer is not None and outer.loop and within(text, outer.loop)
            return replace(outer, path=text) if outer is not None and inside else ScopeRange(text)
        return own if outer is None or outer.loop != own.loop else own.common(outer, path.span)

    def _all(self, found: ScopeRange) -> tuple[str, ...]:
        """The paths that are meant, in the model as it is cut. Before it is, it becomes known where."""
        if found.loop and self.index is not None and not self.pieces:
            self.cuts.setdefault(found.loop, LoopCuts(found.span)).edges.update((found.low, found.high))
        return found.paths(self.pieces)

    def _path(self, path: ast.Path) -> str:
        text = str(path)
        if self.within and not within(text, self.within.path):
            text = f"{self.within.path}.{text}"
        index = self.index
        known = index is None or any(
            index.has(t) or any(i.has(t) for i in self.rules.by_hand) for t in ScopeRange(text).paths(self.pieces)
        )
        if index is not None and not known:
            raise index.unknown(text, path.span)
        return text

    # --- rules --------------------------------------------------------------------------------------------

    def _mesh(self, statement: ast.Mesh, scope: Scope) -> None:
        if self.rules.mesh is not None:
            notes = [("the first is here", self.rules.mesh)]
            raise fail("E0405", "a strategy has one mesh", statement.span, notes=notes)
        self.rules.mesh = statement.span
        for name, expr in statement.axes:
            try:
                size = self._axis_size(name, expr, scope)
            except (ParcError, Skip) as error:
                self.session.failed(error)
                size = 1  # so that the rules that speak of it are not wrong, too
            self.rules.axes.append(MeshAxis(name.id, size, name.span))
        if (devices := prod(a.size for a in self.rules.axes)) > limits.MAX_DEVICES:
            message = f"the mesh has {devices} devices, the most is 10^9"
            self.session.failed(limits.beyond(message, statement.span))
        for axis in self.rules.axes:  # only now: an axis and a parameter may share a name, `tp = tp`
            scope.vars[axis.name] = AxisRef(axis.name, axis.size)

    def _axis_size(self, name: ast.Name, expr: ast.Expr, scope: Scope) -> int:
        if any(a.name == name.id for a in self.rules.axes):
            raise fail("E0405", f"the mesh has two axes `{name.id}`", name.span)
        size = static.integer(evaluate(expr, scope), f"the size of axis `{name.id}`", expr.span)
        if not 1 <= size <= limits.MAX_DEVICES:
            raise fail("E0405", f"axis `{name.id}` has size {size}; it must be 1 to 10^9", expr.span)
        return size

    def _layouts(self, statement: ast.LayoutDecl, scope: Scope) -> list[LayoutRule]:
        whole = self._range(statement.tensor, scope)
        if statement.scope is not None:
            inside = self._range(statement.scope, scope)
            if not within(whole.path, inside.path):
                raise fail("E0413", f"`{whole.path}` is not in `{inside.path}`", statement.scope.span)
            whole = replace(inside, path=whole.path)
        found = [self._layout(statement, tensor, scope) for tensor in self._all(whole)]
        for rule in found:
            key = f"{rule.tensor} {whole.low} {whole.high}" if self.cuts else rule.tensor
            if key in self.rules.laid_out:
                notes = [("the first is here", self.rules.laid_out[key])]
                raise fail("E0415", f"the layout of `{rule.tensor}` is given twice", statement.span, notes=notes)
            self.rules.laid_out[key] = statement.span
        return found

    def _layout(self, statement: ast.LayoutDecl, tensor: str, scope: Scope) -> LayoutRule:
        used: dict[str, str] = {}
        dims: list[tuple[str, tuple[str, ...]]] = []
        for name, axes in statement.dims:
            if any(d == name.id for d, _ in dims):
                raise fail("E0413", f"dim `{name.id}` twice", name.span)
            refs = [(self.axis(a, scope), a.span) for a in axes]
            for ref, span in refs:
                if ref.name in used:
                    raise fail("E0407", f"axis `{ref.name}` splits both `{used[ref.name]}` and `{name.id}`", span)
                used[ref.name] = name.id
            dims.append((name.id, tuple(r.name for r, _ in refs)))
        if self.index is not None:
            if tensor not in self.index.tensors:
                message = f"`{tensor}` is a scope, a layout is of one tensor"
                inside = [t for t in self.index.tensors if t.startswith(f"{tensor}.")]
                raise fail("E0413", message, statement.tensor.span, help=f"such as `{inside[0]}`")
            own = self.index.tensors[tensor]
            if sorted(own) != sorted(d for d, _ in dims):
                message = f"`{tensor}` has the dims {listed(own)}, the layout {listed(d for d, _ in dims)}"
                raise fail("E0413", message, statement.span, help=f"`layout {tensor}[{', '.join(own)}]`")
            dims.sort(key=lambda d: own.index(d[0]))
        return LayoutRule(tensor, tuple(dims), self.span(statement), self.by)

    def _pipeline(self, statement: ast.Pipeline, scope: Scope) -> None:
        axis = self.axis(statement.axis, scope)
        parts = [(name, part) for part in statement.parts for name in self._parts(part, scope)]
        named, index = by_iteration(parts, self.pieces), self.index
        if axis.size == 1:
            self.whole.append((named, axis, self.span(statement)))
        elif index is not None and take_apart(loops_around(named, axis, index), self.cuts, self.span(statement)):
            index = None  # what is cut is known once they are apart
        rule = pipeline_rule(statement, named, axis, scope, index, self.span(statement), self.rules.pipelines)
        self.rules.pipelines.append(rule)
        found = schedule_microbatches(statement.schedule, scope) if statement.schedule is not None else None
        if found is not None:
            self.set_microbatches(*found, scope, statement)

    def _parts(self, path: ast.Path, scope: Scope) -> list[str]:
        """A loop's path or label, a scope's path; those that a tactic's parameter stands for (`over block`)."""
        value = scope.vars.get(path.parts[0].id) if len(path.parts) == 1 else None
        found = list(value.names) if isinstance(value, Words) else [str(path)]
        if self.index is None:
            return found
        if self.within is not None:
            whole = {p.of_path for p in self.pieces} | {i.of_path for p in self.pieces for i in p.inner}
            known = (self.index.paths_of_loops, self.index.scopes, whole)
            inner = [(text, f"{self.within.path}.{text}") for text in found]
            found = [path if any(path in of for of in known) else text for text, path in inner]
        return [part for text in found for part in parts_of(text, self.pieces)]

    def _paged(self, rule: PageRule, at: ast.Store) -> None:
        if self.rules.pages is not None:
            notes = [("the first is here", self.rules.pages.span)]
            raise fail("E0542", "caches lie in pages of one kind", at.span, notes=notes)
        self.rules.pages = replace(rule, span=self.span(at), by=self.by)

    def set_microbatches(self, count: int, dim: ast.Name | None, pad: bool, scope: Scope, at: ast.Statement) -> None:
        if self.rules.microbatches is not None:
            notes = [("the first is here", self.rules.microbatches.span)]
            raise fail("E0415", "micro-batches are given twice", at.span, notes=notes)
        name = self.dims([dim], scope)[0] if dim is not None else None
        index = self.index
        if index is not None:
            known = [i.value.type for i in index.model.inputs if name is None or i.value.type.has(name)]
            if not known or not known[0].dims:
                message = f"no input has the dim `{name}`" if name else "no input has a dim to cut into micro-batches"
                raise fail("E0411", message, dim.span if dim else at.span)
        self.rules.microbatches = Microbatches(count, name, pad, self.span(at))

    def _places(self, statement: ast.PlaceDecl, scope: Scope) -> list[PlaceRule]:
        axis = self.axis(statement.axis, scope)
        at = statement.index
        index = None if at is None else static.integer(evaluate(at, scope), "the place", at.span)
        if at is not None and index is not None and not 0 <= index < axis.size:
            raise fail("E0410", f"`{axis.name}` has the places 0 to {axis.size - 1}, not {index}", at.span)
        if axis.size > limits.MAX_STAGES:
            message = f"`{axis.name}` has {axis.size} places, the most is {limits.MAX_STAGES:,}"
            raise limits.beyond(message, statement.axis.span)
        paths = self._all(self._range(statement.scope, scope))
        return [PlaceRule(path, axis.name, index, self.span(statement)) for path in paths]

    # --- tactics ------------------------------------------------------------------------------------------

    def _implement(self, statement: ast.Implement, scope: Scope) -> None:
        paths, index = self._all(self._range(statement.scope, scope)), self.index
        if index is None:
            return
        from compiler.evaluate.implement import implementation, rule

        for path in paths:
            found = implementation(self.session, statement, path, index, scope, self.rules.axes, self.rules.splits)
            self.rules.by_hand.append(found)
            self.rules.implementations.append(rule(found, self.by, self.span(statement)))

    def _apply(self, statement: ast.Apply, scope: Scope) -> None:
        call = statement.call
        entry = scope.module.find("tactic", call.function)
        if any(c.entry is entry for c in self.session.stack):
            raise fail("E0112", f"the tactic `{entry.name}` applies itself", call.span)
        self.session.spend_call(call.span)
        arguments = bind(call, entry.item.parameters, f"the tactic `{entry.name}`", lambda e: self._argument(e, scope))
        inner = static_scope(entry.module)
        outer_within = self.within
        if statement.scope is not None:
            self.within = self._range(statement.scope, scope)
        self.applied.append(statement)
        self.session.stack.append(SourceCall(entry, call.span))
        try:
            with self.session.nested(call.span):
                bind_defaults(entry.item.parameters, arguments, inner)
                self.run(entry.item.body, inner)
        except ParcError as error:
            self.session.failed(error)
        finally:
            self.session.stack.pop()
            self.applied.pop()
            self.within = outer_within

    def _argument(self, expr: ast.Expr, scope: Scope) -> Bound:
        if isinstance(expr, ast.Over):
            return Words(self.dims(expr.dims, scope))
        if isinstance(expr, ast.Name) and expr.id not in (AUTO, *scope.vars) and scope.module.param(expr.id) is None:
            axes = list(dict.fromkeys(a.name for a in self.rules.axes))
            help = did_you_mean(expr.id, axes) or (f"the mesh has {listed(axes)}" if axes else "declare the mesh first")
            raise fail("E0401", f"there is no mesh axis `{expr.id}`", expr.span, help=help)
        return evaluate(expr, scope)
