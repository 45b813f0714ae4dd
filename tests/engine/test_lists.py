"""Gradients that are lists of rows, on an engine."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from runtime.prove import prove  # noqa: E402
from runtime.torch.engine import ProcessPool  # noqa: E402
from tests.engine.conftest import PROCESSES  # noqa: E402
from tests.some import one_in  # noqa: E402
from tests.sparse.test_lists import BOTH, LAYOUTS, lists, tables  # noqa: E402


@pytest.mark.parametrize("layout", one_in(2, LAYOUTS[::-1]), ids=str)
def test_a_step_with_lists_is_proved(pool: ProcessPool, layout: dict[str, int]) -> None:
    found = tables("lazy_adam(lr = 0.1, clip = 0.1)", double=True, **layout)
    assert lists(found) == BOTH
    if found.program.devices <= PROCESSES:
        proof = prove(found.training, found.program, 3, executor=pool.executor)
        assert proof.ok, proof.worst
