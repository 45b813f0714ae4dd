"""Why a tensor of a placed training graph is laid out as it is, and everything that is sent for it."""

from __future__ import annotations

from compiler.explain.index import GRADIENT, ITSELF, Index, LayoutChange
from compiler.graph import Value
from compiler.layout import TIME, Layout, local_type
from compiler.lists import row_lists
from compiler.loop_pieces import by_path, whole_path, with_numbers, with_one_number
from compiler.model import Weight
from compiler.origin import within
from compiler.passes.place.place import Placed
from compiler.passes.place.region import Reason
from compiler.passes.place.rules import Rules, place_axes
from compiler.passes.stage import ALL, Staged
from compiler.program import Program
from compiler.strategy import ShardRule
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics, did_you_mean, fail
from dsl.source import Span


@dataclass(frozen=True, slots=True)
class Why:
    """Along one axis: the dims that it splits (none: not split), the reason, the rule of the strategy behind it."""

    axis: str
    dims: tuple[str, ...]
    reason: str
    rule: Span | None = None
    candidates: tuple[tuple[str, float], ...] = ()
    """(dim, bytes moved if that one were split)"""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a weight, its gradient or an optimizer state lives; `rule`: the `shard` rule that splits it further."""

    what: str
    type: str
    rule: Span | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known of one tensor.

    `role`: weight, input, state, activation, gradient …; `bytes`: on one device, and of the whole tensor (of one
    micro-batch of it, where it has them); `kept`: of a weight, also its gradient and optimizer states; `gradient`: of a
    table of which rows are taken, whether its gradient is a list of rows, and why not.
    """

    name: str
    role: str
    type: str
    span: Span
    bytes: tuple[int, int]
    why: tuple[Why, ...]
    kept: tuple[Kept, ...]
    changes: tuple[LayoutChange, ...]
    gradient: str = ""

    @property
    def sent(self) -> float:
        """Bytes that one device sends for it in a step."""
        return sum(c.times * c.bytes for c in self.changes)


def explain_tensor(placed: Placed, staged: Staged, program: Program, name: str) -> Explanation:
    """Raises ParcError if there is no such tensor. `loss` and the names of metrics are understood."""
    return _Explainer(placed, staged, program).explain(name)


