"""Experts inside a model that is decoded: seats fill in the order of positions, so none looks ahead."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job, joined
from compiler.evaluate import evaluate
from compiler.incremental.derive import incremental
from compiler.model import DECODING, INFER
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import NOWHERE, Source
from runtime.prove.decoding import Course, prove_decoding
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.incremental.serial import apart, model_of
from tests.incremental.test_derive import LIMIT

SPLITS = ((8,), (1,) * 8, (3, 5), (2, 1, 1, 1, 3), (5, 1, 1, 1))
LAYERS = """\
  repeat 2 as block {{
    x = x + attention(x, 2)
    out, balance = moe(rms_norm(x), 4, 8, {})
    x = x + out
  }}
  y = x"""
BY_HAND = """\
  dim g = 4, j = 1, n = s, slot = SLOTS
  weight router[d,g], change[g,d] ~ normal(0.5)
  share, chosen = top_k(x @ router, over g -> j)
  goal = merge(chosen, (s, j) -> n)
  number = scatter_add(ones(goal, dtype = int32), goal, n -> g)
  sorted, order = top_k(-goal, over n)
  copy = where(iota(slot) < number, take(order, cumsum(number, over g) - number + iota(slot), over n), -1)
  sent[b,g,slot,d] = take(x, copy, over s)
  MORE
  y[b,s,d] = x + scatter_add(tanh(sent + change), copy, (g, slot) -> s)"""


def kept(body: str, length: int = 1) -> dict[str, str]:
    return {s.name: str(s.value.type) for s in incremental(model_of(body), "s", length, NOWHERE).states}


@pytest.mark.parametrize(
    "given",
    [
        "capacity = 0.6",
        "active = 1, capacity = 4.0",
        "capacity = 1.25, sigmoid = true, renormalise = true, shared = 4",
        "groups = 2, limit = 1, capacity = 2.0",
        "groups = 4, limit = 3, capacity = 0.6",
    ],
)
def test_positions_by_themselves_equal_all_of_them(given: str) -> None:
    """What is dropped hangs on the copies before, which chunks and steps count on."""
    model = model_of(LAYERS.format(given))
    assert max(apart(model, split) for split in SPLITS) <= LIMIT


def test_what_is_kept() -> None:
    """How many seats are taken; nothing, where there are seats for all."""
    assert (
        kept(LAYERS.format("capacity = 1.25"))["block.moe.routed_experts.counts.before"] == "int32[block=2, b=2, g=4]"
    )
    for length in (1, 4):
        assert not any("experts" in name for name in kept(LAYERS.format("capacity = 2.0"), length))


@pytest.mark.parametrize("slots", ["s", "2"])
def test_written_by_hand(slots: str) -> None:
    body = BY_HAND.replace("SLOTS", slots).replace("MORE\n", "\n")
    assert list(kept(body)) == ([] if slots == "s" else ["number.before"])
    assert max(apart(model_of(body), split) for split in SPLITS) <= LIMIT


PLACES = """\
  dim g = 4, j = 2, n = s * j, slot = 5, i = 3, si = s * i
  weight router[d,g], change[g,d], scale[i,d] ~ normal(0.5)
  share, chosen = top_k(x @ router, over g -> j)
  goal = merge(chosen, (s, j) -> n)
  number = scatter_add(ones(goal, dtype = int32), goal, n -> g)
  sorted, order = top_k(-goal, over n)
  copy = where(iota(slot) < number, take(order, cumsum(number, over g) - number + iota(slot), over n), -1)
  best, picked = top_k(x @ router, over g -> i)
  place = take(merge(iota(s) * i + PLACE, (s, j) -> n), copy, over n)
  source = MASK
  sent[b,g,slot,d] = take(merge(x * scale, (s, i) -> si), source, over si)
  back = scatter_add(tanh(sent + change), source, (g, slot) -> si)
  y[b,s,d] = x + sum(split(back, si -> (s, i)) * scale, over i)"""
MASK = "where(copy >= 0, place, -1)"


@pytest.mark.parametrize(
    "place", ["chosen % i", "minimum(chosen, 2)", "sum(where(picked == chosen, iota(i), 0), over i)"]
)
def test_places_of_positions(place: str) -> None:
    """Copies go to one of some places of their position, and come back from there."""
    model = model_of(PLACES.replace("PLACE", place).replace("MASK", MASK))
    assert max(apart(model, split) for split in SPLITS) <= LIMIT


@pytest.mark.parametrize(
    ("place", "mask"),
    [
        ("chosen", MASK),  # may be the next position's
        ("(chosen % i - 1)", MASK),
        ("sum(where(picked >= chosen, iota(i), 0), over i)", MASK),
        ("chosen % i", "place"),  # of empty seats the first position's
        ("chosen % i", "where(copy >= 0, place, 0)"),
        ("chosen % i", "where(copy >= 0, place + 1, -1)"),
    ],
)
def test_places_of_others(place: str, mask: str) -> None:
    with pytest.raises(ParcError) as error:
        kept(PLACES.replace("PLACE", place).replace("MASK", mask))
    assert error.value.diagnostics[0].code == "E0780"


@pytest.mark.parametrize(
    ("more", "op"),
    [
        ("sent = sent + mean(sent, over slot)", "sum"),
        ("sent = sent + cast(copy % 3, compute)", "mod"),
        ("sent = sent + cast(copy, compute)", "cast"),
        ("sent = cumsum(sent, over slot)", None),
        ("sent = sent * cast(iota(slot), compute)", None),
    ],
)
def test_seats_keep_to_themselves(more: str, op: str | None) -> None:
    with pytest.raises(ParcError) as error:
        kept(BY_HAND.replace("SLOTS", "2").replace("MORE", more))
    (found,) = error.value.diagnostics
    assert found.code == "E0780" and found.message.startswith(f"`{op}`") if op else found.code in ("E0780", "E0782")


def test_a_router_that_looks_ahead() -> None:
    """Experts that choose positions, and chances that hang on all positions."""
    choice = """\
  dim g = 4, few = 2
  weight router[d,g], change[g,d] ~ normal(0.5)
  best, at = top_k(x @ router, over s -> few)
  sent[b,g,few,d] = take(x, at, over s)
  y[b,s,d] = x + scatter_add(tanh(sent + change), at, (g, few) -> s)"""
    share = BY_HAND.replace("SLOTS", "s").replace("MORE\n", "\n").replace("top_k(x @", "top_k(softmax(x, over s) @")
    for body, op in ((choice, "top_k"), (share, "max")):
        with pytest.raises(ParcError) as error:
            kept(body)
        (found,) = error.value.diagnostics
        assert found.code == "E0780" and found.message.startswith(f"`{op}` over `s`")


FILE = """\
use std.layers (attention, embedding, linear, moe, rms_norm)

