"""Frozen weights: no gradient and nothing that only one would need, no state, no update; whatever the strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.cost.kernels.flops import model_flops
from compiler.diff import diff
from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate_file
from compiler.explain import explain_tensor
from compiler.model import Precision
from compiler.ops.effects import Load, Read, Save, Write
from compiler.ops.repeat import Repeat
from compiler.program import Entry, Program
from compiler.text import parse_program, show
from compiler.traffic import collectives
from compiler.verify import verify
from dsl.source import Source
from parc import check
from parc.results import Results
from runtime.prove import prove, random_batch
from runtime.prove.serial import initial_state, serial_step
from runtime.rank.executor import RankExecutor
from tests.some import some_pairs

DOUBLE = Precision("f64", "f64")
B, D, F, Q, LAYERS, V = 8, 8, 16, 2, 4, 12

LORA = f"""
fn dense(x[b,s,d], f, rank) {{
  dim q = rank
  weight base[d,f], low[d,q], high[q,f] ~ normal(0.3)
  u[b,s,q] = x @ low
  wide[b,s,f] = x @ base
  more[b,s,f] = u @ high
  return wide + more
}}

model m() {{
  dim b = {B}, s = 4, d = {D}, f = {F}, v = {V}
  input words, targets : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  x[b,s,d] = take(table, words, over v)
  repeat {LAYERS} as block {{
    u = gelu(dense(layer_norm(x), over f, {Q}) as up)
    x = x + dense(u, over d, {Q}) as down
  }}
  logits = linear(layer_norm(x), over v, std = 0.3) as head
  metric best = max(logits)
  loss cross_entropy(logits, targets, over v)
}}
"""
PROBE = f"""
model m() {{
  dim b = {B}, s = 4, d = {D}, v = {V}
  input words, targets : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  x[b,s,d] = take(table, words, over v)
  repeat {LAYERS} as block {{
    x = x + mlp(layer_norm(x), {F}, std = 0.3)
  }}
  logits = linear(layer_norm(x), over v, std = 0.3) as head
  loss cross_entropy(logits, targets, over v)
}}
"""
ENCODED = f"""
model m() {{
  dim b = {B}, s = 4, d = {D}, v = {V}
  input seen : compute[b,s,d]
  input targets : int32[b,s] in 0..v
  x = seen
  repeat 2 as encoder {{
    x = x + mlp(layer_norm(x), {F}, std = 0.3)
  }}
  repeat {LAYERS} as block {{
    x = x + mlp(layer_norm(x), {F}, std = 0.3)
  }}
  logits = linear(layer_norm(x), over v, std = 0.3) as head
  loss cross_entropy(logits, targets, over v)
}}
"""
TIED = f"""
model m() {{
  dim b = {B}, s = 4, d = {D}, v = {V}
  input words, targets : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  weight shared[d] ~ normal(0.5)
  x[b,s,d] = take(table, words, over v)
  repeat {LAYERS} as block {{
    weight w[d] ~ normal(0.5)
    x = x + tanh(x * w) * shared + mlp(x, {F}, std = 0.3)
  }}
  logits[b,s,v] = (x * stop_gradient(shared)) @ table
  loss cross_entropy(logits, targets, over v)
}}
"""
FROZEN = {
    "lora": (LORA, "frozen keep *.low, *.high"),
    "lora with a head": (LORA, "frozen *.base, table"),
    "probe": (PROBE, "frozen keep head"),
    "encoder": (ENCODED, "frozen encoder"),
    "decoder": (ENCODED, "frozen block, head"),
    "tied": (TIED, "frozen table"),
    "shared": (TIED, "frozen shared"),
    "only the shared": (TIED, "frozen keep shared"),
}


def text(
    model: str, frozen: str, rules: str = "", mesh: str = "", optimizer: str = "adamw(lr = 0.01)", more: str = ""
) -> str:
    strategy = f"strategy s for m {{\n  mesh ({mesh})\n  " + rules.replace("; ", "\n  ") + "\n}\n" if mesh else ""
    using = " using s" if mesh else ""
    heads = "use std.layers\nuse std.optimizers\nuse std.tactics\n"
    return (
        f"{heads}{model}\n{strategy}job fit {{\n  train m(){using}\n  optimizer {optimizer}\n  {frozen}\n  {more}\n}}\n"
    )


def compiled(*parts: str, precision: Precision | None = DOUBLE, **options: str) -> Compiled:
    found = compile_job(evaluate_file(Source("main.par", text(*parts, **options)), {}, precision=precision).job)
    assert verify(found.program) == ()
    assert parse_program(show(found.program)) == found.program
    return found


def buffers(program: Program, role: str) -> set[str]:
    return {s.logical for c in program.classes for s in c.states if s.role == role}


def touched(program: Program, kind: type[Any]) -> set[str]:
    return {i.op.name for c in program.classes for f in c.functions for i in f.body.nodes if isinstance(i.op, kind)}


STRATEGIES = {
    "data": ("dp = 4", "data_parallel(dp)"),
    "micro-batches": ("dp = 2", "data_parallel(dp); microbatches 4 over b"),
    "zero 1": ("dp = 4", "data_parallel(dp); optimizer_parallel(dp, 1)"),
    "zero 2": ("dp = 4", "data_parallel(dp); optimizer_parallel(dp, 2); microbatches 2 over b"),
    "zero 3": ("dp = 2", "fsdp(dp)"),
    "tensor": ("dp = 2, tp = 2", "split v, f, d on tp; data_parallel(dp)"),
    "recompute": ("dp = 2", "data_parallel(dp); recompute block"),
    "gpipe": ("pp = 2, dp = 2", "data_parallel(dp); pipeline block on pp, schedule gpipe(microbatches = 2, over = b)"),
    "1f1b": ("pp = 4", "pipeline block on pp, schedule one_f_one_b(microbatches = 4, over = b)"),
    "interleaved": ("pp = 2", "pipeline block on pp, schedule interleaved(microbatches = 2, chunks = 2, over = b)"),
    "zero-bubble": ("pp = 2", "pipeline block on pp, schedule zero_bubble(microbatches = 4, over = b)"),
    "all": (
        "dp = 2, pp = 2, tp = 2",
        "data_parallel(dp); split v, f, d on tp; optimizer_parallel(dp, 3); recompute block; "
        "pipeline block on pp, schedule one_f_one_b(microbatches = 2, over = b)",
    ),
}  # fmt: skip
OPTIMIZERS = ("adamw(lr = 0.01, decay = 0.1, clip = 0.05)", "lamb(lr = 0.01)", "sgd(lr = 0.1, momentum = 0.9)")


@pytest.mark.parametrize(("name", "strategy"), some_pairs(FROZEN, list(STRATEGIES), 3, always=("all",)))
def test_equal_to_the_serial_program(name: str, strategy: str) -> None:
    """In both executors; nothing of what is frozen is kept but the weight itself, which never changes."""
    mesh, rules = STRATEGIES[strategy]
    at = list(FROZEN).index(name) + list(STRATEGIES).index(strategy)
    found = compiled(*FROZEN[name], mesh=mesh, rules=rules, optimizer=OPTIMIZERS[at % 3])
    executor = RankExecutor if at % 2 else None
    proof = prove(found.training, found.program, steps=2, executor=executor)
    assert proof.ok, proof.worst
    frozen = {w.name for w in found.job.model.weights if not w.trained}
    trained = {w.name for w in found.job.model.trained}
    assert frozen and trained
    assert buffers(found.program, "gradient") == trained
    assert {s.of for s in found.training.states} - {None} == trained
    assert buffers(found.program, "weight") == frozen | trained
    assert {n.partition("#")[0] for n in touched(found.program, Write)} & frozen == set()
    assert {n.partition("#")[0] for n in touched(found.program, Read)} >= frozen


@pytest.mark.parametrize("name", FROZEN)
def test_gradients_are_those_of_the_whole_model(name: str) -> None:
    """Freezing takes gradients away and changes none; weights that are frozen stay as they began."""
    model, frozen = FROZEN[name]
    whole, part = compiled(model, ""), compiled(model, frozen)
    weights, states = initial_state(whole.training)
    batch = random_batch(whole.program.inputs, 0, 0)
    every = serial_step(whole.training, weights, states, batch)
    some = serial_step(part.training, *initial_state(part.training), batch)
    assert set(some.gradients) == {w.name for w in part.job.model.trained} < set(every.gradients)
    for n, g in some.gradients.items():
        np.testing.assert_allclose(g, every.gradients[n], rtol=1e-12, atol=1e-15)
    for w in part.job.model.weights:
        assert np.array_equal(some.weights[w.name], weights[w.name]) == (not w.trained)
    assert some.loss == every.loss


def test_mixed_precision_keeps_the_compute_copy_only() -> None:
    found = compiled(*FROZEN["lora"], precision=None, more="precision bf16, master f32")
    types = {w.name: w.value.type.dtype for w in found.job.model.weights}
    assert {types[w.name] for w in found.job.model.trained} == {"f32"}
    assert {t for n, t in types.items() if n not in {w.name for w in found.job.model.trained}} == {"bf16"}
    results = Results(found)
    low_and_high = 2 * LAYERS * Q * (D + F)
    assert results.get("parameters") == low_and_high
    frozen = LAYERS * (2 * D * F + 2 * D) + V * D + 2 * D + D * V + V
    assert results.get("parameters.total") == low_and_high + frozen
    assert results.get("memory.weight") == 4 * low_and_high + 2 * frozen
    assert results.get("memory.optimizer") == 8 * low_and_high
    assert prove(found.training, found.program).ok


@pytest.mark.parametrize("scale", ["dynamic", "128"])
def test_loss_scale(scale: str) -> None:
    more = f"precision f16, master f32, loss_scale {scale}"
    rules, mesh = "data_parallel(dp); optimizer_parallel(dp, 2)", "dp = 2"
    found = compiled(*FROZEN["lora"], precision=None, more=more, rules=rules, mesh=mesh)
    assert prove(found.training, found.program).ok


def test_a_probe_needs_no_backward_pass_below_it() -> None:
    """Nothing of the frozen part is saved, computed backward or sent; in a pipeline, only the last stage goes back."""
    found = compiled(*FROZEN["probe"])
    assert not any(isinstance(n.op, Repeat) for n in found.training.backward.nodes)
    saved = {v.name for v in found.training.saved}
    assert saved and not any(n.startswith("block") for n in saved)
    pipe = compiled(*FROZEN["probe"], mesh="pp = 4", rules=STRATEGIES["1f1b"][1])
    for cls in pipe.program.classes:
        back = next(f for f in cls.functions if f.phase == "B")
        assert bool(back.body.nodes) == (3 in cls.groups)
        alone = Program("p", (), (), (Entry("train_step", (cls,)),))
        made = touched(alone, Save) | touched(alone, Load)
        assert bool(made) == (3 in cls.groups)


@pytest.mark.parametrize("order", ["01", "10"])
@pytest.mark.parametrize("executor", [None, RankExecutor])
def test_a_frozen_tower(order: str, executor: Any) -> None:
    """Its devices hold no gradient and no state; they go back only for the loss, if that is theirs."""
    model = """
