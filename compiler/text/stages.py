"""Jobs before they are programs, as text that can be read back and compiled on: `graph`, `training` and `placed`.

A text begins with its stage and the job's name. Then come facts, as far as later passes ask for them: the strategy,
the precision, weights, states; then the graphs in the order in which a step runs them. Values are of the whole tensors,
with axes and local sizes once they are placed. A value tells what it is for (where that is not its graph's phase), of
which value it is the copy or cotangent, and at which path of the model it stands, if that is not that value's name, or
its own. Where all this was written is in tables at the end (`compiler.text.spans`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from compiler.graph import Graph, Value
from compiler.layout import Layout
from compiler.memory.tiers import FIRST
from compiler.model import Cluster, DataInput, DataSpec, Finish, Init, Job, LoopPiece, Model, Precision, State, Training
from compiler.ops.base import Op
from compiler.origin import Phase
from compiler.passes.place.place import Placed
from compiler.strategy import SERIAL, Strategy
from compiler.text.attrs import quote, show_dims, show_number, show_within
from compiler.text.printer import Show, Sizes, show_type
from compiler.text.printer import show_graph as show_lines
from compiler.text.records import show_fact
from compiler.text.spans import of_fact, of_graph, show_spans
from compiler.walk import called
from dsl.source import Span

STAGES = ("graph", "training", "placed")

FUNCTION = "function"
"""The role of what a graph calls."""

EVALUATED = "evaluated "
"""Stands before names of what is only in entries that train nothing, or stands elsewhere there."""

PHASES = {
    **{"backward": Phase.GRADIENT, "late": Phase.GRADIENT},
    **{"update": Phase.UPDATE, "optimizer": Phase.UPDATE, FUNCTION: Phase.UPDATE},
}
"""What values of a graph are for, by the graph's role, if they do not say it; others: forward."""

FACTS = {
    **{"seed": int, "kind": str, "clip": float, "precision": Precision, "strategy": Strategy, "cluster": Cluster},
    **{"data": DataSpec, "metrics": tuple[str, ...], "outputs": tuple[str, ...], "scored": bool},
    "pieces": tuple[LoopPiece, ...],
}
"""Facts of a job and of its model, and their types."""


# --- printing ------------------------------------------------------------------------------------------------


def in_graph(phase: Phase = Phase.FORWARD, sizes: Sizes = {}) -> Show:  # noqa: B006
    """Values of a graph whose own phase is this one."""

    def shown(v: Value, op: Op | None = None) -> str:
        type = f"{v.type.dtype}[{show_dims(v.type.dims)}]" if v.layout is None else show_type(v.type, v.layout, sizes)
        where = "" if v.memory == FIRST else f" in {quote(v.memory)}"
        return f"%{quote(v.name)}: {type}{where}{_origin(v, phase)}"

    return shown


def _origin(v: Value, phase: Phase) -> str:
    text = "" if v.origin.phase is phase else f" {v.origin.phase}"
    if v.origin.of:
        text += f" of {quote(v.origin.of)}"
    return text if v.origin.path == (v.origin.of or v.name) else f"{text} at {quote(v.origin.path)}"


def show_graph(graph: Graph, role: str = "graph", sizes: Sizes = {}) -> str:  # noqa: B006
    """A graph by itself, behind what it calls; ends with a line end."""
    before = "".join(show_graph(g, FUNCTION, sizes) + "\n" for g in called(graph.nodes))
    lines = show_lines(graph, in_graph(PHASES.get(role, Phase.FORWARD), sizes), f"{role} {quote(graph.name)}")
    return before + "\n".join(lines) + "\n"


def show_stage(found: Job | Training | Placed, folder: str | None = None) -> str:
    """The text of a job (`graph`), of its training graph, or of that when it is placed.

    folder: where the text is to lie, from which the folder of its data counts; None: in that.
    """
    if isinstance(found, Job):
        models = [show_graph(found.model.graph, "model")]
        if found.evaluated is not None:
            head = "".join(f"{line}\n" for line in _results(found.evaluated, False))
            models.append(head + show_graph(found.evaluated.graph, "evaluated"))
        parts = ["graph " + _header(folder, found, found.model), *models, *_updates(found)]
        others = [found.evaluated.graph] if found.evaluated is not None else []
        tables = _spans(found, found.model, [found.model.graph, *(u.graph for u in found.updates)], others)
    elif isinstance(found, Training):
        head = "training " + _header(folder, found.job, found.model, found)
        parts = [head, *_training(found, [(r.graph,) for r in found.rounds], found, {})]
        tables = _spans(found.job, found.model, found.graphs)
    else:
        training = found.training
        head = "placed " + _header(folder, training.job, training.model, training, found)
        parts = [head, *_training(training, [(r.batch, r.settle) for r in found.rounds], found, found.sizes)]
        tables = _spans(training.job, training.model, found.graphs)
    return "\n".join([*parts, *filter(None, [tables])])


def _spans(job: Job, model: Model, graphs: Sequence[Graph], evaluated: Sequence[Graph] = ()) -> str:
    """Where all of a stage was written. Values of one name stand in one place, but for those of `evaluated`."""
    head = Graph("", (*(i.value for i in model.inputs), *(w.value for w in model.weights)), (), ())
    found: dict[str, Span] = {}
    for graph in (head, *graphs):
        found.update(of_graph(graph, found))
    for graph in evaluated:
        found.update((f"{EVALUATED}{name}", span) for name, span in of_graph(graph, dict(found)))
    facts = ((x, getattr(job, x)) for x in FACTS if hasattr(job, x))
    return show_spans([("job", job.span), *(pair for x, v in facts for pair in of_fact(v, x)), *found.items()])


