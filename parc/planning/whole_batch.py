"""Whether something in a model needs the whole batch, so that no strategy of the space can have micro-batches (E0502):
statistics of a batch, samples that are compared with all others. One price says it for all of them, for a micro-batch
has its own rows alone however these are split among devices."""

from __future__ import annotations

from dataclasses import replace

from compiler.driver import compile_job
from compiler.model import Job
from compiler.strategy import Strategy
from compiler.walk import bodies
from dsl.diagnostics import ParcError
from parc.planning.space import primes

REFUSED = "E0502"


def needs_whole_batch(job: Job, batch: str, size: int) -> bool:
    """batch, size: the dim that micro-batches cut, which has none where it cannot be cut at all."""
    if not batch or size < 2 or not _mixes(job, batch):
        return False
    pieces = min(primes(size))
    try:
        compile_job(replace(job, strategy=Strategy("whole", microbatches=pieces, microbatch_dim=batch)))
    except ParcError as error:
        return next((d.code for d in error.diagnostics if d.severity == "error"), "") == REFUSED
    return False


def _mixes(job: Job, batch: str) -> bool:
    """Whether anything that was made of all samples together is read by what samples have of their own: where nothing
    is, the whole batch is only added up."""
    for graph in bodies(job.serial.model.graph):
        of_all: set[str] = set()
        for node in graph.nodes:
            mine = any(batch in v.type.names for v in node.outputs)
            together = any(v.name in of_all for v in node.inputs)
            if mine and together:
                return True
            if together or (not mine and any(batch in v.type.names for v in node.inputs)):
                of_all |= {v.name for v in node.outputs}
    return False
