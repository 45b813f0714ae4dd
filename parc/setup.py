"""What a price is of, in words: devices, software, sizes, and how far off it may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.cost.price import fitted
from dsl.diagnostics import plural
from parc.units import amount, percent

if TYPE_CHECKING:
    from compiler.cost.price.fitted import Expected
    from compiler.model import Cluster, Job
    from parc.estimate import Estimate


def parameters(job: Job) -> tuple[int, int]:
    """Numbers in the weights of the model: in those that are trained, and in all."""
    of, parts = job.model.stored, {name for s in job.model.stored for name in s.parts.values()}
    every = sum(w.value.type.elements for w in job.model.weights if w.name not in parts)
    return sum(w.value.type.elements for w in job.model.trained), every + sum(s.type.elements for s in of)


def setup(e: Estimate) -> list[tuple[str, str]]:
    """Names and what they are, for people."""
    job, t = e.compiled.job, e.timeline
    assert job.cluster is not None
    mesh = ", ".join(f"{a.name} = {a.size:,}" for a in job.strategy.mesh)
    batch = plural(t.samples, "sample")
    trained, every = parameters(job)
    return [
        ("devices", f"{t.devices:,} {job.cluster.device.name}, {amount(job.cluster.device.memory)} each"),
        ("software", software(job.cluster)),
        ("parameters", f"{every:,}" if trained == every else f"{every:,}, of which {trained:,} are trained"),
        ("global batch", batch if t.tokens == t.samples else f"{batch}, {t.tokens:,} tokens"),
        ("mesh", mesh or "one device"),
        ("error to expect", error(fitted.expected(job.cluster))),
    ]


def software(cluster: Cluster) -> str:
    """The stack, and what is used where the device has no numbers for it."""
    if fitted.used(cluster) == cluster.stack:
        return cluster.stack or "none in particular"
    return f"{cluster.stack}: {cluster.device.name} has no numbers for it, its general ones are used"


def error(of: Expected) -> str:
    """`1.7% (17 steps left out of the fit), nine of ten within 4.0%`; of other software what nine of ten are within."""
    if of.rows:
        return f"{percent(of.error)} ({of.why}), nine of ten within {percent(of.within)}"
    return f"nine of ten within {of.within:.0%} ({of.why})"
