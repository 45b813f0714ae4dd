"""Rows at positions of their own: sequences begin, pause and end beside others, and each is what it is by itself."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from compiler.incremental.derive import incremental
from compiler.model import Model
from dsl.diagnostics import ParcError
from dsl.source import NOWHERE
from runtime.prove.serial import run_graph
from tests.incremental.serial import begun, drawn, model_of
from tests.incremental.test_derive import LIMIT, MODELS
from tests.incremental.test_drawn import drawn as drawn_body
from tests.incremental.test_experts import LAYERS

Array = np.ndarray[Any, np.dtype[Any]]


def apart(model: Model, seed: int, calls: int = 40) -> float:
    """The largest difference of what sequences give in rows that are drawn, of what they give by themselves."""
    rng = random.Random(seed)
    (tokens,) = model.inputs
    rows, size = tokens.value.type.shape
    env = drawn(model, seed)
    whole = cache(lambda number: run_graph(model.graph, env | {tokens.value.name: read(number)}))

    def read(number: int) -> Array:
        return np.random.default_rng([seed, number]).integers(0, tokens.high, (rows, size))

    parts = {n: incremental(model, "s", n, NOWHERE, rows="b") for n in (1, 3)}
    states = {s.name: begun(s.init, s.value.type.shape, s.value.type.dtype) for s in parts[1].states}
    sequences, at = [0] * rows, [0] * rows
    worst, count = 0.0, 0
    for _ in range(calls):
        length = rng.choice((1, 1, 3))
        part = parts[length]
        there = [at[r] + length <= size and rng.random() < 0.7 for r in range(rows)]
        new = np.zeros((rows, length), np.int32)
        for r in range(rows):
            if there[r]:
                new[r] = read(sequences[r])[r, at[r] : at[r] + length]
        given = {w.name: env[w.name] for w in part.weights} | states
        given[part.inputs[0].value.name] = new
        given[part.inputs[-1].value.name] = np.array([at[r] if there[r] else -1 for r in range(rows)], np.int32)
        found = run_graph(part.graph, given)
        states = {s.name: x for s, x in zip(part.states, found[len(part.outputs) :], strict=True)}
        for r in range(rows):
            if there[r]:
                (want,), got = whole(sequences[r]), found[0]
                want = want[r, at[r] : at[r] + length]
                worst = max(worst, float(np.abs(got[r] - want).max() / np.abs(want).max()))
                at[r], count = at[r] + length, count + 1
            if at[r] == size or rng.random() < 0.1:
                sequences[r], at[r] = sequences[r] + 1, 0
    assert count > calls // 2 and max(sequences) > 1
    return worst


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name: str) -> None:
    assert apart(model_of(MODELS[name]), 1) <= LIMIT


@pytest.mark.parametrize("made", ["shift(m, s, by = 1)", "slice(pad(m, s -> p, 1, 0, 1), p -> s, 0..8)"])
def test_what_is_kept_of_tests(made: str) -> None:
    """No literal stands for what is there before the first position."""
    assert apart(model_of(f"  m = tokens % 2 == 0\n  y = where({made}, x, 2.0 * x)"), 1) <= LIMIT


@pytest.mark.parametrize("seed", range(6))
def test_drawn_models(seed: int) -> None:
    assert apart(model_of(drawn_body(random.Random(f"rows {seed}"))), seed) <= LIMIT


MIXED = {
    "sum": "  y = x / sum(x * x, over b)",
    "cumsum": "  y = cumsum(x, over b)",
    "merge": "  dim r = 2 * width\n  y[b,s,d] = split(merge(x, (b, d) -> r), r -> (b, d))",
    "rename": "  dim c = b\n  y[c,s,d] = rename(x, b -> c)",
}


@pytest.mark.parametrize("op", MIXED)
def test_rows_that_hang_on_each_other_are_refused_by_the_op(op: str) -> None:
    model = model_of(MIXED[op])
    incremental(model, "s", 1, NOWHERE)
    with pytest.raises(ParcError, match=f"`{op}`") as caught:
        incremental(model, "s", 1, NOWHERE, rows="b")
    assert caught.value.diagnostics[0].code == "E0782"


@pytest.mark.parametrize("given", ["capacity = 0.6", "capacity = 1.25, sigmoid = true, renormalise = true, shared = 4"])
def test_experts(given: str) -> None:
    """Seats are counted for each sequence by itself."""
    assert apart(model_of(LAYERS.format(given)), 1) <= LIMIT
