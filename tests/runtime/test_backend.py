"""The rank interpreter on a backend that is not numpy: the interface is all that it uses."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.driver import Compiled
from runtime.data.synthetic import synthetic
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.runtime import models
from tests.runtime.lists import Cells, Lists
from tests.test_imports import loaded_by

SMALL = ("batch=4", "seq=4", "hidden=8", "heads=2", "vocab=6")
CASES = {
    "tensors and states split": lambda: models.linear(
        "dp = 2, tp = 3", "split b on dp", "split i on tp", "shard optimizer, gradients, weights on dp", dtype="f64"
    ),
    "uneven": lambda: models.linear("dp = 3", "split b on dp pad", dtype="f64"),
    "random bits in a loop": lambda: models.dropout("dp = 2", "split b on dp"),
    "stages": lambda: models.double_gpt("pp=2", "dp=2", "microbatches=2", *SMALL),
    "a table by rows": lambda: models.double_gpt("tp=2", *SMALL),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_plain_lists_compute_what_numpy_computes(make: object) -> None:
    compiled = make()  # type: ignore[operator]
    assert isinstance(compiled, Compiled)
    program, backend = compiled.program, Lists()
    want, run = Emulator(program), RankExecutor(program, backend=backend)
    for step in range(2):
        batch = synthetic(program.inputs, 0, step)
        one, two = want.step(batch, gradients=True), run.step(batch, gradients=True)
        np.testing.assert_allclose(two.loss, one.loss, rtol=1e-12)
        for name, g in one.gradients.items():
            np.testing.assert_allclose(two.gradients[name], g, rtol=1e-9, atol=1e-12 * np.abs(g).max(), err_msg=name)
    for name, x in {**want.weights(), **want.states()}.items():
        got = {**run.weights(), **run.states()}[name]
        np.testing.assert_allclose(got, x, rtol=1e-7, atol=1e-9 * np.abs(x).max(), err_msg=name)
    assert backend.calls
    assert all(
        isinstance(h.array, Cells) for devices in run.devices.values() for d in devices for h in d.states.values()
    )


def test_a_device_is_interpreted_without_numpy() -> None:
    assert loaded_by("import runtime.rank.interpreter, runtime.rank.collectives, runtime.comm") == set()
