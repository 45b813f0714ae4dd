"""`place`: every value of the training graph gets a layout; a `relayout` node stands where a reader needs another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.layout import TIME, Layout, replicated
from compiler.model import Round, State, Training
from compiler.origin import Phase
from compiler.passes.copying import laid, renamed
from compiler.passes.divide import aside, of_data
from compiler.passes.place.alike import SizesAsked
from compiler.passes.place.call import place_nodes
from compiler.passes.place.effects import check_effects
from compiler.passes.place.first_pass import check_first_pass, closed, eligible, heads, of_first_pass
from compiler.passes.place.lists import check_lists, listed, lists_of, mark_counts, mark_lists, of_dims
from compiler.passes.place.region import Choice, GradMark, GraphPlacer, RelayoutRecord, Shared
from compiler.passes.place.repeat import export, mark_contents, mark_gradients, summed
from compiler.passes.place.results import as_made, output, scalar, untimed, waits, whole
from compiler.passes.place.rules import Rules
from compiler.passes.prune import prune, prune_nodes
from compiler.passes.sparse import whole_layout
from compiler.relayout import relayout_bytes
from compiler.walk import graph_values, walk
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics


@dataclass(frozen=True, slots=True, eq=False)
class PlacedRound:
    """batch: what each micro-batch adds up; settle: makes the totals of the sums, once. Its inputs, in the layouts in
    which they are added up, its outputs, those of `batch`, and the training graph's totals correspond."""

    batch: Graph
    settle: Graph


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The training graph with `relayout` nodes, and layouts of all values (but for those of `training`).

    `accumulators`: layout in which each gradient (and `loss`, metrics) is summed over the micro-batches.
    What forward puts out beyond loss and metrics, `kept` (as backward takes it in) and `training.saved` correspond by
    position; so do `totals` (accumulated gradients as the update takes them in) and `training.added`.
    `rounds` and `finish`: what is needed of whole batches (`compiler.passes.divide`). `finish` takes in the sums that
    are `waiting` first, and gives them first.
    `late`: the part of the backward pass that nobody waits for, where `split` has cut it off; it takes in `crossing`
    (what `backward` puts out for it) besides what backward's inputs were.
    """

    training: Training
    axes: tuple[str, ...]
    sizes: dict[str, int]
    forward: Graph
    backward: Graph
    update: Graph
    weights: dict[str, Layout]
    states: dict[str, Layout]
    accumulators: tuple[Layout, ...]
    kept: tuple[Value, ...]
    totals: tuple[Value, ...]
    choices: tuple[Choice, ...]
    moves: tuple[RelayoutRecord, ...]
    late: Graph | None = None
    crossing: tuple[Value, ...] = ()
    rounds: tuple[PlacedRound, ...] = ()
    finish: Graph | None = None

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All graphs, in the order in which a step runs them."""
        found = [g for r in self.rounds for g in (r.batch, r.settle)]
        back, update = ([self.backward], [self.update]) if self.training.trains else ([], [])
        found += (g for g in (self.forward, *back, self.late, self.finish, *update) if g is not None)
        return tuple(found)

    @property
    def ahead(self) -> tuple[Graph, ...]:
        """All that goes forward through the model: the forward pass, and what is made before the first of them."""
        return (self.forward, *(r.batch for r in self.rounds))

    @property
    def waiting(self) -> tuple[int, ...]:
        """Which of the first outputs of forward (the loss, metrics that are sums) are added up over the micro-batches
        by each device, and over devices behind the last."""
        made = self.forward.outputs[: self.training.direct]
        return tuple(i for i, v in enumerate(made) if v.layout is not None and waits(v.layout))

    @property
    def parts(self) -> tuple[tuple[Value, Value], ...]:
        """What devices add up for `finish`, as forward puts it out and as it comes in there: what is waiting first."""
        if self.finish is None:
            return ()
        made = [self.forward.outputs[i] for i in self.waiting]
        made += self.forward.outputs[self.training.direct : self.training.scalars]
        return tuple(zip(made, self.finish.inputs))

    @property
    def names(self) -> Iterable[str]:
        """Of all values, those inside loops too."""
        return (v.name for g in self.graphs for v in graph_values(g))


class Undivided(Exception):
    """Micro-batches cannot do by themselves what these values are needed for; it has to be set apart in the training
    graph (`divide`): sums of data that are needed of the whole batch, what metrics need of it, and what a first pass
    has to compute, by name (with the dim that micro-batches divide). beside: those of the last that are read together
    with the others."""

    def __init__(
        self, whole: Iterable[str], parts: Iterable[str], twice: Mapping[str, str], beside: Mapping[str, str]
    ) -> None:
        super().__init__()
        self.whole, self.parts, self.twice, self.beside = tuple(whole), tuple(parts), {**twice, **beside}, set(beside)