model net(batch, seq) {
  dim b = batch, s = seq, d = 8, v = 12
  input tokens : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d)
  repeat 2 as block {
    x = x + attention(rms_norm(x), 2)
    out, balance = moe(rms_norm(x), 4, 8, capacity = CAPACITY)
    x = x + out
  }
  logits = linear(rms_norm(x), over v, bias = false) as head
  output logits
}

strategy plan for net {
STRATEGY}

job serve {
  infer net(4, 8) using plan
  precision f64
  decode over s, prefill 4
}
"""
STRATEGIES = {
    "experts": "  mesh (ep = 2)\n  split e, b on ep\n",
    "pipeline": "  mesh (pp = 2, ep = 2)\n  split e, b on ep\n"
    "  pipeline block on pp, schedule gpipe(microbatches = 2)\n",
}


@pytest.mark.parametrize(("strategy", "capacity"), [("experts", "0.75"), ("experts", "2.0"), ("pipeline", "1.0")])
def test_under_strategies(strategy: str, capacity: str) -> None:
    text = FILE.replace("STRATEGY", STRATEGIES[strategy]).replace("CAPACITY", capacity)
    job = evaluate(Source("net.par", text))
    whole, first, one = (compile_job(job, entry) for entry in (INFER, *DECODING))
    program = joined([first.program, one.program])
    assert verify(program) == () and parse_program(show(program)) == program and job.decoding is not None
    assert "all_to_all" in show(one.program)
    for executor in (Emulator, RankExecutor):
        (row,) = prove_decoding(whole.training, program, job.decoding, Course(1, 4), executor=executor)
        assert row.ok and row.error < 1e-9
