"""What may be computed again: nothing, the part of each layer of which most is saved, or each layer whole."""

from __future__ import annotations

from dataclasses import replace

from compiler.driver import run_passes
from compiler.model import Job
from compiler.origin import outer, scopes
from compiler.strategy import SERIAL
from parc.planning.dims import Splittable


def recomputes(job: Job, split: Splittable) -> tuple[tuple[str, ...], ...]:
    """Scopes of each choice. What is saved is that of the serial program."""
    if not split.loops or job.kind != "train":
        return ((),)
    training = run_passes(replace(job, strategy=SERIAL), "update").training
    saved: dict[str, int] = {}
    for value in training.saved:
        around = scopes(value.origin.path)
        inside = next((s for s in around if outer(s) in split.paths), None)
        if inside is not None:
            saved[inside] = saved.get(inside, 0) + value.type.bytes
    most = [max(of, key=lambda s: saved[s]) for p in split.paths if (of := [s for s in saved if outer(s) == p])]
    return ((), *((tuple(most),) if most else ()), split.paths)
