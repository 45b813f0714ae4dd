"""A job's graphs for entries that train nothing: the forward pass to the loss, the metrics and the outputs."""

from __future__ import annotations

from compiler.graph import Graph
from compiler.model import Init, Job, State, Training
from compiler.origin import Role
from compiler.passes.divide import Divided


def evaluation(job: Job, entry: str, forward: Graph, divided: Divided) -> Training:
    """The model, as it is in this entry.

    Its forward graph is that of a step but for what a step saves, so that both give the same bits.
    """
    model = job.model_of(entry)
    nothing = Graph(f"{model.name}.nothing", (), (), ())
    states = (State(model.step, Init("zeros"), Role.COUNTER),) if model.step is not None else ()
    return Training(
        job, forward, nothing, nothing, (), (), states, rounds=divided.rounds, finish=divided.finish, entry=entry
    )
