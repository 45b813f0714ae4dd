"""What a job that decodes keeps of positions, in 8 bits: the same by whole sequences and by single positions, under
every strategy; and what the bits are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.driver import Compiled, compile_job, decoding_program
from compiler.evaluate import evaluate
from compiler.model import Model
from compiler.origin import Role
from compiler.program import InputDecl
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.api.compiling import compile
from runtime.checkpoints.reading import Checkpoint
from runtime.data import open_data
from runtime.numpy import CallContext
from runtime.numpy.base import quiet
from runtime.prove.decoding import Course, prove_decoding
from runtime.prove.serial import run_graph
from runtime.stacked import Emulator
from tests.stored.test_compress import folder

__all__ = ["folder"]  # the fixture: a model that was trained on 8 devices

NET = """\
use std.layers (grouped_attention, latent_attention, rms_norm, swiglu)
use std.tactics (tensor_parallel)

model net(batch, seq) {
  dim b = batch, s = seq, d = 32, v = 12
  input tokens : int32[b,s] in 0..v
  weight table[v,d] ~ normal(1.0)
  weight head[d,v]
  x[b,s,d] = take(table, tokens, over v)
  repeat 2 as block {
    x = x + LAYER as attention
    x = x + swiglu(rms_norm(x), 32)
  }
  logits[b,s,v] = rms_norm(x) @ head
  output logits
}

strategy plan for net {
RULES
}

job serve {
  infer net(2, 12) using plan
  precision f64
  decode over s, prefill 3
}
"""
GROUPED = "grouped_attention(rms_norm(x), 4, 2)"
WINDOW = "grouped_attention(rms_norm(x), 4, 2, window = 5)"
LATENT = "latent_attention(rms_norm(x), 4, 0, 16, 8, 8, 8)"
TP = "  mesh (tp = 2)\n  tensor_parallel(tp)\n"
STORE = "  store caches as int8\n"


def lowered(layer: str, rules: str) -> Compiled:
    text = NET.replace("LAYER", layer).replace("RULES", rules)
    return compile_job(evaluate(Source("net.par", text)))


@pytest.mark.parametrize(
    ("layer", "rules"),
    [
        (GROUPED, "  mesh (tp = 1)\n"),
        (GROUPED, TP),
        (GROUPED, "  mesh (cp = 2)\n  split t on cp\n"),
        (GROUPED, "  mesh (pp = 2)\n  pipeline block on pp, schedule gpipe(1)\n"),
        (WINDOW, TP),
        (LATENT, "  mesh (dp = 2)\n  split b on dp\n"),
    ],
)
def test_position_by_position_is_the_whole(layer: str, rules: str) -> None:
    whole = lowered(layer, rules + STORE)
    assert whole.job.decoding is not None
    program = decoding_program(whole.job)
    for split in (Course(1, 9), Course(3, 3)):
        (row,) = prove_decoding(whole.training, program, whole.job.decoding, split, executor=Emulator)
        assert row.ok and row.error < 1e-9, row
    kept = {s.name: s.type for s in program.classes[0].states if s.role is Role.STATE and "cache" in s.name}
    assert any(t.dtype == "uint32" for t in kept.values())
    plain = decoding_program(lowered(layer, rules).job)
    before = sum(s.type.bytes for s in plain.classes[0].states if s.role is Role.STATE and "cache" in s.name)
    assert sum(t.bytes for t in kept.values()) < 0.6 * before  # of 64 bits 8, and a scale of 64 for 8 or 16 numbers


def test_numbers_are_the_nearest_of_255() -> None:
    """A row of one head has the scale of its largest number; rows of zeros are zeros."""
    model = lowered(GROUPED, "  mesh (tp = 1)\n" + STORE).job.serial.model
    body = next(n.op.body for n in model.graph.nodes if n.op.mnemonic == "repeat")
    nodes = [n for n in body.nodes if n.output.name.startswith("block.attention.key.")]
    key = next(v for n in nodes for v in n.inputs if v.name == "block.attention.key")
    rng = np.random.default_rng(0)
    x = rng.standard_normal(key.type.shape) * np.exp(rng.standard_normal((*key.type.shape[:-1], 1)) * 9)
    x[0, 1] = 0
    x[1, 2, 0] *= 1e-200
    graph = replace(body, inputs=(key,), nodes=tuple(nodes), outputs=(nodes[-1].output,))
    with quiet():
        (found,) = run_graph(graph, {key.name: x}, CallContext(seed=0))
    step = np.abs(x).max(-1, keepdims=True) / 127
    assert (np.abs(found - x) <= 0.5 * step * (1 + 1e-9) + 1e-28).all()
    assert (found[0, 1] == 0).all() and np.abs(found[1, 2, 0] - x[1, 2, 0]).max() <= 1e-28
    ratio = found / np.where(step > 0, step, 1)
    assert np.abs(ratio - np.round(ratio))[step[..., 0] > 1e-20].max() < 1e-6


@pytest.mark.parametrize(
    ("rule", "code", "told"),
    [
        ("store caches as int4", "E0470", "caches cannot be stored as `int4`"),
        ("store caches as int8(group = 4)", "E0470", "as `int8` with such numbers"),
        ("store caches as int8 in block.swiglu", "E0542", "nothing in `block.swiglu` is kept"),
        ("store rows as int8", "E0403", "there is no class of tensors `rows` here"),
    ],
)
def test_what_is_not_kept_so_is_told(rule: str, code: str, told: str) -> None:
    with pytest.raises(ParcError) as error:
        lowered(GROUPED, f"  mesh (tp = 1)\n  {rule}\n")
    d = error.value.diagnostics[0]
    assert d.code == code and told in d.message


def test_a_job_that_does_not_decode_keeps_nothing() -> None:
    text = NET.replace("LAYER", GROUPED).replace("RULES", "  mesh (tp = 1)\n" + STORE)
    text = text.replace("  decode over s, prefill 3\n", "")
    with pytest.raises(ParcError, match="E0542"):
        compile_job(evaluate(Source("net.par", text)))


def loss(model: Model, c: Compiled, found: Checkpoint) -> float:
    """On held-out batches."""
    inputs = [InputDecl.of(i) for i in model.inputs]
    reader, weights = open_data(c.job.data, inputs, inputs), found.arrays([w.name for w in model.weights])
    with quiet():
        results = [
            run_graph(model.graph, {**weights, **reader.batch(1, n)}, CallContext(seed=1)) for n in range(60, 68)
        ]
    return float(np.mean([float(r[0]) for r in results]))


def test_a_trained_model_loses_next_to_nothing(folder: Path) -> None:
    file = folder / "writer.par"
    text = file.read_text().replace("mesh (tp = 1)\n  store weights as int4(group = 64)", "mesh (tp = 1)\n" + STORE)
    (folder / "caches.par").write_text(text)
    found = Checkpoint.latest(folder / "saved")
    bits = compile(folder / "caches.par", job="write", strategy="alone")
    plain = compile(file, job="plain")
    before, after = (loss(c.job.serial.model, c, found) for c in (plain, bits))
    assert before != after and abs(after / before - 1) < 0.002, (before, after)
