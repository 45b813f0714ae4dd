"""A job's training graph: forward, backward and update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.graph import Builder, Graph, Names, Node, Type, Value
from compiler.model import STEP_DTYPE, Init, Job, State, Training, WeightUpdate
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.create import Full
from compiler.ops.elementwise import Cast, Map
from compiler.ops.functions import Literal
from compiler.ops.reduce import Reduce
from compiler.ops.rows import UniqueRows, WriteRows
from compiler.origin import Origin, Phase, Role
from compiler.passes.by_rows import by_rows
from compiler.passes.copying import copy_node
from compiler.passes.differentiate import Differentiated
from compiler.passes.divide import Divided
from compiler.passes.prune import prune_nodes
from compiler.passes.sparse import Sparse, SparseGradient, beside
from compiler.passes.written_out import written_out
from compiler.walk import graph_values
from dsl.data import dataclass

NO_LISTS = Sparse()

UPDATE = Origin(phase=Phase.UPDATE)
"""Of what is of no weight."""

SCALE_START = 2.0**16
SCALE_PATIENCE = 2000  # good steps before the loss scale is doubled

# Above this, a sum of squares counts as overflowed. A little below the largest finite number: text stays short.
_LARGEST = {"f64": 1.7e308, "f32": 3.4e38, "bf16": 3.3e38, "f16": 6.5e4}


def training_names(job: Job) -> Names:
    """All names of the model's graph and of the optimizer's states."""
    names = Names(v.name for v in graph_values(job.model.graph))
    for update in job.updates:
        for state in update.states:
            names.fresh(state.name)
    return names


def update(
    job: Job,
    names: Names,
    counters: Counters,
    found: Differentiated,
    divided: Divided,
    counts: Mapping[str, Value],
    lists: Sparse = NO_LISTS,
) -> Training:
    """Every weight's optimizer, and what counts steps, behind the backward pass.

    States are the step counter, then those of the loss scale (if dynamic), then each weight's. The update reports
    `grad_norm` (of the unscaled gradients, before clipping) if it is computed, `loss_scale` (as used) if dynamic.
    """
    counts = {name: v for name, v in counts.items() if name not in lists.tables}
    builder = _Update(job, names, job.precision.master, counters, found.gradients, lists, counts)
    graph = builder.build()
    return Training(
        job,
        found.forward,
        found.backward,
        graph,
        found.saved,
        found.gradients,
        builder.states,
        tuple(builder.reports),
        found.cotangents,
        divided.rounds,
        divided.finish,
        beside=(*((name, v) for name, t in lists.tables.items() for v in beside(t.given)), *counts.items()),
        dense=lists.dense,
    )


@dataclass(frozen=True, slots=True)
class Counters:
    """States that no weight owns; `scale` and `good` (steps since the scale changed) with a dynamic loss scale only."""

    step: State
    scale: State | None = None
    good: State | None = None

    @property
    def factor(self) -> Value | None:
        """What the gradients are multiplied by, where it changes."""
        return self.scale.value if self.scale is not None else None

    @property
    def all(self) -> tuple[State, ...]:
        return tuple(s for s in (self.step, self.scale, self.good) if s is not None)


def count_steps(job: Job, names: Names) -> Counters:
    """The states that belong to no weight."""
    # A model with random numbers has the input `step` already: the same number under the same name.
    step = State(job.model.step or _counter(names, "step", "int32"), Init("zeros"), Role.COUNTER)
    if job.precision.loss_scale != "dynamic":
        return Counters(step)
    scale = _counter(names, "loss_scale", job.precision.master)
    good = _counter(names, "good_steps", "int32")
    return Counters(
        step, State(scale, Init("constant", (SCALE_START,)), Role.COUNTER), State(good, Init("zeros"), Role.COUNTER)
    )


def _counter(names: Names, name: str, dtype: str) -> Value:
    return Value(names.fresh(name), Type(dtype), origin=UPDATE)


@dataclass(frozen=True, slots=True)
class _Function:
    """The update of a kind of weight. given: by parameter, a value of the update, or an input of the optimizer's graph;
    inputs: the optimizer's: the step, the weight, its gradient, its states (and the numbers of a gradient's rows);
    results: what these are called there."""

    body: Graph
    inputs: tuple[Value, ...]
    given: tuple[Value, ...]
    results: tuple[str, ...]


class _Update:
    """Builds the update graph."""

    def __init__(
        self,
        job: Job,
        names: Names,
        master: str,
        counters: Counters,
        gradients: Sequence[Value],
        lists: Sparse,
        counts: Mapping[str, Value],
    ) -> None:
        self.job = job
        self.names = names
        self.master = master
        self.counters = counters
        self.weights = [w.value for w in job.model.trained]
        self.lists, self.counts = lists.tables, counts
        pairs = zip(self.weights, gradients, strict=True)
        self.given = [self.lists[w.name].taken[0][0] if w.name in self.lists else g for w, g in pairs]
        self.b = Builder(names, origin=UPDATE)
        self.finite: Value | None = None
        self.clip: Value | None = None  # by which gradients are multiplied
        self.of_step: set[Value] = set()  # what depends on the step only, computed once
        self.shared: dict[tuple[Op, tuple[Value, ...]], tuple[Value, ...]] = {}
        self.reports: list[str] = []
        self.report_values: list[Value] = []
        self.states = (*counters.all, *(s for u in job.updates for s in u.states))
        self.numbers: dict[str, Value] = {}  # of the rows of gradients that are lists, by weight
        self.gradients = [self._unique(w, g) for w, g in zip(self.weights, self.given, strict=True)]

    def build(self) -> Graph:
        grads = self._unscaled()
        clip, dynamic = self.job.clip, self.counters.scale
        if clip is not None or dynamic is not None:
            square = self._square_norm(grads)
            if dynamic is not None:
                self.finite = self._map("lt", square, _LARGEST[self.master], name="finite")
            if clip is not None:
                norm = self._map("sqrt", square, name="grad_norm")
                self._report("grad_norm", norm)
                # Exactly 1 below the limit.
                most = self._map("maximum", norm, clip, name="clip.norm")
                self.clip = self._map("div", clip, most, name="clip.factor")
        next_step = self._map("add", self.counters.step.value, 1, name=f"{self.counters.step.name}.next")
        step = self.b.add(Cast(STEP_DTYPE), next_step, name=f"{self.counters.step.name}.number")
        new_weights, new_states = self._apply(step, grads)
        counters = [self._unless_skipped(next_step, self.counters.step.value), *self._next_scale()]
        further = (v for t in self.lists.values() for v in beside(t.taken))
        inputs = (*self.given, *further, *self.counts.values(), *self.weights, *(s.value for s in self.states))
        return self.b.graph(
            f"{self.job.model.name}.update", inputs, (*new_weights, *counters, *new_states, *self.report_values)
        )

    def _unique(self, weight: Value, given: Value) -> Value:
        """The gradient; of one that is lists, the rows that there are, each once."""
        table = self.lists.get(weight.name)
        if table is None:
            return given
        self.b.origin = Origin(weight.origin.path, Phase.UPDATE, weight.name)
        dims = table.rows_of(weight.type).names
        op = UniqueRows(table.dim, table.slot, table.parts, dims)
        operands = [v for pair in table.taken for v in pair]
        rows, numbers = self.b.add_many(op, *operands, name=f"{weight.name}.grad.unique")
        self.numbers[weight.name] = numbers
        return rows

    def _map(self, fn: str, *slots: Value | float | int, name: str, of: Value | None = None) -> Value:
        """of: the weight that it is for, or a gradient of which it is made."""
        self.b.origin = UPDATE if of is None else Origin(of.origin.path, Phase.UPDATE, of.name)
        literals: tuple[Literal, ...] = tuple(None if isinstance(s, Value) else s for s in slots)
        return self.b.add(Map(fn, literals), *(s for s in slots if isinstance(s, Value)), name=name)

    def _report(self, name: str, value: Value) -> None:
        self.reports.append(name)
        self.report_values.append(value)

    def _unscaled(self) -> list[Value]:
        """The gradients, divided by the loss scale."""
        by: Value | float
        if self.counters.scale is not None:
            scale = self.counters.scale.value
            self._report("loss_scale", scale)
            by = self._map("div", 1.0, scale, name="unscale")
        else:
            static = self.job.precision.loss_scale
            if not isinstance(static, (float, int)) or static == 1:
                return list(self.gradients)
            by = 1.0 / static
        return [self._map("mul", g, by, name=f"{g.name}.unscaled", of=g) for g in self.gradients]

    def _square_norm(self, grads: Sequence[Value]) -> Value:
        """Sum of the squares of all gradients: one scalar per weight, added up in a chain from left to right."""
        total: Value | None = None
        for grad, raw in zip(grads, self.gradients, strict=True):
            part = self._map("mul", grad, grad, name=f"{raw.name}.square", of=raw)
            if part.type.dims:
                part = self.b.add(Reduce("sum", part.type.names), part, name=f"{raw.name}.square.sum")
            total = part if total is None else self._map("add", total, part, name="grad_norm.square")
        if total is None:  # a model without weights
            return self.b.add(Full(0.0, self.master, ()), name="grad_norm.square")
        return total

    def _unless_skipped(self, new: Value, old: Value) -> Value:
        """`new`, or `old` where gradients were not finite."""
        if self.finite is None:
            return new
        return self._map("where", self.finite, new, old, name=f"{old.name}.new", of=old)

    def _apply(self, step: Value, grads: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """A call of its optimizer for every weight: new weights in the model's order, states in that of `states`."""
        of = {w.name: (w, g) for w, g in zip(self.weights, grads, strict=True)}
        new_weights: dict[str, Value] = {w.name: w for w in self.weights}
        new_states: list[Value] = []
        self.of_step.add(step)
        made: dict[tuple[object, ...], _Function] = {}
        by_weight = {update.weight: update for update in self.job.updates}
        results: dict[str, tuple[Value, ...]] = {}  # of those that are renewed with others before
        for update in self.job.updates:
            weight = of[update.weight][0]
            table = self.lists.get(weight.name)
            key = id(update.graph), table and table.kind
            function = made.get(key)
            if function is None:
                function = made[key] = self._function(update, step, table)
            if weight.name not in results:
                further = [self.numbers[weight.name]] if table is not None else self._touched(update, weight)
                owned = [(*of[name], *(s.value for s in by_weight[name].states)) for name in update.weights]
                given = dict(zip(function.inputs, (step, *(v for own in owned for v in own), *further), strict=True))
                if update.beside:
                    outer = tuple(given.get(v, v) for v in function.given)
                    nodes, found = written_out(function.body, outer, owned, self.names)
                    self.b.nodes += nodes
                    results |= found
                else:
                    results[weight.name] = self._call(function, given, weight)
            new_weights[weight.name], *more = results[weight.name]
            new_states += more
        return [new_weights[w.name] for w in self.weights], new_states

    def _touched(self, update: WeightUpdate, weight: Value) -> list[Value]:
        """Which rows the step has taken, for an optimizer that asks for it."""
        if update.touched is None:
            return []
        count = self.counts.get(weight.name)
        if count is not None:
            return [self._map("gt", count, 0, name=f"{weight.name}.touched", of=weight)]
        self.b.origin = Origin(weight.origin.path, Phase.UPDATE, weight.name)
        return [self.b.add(Full(1.0, "bool", update.touched.type.dims), name=f"{weight.name}.touched")]

    def _function(self, update: WeightUpdate, step: Value, table: SparseGradient | None) -> _Function:
        """The optimizer of a kind of weight as a function. What depends on the step alone (a schedule of the learning
        rate) is computed once for all weights, before. table: it is done for rows of the weight and its states."""
        graph, tables = update.graph, update.renewed
        rows = by_rows(graph, table) if table is not None else None
        graph = rows.graph if rows is not None else graph
        params: dict[Value, Value] = {}  # what it is given: a value of the update, or of `graph`
        env: dict[Value, Value] = {graph.inputs[0]: step}
        nodes: list[Node] = []
        called = self.names.fresh("update")
        weight = graph.name.removesuffix("update")  # the first of the kind, after which all is called

        def word(value: Value) -> str:
            return value.name.removeprefix(f"{graph.name}.").removeprefix(weight)

        def inside(value: Value) -> tuple[str, Origin]:
            return f"{called}.{word(value)}", Origin(f"{called}.{word(value)}", Phase.UPDATE)

        def once(value: Value) -> tuple[str, Origin]:
            return f"update.{word(value)}", UPDATE

        def param(value: Value) -> Value:
            if value not in params:
                short = word(value) if value in graph.inputs else value.name.rpartition(".")[2]
                name = self.names.fresh(f"{called}.{short}")
                params[value] = replace(value, name=name, origin=Origin(name, Phase.UPDATE))
            return params[value]

        def elementwise(fn: str, short: str, like: Value, *operands: Value) -> Value:
            name = self.names.fresh(f"{called}.{short}")
            value = replace(like, name=name, origin=Origin(name, Phase.UPDATE))
            nodes.append(Node(Map(fn, (None,) * len(operands)), operands, (value,)))
            return value

        def write(like: Value, old: Value, new: Value) -> Value:
            assert table is not None and rows is not None
            name = self.names.fresh(f"{called}.{word(like)}.all")
            value = replace(old, name=name, origin=Origin(name, Phase.UPDATE))
            op = WriteRows(table.dim.name, table.pieces if like is graph.outputs[0] else table.parts)
            nodes.append(Node(op, (old, new, param(rows.numbers)), (value,)))
            return value

        def copied(value: Value) -> Value:
            made = replace(value, name=self.names.fresh(f"{value.name}.copy"), origin=Origin(value.name, Phase.UPDATE))
            nodes.append(Node(Cast(value.type.dtype), (value,), (made,)))
            return made

        env |= {v: param(v) for v in graph.inputs[1:]}
        for grad in update.gradients if rows is None else graph.inputs[2:3]:
            if self.clip is not None:
                env[grad] = elementwise("mul", "clipped", env[grad], env[grad], param(self.clip))
        for node in prune_nodes(graph.nodes, graph.outputs):
            inputs = tuple(env[v] for v in node.inputs)
            if not all(v in self.of_step for v in inputs) or any(v.type.dims for v in node.outputs):
                inner = {v: param(env[v]) if env[v] in self.of_step else env[v] for v in node.inputs}
                nodes.append(copy_node(node, inner, self.names, inside))
                env.update(zip(node.outputs, nodes[-1].outputs, strict=True))
                continue
            key = (node.op, inputs)
            if key not in self.shared:
                made = copy_node(node, env, self.names, once)
                self.b.nodes.append(made)
                self.shared[key] = made.outputs
                self.of_step.update(made.outputs)
            env.update(zip(node.outputs, self.shared[key], strict=True))
        results = [param(env[v]) if env[v] in self.of_step else env[v] for v in graph.outputs]
        if self.finite is not None:
            finite, old = param(self.finite), [env[v] for v in (tables if rows is None else rows.before)]
            kept = zip(results, old, strict=True)
            results = [elementwise("where", "new", before, finite, new, before) for new, before in kept]
        if rows is not None:
            triples = zip(graph.outputs, tables, results, strict=True)
            results = [write(like, param(old), new) for like, old, new in triples]
            nodes = list(prune_nodes(nodes, results))
        given = {*params.values()}  # of states that change places each needs a copy: one is written before the other
        results = [copied(v) if v in given else v for v in results]
        used = {*(v for n in nodes for v in n.inputs), *results}
        read = {outer: inner for outer, inner in params.items() if inner in used}
        body = Graph(called, tuple(read.values()), tuple(nodes), tuple(results))
        return _Function(body, graph.inputs, tuple(read), tuple(map(word, graph.outputs)))

    def _call(self, function: _Function, given: Mapping[Value, Value], weight: Value) -> tuple[Value, ...]:
        """What the function makes of a weight, its gradient and its states."""
        self.b.origin = Origin(weight.origin.path, Phase.UPDATE, weight.name)
        outputs = tuple(
            Value(self.names.fresh(f"{weight.name}.update.{word}"), v.type, origin=self.b.origin)
            for word, v in zip(function.results, function.body.outputs, strict=True)
        )
        operands = tuple(given.get(v, v) for v in function.given)
        self.b.nodes.append(Node(Call(function.body, weight.name), operands, outputs))
        return outputs

    def _next_scale(self) -> list[Value]:
        """The loss scale and its counter of good steps after this one."""
        if self.counters.scale is None or self.counters.good is None or self.finite is None:
            return []
        scale, good = self.counters.scale.value, self.counters.good.value
        count = self._map("add", good, 1, name="good_steps.next")
        full = self._map("ge", count, SCALE_PATIENCE, name="good_steps.enough")
        restarted = self._map("where", full, 0, count, name="good_steps.kept")
        doubled = self._map("mul", scale, 2.0, name="loss_scale.double")
        grown = self._map("where", full, doubled, scale, name="loss_scale.good")
        halved = self._map("mul", scale, 0.5, name="loss_scale.half")
        return [
            self._map("where", self.finite, grown, halved, name="loss_scale.new"),
            self._map("where", self.finite, restarted, 0, name="good_steps.new"),
        ]
