"""What the compiler makes of an example under several strategies: legal, and the same after printing and reading."""

from __future__ import annotations

import random

import pytest

from compiler.program import Program
from compiler.text import parse_program, show
from compiler.verify import verify
from parc import api
from tests.program.mutations import UNSEEN, mutations

STRATEGIES = [
    {},
    {"dp": "2", "tp": "2", "zero": "1"},
    {"dp": "2", "cp": "2", "zero": "3", "microbatches": "2"},
    {"pp": "2", "tp": "2", "microbatches": "4"},
]


def program(params: dict[str, str]) -> Program:
    return api.compile("examples/gpt.par", params=params).program


@pytest.mark.parametrize("params", STRATEGIES, ids=lambda p: "_".join(f"{k}{v}" for k, v in p.items()) or "serial")
def test_legal_and_the_same_again(params: dict[str, str]) -> None:
    found = program(params)
    assert verify(found) == ()
    text = show(found)
    assert parse_program(text) == found


def test_text_does_not_grow_with_layers_micro_batches_and_devices() -> None:
    small = {"pp": "4", "dp": "2", "layers": "8", "microbatches": "8", "batch": "64"}
    large = {"pp": "4", "dp": "8", "layers": "96", "microbatches": "64", "batch": "512"}
    assert show(program(large)).count("\n") == show(program(small)).count("\n")


def test_mutations_are_noticed() -> None:
    """A sample of each kind: whatever breaks a layout, a message, a buffer or the schedule is found without running."""
    found = program({"pp": "2", "dp": "2", "tp": "2", "microbatches": "4", "zero": "1"})
    kinds: dict[str, list[tuple[str, Program]]] = {}
    for name, broken in mutations(found):
        kinds.setdefault(name.split(":")[0], []).append((name, broken))
    choose = random.Random(0)
    for kind, cases in kinds.items():
        if kind not in UNSEEN:
            for name, broken in choose.sample(cases, min(2, len(cases))):
                assert verify(broken), name
