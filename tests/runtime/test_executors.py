"""The two executors agree with each other; both measure what the program says."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.driver import Compiled
from compiler.memory.peak import memory_use
from compiler.program import Program
from compiler.text import parse_located, show
from runtime.data.synthetic import synthetic
from runtime.executor import Executor, StepResult
from runtime.prove import relative_error
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.program.samples import LAYERS, PIPELINE
from tests.runtime import models

GPTS = [
    (),
    ("dp=2",),
    ("tp=2", "cp=2"),
    ("dp=2", "zero=3", "microbatches=2"),
    ("pp=2", "microbatches=4"),
    ("pp=2", "dp=2", "tp=2", "microbatches=2", "zero=1"),
]


def agree(program: Program, tolerance: float, steps: int = 2) -> tuple[Emulator, RankExecutor]:
    """Two steps on both: everything within the tolerance, bit for bit if that is 0; memory measured as replayed."""
    stacked, private = Emulator(program), RankExecutor(program)

    def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
        assert a.keys() == b.keys()
        for name in a:
            assert relative_error(a[name], b[name]) <= tolerance, name

    for step in range(steps):
        batch = synthetic(program.inputs, 1, step, whole=tolerance == 0)
        one: StepResult = stacked.step(batch, gradients=True)
        two: StepResult = private.step(batch, gradients=True)
        same({"loss": one.loss}, {"loss": two.loss})
        same(one.metrics, two.metrics)
        same(one.gradients, two.gradients)
        same(one.reports, two.reports)
        same(stacked.weights(), private.weights())
        same(stacked.states(), private.states())
    for group, use in stacked.memory.items():
        for device in private.peaks[group]:
            assert {memory: peak.bytes for memory, peak in use.items()} == device
    return stacked, private


@pytest.mark.parametrize("options", GPTS, ids=",".join)
def test_gpt(options: tuple[str, ...]) -> None:
    agree(models.gpt(*options).program, 2e-4)


@pytest.mark.parametrize("text", [PIPELINE, LAYERS], ids=["pipeline", "layers"])
def test_programs_written_by_hand(text: str) -> None:
    agree(parse_located(text)[0], 1e-5)


LINEAR = [
    ("dp = 2", "split b on dp"),
    ("dp = 2, tp = 2", "split b on dp", "split o on tp"),
    ("dp = 3", "split b on dp pad"),
    ("dp = 2, tp = 3", "split b on dp", "split i on tp", "shard optimizer, gradients, weights on dp"),
]


@pytest.mark.parametrize("case", LINEAR, ids=lambda c: " ".join(c))
def test_whole_numbers_agree_to_the_bit(case: tuple[str, ...]) -> None:
    program = models.linear(*case).program
    weights = {n: np.floor(w * 100) for n, w in Emulator(program).weights().items()}
    stacked, private = Emulator(program, initial=weights), RankExecutor(program, initial=weights)
    for step in range(2):
        batch = synthetic(program.inputs, 0, step, whole=True)
        one, two = stacked.step(batch, gradients=True), private.step(batch, gradients=True)
        assert one.loss == two.loss
        for name, g in one.gradients.items():
            np.testing.assert_array_equal(g, two.gradients[name])
            assert np.abs(g).sum() > 0
    for name, w in stacked.weights().items():
        np.testing.assert_array_equal(w, private.weights()[name])


def bits(compiled: Compiled) -> list[bytes]:
    emulator = Emulator(compiled.program)
    found = [emulator.step(synthetic(compiled.program.inputs, 0, s)).loss.tobytes() for s in range(2)]
    return found + [w.tobytes() for w in emulator.weights().values()]


def test_the_same_program_gives_the_same_bits() -> None:
    compiled = models.gpt("pp=2", "dp=2", "microbatches=2")
    assert bits(compiled) == bits(compiled)


def test_a_program_runs_from_its_text() -> None:
    compiled = models.gpt("pp=2", "tp=2", "microbatches=2")
    again = parse_located(show(compiled.program))[0]
    batch = synthetic(compiled.program.inputs, 0, 0)
    assert Emulator(again).step(batch).loss == Emulator(compiled.program).step(batch).loss


def test_random_numbers_do_not_depend_on_the_layout() -> None:
    serial = models.dropout("dp = 1")
    batch = synthetic(serial.program.inputs, 0, 0)
    want = Emulator(serial.program)
    losses = [float(want.step(batch).loss) for _ in range(2)]
    assert losses[0] != losses[1]
    for case in [("dp = 2", "split b on dp"), ("pp = 2", "pipeline block on pp, schedule gpipe(microbatches = 2)")]:
        run = Emulator(models.dropout(*case).program)
        assert [float(run.step(batch).loss) for _ in range(2)] == pytest.approx(losses, rel=1e-12)


def test_traffic_of_a_step() -> None:
    """Data parallel: one all-reduce of both gradients (6 x 4 floats each) over 2 devices, and of the loss."""
    emulator = Emulator(models.linear("dp = 2", "split b on dp").program)
    emulator.step(synthetic(emulator.program.inputs, 0, 0))
    (traffic,) = emulator.traffic.values()
    assert {k[0] for k in traffic} == {"all_reduce"}
    total = sum(t.bytes for t in traffic.values())
    assert total in (2 * 6 * 4 * 4 + 4, 6 * 4 * 4 + 4)  # the two weights have one and the same gradient
    emulator.step(synthetic(emulator.program.inputs, 0, 1))
    assert sum(t.bytes for t in emulator.traffic[0].values()) == 2 * total


@pytest.mark.parametrize("make", [Emulator, RankExecutor])
def test_states_that_are_put_back_give_the_same_step(make: type[Emulator] | type[RankExecutor]) -> None:
    run: Executor = make(models.gpt("pp=2", "dp=2", "microbatches=2", "zero=1").program)
    batch = synthetic(run.program.inputs, 0, 0)
    before = {**run.weights(), **run.states()}
    first = run.step(batch)
    assert any((w != before[n]).any() for n, w in run.weights().items())
    run.put(before)
    for name, array in {**run.weights(), **run.states()}.items():
        np.testing.assert_array_equal(array, before[name])
    again = run.step(batch)
    assert again.loss.tobytes() == first.loss.tobytes()
    if isinstance(run, RankExecutor):
        assert all(d == {"hbm": memory_use(run.program)[g]["hbm"].bytes} for g, ds in run.peaks.items() for d in ds)


@pytest.mark.parametrize("make", [Emulator, RankExecutor])
def test_only_states_that_are_there_are_put(make: type[Emulator] | type[RankExecutor]) -> None:
    run: Executor = make(models.linear("dp = 2", "split b on dp").program)
    name, weight = next(iter(run.weights().items()))
    with pytest.raises(ValueError, match="has no weight or state `nothing`"):
        run.put({"nothing": weight})
    with pytest.raises(ValueError, match=f"`{name}` is f"):
        run.put({name: weight[:1]})
