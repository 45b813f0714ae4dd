"""Every example under every tactic and under pairs of them, run by processes over gloo and proved equal to the serial
program, as the emulator's runs are (`tests/matrix`). CI takes some tactics by themselves, and so many pairs that each
tactic is in one; `pytest -m nightly` all of them (also those on up to 20 devices), some triples."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from compiler.driver import compile_job  # noqa: E402
from compiler.model import EVALUATE  # noqa: E402
from dsl.diagnostics import ParcError  # noqa: E402
from runtime.prove import prove, prove_evaluation  # noqa: E402
from runtime.torch.engine import ProcessPool  # noqa: E402
from tests.engine.cells import devices, judge  # noqa: E402
from tests.engine.conftest import PROCESSES  # noqa: E402
from tests.matrix.cells import Cell, cells, each_once, expected, spread  # noqa: E402
from tests.some import one_in  # noqa: E402


def fits(cell: Cell) -> bool:
    """Whether there is a process for each device."""
    return devices(cell) <= PROCESSES and expected(cell) == "proved"


def judged(pool: ProcessPool, chosen: list[Cell]) -> None:
    outcomes = {str(cell): judge(pool, cell) for cell in chosen if fits(cell)}
    assert {c: o for c, o in outcomes.items() if o != "proved"} == {}
    assert len(outcomes) >= 0.5 * len(chosen)


def test_single_tactics(pool: ProcessPool) -> None:
    judged(pool, spread(cells(1), 30))


def test_some_pairs(pool: ProcessPool) -> None:
    judged(pool, each_once(filter(fits, cells(2))))


@pytest.mark.nightly
def test_all_pairs(pool: ProcessPool) -> None:
    judged(pool, [*cells(1), *cells(2)])


@pytest.mark.nightly
def test_pairs_on_more_devices() -> None:
    """Those that the pool of all tests has too few processes for."""
    wanted = [c for c in cells(2) if devices(c) > PROCESSES and expected(c) == "proved"]
    with ProcessPool(max(map(devices, wanted)), patience=600) as pool:
        outcomes = {str(cell): judge(pool, cell) for cell in wanted}
    assert {c: o for c, o in outcomes.items() if o != "proved"} == {}


@pytest.mark.nightly
def test_some_triples(pool: ProcessPool) -> None:
    judged(pool, [c for c in [c for c in cells(3) if fits(c)][::30] if not refused(c)])


def refused(cell: Cell) -> bool:
    """Whether it is no program at all: three may cut a dim into more pieces than it has."""
    try:
        cell.compile()
    except ParcError as e:
        return all(d.code == "E0540" for d in e.diagnostics)
    return False


def test_some_are_evaluated(pool: ProcessPool) -> None:
    for cell in filter(fits, list(cells(1))[::24]):
        alone = compile_job(cell.compile().job, EVALUATE)
        proof = prove_evaluation(alone.training, alone.program, 1, executor=pool.executor)
        assert proof.ok, f"{cell}: {proof.worst}"


SINGLE = ("dp", "zero_3", "tp", "megatron", "cp", "bands", "channels", "tables", "places", "one_f_one_b", "zero_bubble")


@pytest.mark.parametrize("cell", one_in(2, [c for c in cells(1) if c.tactics[0].name in SINGLE][::3]), ids=str)
def test_own_precision(pool: ProcessPool, cell: Cell) -> None:
    """In the precision of the example: float32, float16 for pangu."""
    compiled = cell.compile(None)
    proof = prove(compiled.training, compiled.program, executor=pool.executor)
    assert proof.ok, proof.worst