def _updates(job: Job) -> Iterable[str]:
    shown: dict[int, str] = {}
    for u in job.updates:
        first = shown.setdefault(id(u.graph), u.weight)
        alike = first != u.weight
        head = "".join(f"{_state(s)}\n" for s in u.states) + f"of {quote(u.weight)}"
        head += f" beside {show_fact(u.beside)}" if u.beside else ""
        yield f"{head} as {quote(first)}\n" if alike else f"{head}\n{show_graph(u.graph, 'optimizer')}"


def _training(
    training: Training, rounds: Sequence[tuple[Graph, ...]], graphs: Training | Placed, sizes: Sizes
) -> Iterable[str]:
    for k, of in enumerate(rounds):
        for role, graph in zip(("batch", "settle"), of):
            yield show_graph(graph, role, sizes)
        round = training.rounds[k]
        last = len(round.totals) - round.beside
        yield "".join(f"{'total' if i < last else 'beside'} {_plain(v)}\n" for i, v in enumerate(round.totals))
    yield show_graph(graphs.forward, "forward", sizes)
    if training.trains:
        yield show_graph(graphs.backward, "backward", sizes)
    finish = graphs.finish.graph if isinstance(graphs.finish, Finish) else graphs.finish
    if finish is not None:
        yield show_graph(finish, "finish", sizes)
    if training.trains:
        yield show_graph(graphs.update, "update", sizes)


def _header(
    folder: str | None, job: Job, model: Model, training: Training | None = None, placed: Placed | None = None
) -> str:
    if job.data is not None:
        there = "." if folder is None else os.path.relpath(job.data.folder, folder).replace(os.sep, "/")
        job = replace(job, data=replace(job.data, folder=there))
    lines = [f"{quote(job.name)} of {quote(model.name)}"]
    lines += [f"entry {quote(training.entry)}"] if training is not None and not training.trains else []
    defaults = {f.name: f.default for f in fields(job)} | {"strategy": SERIAL, "precision": Precision()}
    lines += [f"{x} {show_fact(v)}" for x in FACTS if x in defaults and (v := getattr(job, x)) != defaults[x]]
    lines += _results(model)
    lines += [f"input {_plain(i.value)}{_bounds(i)}" for i in model.inputs]
    sizes = placed.sizes if placed is not None else {}
    for w in model.weights:
        text = f"weight {_plain(w.value, placed.weights[w.name] if placed else None, sizes)}{_init(w.init)}"
        text += f" loops {show_fact(w.loops)}" if w.loops else ""
        lines.append(text if w.trained else f"{text} frozen")
    lines += [_state(s, placed.states[s.name] if placed else None, sizes) for s in model.states]
    if model.step is not None:
        lines.append(f"step {_plain(model.step)}")
    if training is not None:
        lines += [_state(s, placed.states[s.name] if placed else None, sizes) for s in training.states]
        at = placed.accumulators if placed is not None else [None] * len(training.gradients)
        lines += [f"gradient {_plain(g, a, sizes)}" for g, a in zip(training.gradients, at)]
        rest = zip(training.beside, [*at[len(training.gradients) :], *(None for _ in training.beside)])
        lines += [f"beside {_plain(v, a, sizes)} for {quote(name)}" for (name, v), a in rest]
        lines += [f"saved {_plain(v)}" for v in training.saved]
        lines += [f"reports {show_fact(training.reports)}"] if training.reports else []
        if training.finish is not None:
            lines.append(f"finished {show_fact(training.finish.metrics)} of {len(training.finish.parts)}")
    return "\n".join(lines) + "\n"


def _results(model: Model, trains: bool = True) -> list[str]:
    """What the model gives besides the loss, and whether it has one, if not."""
    found = {"metrics": model.metrics, "outputs": model.outputs}
    told = [f"{word} {show_fact(names)}" for word, names in found.items() if names]
    told += [f"pieces {show_fact(model.pieces)}"] if model.pieces and trains else []
    return told if model.scored else [*told, f"scored {show_fact(False)}"]


def _plain(v: Value, layout: Layout | None = None, sizes: Sizes = {}) -> str:  # noqa: B006
    if layout is not None:
        v = replace(v, layout=layout)
    return in_graph(sizes=sizes)(v, None)


def _bounds(i: DataInput) -> str:
    if i.low is None and i.high is None:
        return ""
    return f" in {'' if i.low is None else i.low}..{'' if i.high is None else i.high}"


def _init(init: Init) -> str:
    args = f"({', '.join(map(show_number, init.args))})" if init.args else ""
    return f" = {quote(init.kind)}{args}"


def _state(s: State, layout: Layout | None = None, sizes: Sizes = {}) -> str:  # noqa: B006
    of = show_within(s.within)
    of += f" of {quote(s.of)}" if s.of is not None else ""
    of += f" loops {show_fact(s.loops)}" if s.loops else ""
    return f"{s.role} {_plain(s.value, layout, sizes)}{_init(s.init)}{of}"
