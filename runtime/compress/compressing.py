"""Makes a checkpoint whose matrices rest in fewer bits, as a job's strategy says; tells what that loses on data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from compiler.activation_rows import LayerRows, rows_of_layers
from compiler.driver import Compiled
from compiler.graph import Dim, Type
from compiler.model import Job, Model, State, Weight
from compiler.program import InputDecl
from compiler.weight_format import WORDS, PackedWeight
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.checkpoints.converting import convert
from runtime.checkpoints.reading import WeightSource, taken
from runtime.compress.calibrating import At, Watched
from runtime.compress.rounding import Rounded, by_size, calibrated, matrix, nearest, parts
from runtime.compress.scaled_inputs import scaled_inputs
from runtime.compress.scaling import Balanced, BySizes, ScaleJudge, balanced
from runtime.compress.smoothing import ByExamples
from runtime.compress.source import PackedSource, whole_weight
from runtime.data import open_data
from runtime.numpy import STORAGE, CallContext, rounded
from runtime.numpy.base import Array, quiet
from runtime.numpy.initial import init_array
from runtime.prove.serial import run_graph

Method = Literal["nearest", "gptq", "awq", "smooth"]

ROWS = 512
"""Of inputs, at least, on which roundings of both sides of a product are measured, where there are as many."""


@dataclass(frozen=True, slots=True)
class Compression:
    """What became of a checkpoint. loss: of data that neither training nor calibration has read, before, with each
    number rounded by itself, and as it was made (None: the model has no loss); batches: how many of them.

    before, after: bytes of the matrices that are stored, in the type of computation and as they rest.
    """

    folder: str
    method: str
    weights: int
    before: int
    after: int
    bytes: int
    batches: int
    loss: float | None
    plain: float | None
    made: float | None

    @property
    def more(self) -> float | None:
        """By what share the loss has grown."""
        return None if self.loss is None or self.made is None else self.made / self.loss - 1


def compress(
    found: WeightSource, compiled: Compiled, output: Path, method: Method = "gptq", steps: int = 8
) -> Compression:
    """Write the checkpoint `output` for a job whose strategy stores weights.

    Args:
        found: a checkpoint of whole weights, by any strategy.
        compiled: the job, which infers, and its program.
        method: `nearest`, each number by itself; `gptq`, by the inputs of each layer's products on `steps` batches;
            `awq`, by the sizes of these inputs, which are scaled where the ops before them let that be; `smooth`, as
            `gptq`, with inputs that the job rounds (`store activations as int8`) scaled so that both roundings lose
            least.
        steps: batches to calibrate with, from the beginning of the data; and as many, behind what training had read,
            on which the loss is told.

    Raises ParcError: E0772 where the job stores nothing, or, for `smooth`, rounds no activations, or the checkpoint has
    no whole weights or such as are no numbers, E0770 to E0773.
    """
    job = compiled.job
    rounding = job.serial.model
    model = exact_model(rounding)
    stored = model.stored
    there = found.manifest.tensors
    if not stored:
        help = "say in its strategy what rests in fewer bits: `store weights as int4(group = 128)`"
        raise fail("E0772", f"the job `{job.name}` stores no weights in fewer bits", job.span, help=help)
    activations = rounded_inputs(job)
    if method == "smooth" and not activations:
        help = "say so in its strategy, `store activations as int8`, or take another method"
        message = f"the job `{job.name}` rounds no activations, whose outliers weights could take"
        raise fail("E0772", message, job.span, help=help)
    lacking = next((s for s in stored if s.name not in there), None)
    if lacking is not None:
        words = next(iter(lacking.parts.values()))
        help = "compress the checkpoint that it was made of" if words in there else "it is of another model"
        raise fail("E0772", f"`{found.folder}` has no whole `{lacking.name}` to be compressed", help=help)
    whole = {s.name: whole_weight(found, s) for s in stored}
    weights = taken(PackedSource(found, stored, _nothing(stored)), compiled.program)
    _require_numbers(found, weights)
    data = _Data(job, model, weights, rounding)
    seen = data.seen(whole, steps) if method != "nearest" else Watched(model, whole)
    moments = seen.moments
    for name, layers_of in moments.items():
        if not all(np.isfinite(x).all() for x in layers_of.values()):
            message = f"products with `{name}` have inputs that are no numbers, on the job's data with `{found.folder}`"
            raise fail("E0772", message, help="`--method nearest` rounds each number by itself, whatever they are")
    plain, made = dict[str, Array](), dict[str, Array]()
    by = by_size if method == "awq" else calibrated
    changed = None
    if method in ("awq", "smooth"):
        judge = BySizes(moments, _by_size) if method == "awq" else ByExamples(seen.rows, activations)
        changed = _balanced(model, weights, whole, moments, judge)
        moments = changed.moments
        made |= {name: x for name, x in changed.weights.items() if name not in whole}
    for s in stored:
        layers = {at: nearest(matrix(s, whole[s.name][at]), s.format, s.type.dtype) for at in s.layers}
        plain |= parts(s, layers)
        own = changed.weights.get(s.name, whole[s.name]) if changed else whole[s.name]
        for at, moment in moments.get(s.name, {}).items():
            layers[at] = by(matrix(s, own[at]), moment, s.format, s.type.dtype)
        made |= parts(s, layers)
    losses = data.losses(max(steps, found.manifest.moment.data), steps, whole, plain, made)
    told = convert(PackedSource(found, stored, made), compiled.program, output)
    before = sum(s.type.bytes for s in stored)
    after = sum(s.type_of(name).bytes for s in stored for name in s.parts.values())
    return Compression(str(output), method, len(stored), before, after, told.bytes, steps, *losses)


def exact_model(model: Model) -> Model:
    """As it is with whole activations."""
    return replace(model, graph=model.exact or model.graph)


def rounded_inputs(job: Job) -> dict[str, dict[At, Array]]:
    """Stored weights whose products are of integers, in these layers, with the piece of a row in which each of their
    inputs is: one that is written by hand for one device rounds what this has of a row."""
    model, strategy = job.serial.model, job.strategy
    if model.exact is None:
        return {}
    ways = rows_of_layers(job.cut or job.model, strategy.activations, strategy.implementations, strategy.mesh)
    found: dict[str, dict[At, Array]] = {}
    for of in model.stored:
        for one in ways[of.parts[WORDS]]:
            if one.rule is not None:
                found.setdefault(of.name, {}).update(dict.fromkeys(_layers(of, one), _pieces(of, one.pieces)))
    return found


def _layers(of: PackedWeight, rows: LayerRows) -> list[At]:
    """The layers of a weight that take their inputs so."""
    if (piece := rows.piece) is None:
        return list(of.layers)
    level = next(i for i, d in enumerate(of.type.dims[: of.loops]) if d.name == piece.of)
    return [at for at in of.layers if piece.first <= at[level] < piece.first + piece.count]


def _pieces(of: PackedWeight, by_hand: Mapping[str, Sequence[Dim]]) -> Array:
    """The number of its piece for each input of a weight."""
    number = np.zeros((), np.int64)
    for d in (d for d in of.type.dims if d.name in of.inputs):
        count = prod(n.size for n in by_hand.get(d.name, ()))
        number = number[..., None] * count + np.arange(d.size) // (d.size // count)
    return number.ravel()


def _by_size(w: Array, moment: Array, of: PackedWeight) -> Rounded:
    return by_size(w, moment, of.format, of.type.dtype)


def _balanced(
    model: Model,
    weights: Mapping[str, Array],
    whole: Mapping[str, Array],
    moments: Mapping[str, dict[At, Array]],
    judge: ScaleJudge,
) -> Balanced:
    """All weights, those that are stored as they were, with their inputs scaled by what these are."""
    names = {w.name: w.value.type.names for w in model.weights} | {s.name: s.type.names for s in model.stored}
    kinds = {w.name: w.value.type.dtype for w in model.weights}
    made = balanced(scaled_inputs(model), {**weights, **whole}, model.stored, names, moments, judge)
    as_kept = {name: rounded(x, kinds[name]) if name in kinds else x for name, x in made.weights.items()}
    return replace(made, weights=as_kept)


def _require_numbers(found: WeightSource, weights: Mapping[str, Array]) -> None:
    """Raise E0772 for weights that are NaN: what is calibrated with them, and the loss, would be so."""
    for name, x in weights.items():
        if np.issubdtype(x.dtype, np.floating) and np.isnan(x).any():
            bad = np.count_nonzero(np.isnan(x))
            message = f"{bad:,} of {x.size:,} elements of `{name}` in `{found.folder}` are no numbers"
            raise fail("E0772", message, help="take a checkpoint of before they were so")


def _nothing(stored: Sequence[PackedWeight]) -> dict[str, Array]:
    """Parts of weights that are not looked at."""
    types: dict[str, Type] = {name: s.type_of(name) for s in stored for name in s.parts.values()}
    return {name: np.zeros(t.shape, STORAGE[t.dtype]) for name, t in types.items()}


class _Data:
    """A job's model on batches of its data."""

    def __init__(self, job: Job, model: Model, weights: Mapping[str, Array], rounding: Model) -> None:
        """weights: those that the job has; others, which only the loss needs, begin as they are declared. rounding: the
        model with what it rounds besides (activations)."""
        self.model, self.seed, self.rounding = model, job.seed, rounding
        inputs = [InputDecl.of(i) for i in model.inputs]
        self.reader = open_data(job.data, inputs, inputs)
        others: list[Weight | State] = [*model.states, *(w for w in model.weights if w.name not in weights)]
        begun = {o.name: init_array(o.init, o.name, o.value.type, job.seed) for o in others}
        self.fixed = {**begun, **weights}
        if model.step is not None:
            self.fixed[model.step.name] = np.zeros((), np.int32)

    def batches(self, first: int, count: int) -> Iterator[dict[str, Array]]:
        """What the graph takes in, by name."""
        for number in range(first, first + count):
            found = self.reader.batch(self.seed, number)
            yield {**self.fixed, **{name: np.asarray(x) for name, x in found.items()}}

    def seen(self, whole: Mapping[str, Array], steps: int) -> Watched:
        """What the inputs of products with these weights are, on the first batches."""
        watch = Watched(self.model, whole, measure=True, rows=-(-ROWS // steps))
        for env in self.batches(0, steps):
            watch.run(env, self.seed)
        return watch

    def losses(
        self, first: int, steps: int, whole: Mapping[str, Array], *packed: Mapping[str, Array]
    ) -> Sequence[float | None]:
        """The mean loss with whole weights and activations, and as the job rounds both with each of the packed ones."""
        if not self.model.scored:
            return [None] * (1 + len(packed))
        graph, ctx = self.rounding.graph, CallContext(seed=self.seed)
        rows = []
        for env in self.batches(first, steps):
            before = Watched(self.model, whole).run(env, self.seed)[0]
            with quiet():
                rows.append([float(x) for x in (before, *(run_graph(graph, {**env, **p}, ctx)[0] for p in packed))])
        return [float(x) for x in np.mean(rows, 0)]
