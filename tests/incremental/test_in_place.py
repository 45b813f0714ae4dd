"""What is kept is renewed in its memory on the emulator: no step copies it, and whoever has asked for it keeps what it
was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.driver import decoding_program
from compiler.evaluate import evaluate
from compiler.verify import verify
from dsl.source import Source
from runtime.stacked import Emulator
from tests.incremental.test_strategies import STRATEGIES
from tests.incremental.test_windows import WINDOWED

CACHE = "block.attention.key.cache"
RING = "block.grouped_attention.key.cache"


def emulator(strategy: str, last: bool = False) -> Emulator:
    text = WINDOWED.replace("STRATEGY", STRATEGIES[strategy]).replace("WINDOW", "2")
    program = decoding_program(evaluate(Source("net.par", text)), last)
    assert verify(program) == ()
    return Emulator(program)


def tokens(step: int, count: int = 1) -> np.ndarray[Any, np.dtype[Any]]:
    return (np.arange(4 * count).reshape(4, count) * 5 + step).astype(np.int32) % 12


@pytest.mark.parametrize("strategy", ["serial", "megatron", "positions"])
def test_no_step_copies_it(strategy: str) -> None:
    def lies(run: Emulator) -> list[int]:
        (group,) = run.groups.values()
        return [id(group.states[group.find(name)]) for name in (CACHE, RING)]

    run = emulator(strategy)
    run.call("prefill", {"tokens.first": tokens(0, 4)})
    where = lies(run)
    for step in range(3):
        run.call("decode", {"tokens.next": tokens(step)})
        assert lies(run) == where
    again = emulator(strategy)
    again.call("prefill", {"tokens.first": tokens(0, 4)})
    where = lies(again)
    again.call("prefill", {"tokens.first": tokens(0, 1).repeat(4, 1)})
    assert lies(again) == where


def test_whoever_has_asked_keeps_what_it_was() -> None:
    """And what was given as a beginning is not written to."""
    run = emulator("serial")
    run.call("prefill", {"tokens.first": tokens(0, 4)})
    before = run.states()
    kept = {name: x.copy() for name, x in before.items()}
    first = run.call("decode", {"tokens.next": tokens(1)}).outputs["logits"].copy()
    assert all((before[name] == x).all() for name, x in kept.items())
    assert (run.states()[CACHE] != before[CACHE]).any()
    run.put(before)
    again = run.call("decode", {"tokens.next": tokens(1)}).outputs["logits"]
    assert (again == first).all() and all((before[name] == x).all() for name, x in kept.items())


@pytest.mark.parametrize("strategy", ["serial", "all"])
def test_the_last_position_of_a_prefill_alone(strategy: str) -> None:
    """What generates asks for it: the same number, without those before it."""
    whole, last = emulator(strategy), emulator(strategy, last=True)
    for step in range(2):
        given = {"tokens.first": tokens(step, 4)}
        of_all, found = (run.call("prefill", given).outputs["logits"] for run in (whole, last))
        assert found.shape == (4, 1, 12) and np.abs(of_all[:, -1:] - found).max() < 1e-12
