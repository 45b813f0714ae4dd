"""The way of a job through the passes, in order."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.model import Job, Training
from compiler.passes.lower import lower
from compiler.passes.place.place import Placed, place
from compiler.passes.stage import Staged, stage
from compiler.passes.training import training
from compiler.program import Program


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """What each pass made of a job."""

    job: Job
    training: Training
    placed: Placed
    staged: Staged
    program: Program


def compile_job(job: Job) -> Compiled:
    """Differentiate, lay out, cut into stages, lower. Raises ParcError with all that is wrong."""
    graphs = training(job)
    placed = place(graphs)
    stages = stage(placed)
    program = lower(placed, stages)
    return Compiled(job, graphs, placed, stages, program)
