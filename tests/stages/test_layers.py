"""Rules for some iterations of a loop (`in block[0..4]`): in pairs with all that strategies have, and wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest

import parc
from compiler.ops.effects import Save
from compiler.ops.repeat import Repeat
from compiler.program import Program
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.stacked import Emulator
from tests.stages.build import judged

MODEL = """
use std.implementations
use std.layers
use std.optimizers
use std.tactics

model m(layers) {
  dim b = 8, s = 2, d = 4, v = 6
  input words, targets : int32[b, s] in 0..v
  weight table[v, d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat layers as block {
    state seen[d]
    seen = 0.9 * seen + 0.1
    x = x + dropout(mlp(layer_norm(x), 8), 0.2)
    x = x + seen * 0.5
  }
  logits[b, s, v] = layer_norm(x) @ table
  loss cross_entropy(logits, targets, over v)
}
"""


def text(mesh: str, rules: Sequence[str], optimizer: str = "adamw(lr = 0.1, clip = 0.5)", layers: int = 6) -> str:
    lines = "\n".join(f"  {r}" for r in ([f"mesh ({mesh})"] if mesh else []) + list(rules))
    job = f"job j {{\n  train m({layers}) using plan\n  optimizer {optimizer}\n}}\n"
    return f"{MODEL}\nstrategy plan for m {{\n{lines}\n}}\n\n{job}"


TACTICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dp": ("dp = 2", ("split b on dp",)),
    "zero": ("zp = 2", ("split b on zp", "shard optimizer on zp in block[2..6]", "shard weights on zp in block[3..5]")),
    "tp": ("tp = 2", ("split f on tp in block[0..3]", "split d on tp in block[4].layer_norm")),
    "recompute": ("", ("recompute block[0..2]", "recompute block[5].mlp keep block[5].mlp.u")),
    "microbatches": ("", ("microbatches 2 over b",)),
    "one_f_one_b": ("pp = 2", ("pipeline block on pp, schedule one_f_one_b(microbatches = 4)", "recompute block[3]")),
    "interleaved": ("pp = 2", ("pipeline block on pp, schedule interleaved(microbatches = 2, chunks = 2)",)),
    "zero_bubble": ("pp = 3", ("pipeline block on pp, schedule zero_bubble(microbatches = 4), cuts [2, 5]",)),
    "by_hand": ("hp = 2", ("implement block[1..4].mlp by tensor_parallel_mlp(hp)",)),
    "layout": ("lp = 2", ("layout block.mlp.w1[d, f/lp] in block[2..6]",)),
    "tactic": ("np = 2", ("megatron(np) in block[3..6]",)),
}
ALWAYS = {
    ("dp", "zero"),
    ("zero", "one_f_one_b"),
    ("tp", "zero_bubble"),
    ("recompute", "interleaved"),
    ("microbatches", "by_hand"),
    ("zero", "tactic"),
    ("interleaved", "layout"),
}
ORDERS = {"microbatches", "one_f_one_b", "interleaved", "zero_bubble"}


def _pairs() -> list[object]:
    found = []
    for a, b in combinations(TACTICS, 2):
        if not {a, b} <= ORDERS:
            marks = () if (a, b) in ALWAYS else pytest.mark.nightly
            found.append(pytest.param(a, b, id=f"{a}-{b}", marks=marks))
    return found


@pytest.mark.parametrize(("first", "second"), _pairs())
def test_rules_of_layers_compose(first: str, second: str) -> None:
    meshes, rules = zip(TACTICS[first], TACTICS[second], strict=True)
    own = [r for of in rules for r in of]
    if not any("[" in r for r in own):
        own.append("recompute block[1..3]")
    judged(text(", ".join(filter(None, meshes)), own))


def test_loops_in_a_loop_that_is_cut() -> None:
    """Their weights have the dims of both loops; the inner one is called the same in all pieces."""
    inner = "    repeat 2 as inner {\n      weight gain[d] ~ normal(0.5)\n      x = x + gain * tanh(x)\n    }\n"
    own = text("dp = 2", ("split b on dp", "shard weights on dp in block[2..5].inner", "recompute block[4].inner"))
    judged(own.replace("    x = x + seen * 0.5\n", inner))


def _loops(program: Program) -> list[tuple[str, int]]:
    found = {(n.op.label, n.op.count) for c in program.classes for f in c.functions for n in f.body.nodes
             if isinstance(n.op, Repeat)}  # fmt: skip
    return sorted(found)


def test_a_loop_is_cut_into_as_many_as_there_are_ranges() -> None:
    rules = ("recompute block[0..3]", "shard optimizer on dp in block[2..6]", "split b on dp")
    for layers, last in ((6, 6), (600, 600)):
        program = parc.compile(Source("main.par", text("dp = 2", rules, layers=layers))).program
        pieces = {"block_0_2": 2, "block_2_3": 1, "block_3_6": 3}
        pieces |= {f"block_6_{last}": last - 6} if last > 6 else {}
        assert dict(_loops(program)) == pieces
    saved = {op.name for f in program.classes[0].functions for n in f.body.nodes if isinstance(op := n.op, Save)}
    assert {n for n in saved if n.startswith("block_0_2")} == {"block_0_2.x.saved"}


def test_without_effect_on_the_whole_it_is_the_same_step() -> None:
    whole = parc.compile(Source("main.par", text("dp = 2", ("split b on dp",))), double=True).program
    cut = parc.compile(Source("main.par", text("dp = 2", ("split b on dp", "split d on dp in block[0..3].mlp"))))
    assert "block[0..3]" in cut.job.model.with_numbers("block_0_3.mlp") and "block_0_3" not in str(whole)


def test_checkpoints_have_the_tensors_of_the_model() -> None:
    rules = ("split b on dp", "shard weights, optimizer on dp in block[1..4]")
    compiled = parc.compile(Source("main.par", text("dp = 2", rules)), double=True)
    run = Emulator(compiled.program)
    names = {"block.mlp.w1", "block.mlp.w1.m", "block.seen"}
    assert names <= run.lasting.keys() and not any("block_" in n for n in run.lasting)


def test_a_lost_offset_is_found() -> None:
    compiled = parc.compile(Source("main.par", text("dp = 2", ("split b on dp in block[2..4]",))), double=True)
    program = compiled.program
    (cls,) = program.classes
    ranges = tuple(replace(r, within=replace(r.within, first=0)) if r.within and r.within.first == 2 else r
                   for r in cls.ranges)  # fmt: skip
    wrong = program.with_classes((replace(cls, ranges=ranges),))
    assert [(d.code, d.message) for d in verify(wrong)] == [
        ("E0650", "stage 0: loop block: iteration 0 is on two stages")
    ]
    with pytest.raises(ParcError, match="E0703"):
        prove(compiled.training, wrong)


@pytest.mark.parametrize(
    ("rule", "code", "part"),
    [
        ("recompute block[0..7]", "E0441", "`block` has 6 iterations, not 0..7"),
        ("recompute block[6]", "E0441", "not 6"),
        ("recompute block[3..3]", "E0441", "not 3..3"),
        ("split b on dp in block.mlp[0..2]", "E0440", "`block.mlp` is no loop"),
        ("split b on dp in table[0]", "E0440", "no loop"),
        ("halves(dp) in block[0..2]", "E0441", "none of the iterations 2..4"),
        ("layout table[v, d] in block[0..2]", "E0413", "is not in"),
        ("recompute blok[0..2]", "E0404", "blok"),
        ("implement block[2] by tensor_parallel_mlp(dp)", "E0420", "`block` is a loop"),
        (
            "implement block[2].mlp by tensor_parallel_mlp(dp)\n  implement block[2..4].mlp by tensor_parallel_mlp(dp)",
            "E0420",
            "`block[2].mlp` is implemented twice",
        ),
        (
            "layout block.mlp.w1[d, f/dp] in block[0..2]\n  layout block.mlp.w1[d/dp, f] in block[1..3]",
            "E0415",
            "the layout of `block[1].mlp.w1` is given twice",
        ),
    ],
)
def test_wrong_ones(rule: str, code: str, part: str) -> None:
    tactic = "\ntactic halves(x) {\n  split d on x in block[2..4]\n}\n"
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("main.par", text("dp = 2", ("split b on dp", rule)) + tactic))
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert part in caught.value.diagnostics[0].message
    for d in caught.value.diagnostics:  # pieces of a loop are named as rules name them
        assert "block_" not in " ".join([d.message, d.help or "", *(note for note, _ in d.notes)])


TOGETHER = """
optimizer together(lr) {
  state m ~ zeros
  m = 0.9 * m + g
  u = m * sqrt(sum(w * w)) / (sqrt(sum(m * m)) + 0.01)
  u = u / (max(abs(u)) + 0.1) - 0.1 * mean(u)
  w = w - lr * u
}
"""


@pytest.mark.parametrize(
    "name", [n if n in ("interleaved", "zero") else pytest.param(n, marks=pytest.mark.nightly) for n in TACTICS]
)
def test_optimizers_that_look_at_all_iterations(name: str) -> None:
    """Each part of a loop takes its own sums and maxima, which are put together, over stages too."""
    mesh, rules = TACTICS[name]
    own = (*rules, *(() if any("[" in r for r in rules) else ("recompute block[1..3]",)))
    judged(text(mesh, own, "together(lr = 0.1, clip = 0.5)") + TOGETHER)


GAINS = """
use std.optimizers

fn row_max(x[l, c]) {
  return x / (0.1 + max(abs(x), over l)) - mean(x, over l) * l
}

fn turned(x[l, c]) {
  return flip(x, over l)
}

fn paired(x[l, c]) {
  y[l, o] = x @ rename(x, l -> o)
  return y
}

fn halves(x[l, c]) {
  dim p = 2, q = 3
  y = split(x, l -> (p, q))
  return merge(y - sum(y, over q), (p, q) -> l)
}

fn numbered(x[l, c]) {
  return x / (1.0 + cast(iota(l), master))
}

fn later(x[..., c]) {
  return x + shift(x, c)
}

fn counted(x[l, c]) {
  return x * cast(sum(iota(l)), master) * 0.1
}

fn renamed(x[l, c]) {
  return x * sum(rename(cast(iota(l), master), l -> r)) * 0.1
}

fn bent(x[..., c]) {
  y = x / (sqrt(sum(x * x, over c)) + 0.1)
  repeat 2 as newton {
    y = 1.5 * y - 0.5 * y * y * y / (1.0 + norm(y))
  }
  return y
}

optimizer mine(lr) {
  u = STEP
  w = w - lr * u
}

model m {
  dim b = 8, d = 4
  input x : compute[b, d]
  repeat 6 as block {
    weight w[d] ~ normal(0.5)
    x = x + tanh(x * w)
  }
  loss mean(x * x)
}

strategy plan for m {
  mesh (MESH)
  RULES
}

job j {
  train m using plan
  optimizer mine(lr = 0.1)
}
"""
WAYS = """pipeline block on pp, schedule by_hand(microbatches = 4), chunks both_ways
  order pp[0] {
    F[0] F1[2] F[1] B1[2] F1[3] B[0] B1[3] B[1]
  }
  order pp[1] {
    F1[2] F[0] F1[3] B[0] F[1] B1[2] B[1] B1[3]
  }
  recompute block[1..2]"""
UNEVEN = "split b on dp\n  split d on tp in block[1..4] pad\n  shard optimizer, weights on dp in block[2..5]"
CHUNKS = "split d on dp in block[0..5]\n  pipeline block on pp, schedule interleaved(microbatches = 2, chunks = 2)"
BUBBLE = "pipeline block on pp, schedule zero_bubble(microbatches = 2), cuts [2, 5]\n  split b on dp in block[1..4]"


@pytest.mark.parametrize(
    ("step", "mesh", "rules"),
    [
        ("row_max(g)", "pp = 3, dp = 2", BUBBLE),
        ("bent(g) * sum(abs(w))", "pp = 2", WAYS),
        ("row_max(g) + numbered(g) - bent(w) * min(g)", "dp = 2, tp = 3", UNEVEN),
        ("counted(g)", "dp = 2", "split b on dp in block[0]"),
        ("renamed(g)", "dp = 2", "split b on dp in block[2..4]"),
        ("numbered(g)", "dp = 2", "split b on dp\n  offload optimizer, weights to host\n  recompute block[1..2]"),
    ],
)
def test_what_an_optimizer_takes_along_a_loop_that_is_cut(step: str, mesh: str, rules: str) -> None:
    judged(GAINS.replace("STEP", step).replace("MESH", mesh).replace("RULES", rules))


def test_a_maximum_over_chunks_of_one_weight() -> None:
    """And elements that cross from device to device along another dim."""
    source = GAINS.replace("STEP", "later(g) / (1.0 + max(abs(g)) - min(w))").replace("MESH", "pp = 2, dp = 2")
    assert parc.verify(Source("main.par", source.replace("RULES", CHUNKS)), double=True, steps=1).ok


@pytest.mark.parametrize(
    ("step", "part"),
    [
        ("turned(g)", "`flip` reads all iterations of `block`"),
        ("turned(sum(g) * w)", "`flip` reads"),
        ("g * sum(paired(g))", "`@` pairs iterations of `block` with each other"),
        ("halves(g)", "split: `block[0..2]` of size 2 is not p=2 * q=3 = 6, a part of a loop which is cut"),
    ],
)
def test_updates_that_need_iterations_side_by_side_are_refused(step: str, part: str) -> None:
    source = GAINS.replace("STEP", step).replace("MESH", "dp = 1").replace("RULES", "recompute block[0..2]")
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("main.par", source))
    (found,) = caught.value.diagnostics
    assert found.code == "E0442" and part in found.message and found.help and found.notes


LAST = """\
use std.optimizers (adamw)

model m {
  dim b = 8, d = 4
  input x : f32[b,d]
  h = x
  y = x
  repeat 4 as block {
    weight w[d] ~ normal(0.5)
    weight o[d] ~ normal(0.5)
    h = h + h * w
    y = h * o
  }
  loss mean(y * y)
}

strategy cut for m {
  mesh (dp = 2)
  split b on dp
  RULES
}

job fit {
  train m using cut
  optimizer adamw(lr = 0.1, decay = 0.5)
}
"""


@pytest.mark.parametrize(
    "rules",
    [
        "shard optimizer on dp in block[0..2]",
        "shard weights on dp in block[0..3]\n  microbatches 2",
        "shard optimizer, gradients on dp in block[3]",
    ],
)
def test_weights_that_the_loss_needs_of_the_last_iterations_only(rules: str) -> None:
    """In the other pieces they have gradients of zeros, and their optimizers go on, as in the loop as it is written."""
    source = Source("last.par", LAST.replace("RULES", rules))
    proof = parc.verify(source, double=True, steps=3)
    assert proof.ok and {r.name for r in proof.rows} >= {"block.w", "block.o"}
    assert parc.verify(source, double=True, steps=3, executor="private").ok