def place(training: Training, notes: SizesAsked | None = None) -> Placed:
    """Raises ParcError with everything that cannot be laid out, Undivided for what it takes another graph. notes: takes
    what was asked of the sizes of axes, if that was all that was asked of them; who has it is not told of choices."""
    diagnostics = Diagnostics()
    rules = Rules(training.job, diagnostics)
    if notes is not None:
        rules.questions, rules.before = {}, notes.before
        notes.before.begin()
    shared = Shared(rules, Names(_all_names(training)), diagnostics, told=notes is None)
    storage: dict[str, Layout] = {}
    compute: dict[str, Layout] = {}
    optimizer: dict[str, Layout] = {}
    for w in training.model.weights:
        compute[w.name] = rules.declared(w.name, w.value.type, "weights", w.loops)
        storage[w.name] = rules.storage(w.name, w.value.type, compute[w.name], "weights", w.loops)
    for w in training.trained:
        optimizer[w.name] = rules.storage(w.name, w.value.type, compute[w.name], "optimizer", w.loops)
        gradient = rules.storage(w.name, w.value.type, compute[w.name], "gradients", w.loops)
        if gradient != compute[w.name]:
            shared.gradient_storage[w.name] = gradient
    types = {w.name: w.value.type for w in training.trained}
    states = {
        s.name: of_dims(s.value.type, types[s.of], optimizer[s.of]) if s.of in optimizer
        else replicated(len(s.value.type.dims))
        for s in training.states
    }  # fmt: skip
    own = {s.name: rules.declared(s.name, s.value.type, "activations", s.loops) for s in training.model.states}
    states |= own
    for g, w in zip(training.gradients, training.trained, strict=True):
        if w.name not in training.listed:
            dims = dict(zip(w.value.type.names, compute[w.name].dims, strict=True))
            shared.gradients[g.name] = GradMark(w.name, dims)
    mark_gradients(training.backward, shared.gradients)
    mark_lists(training, optimizer, shared.gradients)
    mark_counts(training, compute, shared.gradients)

    rounds = [r.graph for r in training.rounds]

    def region(graph: Graph, cls: str, axes: tuple[str, ...]) -> GraphPlacer:
        r = GraphPlacer(shared, cls, axes)
        for v in graph.inputs:
            if v.name in compute and cls != "optimizer":
                r.weights[v.name] = compute[v.name]
                r.define(v, storage[v.name])
            elif v.name in own and cls != "optimizer" and (graph is training.forward or graph in rounds):
                r.define(v, own[v.name])
        return r

    model = training.model
    shared.of_data = of_data(training.forward, {*(w.value for w in model.weights), *(s.value for s in model.states)})
    scalars, direct, asked = training.scalars, training.direct, training.asked
    contents = training.forward.outputs[asked : training.results]
    kept_outside = (*training.forward.outputs[: model.scored], *training.forward.outputs[scalars : training.results])
    shared.aside = aside(training.forward, kept_outside)
    mark_contents(training.forward, {v.name: own[s.name] for s, v in zip(model.states, contents)}, shared.contents)
    if rules.sizes.get(TIME):
        shared.for_state = _for_states(training)
    placed_rounds = [_round(region(r.graph, "activations", rules.axes), r, training) for r in training.rounds]

    known = of_first_pass(training)
    shared.head = heads(training, known)
    plain = not (known or rounds or rules.strategy.implementations or rules.strategy.layouts)
    shared.before = rules.before if plain else None
    shared.first = eligible(training, known) if training.job.strategy.two_passes else None
    forward = region(training.forward, "activations", rules.axes)
    forward.whole = known
    _data_inputs(forward, training.forward, training)
    place_nodes(forward, training.forward.nodes)
    outputs = [scalar(forward, v, i >= model.scored) for i, v in enumerate(training.forward.outputs[:direct])]
    outputs += [as_made(forward, v) for v in training.forward.outputs[direct:scalars]]
    finish = _finish(shared, training, outputs)
    outputs += [output(forward, v) for v in training.forward.outputs[scalars:asked]]
    outputs += [_content(forward, s, v, own[s.name]) for s, v in zip(model.states, contents, strict=True)]
    for v in training.forward.outputs[training.results :]:
        forward.reader = v.name
        outputs.append(forward.resolved(v))
    if shared.whole or shared.parts or shared.twice:
        diagnostics.raise_if_any()
        raise Undivided(shared.whole, shared.parts, *closed(training, shared, forward.constants, known))
    shared.first = None
    forward_graph = prune(Graph("forward", training.forward.inputs, tuple(forward.nodes), tuple(outputs)))

    backward = region(training.backward, "activations", rules.axes)
    backward.whole = known
    saved = outputs[training.results :]
    kept = [_enter(backward, v, shared.layouts[m.name]) for v, m in zip(training.saved, saved, strict=True)]
    _data_inputs(backward, training.backward, training)
    place_nodes(backward, training.backward.nodes)
    of_lists = lists_of(training)
    gradients = [
        listed(backward, v, *of_lists[i])
        if i in of_lists
        else _total_gradient(backward, v)
        if i < len(training.gradients)
        else as_made(backward, v)
        for i, v in enumerate(training.backward.outputs)
    ]
    saves = set(training.saved)
    others = dict.fromkeys(v for v in training.backward.inputs if v not in saves)
    used = {v for node in backward.nodes for v in node.inputs}
    entered = (*kept, *(others | {t: None for t in known.values() if t in used}))
    backward_graph = prune(Graph("backward", entered, tuple(backward.nodes), tuple(gradients)))
    accumulators = tuple(untimed(shared.layouts[v.name]) for v in gradients)
    check_lists(training, gradients, shared.layouts)

    update_axes = tuple(a for a in rules.axes if a != TIME)
    update = region(training.update, "optimizer", update_axes)
    totals = []
    added = training.added
    for i, (v, (name, _), layout) in enumerate(zip(training.update.inputs, added, accumulators, strict=False)):
        totals.append(_enter(update, v, whole_layout(layout) if i in of_lists else layout))
        if name not in training.listed and len(totals) <= len(training.gradients):
            update.preferred[v.name] = optimizer[name]
    for v in training.update.inputs[len(added) :]:
        update.define(v, storage[v.name] if v.name in storage else states[v.name])
        if v.name in training.listed:
            continue  # only rows of it are read
        if v.name in storage and _refines(v, storage[v.name], optimizer[v.name], rules.sizes):
            update.preferred[v.name] = optimizer[v.name]  # weight decay of its own shard, not of the whole weight
    place_nodes(update, training.update.nodes)
    wanted = [storage[w.name] for w in training.trained] + [states[s.name] for s in training.states]
    results = []
    for i, v in enumerate(training.update.outputs):
        update.reader = v.name
        results.append(update.demand(v, wanted[i] if i < len(wanted) else replicated(len(v.type.dims))))
    entered = (*totals, *training.update.inputs[len(totals) :])
    update_graph = prune(Graph("update", entered, tuple(update.nodes), tuple(results)))
    check_first_pass(training, rules, known)
    if training.trains:
        check_effects(training, rules, compute)
    diagnostics.raise_if_any()
    found = Placed(
        training, rules.axes, dict(rules.sizes), forward_graph, backward_graph, update_graph, storage, states,
        accumulators, tuple(kept), tuple(totals), tuple(shared.choices), tuple(shared.moves), None, (),
        tuple(placed_rounds), finish,
    )  # fmt: skip
    if notes is not None:
        notes.axes, notes.splits, notes.questions = rules.axes, rules.splits, rules.questions
    return _laid(found, shared.layouts)


