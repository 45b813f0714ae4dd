"""What evaluation hands on: the model as a graph, the cluster, the strategy and the job that ties them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from compiler.cluster import TOPOLOGIES as TOPOLOGIES
from compiler.cluster import Cluster as Cluster
from compiler.cluster import Device as Device
from compiler.cluster import Level as Level
from compiler.graph import Graph, Value
from compiler.lists import row_lists
from compiler.loop_pieces import LoopPiece as LoopPiece
from compiler.loop_pieces import by_path, whole_path, with_numbers
from compiler.strategy import SERIAL, PageRule, Strategy
from compiler.weight_format import PackedWeight
from compiler.weight_update import Init as Init
from compiler.weight_update import State as State
from compiler.weight_update import WeightUpdate as WeightUpdate
from dsl.data import dataclass
from dsl.source import NOWHERE, Span


@dataclass(frozen=True, slots=True, eq=False)
class DataInput:
    """A data input; integers lie in [low, high)."""

    value: Value
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A parameter, in master precision; `loops` = its leading dims that come from `repeat`s.

    trained: it has a gradient, an update and the optimizer's states. One that the job freezes has none of them, nor has
    one that the loss's derivative does not reach (behind `stop_gradient`). What is frozen has the compute type instead.
    """

    value: Value
    init: Init
    loops: tuple[str, ...] = ()
    trained: bool = True

    @property
    def name(self) -> str:
        return self.value.name


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """The serial forward program.

    graph.inputs  = data inputs, weights, states, then (of a model with random numbers) `step`, an int32 scalar.
    graph.outputs = loss (a scalar, where it is `scored`), metrics (scalars), outputs, what becomes of the states.
    scored: it has a loss. stored: matrices whose parts are among the weights. pieces: loops that are parts of others,
    where the strategy speaks of some iterations. exact: the graph before activations were rounded, if any are.
    crossing: by name, values between wholes and pieces by hand: dims that are cut already or still, with their axes."""

    name: str
    inputs: tuple[DataInput, ...]
    weights: tuple[Weight, ...]
    graph: Graph
    metrics: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    scored: bool = True
    calls: Mapping[str, Any] = field(default_factory=dict)  # by path, `CallRecord`s, while strategies are evaluated
    pieces: tuple[LoopPiece, ...] = ()
    stored: tuple[PackedWeight, ...] = ()
    exact: Graph | None = None
    crossing: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = field(default_factory=dict)

    def whole(self, name: str) -> str:
        """What a weight or a state (of an optimizer, too) is called in the model as it is written."""
        return whole_path(name, by_path(self.pieces))

    def with_numbers(self, path: str) -> str:
        """A path as a strategy writes it: `block[0..4].mlp`, where the loop is cut."""
        return with_numbers(path, by_path(self.pieces))

    @property
    def loss(self) -> Value:
        assert self.scored, f"{self.name} has no loss"
        return self.graph.outputs[0]

    @property
    def of_metrics(self) -> tuple[Value, ...]:
        """The values of the metrics, in their order."""
        return self.graph.outputs[self.scored : self.scored + len(self.metrics)]

    @property
    def of_outputs(self) -> tuple[Value, ...]:
        """The values of the outputs, in their order."""
        first = self.scored + len(self.metrics)
        return self.graph.outputs[first : first + len(self.outputs)]

    @property
    def trained(self) -> tuple[Weight, ...]:
        """The weights that have gradients, in their order."""
        return tuple(w for w in self.weights if w.trained)

    @property
    def step(self) -> Value | None:
        """The input that is the number of the step, if the model uses random numbers."""
        found = self.graph.inputs[len(self.inputs) + len(self.weights) + len(self.states) :]
        return found[0] if found else None


TRAIN_STEP, EVALUATE, INFER = "train_step", "evaluate", "infer"
"""What a program is asked for: a step of training; loss, metrics and outputs of a batch; the outputs alone."""

ENTRIES = (TRAIN_STEP, EVALUATE, INFER)

PREFILL, DECODE, AHEAD, MOVE = "prefill", "decode", "ahead", "move"
"""What a job that decodes can be asked for besides: outputs at the first positions, one more, some more; row to row."""

DECODING = (PREFILL, DECODE)

# --- job -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Precision:
    """Compute and master dtypes; loss_scale: None, a number, or "dynamic"."""

    compute: str = "f32"
    master: str = "f32"
    loss_scale: float | str | None = None


