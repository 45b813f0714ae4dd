"""What a terminal shows while something takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsl.source import Source
from parc import api
from parc.cli.bars import MANY, PassesColumn
from runtime.going import NOW, Going
from tests.cli.test_contract import on_terminal
from tests.cli.test_limits import stages


@pytest.mark.parametrize("executed", [api.run, api.verify])
def test_passes_of_a_step_are_counted(executed: object) -> None:
    """Those of both stages, forward and backward on each micro-batch, and an update."""
    NOW.start(0)
    assert callable(executed)
    executed(Source("job.par", stages(2, 8)), 1)
    assert NOW.begun == NOW.all == 2 * (2 * 8 + 1)


def test_rank_by_rank_those_of_each_device_are_counted() -> None:
    """Two stages of two devices: a forward and a backward pass of each micro-batch, an update; one adds up the loss."""
    NOW.start(0)
    text = stages(2, 8).replace("param devices = 2", "param devices = 4")
    text = text.replace("dim b = micro", "dim b = 2 * micro")
    text = text.replace("mesh (pp = devices)", "mesh (pp = 2, dp = 2)\n  split b on dp")
    api.verify(Source("job.par", text), 1, executor="private")
    assert NOW.begun == NOW.all == 2 * (2 * (2 * 8 + 1) + 1)


def test_few_passes_are_not_told() -> None:
    going = Going()
    column = PassesColumn(going)
    going.start(MANY - 1)
    assert not column.render(None).plain  # type: ignore[arg-type]
    going.start(12_000)
    going.begun += 1234
    assert column.render(None).plain == "pass 1,234 of 12,000"  # type: ignore[arg-type]


def test_a_terminal_hears_that_it_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "job.par"
    file.write_text(stages(4, 400))
    for name, said, last in (("verify", "proving", "equal"), ("run", "training", "")):
        shown = on_terminal([name, str(file), "--steps", "1"])
        assert said in shown and " of 3,204" in shown and last in shown
