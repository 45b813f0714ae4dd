"""A job's graphs for `evaluate`: the forward pass to the loss, the metrics and the outputs."""

from __future__ import annotations

from collections.abc import Collection

from compiler.graph import Graph, Names
from compiler.model import EVALUATE, Init, Job, State, Training
from compiler.origin import Role
from compiler.passes.copying import graph_values
from compiler.passes.divide import divide
from compiler.passes.simplify import simplify


def evaluation(job: Job, whole: Collection[str] = (), parts: Collection[str] = ()) -> Training:
    """The model, as it is where nothing is trained.

    Its forward graph is that of a step (`passes.training`) but for what a step saves, so that both give the same bits.

    Args:
        whole, parts: names of what micro-batches cannot do by themselves (`compiler.passes.divide`).
    """
    model = job.model_of(EVALUATE)
    divided = divide(model, Names(v.name for v in graph_values(model.graph)), whole, parts)
    nothing = Graph(f"{model.name}.nothing", (), (), ())
    states = (State(model.step, Init("zeros"), Role.COUNTER),) if model.step is not None else ()
    return Training(
        job,
        simplify(divided.graph),
        nothing,
        nothing,
        (),
        (),
        states,
        rounds=divided.rounds,
        finish=divided.finish,
        entry=EVALUATE,
    )
