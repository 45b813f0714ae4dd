"""Runs the passes (`compiler.passes.pipeline.PASSES`) over a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compiler.model import Job, Training
from compiler.passes.pipeline import PASSES, Pass, Work
from compiler.passes.place.place import Placed, Undivided
from compiler.passes.split import Split
from compiler.passes.stage import Staged
from compiler.program import Program
from dsl.diagnostics import Diagnostics

Watch = Callable[[Pass, Work], None]
"""Hears of each pass when it has run."""


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """What the passes made of a job: each stage once.

    training: the serial one, before anything was set apart for micro-batches (`placed.training` is what was lowered):
    the proof compares with that. split: the placed graphs as they are lowered, `placed` and `staged` as they were.
    """

    job: Job
    training: Training
    placed: Placed
    staged: Staged
    split: Split
    program: Program


def compile_job(job: Job, watch: Watch | None = None) -> Compiled:
    """All passes. Raises ParcError with all that is wrong."""
    _refuse_unlowered(job)
    w = run_passes(job, watch=watch)
    return Compiled(job, w.serial, w.placed, w.staged, w.split, w.program)


def run_passes(job: Job, last: str = PASSES[-1].name, watch: Watch | None = None) -> Work:
    """The passes up to the one called `last`. What placing finds to be needed of whole batches is set apart, and all is
    done again. Raises ParcError with all that is wrong."""
    work = Work(job=job)
    at = 0
    while at < len(PASSES):
        step = PASSES[at]
        try:
            step.run(work)
        except Undivided as found:
            known = len(work.whole) + len(work.parts)
            work.whole |= dict.fromkeys(found.whole)
            work.parts |= dict.fromkeys(found.parts)
            assert len(work.whole) + len(work.parts) > known, (found.whole, found.parts)
            at = 0
            continue
        if watch is not None:
            watch(step, work)
        if step.name == last:
            break
        at += 1
    return work


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
