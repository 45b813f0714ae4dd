"""`buffer_names`: what the buffers of a program are called, each with a name of its own."""

from __future__ import annotations

from compiler.graph import Names
from compiler.passes.place.place import Placed
from dsl.data import dataclass


def of_chunk(name: str, chunk: int) -> str:
    """What a buffer is called in a chunk of the stages."""
    return f"{name}#{chunk}" if chunk else name


@dataclass(frozen=True, slots=True)
class BufferNames:
    """Names by what the buffer is for: the name of a weight, a metric, a report, a saved value. No `#chunk` yet.

    Weights and states keep theirs, which are unique. The others are kinds of their own in the serial program (a metric
    may be called like a weight or like a value that is saved), but in a program they stand beside each other.
    """

    loss: str
    metrics: dict[str, str]
    outputs: dict[str, str]
    added: tuple[str, ...]
    """Of the gradients, and what is beside them, in the order of `training.added`."""
    reports: dict[str, str]
    saved: dict[str, str]
    totals: dict[str, str]
    """What is known of the whole batch, parts of the loss and of metrics; by the name of what reads it."""
    renewed: dict[str, str]
    """Where what a state is to contain is summed up; by the name of the state."""


def buffer_names(placed: Placed) -> BufferNames:
    """The same for all classes of devices."""
    training = placed.training
    model = training.model
    names = Names([*(w.name for w in model.weights), *(s.name for s in (*training.states, *model.states))])
    kept = [*(v.name for v in training.saved), *(v.name for v in placed.crossing)]
    totals = [v for r in placed.rounds for v in r.settle.inputs]
    totals += training.totals
    totals += [v for _, v in placed.parts]
    loss = names.fresh("loss")
    metrics = {name: names.fresh(name) for name in model.metrics}
    outputs = {name: names.fresh(name) for name in model.outputs}
    known = {w.name: names.fresh(f"{w.name}.grad") for w in model.weights}
    gradients = [known[w.name] for w in training.trained]
    beside = [names.fresh(v.name) for v in training.update.inputs[len(gradients) : len(training.added)]]
    return BufferNames(
        loss,
        metrics,
        outputs,
        (*gradients, *beside),
        {name: names.fresh(name) for name in training.reports},
        {name: names.fresh(name) for name in dict.fromkeys(kept)},
        {v.name: names.fresh(v.name) for v in totals},
        {s.name: names.fresh(f"{s.name}.next") for s in model.states},
    )
