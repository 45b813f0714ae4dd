"""Sums of 16 bits over the network are rounded after every addition: judged by a bound that counts these."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from compiler.driver import compile_job  # noqa: E402
from compiler.evaluate import evaluate_file  # noqa: E402
from compiler.model import Precision  # noqa: E402
from runtime.prove import prove  # noqa: E402
from runtime.prove.rounding import variances  # noqa: E402
from runtime.torch.engine import ProcessPool  # noqa: E402
from tests.runtime.models import GPT  # noqa: E402

SMALL = {"layers": "2", "hidden": "32", "heads": "8", "vocab": "24", "seq": "8", "batch": "16"}


OPTIONS: list[dict[str, int]] = [
    {"dp": 8},
    {"tp": 8},
    {"dp": 2, "tp": 2, "zero": 3},
    {"pp": 2, "tp": 4, "microbatches": 4},
]


@pytest.mark.parametrize(
    ("options", "compute"),
    [
        pytest.param(o, c, marks=() if (i + j) % 2 == 0 else pytest.mark.nightly)
        for i, o in enumerate(OPTIONS)
        for j, c in enumerate(["bf16", "f16"])
    ],
    ids=str,
)
def test_sixteen_bits(pool: ProcessPool, options: dict[str, int], compute: str) -> None:
    given = SMALL | {k: str(v) for k, v in options.items()}
    compiled = compile_job(evaluate_file(GPT, given, precision=Precision(compute, "f32")).job)
    proof = prove(compiled.training, compiled.program, executor=pool.executor)
    assert proof.ok, proof.worst


def test_more_roundings_are_a_wider_bound() -> None:
    """So many more as parts of devices are added; none in f32, where their number of terms counts them already."""
    for compute, more in (("bf16", True), ("f32", False)):
        training = compile_job(evaluate_file(GPT, SMALL, precision=Precision(compute, "f32")).job).training
        none, seven = variances(training)[0], variances(training, 7)[0]
        assert all(seven[n][0] >= v[0] for n, v in none.items())
        assert any(seven[n][0] > v[0] for n, v in none.items()) is more
