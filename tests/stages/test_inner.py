"""A pipeline of a loop that stands in another: groups of local layers with a global one behind each. Alone and in pairs
with all that strategies have, checkpoints of it, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import parc
from compiler.driver import Compiled
from compiler.origin import Role
from compiler.program import Program
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove, random_batch
from runtime.stacked import Emulator
from tests.stages.build import judged

MODEL = """
use std.implementations
use std.layers
use std.optimizers
use std.tactics

fn bent(x[..., d]) {
  repeat 2 as after {
    weight gain[d] ~ normal(0.5)
    x = x + gain * tanh(x)
  }
  return x
}

model m(groups, layers) {
  dim b = 8, s = 2, d = 4, v = 6
  input words, targets : int32[b, s] in 0..v
  weight table[v, d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat groups as group {
    weight shift[d] ~ normal(0.5)
    state seen[d]
    seen = 0.9 * seen + 0.1
    x = x + shift * seen
    repeat layers as layer {
      x = x + dropout(mlp(layer_norm(x), 8), 0.2)
      repeat 2 as deep {
        weight gain[d] ~ normal(0.5)
        x = x + gain * tanh(x)
      }
    }
    x = x + dropout(mlp(layer_norm(x), 8), 0.1) as global
    x = bent(bent(x))
  }
  logits[b, s, v] = layer_norm(x) @ table
  loss cross_entropy(logits, targets, over v)
}
"""


def text(mesh: str, rules: Sequence[str], optimizer: str = "adamw(lr = 0.1, clip = 0.5)", sizes: str = "3, 2") -> str:
    lines = "\n".join(f"  {r}" for r in [f"mesh ({mesh})", *rules])
    job = f"job j {{\n  train m({sizes}) using plan\n  optimizer {optimizer}\n}}\n"
    return f"{MODEL}\nstrategy plan for m {{\n{lines}\n}}\n\n{job}"


PIPELINE = "pipeline group.layer on pp, schedule one_f_one_b(microbatches = 2)"
ORDERS = {
    "gpipe": "pipeline group.layer, group.global on pp, schedule gpipe(microbatches = 2), cuts [2]",
    "one_f_one_b": "pipeline layer on pp, schedule one_f_one_b(microbatches = 4)",
    "interleaved": "pipeline group.layer on pp, schedule interleaved(microbatches = 4, chunks = 3)",
    "zero_bubble": "pipeline group.layer on pp, schedule zero_bubble(microbatches = 4), cuts [3]",
}
WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "dp": ("dp = 2", ("split b on dp",)),
    "zero_1": ("z = 2", ("data_parallel(z)", "optimizer_parallel(z, 1)")),
    "zero_3": ("z = 2", ("fsdp(z)",)),
    "tp": ("tp = 2", ("split f on tp",)),
    "recompute": ("", ("recompute group",)),
    "ranges": ("np = 2", ("recompute group[1..3].layer.mlp", "megatron(np) in group[1]")),
    "by_hand": ("hp = 2", ("implement group.layer.mlp by tensor_parallel_mlp(hp)", "recompute group.layer")),
    "host": ("", ("offload optimizer, activations to host",)),
}
ALWAYS = {("gpipe", "by_hand"), ("interleaved", "zero_3"), ("zero_bubble", "ranges"), ("one_f_one_b", "zero_1")}


def _pairs() -> list[object]:
    pairs = [(a, b) for a in ORDERS for b in WITH]
    marks = [() if pair in ALWAYS else pytest.mark.nightly for pair in pairs]
    return [pytest.param(a, b, id=f"{a}-{b}", marks=m) for (a, b), m in zip(pairs, marks, strict=True)]


@pytest.mark.parametrize(("order", "beside"), _pairs())
def test_pairs(order: str, beside: str) -> None:
    mesh, rules = WITH[beside]
    judged(text(", ".join(filter(None, ("pp = 2", mesh))), (*rules, ORDERS[order])))


BOTH_WAYS = """order pp[0] {
    F[0] F1[2] F[1] B1[2] F1[3] B[0] B1[3] B[1]
  }
  order pp[1] {
    F1[2] F[0] F1[3] B[0] F[1] B1[2] B[1] B1[3]
  }"""


@pytest.mark.nightly
@pytest.mark.parametrize("optimizer", ["lamb(lr = 0.1)", "rowwise_adagrad(lr = 0.1)", "lazy_adam(lr = 0.1)"])
def test_ways_and_optimizers(optimizer: str) -> None:
    """Copies of stages, whose gradients are summed; tables in a group are dense, as they are in the loop."""
    pipeline = "pipeline group.layer on pp, schedule by_hand(microbatches = 4), chunks both_ways"
    plain = text("pp = 2", (pipeline, BOTH_WAYS), optimizer)
    states = "    state seen[d]\n    seen = 0.9 * seen + 0.1\n    x = x + shift * seen\n"
    table = "    weight own[v, d] ~ normal(0.5)\n    x = x + shift + take(own, words, over v)\n"
    judged(plain.replace(states, table))


@pytest.fixture(scope="module")
def compiled() -> tuple[Compiled, Compiled]:
    """In a pipeline of two, and on one device."""
    rules = ("data_parallel(z)", "optimizer_parallel(z, 1)", PIPELINE)
    piped, plain = text("pp = 2, z = 2", rules), text("dp = 1", ())
    both = [parc.compile(Source("main.par", t), double=True) for t in (piped, plain)]
    return both[0], both[1]


def test_checkpoints_are_those_of_the_loops_as_they_are_written(
    compiled: tuple[Compiled, Compiled],
) -> None:
    """What one program has learned goes on in the other, and both come to the same."""
    one, other = (Emulator(c.program) for c in compiled)
    batches = [random_batch(compiled[1].program.inputs, 0, step) for step in range(2)]
    one.step(batches[0])
    assert not any("group_" in name for name in one.lasting) and one.lasting == other.lasting
    assert one.lasting["group.layer.mlp.w1"].shape == (3, 2, 4, 8)
    other.put({**one.weights(), **one.states()})
    for run in (one, other):
        run.steps = 1
        run.step(batches[1])
    found, want = ({**run.weights(), **run.states()} for run in (one, other))
    assert found.keys() == want.keys()
    for name in want:
        assert np.allclose(found[name], want[name], rtol=1e-9, atol=1e-12), name


@pytest.mark.nightly
def test_exported_files_have_parts_of_the_same_tensors(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.export.exported import outcomes

    program = parc.compile(Source("main.par", text("pp = 2", (PIPELINE,)))).program
    assert outcomes({"inner": program}, tmp_path) == {"inner": "proved"}


def _moved(program: Program, number: int) -> Program:
    """The program in which what is of the second group says that it is of another."""
    classes = []
    for cls in program.classes:
        states = [
            replace(s, iterations=tuple(replace(i, first=number) for i in s.iterations))
            if s.role in (Role.WEIGHT, Role.OPTIMIZER, Role.GRADIENT) and any(i.first == 1 for i in s.iterations)
            else s
            for s in cls.states
        ]
        classes.append(replace(cls, states=tuple(states)))
    return program.with_classes(tuple(classes))


def test_a_lost_iteration_is_found(compiled: tuple[Compiled, Compiled]) -> None:
    program, training = compiled[0].program, compiled[0].training
    assert not verify(program)
    found = [(d.code, d.message) for d in verify(_moved(program, 0))]
    assert ("E0650", "stage 0: group.shift: of 3 iterations of group only 2 on a stage") in found
    with pytest.raises(ParcError, match="E0703"):
        prove(training, _moved(program, 0))
    outside = verify(_moved(program, 3))[0]
    assert outside.code == "E0650" and "there is no iteration 3 of group, which has 3" in outside.message


@pytest.mark.parametrize(
    ("rule", "sizes", "code", "part"),
    [
        (PIPELINE, "65, 1", "E0553", "`group` around it has 65 iterations"),
        (PIPELINE.replace("group.layer", "deep"), "3, 2", "E0553", "`group.layer.deep` cannot be cut: it stands in"),
        (PIPELINE, "1, 1", "E0408", "`group[0].layer` has 1 iteration, too few for 2 stages"),
        (f"{PIPELINE}, cuts [7]", "3, 2", "E0409", "there are 6"),
        (f"{PIPELINE}\n  pipeline group on pp", "3, 2", "E0415", "cut twice"),
    ],
)
def test_wrong_ones(rule: str, sizes: str, code: str, part: str) -> None:
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("main.par", text("pp = 2", (rule,), sizes=sizes)))
    found = caught.value.diagnostics
    assert [d.code for d in found] == [code] and part in found[0].message and found[0].help
    for d in found:  # what is apart is named as rules name it
        assert "group_" not in " ".join([d.message, d.help or "", *(note for note, _ in d.notes)])


TOGETHER = """
optimizer together(lr) {
  state m ~ zeros
  m = 0.9 * m + g
  u = m * (norm(w) + sqrt(sum(w * w))) / (sqrt(sum(m * m)) + 0.01)
  w = w - lr * (u / (max(abs(u)) + 0.1) - 0.1 * mean(u))
}
"""


@pytest.mark.nightly
@pytest.mark.parametrize("beside", WITH)
def test_updates_that_look_at_all_groups(beside: str) -> None:
    mesh, rules = WITH[beside]
    own = (*rules, ORDERS["interleaved"])
    judged(text(", ".join(filter(None, ("pp = 2", mesh))), own, "together(lr = 0.1, clip = 0.5)") + TOGETHER)


def test_sums_over_all_groups_are_those_of_the_loop() -> None:
    rules = ("fsdp(z)", "pipeline layer on pp, schedule gpipe(microbatches = 2)")
    source = text("pp = 2, z = 2", rules, "together(lr = 0.1, clip = 0.5)", sizes="2, 1") + TOGETHER
    assert parc.verify(Source("main.par", source), double=True).ok


@pytest.mark.parametrize("executor", ["stacked", "private"])
def test_a_weight_that_the_last_group_needs_not_is_trained_there(executor: parc.api.Executor) -> None:
    """As in the loop: its gradient is zero there, its optimizer goes on."""
    unused = "    x = x + side\n    weight aside[d] ~ normal(0.5)\n    side = side + aside * x\n"
    source = text("pp = 2", (PIPELINE,)).replace("    x = x + dropout(mlp(layer_norm(x), 8), 0.1) as global\n", unused)
    source = source.replace("  repeat groups as group {", "  side = zeros(b, s, d)\n  repeat groups as group {")
    source = Source("main.par", source)
    program = parc.compile(source).program
    trained = {s.name for c in program.classes for s in c.states if s.role is Role.WEIGHT and not s.frozen}
    assert sum(".aside" in name for name in trained) == 3
    assert parc.verify(source, double=True, steps=3, executor=executor).ok


def test_on_one_place_it_stays_a_loop() -> None:
    program = parc.compile(Source("main.par", text("pp = 1", (PIPELINE,)))).program
    assert "group_0" not in str(program)


TOWERS = """
use std.layers
use std.optimizers

fn tower(x[..., d], groups, layers) {
  repeat groups as group {
    repeat layers as layer {
      x = x + mlp(layer_norm(x), 8)
    }
    x = x + mlp(layer_norm(x), 8) as global
  }
  return x
}

model m(groups, layers) {
  dim b = 8, s = 2, d = 4
  input x : f32[b, s, d]
  left = tower(x, groups, layers) as left
  right = tower(x, groups, layers) as right
  loss mean(left * right)
}

strategy plan for m {
  mesh (MESH)
  place left on side[0]
  place right on side[1]
  pipeline left.group.layer on pp, schedule one_f_one_b(microbatches = 4)
  pipeline right.group.layer on pp
}

job j {
  train m(2, 2) using plan
  optimizer adamw(lr = 0.1)
}
"""


@pytest.mark.parametrize("mesh", ["pp = 1, side = 2", "side = 2, pp = 1"])
def test_on_one_place_beside_other_axes(mesh: str) -> None:
    """Each row is then on one place of these."""
    proof = parc.verify(Source("main.par", TOWERS.replace("MESH", mesh)), double=True, steps=1, executor="private")
    assert proof.ok, proof.worst
