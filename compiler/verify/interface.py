"""What the head of a stage's text declares, and what its graphs take in and give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from compiler.graph import Graph, Type, Value
from compiler.model import Job, Model, Training
from compiler.text.locations import Site
from compiler.verify.report import Report
from dsl.diagnostics import plural

if TYPE_CHECKING:
    from compiler.passes.place.place import Placed

Found = tuple[Graph, str]
"""The graph, and what is wrong."""


def check_interface(found: Job | Training | Placed, graphs: list[Graph], report: Report) -> None:
    """E0650. graphs: all, in the order of the text; each is known to be right by itself."""
    rows = _of_job(found) if isinstance(found, Job) else _of_training(found)
    for graph, message in rows:
        site = next((Site(k) for k, g in enumerate(graphs) if g is graph), None)
        report.error("E0650", site, message, "the head of the text says what its graphs take in and give")


def _of_job(job: Job) -> Iterator[Found]:
    for model in (job.model, *([job.evaluated] if job.evaluated is not None else [])):
        yield from _undeclared(model.graph, model.graph.inputs, _declared(model))
    renewed = [u.weight for u in job.updates]
    trained = {w.name for w in job.model.trained}
    for u in job.updates:
        if u.weight not in trained or renewed.count(u.weight) > 1:
            yield u.graph, f"`{u.weight}` is no trained weight, or has another optimizer"
        each, touched = 1 + len(u.states), u.touched is not None
        inputs = 1 + len(u.weights) * (1 + each) + touched
        if (len(u.graph.inputs), len(u.graph.outputs)) != (inputs, len(u.weights) * each):
            states = plural(len(u.states), "state")
            yield (
                u.graph,
                f"an optimizer with {states} takes the step, weight, gradient and these, and gives all but two",
            )
    if job.updates and trained - set(renewed):
        yield job.model.graph, f"no optimizer renews {', '.join(sorted(trained - set(renewed)))}"


def _of_training(found: Training | Placed) -> Iterator[Found]:
    training = found if isinstance(found, Training) else found.training
    forward, backward, update = found.forward, found.backward, found.update
    known = _declared(training.model) | {v.name for v in training.totals}
    yield from _undeclared(forward, forward.inputs, known)
    results, saved = training.results, len(training.saved)
    if len(forward.outputs) != results + saved:
        yield forward, f"it puts out {plural(len(forward.outputs), 'value')}, not {results} and {saved} that are saved"
    if not isinstance(found, Training):
        yield from _finished(found)
    if not training.trains:
        return
    own = {s.name for s in training.states}
    gradients, trained = len(training.gradients), len(training.trained)
    added = gradients + len(training.beside)
    if gradients != trained or len(backward.outputs) != added:
        what = f"{plural(len(backward.outputs), 'value')}, there are {plural(added, 'gradient')}"
        yield backward, f"it puts out {what} of {plural(trained, 'trained weight')}"
    if len(backward.inputs) < saved:
        yield backward, f"it takes in {plural(len(backward.inputs), 'value')}, {saved} are saved"
    yield from _undeclared(backward, backward.inputs[saved:], known | own)
    yield from _undeclared(update, update.inputs[added:], known | own)


def _finished(placed: Placed) -> Iterator[Found]:
    """What waits for the last micro-batch is made by `finish`, with the metrics that are no sums."""
    own, waiting = placed.training.finish, len(placed.waiting)
    parts, results = (waiting + len(own.parts), waiting + len(own.metrics)) if own else (waiting, waiting)
    if placed.finish is None:
        if results:
            yield placed.forward, f"{plural(results, 'result')} of it are parts, and there is no `finish`"
    elif len(placed.finish.outputs) != results or len(placed.finish.inputs) < parts:
        yield placed.finish, f"it makes {plural(results, 'result')} of {plural(parts, 'sum')}"


def _declared(model: Model) -> set[str]:
    """The data, weights and states of a model, and its step if it has one."""
    step = [model.step] if model.step is not None and model.step.type == Type("int32") else []
    states = {s.name for s in model.states}
    return {i.value.name for i in model.inputs} | {w.name for w in model.weights} | {v.name for v in step} | states


def _undeclared(graph: Graph, inputs: Iterable[Value], known: set[str]) -> Iterator[Found]:
    for v in inputs:
        if v.name not in known:
            yield graph, f"%{v.name} comes in, but is not declared"