def _laid(placed: Placed, layouts: dict[str, Layout]) -> Placed:
    """The same, each value with its layout."""
    values: dict[str, Value] = {}
    for graph in placed.graphs:
        for v in graph_values(graph):
            if v.name not in values:
                values[v.name] = Value(v.name, v.type, v.span, v.origin, layouts[v.name], v.memory)
    return replace(
        placed,
        forward=laid(placed.forward, values),
        backward=laid(placed.backward, values),
        update=laid(placed.update, values),
        kept=tuple([values[v.name] for v in placed.kept]),
        totals=tuple([values[v.name] for v in placed.totals]),
        rounds=tuple(PlacedRound(laid(r.batch, values), laid(r.settle, values)) for r in placed.rounds),
        finish=placed.finish and laid(placed.finish, values),
    )


def _enter(region: GraphPlacer, value: Value, layout: Layout) -> Value:
    """`value` comes into this graph in `layout`: under a name of its own if it had another layout where it was made."""
    if region.shared.layouts.get(value.name, layout) == layout:
        region.define(value, layout)
        return value
    word = "total" if region.cls == "optimizer" else "kept"
    alias = renamed(value, region.shared.names.fresh(f"{value.name}.{word}"), Phase.MOVED)
    region.define(alias, layout)
    region.versions[value.name] = region.versions.pop(alias.name)
    if value.name in region.whole:
        region.also(value, region.whole[value.name])
    return alias


