"""Every example under every tactic and under pairs of them: proved equal to the serial program, or refused by the code
that is expected. CI takes all single tactics and a part of the pairs; `pytest -m nightly` all pairs, some triples.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count

import pytest

from compiler.driver import compile_job, joined
from compiler.model import EVALUATE
from compiler.verify import verify
from dsl.diagnostics import ParcError
from runtime.prove import prove, prove_evaluation, random_batch
from runtime.stacked import Emulator
from tests.matrix.cells import SMALL, TACTICS, Cell, applicable, cells, expected, spread


def judge(cell: Cell) -> str:
    """ "proved", the code of the refusal, or what is wrong."""
    try:
        compiled = cell.compile()
        found = verify(compiled.program)
        if found:
            return f"verifier: {found[0]}"
        proof = prove(compiled.training, compiled.program)
    except ParcError as e:
        if any(d.span is None for d in e.diagnostics):
            return f"without a place: {e.diagnostics[0]}"
        return ", ".join(sorted({d.code for d in e.diagnostics}))
    return "proved" if proof.ok else f"not equal: {proof.worst}"


def evaluated(cell: Cell) -> str:
    """The same of `evaluate`, as a second entry of the program, whose loss is a step's to the bit."""
    try:
        compiled = cell.compile()
    except ParcError as e:
        return ", ".join(sorted({d.code for d in e.diagnostics}))
    alone = compile_job(compiled.job, EVALUATE)
    both = joined([compiled.program, alone.program])
    found = verify(both)
    if found:
        return f"verifier: {found[0]}"
    proof = prove_evaluation(alone.training, alone.program, 1)
    batch = random_batch(both.inputs, 0, 0)
    first, step = Emulator(both).call(EVALUATE, batch), Emulator(both).step(batch)  # each may renew states
    same = compiled.job.evaluated is None  # what asks whether it is training is another model in evaluation
    if same and first.loss.tobytes() != step.loss.tobytes():
        return f"loss {first.loss} instead of a step's {step.loss}"
    return "proved" if proof.ok else f"not equal: {proof.worst}"


def judged(chosen: list[Cell], how: Callable[[Cell], str] = judge) -> None:
    """Each cell becomes what is expected of it."""
    with ProcessPoolExecutor(cpu_count(), get_context("spawn")) as pool:
        outcomes = list(zip(chosen, pool.map(how, chosen, chunksize=4)))
    wrong = [f"{c}: {o}, expected {expected(c)}" for c, o in outcomes if o != expected(c)]
    assert not wrong, "\n".join(wrong)
    assert sum(o == "proved" for _, o in outcomes) >= 0.8 * len(chosen)


def test_single_tactics() -> None:
    judged(list(cells(1)))


def test_some_pairs() -> None:
    judged(spread(cells(2), 18))


def test_some_are_evaluated() -> None:
    judged(list(cells(1))[::5], evaluated)


@pytest.mark.nightly
def test_all_are_evaluated() -> None:
    judged([*cells(1), *spread(cells(2), 9)], evaluated)


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
