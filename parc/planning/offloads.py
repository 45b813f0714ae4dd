"""What of a job may rest in the memory of the hosts, where not all of it has room on the devices."""

from __future__ import annotations

from dataclasses import replace

from compiler.driver import run_passes
from compiler.memory.tiers import HOST
from compiler.model import Job
from compiler.passes.offload import resting
from compiler.strategy import SERIAL

CLASSES = ("optimizer", "weights", "activations")
"""What is moved, in this order: the states are needed once in a step, weights and what is saved in each micro-batch."""

Away = tuple[str, ...]
"""Classes of what rests with the hosts."""

NOTHING: tuple[Away, ...] = ((),)
"""The choices of a job of which all is on the devices."""


def offloads(job: Job) -> tuple[Away, ...]:
    """The choices that there are, each more than the one before; none without a memory of the hosts."""
    if job.cluster is None or HOST not in job.cluster.tiers:
        return ()
    there = resting(run_passes(replace(job, strategy=SERIAL), "update").training).paths
    classes = tuple(c for c in CLASSES if there[c])
    return tuple(classes[:n] for n in range(1, len(classes) + 1))