model m() {
  dim b = 8, p = 8, q = 4, d = 8
  input picture : compute[b,p]
  input words : compute[b,q]
  u = tanh(linear(picture, over d, std = 0.5) as image)
  z = tanh(linear(words, over d, std = 0.5) as text)
  loss mse(u, z)
}
"""
    rules = (
        f"data_parallel(dp); place image on tower[{order[0]}]; place text on tower[{order[1]}]; microbatches 2 over b"
    )
    found = compiled(
        model, "frozen image", mesh="tower = 2, dp = 2", rules=rules, optimizer="adamw(lr = 0.1, clip = 1.0)"
    )
    assert prove(found.training, found.program, steps=2, executor=executor).ok
    (cls,) = (c for c in found.program.classes if int(order[0]) in c.groups)
    roles = {s.role for s in cls.states}
    assert not roles & {"gradient", "optimizer"}
    if "loss" not in roles:
        assert "saved" not in roles and not next(f for f in cls.functions if f.phase == "B").body.nodes


def test_what_it_costs() -> None:
    """FLOPs: forward, gradients of what is between a trained weight and the loss, gradients of trained weights."""
    tokens = B * 4
    layer, head = 2 * tokens * D * F, 2 * tokens * D * V
    probe = compiled(*FROZEN["probe"]).training
    assert model_flops(probe) == 2 * LAYERS * layer + 2 * head
    adapters = 2 * tokens * Q * (D + F)  # of one dense layer: through `low`, then `high`
    lora = compiled(*FROZEN["lora"]).training
    forward = LAYERS * (2 * layer + 2 * adapters) + head
    back = LAYERS * (2 * layer + 2 * adapters) + head - layer - 2 * tokens * Q * D  # the first layer's input has none
    assert model_flops(lora) == forward + back + LAYERS * 2 * adapters


def test_what_is_sent() -> None:
    """Data parallel: gradients of adapters are reduced, nothing else; sharded weights are gathered all the same."""
    plain = compiled(*FROZEN["lora"], mesh="dp = 4", rules="data_parallel(dp)")
    adapters = 8 * 2 * LAYERS * Q * (D + F)
    reduced = [c for c in collectives(plain.program) if c.op == "all_reduce" and c.bytes > 64]
    assert sum(c.bytes for c in reduced) == 2 * 3 / 4 * adapters
    sharded = compiled(*FROZEN["lora"], mesh="dp = 4", rules="data_parallel(dp); shard weights on dp in block.up.base")
    gathered = [c for c in collectives(sharded.program) if c.op == "all_gather"]
    assert {c.function for c in gathered} == {"F", "B"}
    assert sum(c.bytes for c in gathered) == 2 * 3 / 4 * 8 * LAYERS * D * F
    assert not [c for c in collectives(sharded.program) if c.op == "reduce_scatter"]


def test_behind_stop_gradient() -> None:
    """A weight that the loss's derivative does not reach is as good as frozen, however it is cut off."""
    lines = "cut = stop_gradient(w) * x; cut = x * sign(w); cut = where(w > 0.0, x, 2.0 * x); "
    lines += "cut = rename(take(x, rename(cast(abs(w), int32), d -> e), over d), e -> d)"
    for line in lines.split("; "):
        body = (
            f"model m() {{\n  dim b = 4, d = 8\n  input x : compute[b,d]\n  weight w[d], u[d] ~ normal(0.5)\n  {line}\n"
        )
        found = compiled(
            f"{body}  metric size = sum(w)\n  loss mean(cut * u)\n}}\n", "", optimizer="adamw(lr = 0.1, decay = 0.5)"
        )
        assert [w.name for w in found.job.model.trained] == ["u"]
        assert {s.of for s in found.training.states} == {None, "u"}
        proof = prove(found.training, found.program, steps=3)
        assert proof.ok
    both = f"{body}  loss mean(cut * u + w)\n}}\n"
    assert [w.name for w in compiled(both, "").job.model.trained] == ["w", "u"]


