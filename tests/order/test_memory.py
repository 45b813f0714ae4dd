"""A ring's memory: what has to be there, one block of scores, and little else."""

from __future__ import annotations

import pytest

import parc
from benchmarks.ring_attention import BOUND, FILE, RING, program, ratio
from dsl.source import Source
from runtime.prove import prove
from tests.memory.measured import exact


@pytest.mark.parametrize("order", ["", " zigzag"])
def test_a_ring_of_eight_at_2048_positions(order: str) -> None:
    """Proved, and its memory as predicted."""
    text = FILE.format(positions=2048, width=16, heads=1, rules=RING.format(order=order))
    compiled = parc.compile(Source("ring.par", text), double=True)
    proof = prove(compiled.training, compiled.program, 1)
    assert proof.ok, proof.worst
    p = program(2048, RING.format(order=order))
    exact(p, 1)
    assert ratio(p, 2048, halves=bool(order)) <= BOUND


@pytest.mark.parametrize("order", ["", " zigzag"])
@pytest.mark.parametrize(("positions", "width", "heads"), [(16_384, 64, 1), (2048, 512, 8), (4096, 256, 4)])
def test_a_ring_of_eight_in_other_sizes(positions: int, width: int, heads: int, order: str) -> None:
    p = program(positions, RING.format(order=order), width, heads)
    assert ratio(p, positions, width, heads, bool(order)) <= BOUND
