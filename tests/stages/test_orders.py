"""Schedules by hand (`order pp[0] { … }`) and chunks placed by a list: proved, alone and with others; wrong ones."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import parc
from compiler.homes import Homes
from compiler.schedules import unroll
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source
from parc import api
from tests.stages.build import CLUSTER, judged
from tests.stages.orders import drawn_orders
from tests.stages.playing import played

EXAMPLE = Path(__file__).parents[2] / "examples" / "schedules.par"
HEAD = f"""
use std.devices (a100_80)
use std.implementations
use std.layers
use std.optimizers
{CLUSTER}
model m() {{
  dim b = 24, d = 4, v = 6
  input words, targets : int32[b] in 0..v
  weight table[v, d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat 8 as block {{
    x = x + mlp(layer_norm(x), 8)
  }}
  logits[b, v] = layer_norm(x) @ table
  loss cross_entropy(logits, targets, over v)
}}
"""
VEE = """
  pipeline block on pp, schedule by_hand(microbatches = 6), chunks [0, 1, 1, 0]
  order pp[0] {
    F[0..3] F1[0] B1[0] W1[0] F1[1] B1[1] B[0] W1[1] B[1] W[0]
    for i in 0..3 { F[i + 3] F1[i + 2] B1[i + 2] W1[i + 2] W[i + 1] B[i + 2] }
    W[4] F1[5] B1[5] W1[5] B[5] W[5]
  }
  order pp[1] {
    F[0] F1[0] F[1] F1[1] B1[0] B[0] W1[0] B1[1] B[1] W1[1] F[2] F1[2] W[0] W[1]
    for i in 2..5 { B1[i] B[i] F[i + 1] F1[i + 1] W1[i] W[i] }
    B1[5] B[5] W1[5] W[5]
  }
"""
PLAIN = """
  pipeline block on pp, schedule by_hand(microbatches = 4)
  order pp[p in 0..3] {
    F[0..2 - p] for i in 0..2 + p { F[i + 2 - p] B[i] }
    B[2 + p..4]
  }
"""


def text(rules: str, mesh: str = "pp = 2", devices: int = 2) -> str:
    job = f"job j {{\n  train m() on pod(devices = {devices}) using plan\n  optimizer adamw(lr = 0.1, clip = 0.5)\n}}\n"
    return f"{HEAD}\nstrategy plan for m {{\n  mesh ({mesh})\n{rules}\n}}\n\n{job}"


WITH = {
    "alone": ("pp = 2", 2, ""),
    "dp_zero": ("pp = 2, dp = 2", 4, "  split b on dp\n  shard optimizer, gradients on dp"),
    "tp_recompute": ("pp = 2, tp = 2", 4, "  split f on tp\n  recompute block"),
    "layers": ("pp = 2, tp = 2", 4, "  split f on tp in block[2..6]\n  recompute block[0..3]"),
    "by_hand": ("pp = 2, tp = 2", 4, "  implement block.mlp by tensor_parallel_mlp(tp)"),
}


OFTEN = ("alone", "layers")


@pytest.mark.parametrize("beside", [pytest.param(w, marks=() if w in OFTEN else pytest.mark.nightly) for w in WITH])
def test_a_vee_by_hand(beside: str) -> None:
    mesh, devices, rules = WITH[beside]
    compiled = judged(text(VEE + rules, mesh, devices), priced=True)
    assert compiled.program.homes == Homes((0, 1, 1, 0))


@pytest.mark.parametrize("schedule", ["gpipe", "one_f_one_b", "zero_bubble"])
def test_chunks_placed_by_a_list_under_schedules_with_names(schedule: str) -> None:
    rule = f"  pipeline block on pp, schedule {schedule}(microbatches = 4), chunks [1, 0, 0, 1, 1, 0]"
    judged(text(rule), priced=True)


def test_dual_pipe_v_waits_as_it_should() -> None:
    """On four devices, with the loops of the example: proved; less than (n - 1) (F + B - W) is waited where each takes
    as long as any other, (n - 1) (F + B + W) of stages twice as large at 1F1B."""
    n, m = 4, 8
    example = EXAMPLE.read_text(encoding="utf-8")
    order = example[example.index("  order pp[r in 0..n]") :].partition("\n  }\n")[0] + "\n  }"
    vee = ", chunks [0, 1, 2, 3, 3, 2, 1, 0]"
    rule = f"  pipeline block on pp, schedule by_hand(microbatches = {m}){vee}\n{order}"
    compiled = judged(f"param n = {n}\nparam m = {m}\n{text(rule, 'pp = 4', n)}", priced=True)
    lists = [unroll(c.schedule, g) for g in range(n) for c in compiled.program.classes if g in c.groups]
    assert played(lists, compiled.program.homes, dict.fromkeys("FBW", 1)) == 6 * m + n - 1


def test_an_order_by_hand_of_1f1b_is_1f1b() -> None:
    named = "  pipeline block on pp, schedule one_f_one_b(microbatches = 4)"
    own, other = (parc.compile(Source("main.par", text(r, "pp = 3", 3))) for r in (PLAIN, named))
    judged(text(PLAIN, "pp = 3", 3))
    estimates = [api.estimate(c) for c in (own, other)]
    assert len({e.timeline.step_seconds for e in estimates}) == 1
    assert estimates[0].memory == estimates[1].memory


def drawn(seed: int) -> tuple[str, int]:
    """Stages on random places, and a random order in which nobody waits forever; how many places."""
    rng = Random(seed)
    places, chunks, count = rng.choice([(2, 1), (2, 2), (3, 1), (3, 2), (2, 3)]) + (rng.choice([2, 3, 4]),)
    homes = Homes(tuple(rng.sample([g for g in range(places) for _ in range(chunks)], places * chunks)))
    kinds = "FBW" if rng.random() < 0.5 else "FB"
    orders = drawn_orders(rng, homes, kinds, count)
    rule = f"  pipeline block on pp, schedule by_hand(microbatches = {count}), chunks {list(homes.groups)}\n"
    return rule + "\n".join(f"  order pp[{g}] {{\n    {o}\n  }}" for g, o in enumerate(orders)), places


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n < 3 else pytest.mark.nightly) for n in range(40)])
def test_any_order_in_which_nobody_waits_forever_is_right(seed: int) -> None:
    rules, places = drawn(seed)
    judged(text(rules, f"pp = {places}", places), priced=True)


def _wrong(rules: str) -> Diagnostic:
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("main.par", text(rules)))
    (found,) = caught.value.diagnostics
    assert found.span is not None and found.span.source == "main.par"
    return found


def test_who_waits_for_whom_is_told() -> None:
    rules = """
  pipeline block on pp, schedule by_hand(microbatches = 2)
  order pp[0] {
    F[0] B[0] F[1] B[1]
  }
  order pp[1] {
    F[0..2] B[0..2]
  }
"""
    found = _wrong(rules)
    assert found.code == "E0444"
    assert found.message == (
        "the orders hang: `pp[0]` waits before `B[0]` for `B[0]` of `pp[1]`, "
        "which waits before `F[1]` for `F[1]` of `pp[0]`"
    )
    assert len(found.notes) == 1


PAIR = "  pipeline block on pp, schedule by_hand(microbatches = 2)\n"
FINE = "  order pp[1] {\n    for i in 0..2 { F[i] B[i] }\n  }"


@pytest.mark.parametrize(
    ("rules", "code", "part"),
    [
        (PAIR, "E0443", "a schedule by hand has orders"),
        (PAIR + FINE, "E0443", "`pp[0]` has no order"),
        (PAIR + "  order pp[p in 0..2] {\n    F[0..2]\n  }", "E0443", "`pp[0]` has `B[0]` nowhere"),
        (PAIR + "  order pp[p in 0..2] {\n    F[0..2] B[0..2] F[1]\n  }", "E0443", "`pp[0]` has `F[1]` twice"),
        (PAIR + "  order pp[p in 0..2] {\n    F[0..3] B[0..3]\n  }", "E0443", "there is no `F[2]` on `pp[0]`"),
        (PAIR + "  order pp[p in 0..2] {\n    F[0..2] B1[0..2]\n  }", "E0443", "there is no `B1[0]` on `pp[0]`"),
        (PAIR + "  order pp[p in 0..2] {\n    F[0..2] G[0]\n  }", "E0443", "there is no action `G`"),
        (PAIR + "  order pp[p in 0..2] {\n    B[0..2] F[0..2]\n  }", "E0444", "`B[0]` comes before `F[0]` on `pp[0]`"),
        (PAIR + "  order pp[2] {\n    F[0]\n  }", "E0410", "places 0 to 1"),
        (PAIR + FINE + "\n" + FINE, "E0443", "`pp[1]` has two orders"),
        (PAIR + "  order pp[0] {\n    for i in 0..2 { F[i] B[2 * i] }\n  }", "E0443", "as many micro-batches"),
        ("  pipeline block on pp\n" + FINE, "E0443", "no pipeline on `pp` has a schedule by hand"),
        ("  pipeline block on pp, chunks []", "E0443", "chunks are a list of places, one of each stage"),
        ("  pipeline block on pp, chunks [0, 1, 1]", "E0443", "`pp[0]` has 1 chunk, others have 2"),
        ("  pipeline block on pp, chunks [0, 2]", "E0410", "places 0 to 1"),
    ],
)
def test_wrong_orders(rules: str, code: str, part: str) -> None:
    found = _wrong(rules)
    assert found.code == code, found
    assert part in found.message, found


SEEN = (
    "    x = x + mlp(layer_norm(x), 8)\n",
    "    x = x + mlp(layer_norm(x), 8)\n    state seen[d] ~ zeros\n    x = x + seen\n"
    "    seen = 0.9 * seen + mean(x, over b)\n",
)


def test_states_are_renewed_by_one_micro_batch_after_the_other() -> None:
    """Without one, any order will do; backward passes may come in any."""
    late = PAIR + "  order pp[0] {\n    F[1] F[0] B[0..2]\n  }\n  order pp[1] {\n    F[1] F[0] B[0..2]\n  }"
    judged(text(late), priced=True)
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("main.par", text(late).replace(*SEEN)))
    (found,) = caught.value.diagnostics
    assert found.code == "E0447" and "`block.seen`" in found.message
    judged(text(late.replace("F[1] F[0]", "F[0..2]").replace("B[0..2]", "B[1] B[0]")).replace(*SEEN), priced=True)


def test_orders_of_a_thousand_million_micro_batches_are_judged_by_what_is_written() -> None:
    """Where all that is left is to go through them, they are refused, unless somebody is seen to wait for ever."""
    many = "  pipeline block on pp, schedule by_hand(microbatches = 10 ** 9)\n"

    def judge(*orders: str) -> str:
        named = "".join(f"  order pp[{g}] {{\n    {order}\n  }}\n" for g, order in enumerate(orders))
        try:
            parc.compile(Source("main.par", text(many + named).replace("b = 24", "b = 10 ** 9")))
        except ParcError as error:
            (found,) = error.diagnostics
            return found.code
        return "fine"

    in_turn = "for i in 0..10 ** 9 { F[i] B[i] }"
    pairs = "for i in 0..5 * 10 ** 8 { F[2 * i] F[2 * i + 1] B[2 * i] B[2 * i + 1] }"
    half = "for i in 0..5 * 10 ** 8 { F[2 * i + %d] B[2 * i + %d] }"
    assert judge(in_turn, in_turn) == judge(pairs, pairs) == "fine"
    assert judge(half % (0, 0) + " " + half % (1, 1), in_turn) == "E0931"
    assert judge("F[0] B[0..10 ** 9] F[1..10 ** 9]", "F[0..10 ** 9] B[0..10 ** 9]") == "E0444"