def test_in_loops() -> None:
    """A carry goes round: a weight that reaches the loss in a later iteration, through another carried value."""
    model = """
model m() {
  dim b = 4, d = 8
  input x : compute[b,d]
  weight first[d], second[d], third[d] ~ normal(0.5)
  y = x
  z = x * first
  repeat 3 as block {
    weight w[d], cut[d] ~ normal(0.5)
    y = y + z * stop_gradient(cut)
    z = sin(z * w) + stop_gradient(third)
  }
  loss mean(y) + mean(stop_gradient(z) * second * 0.0)
}
"""
    found = compiled(model, "")
    assert {w.name for w in found.job.model.trained} == {"first", "second", "block.w"}
    assert prove(found.training, found.program, steps=3).ok


def test_text_and_verifier() -> None:
    """In a program a frozen weight says so: it is not written, and one that is not frozen is."""
    program = compiled(*FROZEN["lora"]).program
    shown = show(program)
    (line,) = (x for x in shown.splitlines() if x.startswith("  weight table"))
    assert line.endswith(" frozen")
    thawed = parse_program(shown.replace(line, line.removesuffix(" frozen")))
    assert [d.code for d in verify(thawed)] == ["E0623"]
    (line,) = (x for x in shown.splitlines() if x.startswith("  weight block.up.low"))
    assert "E0620" in {d.code for d in verify(parse_program(shown.replace(line, f"{line} frozen")))}
    (line,) = (x for x in shown.splitlines() if x.startswith("  optimizer block.up.low.m"))
    assert "E0620" in {d.code for d in verify(parse_program(shown.replace(line, f"{line} frozen")))}