def _refines(value: Value, layout: Layout, finer: Layout, sizes: dict[str, int]) -> bool:
    """Whether every device has its piece of the finer layout."""
    try:
        return layout != finer and not relayout_bytes(value.type, layout, finer, sizes)
    except ValueError:
        return False


def _data_inputs(region: GraphPlacer, graph: Graph, training: Training) -> None:
    """Data in the declared layout; `step` and the states that the backward pass reads (the loss scale) replicated."""
    data = {i.value.name for i in training.model.inputs}
    totals = set(training.totals)
    for v in graph.inputs:
        if v.name in region.versions:
            continue
        if v in totals:
            region.define(v, region.shared.layouts[v.name])
            continue
        region.define(v, region.declared(v) if v.name in data else replicated(len(v.type.dims)))
        if v == training.model.step:
            region.constants.add(v.name)


def _content(region: GraphPlacer, state: State, value: Value, layout: Layout) -> Value:
    """What a state contains afterwards, as it lies: micro-batches have parts of their own, or the same in all, or are
    summed up."""
    region.reader, region.span = state.name, state.value.span
    region.shared.for_state[state.name] = state
    return region.demand(value, summed(region, value, layout))


def _for_states(training: Training) -> dict[str, State]:
    """The values, by name, that are of use to what a state contains only, and to nothing else that is asked for."""
    states, graph, asked = training.model.states, training.forward, training.asked
    if not states:
        return {}

    def used(roots: Sequence[Value]) -> set[str]:
        return {v.name for node, _ in walk(replace(graph, nodes=prune_nodes(graph.nodes, roots))) for v in node.outputs}

    others = used(graph.outputs[:asked])
    contents = graph.outputs[asked : training.results]
    return {name: s for s, v in zip(states, contents, strict=True) for name in used([v]) - others}


def _round(region: GraphPlacer, round: Round, training: Training) -> PlacedRound:
    """Its own part of the batch on every device; what several devices have to add up is added up once."""
    shared = region.shared
    _data_inputs(region, round.graph, training)
    place_nodes(region, round.graph.nodes)
    made = [as_made(region, v) for v in round.graph.outputs]
    batch = prune(Graph("batch", round.graph.inputs, tuple(region.nodes), tuple(made)))
    once = GraphPlacer(shared, "activations", [a for a in region.axes if a != TIME])
    sums, totals = [], []
    for v, total in zip(made, round.totals, strict=True):
        entered = renamed(total, shared.names.fresh(f"{total.name}.parts"))
        once.define(entered, untimed(shared.layouts[v.name]))
        once.reader = total.name
        sums.append(entered)
        got = once.demand(entered, whole(once.declared(total)))
        totals.append(got)
        shared.layouts[total.name] = shared.layouts[got.name]
    return PlacedRound(batch, Graph("settle", tuple(sums), tuple(once.nodes), tuple(totals)))


def _finish(shared: Shared, training: Training, made: Sequence[Value]) -> Graph | None:
    """Of what was added up, loss and sums that devices have parts of, and other metrics; all whole on every device."""
    names = (*(("loss",) if training.model.scored else ()), *training.summed)
    waiting = [(name, v) for name, v in zip(names, made) if waits(shared.layouts[v.name])]
    if training.finish is None and not waiting:
        return None
    once = GraphPlacer(shared, "activations", [a for a in shared.rules.axes if a != TIME])
    sums = [renamed(v, shared.names.fresh(f"{name}.parts")) for name, v in waiting]
    graph = training.finish.graph if training.finish is not None else Graph("finish", (), (), ())
    parts = [v for _, v in waiting] + list(made[training.direct :])
    for entered, v in zip((*sums, *graph.inputs), parts, strict=False):
        once.define(entered, untimed(shared.layouts[v.name]))
    _data_inputs(once, graph, training)
    place_nodes(once, graph.nodes)
    outputs = []
    for v in (*sums, *graph.outputs):
        once.reader = v.name
        outputs.append(once.demand(v, replicated(len(v.type.dims))))
    return prune(Graph("finish", (*sums, *graph.inputs), tuple(once.nodes), tuple(outputs)))


def _total_gradient(region: GraphPlacer, value: Value) -> Value:
    """A gradient as it is accumulated: as stored or pending as it was made, always a sum over micro-batches."""
    region.reader = value.name
    got = export(region, value)
    layout = region.shared.layouts[got.name]
    if TIME in region.axes and layout.pending_on(TIME) is None:
        layout = Layout(layout.dims, ((TIME, "sum"), *layout.pending))
        got = region.demand(value, layout)
    return got


def _all_names(training: Training) -> Iterable[str]:
    return (v.name for g in training.graphs for v in graph_values(g))


__all__ = ["Node", "Placed", "place"]