STEP_DTYPE = "f64"
"""What optimizers compute in, where only the number of the step and other numbers go in."""


@dataclass(frozen=True, slots=True)
class DataSpec:
    """`data text("corpus.txt")`: the reader's name, its arguments, and the folder that paths start from."""

    reader: str
    args: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    folder: str = "."
    span: Span = field(default=NOWHERE, compare=False)
    places: tuple[Span, ...] = field(default=(), compare=False)
    """Where each argument stands, then each option."""

    def span_of(self, argument: str | int) -> Span:
        """Where an argument (its number) or an option (its name) stands; the whole, if that is not known."""
        names: list[str | int] = [*range(len(self.args)), *(name for name, _ in self.options)]
        return dict(zip(names, self.places, strict=False)).get(argument, self.span)

    @property
    def path(self) -> str | None:
        """The file that is read: the first argument, of every reader that reads one."""
        first = self.args[0] if self.args else None
        return first if isinstance(first, str) else None


@dataclass(frozen=True, slots=True)
class Decoding:
    """`decode over s, prefill 512`: new positions along `dim` by themselves, `prefill` at first, then one by one."""

    dim: str
    prefill: int = 1
    span: Span = field(default=NOWHERE, compare=False)
    last: bool = False  # of a prefill the outputs are asked for at its last position alone
    rows: str | None = None  # of sequences, where each is at a position of its own
    ahead: int = 1  # how many `AHEAD` has
    pages: PageRule | None = None

    def length(self, entry: str) -> int:
        """How many new positions come at a time in an entry."""
        return {PREFILL: self.prefill, AHEAD: self.ahead}.get(entry, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A task: everything that the compiler needs."""

    name: str
    model: Model
    strategy: Strategy
    precision: Precision
    updates: tuple[WeightUpdate, ...]
    clip: float | None = None
    cluster: Cluster | None = None
    data: DataSpec | None = None
    seed: int = 0
    kind: str = "train"
    span: Span = field(default=NOWHERE, compare=False)
    evaluated: Model | None = None
    """The model in entries that train nothing, where it differs: in jobs of the kind `infer` what makes the outputs."""
    written: tuple[Model, Model | None] | None = None  # both, before implementations, cuts and orders: for proofs
    written_updates: tuple[WeightUpdate, ...] | None = None  # of that, where loops are cut
    decoding: Decoding | None = None
    by_hand: Model | None = None  # `model` behind implementations, before any dim lies in another order
    cut: Model | None = None  # before implementations, where loops are cut

    @property
    def entry(self) -> str:
        """What the job is for: the entry that is meant where none is named."""
        return INFER if self.kind == "infer" else TRAIN_STEP

    @property
    def serial(self) -> Job:
        """The job without anything of a strategy."""
        if self.written is None:
            return self
        model, evaluated = self.written
        updates = self.updates if self.written_updates is None else self.written_updates
        plain = replace(self, written=None, written_updates=None, by_hand=None, cut=None)
        return replace(plain, model=model, evaluated=evaluated, strategy=SERIAL, updates=updates)

    def model_of(self, entry: str) -> Model:
        """The model as an entry runs it."""
        return self.model if entry == TRAIN_STEP or self.evaluated is None else self.evaluated

    def data_inputs(self, entry: str) -> tuple[DataInput, ...]:
        """All that its data fill, in the order of the model: what an entry takes no use of, too. New positions alone
        are no example of a data set."""
        if entry in DECODING:
            return self.model_of(entry).inputs
        known = {i.value.name for i in self.model.inputs}
        return (*self.model.inputs, *(i for i in self.model_of(entry).inputs if i.value.name not in known))


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What must be known of a whole batch before its first micro-batch: sums and maxima of data, or of what is made of
    data alone.

    graph.inputs = data inputs (+ "step"), totals of earlier rounds; graph.outputs = what the micro-batches are summed
    to; totals: the same, once all micro-batches are in, as all later graphs take them in. The last of them, `beside`
    many, are not what a whole batch is needed for, but what is read together with that.
    """

    graph: Graph
    totals: tuple[Value, ...]
    beside: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """Metrics that are no sums over micro-batches, made at the end of a step of parts that are.

    graph.inputs = totals of the parts, then totals of rounds and "step" where they are used; graph.outputs = the
    metrics, whose names are `metrics`. parts: what the forward graph puts out, one per total.
    """

    graph: Graph
    metrics: tuple[str, ...]
    parts: tuple[Value, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """The graphs of an entry, with explicit interfaces. Names are unique across all of them.

    rounds:   what is computed of the whole batch before its first micro-batch.
    forward:  inputs = data inputs (+ "step"), weights, states of the model, totals of rounds; outputs = loss (where the
              model has one), summed metrics, parts, outputs of the model, new contents of its states, saved…
    finish:   what becomes of the parts at the end of a step.
    backward: inputs = saved…, weights, (+ "step", data inputs and loss-scale state if used); outputs = one gradient per
              trained weight, in their order, in master dtype (multiplied by the loss scale, if there is one). Of a
              gradient that is lists of rows (`compiler.passes.sparse`) it is the rows of the first; their numbers and
              further lists are outputs behind all gradients, `beside` them.
    update:   inputs = gradients, what is beside them, trained weights, states; outputs = new weights, new states, then
              the reported scalars (`grad_norm` if clipped…). The counter of updates (int32, "step" where nothing else
              is called so) is the first of the states.

    Entries that train nothing have no gradients: backward and update are empty, `trained` too.
    """

    job: Job
    forward: Graph
    backward: Graph
    update: Graph
    saved: tuple[Value, ...]
    gradients: tuple[Value, ...]
    states: tuple[State, ...]
    reports: tuple[str, ...] = ()
    cotangents: Mapping[str, str] = field(default_factory=dict)
    """Name of a forward value -> of its cotangent in backward, where that is a value of its own."""
    rounds: tuple[Round, ...] = ()
    finish: Finish | None = None
    entry: str = TRAIN_STEP
    beside: tuple[tuple[str, Value], ...] = ()
    """Outputs of backward behind the gradients, with the names of the weights that they are for."""
    dense: Mapping[str, str] = field(default_factory=dict)
    """Tables of which rows are taken whose gradients are no lists of rows all the same, and why."""

    @property
    def model(self) -> Model:
        return self.job.model_of(self.entry)

    @property
    def trains(self) -> bool:
        """Whether there is a backward pass and an update."""
        return self.entry == TRAIN_STEP

    @property
    def trained(self) -> tuple[Weight, ...]:
        """The weights whose gradients it computes, in their order."""
        return self.model.trained if self.trains else ()

    @property
    def added(self) -> tuple[tuple[str, Value], ...]:
        """What the backward pass makes for the update, with the names of the weights that it is for."""
        return (*((w.name, g) for w, g in zip(self.trained, self.gradients, strict=True)), *self.beside)

    @property
    def listed(self) -> frozenset[str]:
        """The weights whose gradients are lists of rows."""
        if not self.beside:
            return frozenset()
        owners = {v.name: name for v, (name, _) in zip(self.update.inputs, self.added)}
        return frozenset(owners[names[0]] for _, _, names in row_lists(self.update))

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All graphs, in the order in which a step runs them."""
        end = [self.finish.graph] if self.finish is not None else []
        back, update = ([self.backward], [self.update]) if self.trains else ([], [])
        return (*(r.graph for r in self.rounds), self.forward, *back, *end, *update)

    @property
    def summed(self) -> tuple[str, ...]:
        """The metrics that the forward graph puts out: all but those that are finished later."""
        return tuple(m for m in self.model.metrics if self.finish is None or m not in self.finish.metrics)

    @property
    def direct(self) -> int:
        """How many outputs of the forward graph are sums as they are: the loss, if there is one, and metrics."""
        return self.model.scored + len(self.summed)

    @property
    def scalars(self) -> int:
        """How many outputs of the forward graph are summed up over the micro-batches: loss, metrics, parts."""
        return self.direct + (len(self.finish.parts) if self.finish else 0)

    @property
    def asked(self) -> int:
        """How many outputs of the forward graph are for whoever asked: loss, metrics, parts, outputs of the model."""
        return self.scalars + len(self.model.outputs)

    @property
    def results(self) -> int:
        """How many outputs of the forward graph stay: all but what is saved for the backward pass."""
        return self.asked + len(self.model.states)

    @property
    def totals(self) -> tuple[Value, ...]:
        """What is known of the whole batch before its first micro-batch."""
        return tuple(v for r in self.rounds for v in r.totals)