def test_explained_and_compared() -> None:
    rules = {"mesh": "dp = 2", "rules": "fsdp(dp)"}
    part, whole = compiled(*FROZEN["lora"], **rules), compiled(LORA, "", **rules)
    found = explain_tensor(part.placed, part.staged, part.program, "block.up.base")
    assert found.role == "frozen weight"
    assert [k.what for k in found.kept] == ["weight"]
    assert {c.phase for c in found.changes} == {"forward", "backward"}
    changes = {c.what: c for c in diff(whole.program, part.program).layouts}
    frozen = changes["weight block.up.base"]
    assert frozen.after == f"{frozen.before} frozen"
    assert changes["gradient block.up.base.grad"].after is None


CASE = """
use std.layers (mse)
use std.optimizers (adamw)

model adapted(width = 64) {
  dim b = 8, d = width, f = width, q = 2
  input x : f32[b,d]
  input y : f32[b,f]
  weight base[d,f], low[d,q] ~ normal(0.2)
  weight high[q,f] ~ zeros
  loss mse(x @ BASE + x @ low @ high, y)
}

job fit {
  train adapted
  optimizer adamw(lr = 0.1, decay = 0.1)
  FROZEN
}

check fit.parameters == 256
check fit.parameters.total == 4352
check fit.memory.optimizer <= 3 KiB
"""


@pytest.mark.parametrize(("base", "frozen"), [("base", "frozen base"), ("stop_gradient(base)", "")])
def test_adapters_of_one_layer(base: str, frozen: str, tmp_path: Path) -> None:
    path = tmp_path / "adapted.par"
    path.write_text(CASE.replace("BASE", base).replace("FROZEN", frozen), encoding="utf-8")
    check(path)
