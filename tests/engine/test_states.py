"""Models with states, and jobs of several models, on an engine; entries that share states; devices that compute with
numpy as an engine's do."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from compiler.driver import joined  # noqa: E402
from compiler.model import EVALUATE  # noqa: E402
from runtime.prove import prove, prove_evaluation, random_batch  # noqa: E402
from runtime.stacked import Emulator  # noqa: E402
from runtime.torch.engine import ProcessPool  # noqa: E402
from tests.engine.conftest import PROCESSES  # noqa: E402
from tests.entries import test_several as several  # noqa: E402
from tests.some import one_in  # noqa: E402
from tests.states.models import STRATEGIES, compiled  # noqa: E402


@pytest.mark.parametrize("name", one_in(2, STRATEGIES, always=("uneven", "pipeline", "interleaved", "zero_bubble")))
def test_a_step_with_states_is_proved(pool: ProcessPool, name: str) -> None:
    found = compiled(name)
    if found.program.devices <= PROCESSES:
        proof = prove(found.training, found.program, 3, executor=pool.executor)
        assert proof.ok, proof.worst


@pytest.mark.parametrize("name", list(STRATEGIES)[::4])
def test_an_evaluation_with_states_is_proved(pool: ProcessPool, name: str) -> None:
    found = compiled(name, entry=EVALUATE)
    if found.program.devices <= PROCESSES:
        proof = prove_evaluation(found.training, found.program, 3, executor=pool.executor)
        assert proof.ok, proof.worst


@pytest.mark.parametrize("plan", one_in(2, list(several.PLANS)[1::2]))
def test_several_models_are_proved(pool: ProcessPool, plan: str) -> None:
    found = several.compiled(plan)
    proof = prove(found.training, found.program, executor=pool.executor)
    assert proof.ok, proof.worst


@pytest.mark.parametrize("name", ["heads", "pipeline"])
def test_entries_share_states(pool: ProcessPool, name: str) -> None:
    """An evaluation between two steps renews what the model renews there, and the next step goes on from that."""
    step, alone = compiled(name), compiled(name, entry=EVALUATE)
    both = joined([step.program, alone.program])
    ours, theirs = pool.executor(both), Emulator(both)
    for run in (ours, theirs):
        run.step(random_batch(both.inputs, 0, 0))
        run.call(EVALUATE, random_batch(both.inputs, 0, 1))
    for n, x in theirs.states().items():
        np.testing.assert_allclose(ours.states()[n], x, rtol=1e-9, atol=1e-12)
    losses = [run.step(random_batch(both.inputs, 0, 2)).loss for run in (ours, theirs)]
    np.testing.assert_allclose(*losses, rtol=1e-9)
    assert float(ours.call(EVALUATE, random_batch(both.inputs, 0, 3)).loss) == pytest.approx(
        float(theirs.call(EVALUATE, random_batch(both.inputs, 0, 3)).loss), rel=1e-9
    )
