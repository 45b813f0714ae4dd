"""The way of a job through the passes, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from compiler.model import EVALUATE, TRAIN_STEP, Job, Training
from compiler.passes.evaluation import evaluation
from compiler.passes.lower import lower
from compiler.passes.place.place import Placed, Undivided, place
from compiler.passes.split import split
from compiler.passes.stage import Staged, stage
from compiler.passes.training import training
from compiler.program import Program
from dsl.diagnostics import Diagnostics


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """What each pass made of a job. `training` is the serial one, before anything was set apart for micro-batches
    (`placed.training` is what was lowered): the proof compares with that."""

    job: Job
    training: Training
    placed: Placed
    staged: Staged
    program: Program


def compile_job(job: Job, entry: str = TRAIN_STEP) -> Compiled:
    """Differentiate, lay out, cut into stages, lower: the program has one entry. Raises ParcError with all that is
    wrong."""
    _refuse_unlowered(job)
    graphs, placed = prepare(job, entry)
    placed, stages = split(placed, stage(placed))
    program = lower(placed, stages)
    return Compiled(job, graphs, placed, stages, program)


def joined(programs: Sequence[Program]) -> Program:
    """One program of the entries of several, which were made of one job."""
    inputs = {i.name: i for p in programs for i in p.inputs}
    entries = tuple(e for p in programs for e in p.entries)
    return replace(programs[0], inputs=tuple(inputs.values()), entries=entries)


GRAPHS = {TRAIN_STEP: training, EVALUATE: evaluation}
"""What makes the graphs of each entry."""


def prepare(job: Job, entry: str = TRAIN_STEP) -> tuple[Training, Placed]:
    """Differentiate and lay out. What turns out to be needed of whole batches is set apart, and all is done again."""
    serial = graphs = GRAPHS[entry](job)
    whole: dict[str, None] = {}
    parts: dict[str, None] = {}
    while True:
        try:
            return serial, place(graphs)
        except Undivided as found:
            known = len(whole) + len(parts)
            whole |= dict.fromkeys(found.whole)
            parts |= dict.fromkeys(found.parts)
            assert len(whole) + len(parts) > known, (found.whole, found.parts)
        graphs = GRAPHS[entry](job, tuple(whole), tuple(parts))


def _refuse_unlowered(job: Job) -> None:
    """E0558: the language has the words, no pass does it yet; to pass over them in silence would be a lie."""
    found = Diagnostics()
    for rule in job.strategy.offloads:
        help = "leave the rule out; `shard` and `recompute` make room as well"
        found.error("E0558", f"`offload … to {rule.memory}` is not lowered yet", rule.span, help=help)
    if job.kind != "train":
        help = "`train`, with an optimizer: its forward pass is what inference would run"
        found.error("E0558", f"`{job.kind}` is not lowered yet", job.span, help=help)
    found.raise_if_any()