class _Explainer:
    def __init__(self, placed: Placed, staged: Staged, program: Program) -> None:
        self.placed, self.staged, self.training = placed, staged, placed.training
        self.index = Index(placed, staged, program)
        self.rules = Rules(self.training.job, Diagnostics())

    def explain(self, name: str) -> Explanation:
        value = self._find(name)
        weight = next((w for w in self.training.model.weights if w.name == value.name), None)
        layout = self._compute(weight) if weight is not None else value.layout
        whole = local_type(value.type, _time_only(layout), self.placed.sizes).bytes
        family = self.index.family(value, weight)
        axes = [a for a in self.placed.axes if a != TIME or weight is None]
        return Explanation(
            name,
            self._role(value),
            self.index.shown(value, layout),
            value.span,
            (self.index.local(value, layout).bytes, whole),
            (*self._stage(value), *(self._why(value, layout, axis, weight) for axis in axes)),
            self._kept(weight, layout) if weight is not None else (),
            (*self.index.changes(family), *self.index.messages(family)),
            self._gradient(weight) if weight is not None else "",
        )

    def _find(self, name: str) -> Value:
        model = self.training.model
        pieces = by_path(model.pieces)
        written = {with_numbers(v, pieces): v for v in self.index.values} if pieces else {}
        name = written.get(with_one_number(name), name)
        finish = self.training.finish
        first = ("loss",) if self.training.model.scored else ()
        ends = dict(zip((*first, *self.training.summed), self.placed.forward.outputs, strict=False))
        if finish is not None and self.placed.finish is not None:
            metrics = self.placed.finish.outputs[-len(finish.metrics) :]  # behind what devices have parts of
            ends |= zip(finish.metrics, metrics, strict=True)
        if name in ends and name not in self.index.values:
            return self.index.source(ends[name])
        whole = next((v for v in self.training.totals if v.origin.path == name), None)
        if name not in self.index.values and whole is not None:
            return whole
        if name not in self.index.values:
            inside = sorted((v for v in self.index.values if v.endswith(f".{name}")), key=len)
            named = [
                v for v in self.index.values if v not in self.index.made or self.index.made[v].outputs[0].span.source
            ]
            cut = [f"`{w}`" for w, v in written.items() if name == whole_path(v, pieces) and w != v]
            help = f"there is `{inside[0]}`" if inside else did_you_mean(name, named)
            help = f"its loop is cut: there are {' and '.join(cut[:8])}" if cut else help
            raise fail("E0101", f"there is no tensor `{name}`", help=help)
        return self.index.values[name]

    def _role(self, value: Value) -> str:
        training = self.training
        roles = {
            "weight": [w.name for w in training.model.trained],
            "frozen weight": [w.name for w in training.model.weights],
            "input": [i.value.name for i in training.model.inputs],
            "optimizer state": [s.value.name for s in training.states],
            "gradient": [g.name for g in training.gradients],
            "loss": [self.index.source(v).name for v in self.placed.forward.outputs[: training.model.scored]],
        }
        return next((role for role, names in roles.items() if value.name in names), "activation")

    def _compute(self, weight: Weight) -> Layout:
        return self.rules.declared(weight.name, weight.value.type, "weights", weight.loops)

    def _kept(self, weight: Weight, compute: Layout) -> tuple[Kept, ...]:
        placed = self.placed
        rows = [("weight", "weights", weight.value, placed.weights[weight.name])]
        if weight.trained:
            at = self.training.model.trained.index(weight)
            rows.append(("gradient", "gradients", placed.backward.outputs[at], placed.accumulators[at]))
        states = [s for s in self.training.states if s.of == weight.name]
        rows += [(f"optimizer {s.name}", "optimizer", s.value, placed.states[s.name]) for s in states]
        found = []
        for what, cls, value, layout in rows:
            rule = next((r.span for r in self.rules.strategy.shards if self._shards(r, weight.name, cls, layout)), None)
            if what != "weight" or layout != compute:
                found.append(Kept(what, self.index.shown(value, layout), rule if layout.dims != compute.dims else None))
        return tuple(found)

    def _gradient(self, weight: Weight) -> str:
        why = self.training.dense.get(weight.name)
        if why is not None:
            return f"a tensor of its size, no list of rows: {why}"
        if weight.name not in self.training.listed:
            return ""
        owners = {v.name: name for v, (name, _) in zip(self.training.update.inputs, self.training.added)}
        lists = row_lists(self.training.update)
        slots = next(op.slot.size // op.parts for op, _, names in lists if owners[names[0]] == weight.name)
        return f"a list of rows and their numbers, {slots:,} different ones at most: the update leaves all others alone"

    def _shards(self, rule: ShardRule, name: str, cls: str, layout: Layout) -> bool:
        return cls in rule.classes and within(name, rule.scope) and rule.axis in layout.split_axes

    def _stage(self, value: Value) -> tuple[Why, ...]:
        """Which stages have it, where there are several."""
        strategy, staged = self.training.job.strategy, self.staged
        axes = place_axes(strategy)
        if staged.stages == 1 or not axes:
            return ()
        rule = staged.rule.span if staged.rule is not None else strategy.places[0].span
        cut, name = staged.cut_of(*value.type.names), value.name
        if cut is not None:
            rule = next(p.span for p in strategy.pipelines if cut.label in p.parts)
            counts = "each" if len(set(cut.counts)) == 1 else "at most"
            return (
                Why(
                    axes[0], (cut.label,), f"stages have {counts} {self.index.most[cut.label]} of its {cut.total}", rule
                ),
            )
        stage = staged.forward.get(name, staged.backward.get(name))
        loop = next((op.label for _, op in self.index.cut_loops() if name in self.index.inside(op.body)), None)
        if loop is not None:
            return (Why(axes[0], (), f"in the loop {loop}, on every stage", rule),)
        if stage is None or stage == ALL:
            return (Why(axes[0], (), "on each stage that reads it", rule),)
        return (Why(axes[0], (), f"on stage {stage} of 0..{staged.stages - 1}", rule),)

    # --- why -------------------------------------------------------------------------------------------

    def _why(self, value: Value, layout: Layout, axis: str, weight: Weight | None) -> Why:
        cls = "weights" if weight is not None else "activations"
        dim = layout.dim_of(axis)
        dims = () if dim is None else (value.type.dims[dim].name,)
        stated = next((r for r in self.rules.strategy.layouts if r.tensor == value.name), None)
        if stated is not None and axis != TIME:
            return Why(axis, dims, "a `layout` rule says so", stated.span)
        choice = next((c for c in self.placed.choices if c.value == value.name and c.axis == axis), None)
        wishes = self.rules.wishes(axis, value.origin.path, cls)
        if choice is not None:
            rule = next((wishes[d].rule.span for d in choice.loop if d in wishes), None)
            pending = layout.pending_on(axis)
            reason: str = choice.reason
            if choice.reason is Reason.WEIGHT:
                source = self._weight_behind(value, axis)
                if source is not None:
                    reason = f"`{source[0]}` is split there and stays where it is"
                    rule = source[1] or rule
            if pending is not None and choice.loop:
                reason += f"; {choice.loop[0]} is summed over" if pending == "sum" else f"; its {pending} is taken"
                reason += ", so that each device has a part of the result"
            return Why(axis, choice.loop, reason, rule, choice.candidates)
        if axis == TIME and dims:
            return Why(
                axis, dims, "one micro-batch after the other", wishes[dims[0]].rule.span if dims[0] in wishes else None
            )
        if dims and dims[0] in wishes:
            return Why(axis, dims, "the first of its dims that the rules name", wishes[dims[0]].rule.span)
        if dims:
            return Why(axis, dims, "as its reader needs it")
        if not wishes:
            return Why(axis, (), f"whole: no rule speaks of {cls} on it")
        return Why(
            axis,
            (),
            f"whole: the rules name {', '.join(wishes)}, none of its dims"
            if not any(value.type.has(d) for d in wishes)
            else "whole: its operands are",
        )

    def _weight_behind(self, value: Value, axis: str) -> tuple[str, Span | None] | None:
        """The weight (and its rule) that fixes what the op that makes the value splits on the axis."""
        node = self.index.made.get(value.name)
        if node is None:
            return None
        for weight in self.training.model.weights:
            layout = self._compute(weight)
            dim = layout.dim_of(axis)
            if dim is None:
                continue
            family = self.index.family(weight.value, weight)
            if any(family.get(v.name) == ITSELF for v in node.inputs) or family.get(value.name) == GRADIENT:
                name = weight.value.type.dims[dim].name
                wish = self.rules.wishes(axis, weight.name, "weights").get(name)
                stated = next((r.span for r in self.rules.strategy.layouts if r.tensor == weight.name), None)
                return weight.name, stated or (wish.rule.span if wish is not None else None)
        return None


def _time_only(layout: Layout) -> Layout:
    return Layout(tuple(tuple(a for a in axes if a == TIME) for axes in layout.dims))
