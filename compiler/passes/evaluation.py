"""A job's graphs for `evaluate`: the forward pass to the loss, the metrics and the outputs."""

from __future__ import annotations

from compiler.graph import Graph
from compiler.model import EVALUATE, Init, Job, State, Training
from compiler.origin import Role
from compiler.passes.divide import Divided


def evaluation(job: Job, forward: Graph, divided: Divided) -> Training:
    """The model, as it is where nothing is trained.

    Its forward graph is that of a step but for what a step saves, so that both give the same bits.
    """
    model = job.model_of(EVALUATE)
    nothing = Graph(f"{model.name}.nothing", (), (), ())
    states = (State(model.step, Init("zeros"), Role.COUNTER),) if model.step is not None else ()
    return Training(
        job, forward, nothing, nothing, (), (), states, rounds=divided.rounds, finish=divided.finish, entry=EVALUATE
    )
