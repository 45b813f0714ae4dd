"""Every example under every tactic and under pairs of them: proved equal to the serial program, or refused by the code
that is expected. CI takes some tactics by themselves, and so many pairs that each tactic is in one; `pytest -m nightly`
all, and some triples.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.prove import prove
from tests.matrix.cells import SMALL, TACTICS, Cell, applicable, cells, each_once, expected, spread
from tests.matrix.judge import evaluated, inferred, judge
from tests.some import by_all_cores


def judged(chosen: list[Cell], how: Callable[[Cell], str] = judge) -> None:
    """Each cell becomes what is expected of it."""
    outcomes = list(zip(chosen, by_all_cores(how, chosen)))
    wrong = [f"{c}: {o}, expected {expected(c)}" for c, o in outcomes if o != expected(c)]
    assert not wrong, "\n".join(wrong)
    assert sum(o == "proved" for _, o in outcomes) >= 0.8 * len(chosen)


def test_single_tactics() -> None:
    judged(spread(cells(1), 20))


@pytest.mark.nightly
def test_all_single_tactics() -> None:
    judged(list(cells(1)))


def test_some_pairs() -> None:
    judged(each_once(cells(2)))


def test_some_are_evaluated() -> None:
    judged(list(cells(1))[::20], evaluated)


@pytest.mark.nightly
def test_all_are_evaluated() -> None:
    judged([*cells(1), *spread(cells(2), 9)], evaluated)


def test_some_are_inferred() -> None:
    """Every model with every fifth tactic, and some pairs: a refusal is one that a step of training has, too."""
    _inferred([*list(cells(1))[1::5], *spread(cells(2), 90)])


@pytest.mark.nightly
def test_all_are_inferred() -> None:
    _inferred([*cells(1), *spread(cells(2), 9)])


def _inferred(chosen: list[Cell]) -> None:
    outcomes = list(zip(chosen, by_all_cores(inferred, chosen)))
    wrong = [f"{c}: {o}" for c, o in outcomes if not {"proved", *expected(c).split(", ")}.issuperset(o.split(", "))]
    assert not wrong, "\n".join(wrong)
    assert {c.example for c, o in outcomes if o == "proved"} == set(SMALL)
    assert sum(o == "proved" for _, o in outcomes) >= 0.8 * len(chosen)


@pytest.mark.nightly
def test_all_pairs() -> None:
    judged(list(cells(2)))


@pytest.mark.nightly
def test_some_triples() -> None:
    judged(spread(cells(3), 7))


def test_every_tactic_is_on_some_example() -> None:
    assert {t.name for e in SMALL for t in applicable(e)} == {t.name for t in TACTICS}


SINGLE = ["dp", "zero_3", "tp", "megatron", "cp", "bands", "channels", "tables", "places", "one_f_one_b", "zero_bubble"]


@pytest.mark.parametrize("cell", [c for c in cells(1) if c.tactics[0].name in SINGLE][::3], ids=str)
def test_float32(cell: Cell) -> None:
    """In the precision of the example (float32, but for pangu's f16)."""
    compiled = cell.compile(None)
    proof = prove(compiled.training, compiled.program)
    assert proof.ok, proof.worst
    if compiled.job.precision.compute == "f32":
        assert all(r.tolerance <= 1e-4 for r in proof.rows if r.kind == "loss")
