"""The oracle of `evaluate` has power: each mutation of its programs is refused, or seen to compute something else."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.model import EVALUATE, Precision
from compiler.verify import verify
from dsl.diagnostics import ParcError
from runtime.prove import prove_evaluation
from tests.entries.test_evaluate import COUNTED, source
from tests.program.mutations import mutations

SAME: dict[str, str] = {"scale: map balance, mul_3": "without experts the balance is 0"}
"""Mutations that change nothing, and why."""


@pytest.mark.parametrize("strategy", ["zero 3", "tp", "ulysses", "1f1b", "all"])
def test_a_third_is_caught(strategy: str) -> None:
    job = evaluate_file(source(strategy, loss=COUNTED), precision=Precision("f64", "f64")).job
    alone = compile_job(job, EVALUATE)
    missed, kinds = [], set()
    for name, broken in [*mutations(alone.program)][::3]:
        if name.rpartition(" (")[0] in SAME:
            continue
        kinds.add(name.partition(":")[0])
        if verify(broken):
            continue
        try:
            if prove_evaluation(alone.training, broken, 1).ok:
                missed.append(name)
        except ParcError:  # devices that must hold the same do not
            pass
    assert not missed, "\n".join(missed)
    assert len(kinds) > 3
