"""Scaled inputs (`parc compress --method awq`, `smooth`): where there can be some, that nothing changes, that less is
lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.model import Model
from compiler.weight_format import WeightFormat
from dsl.source import Source
from parc.api.compiling import compile
from parc.cli import cli
from runtime.checkpoints.converting import convert
from runtime.checkpoints.reading import Checkpoint
from runtime.compress.calibrating import Watched
from runtime.compress.compressing import exact_model, rounded_inputs
from runtime.compress.rounding import Rounded, by_size
from runtime.compress.scaled_inputs import ScaledInput, scaled_inputs
from runtime.compress.scaling import BySizes, balanced
from runtime.compress.smoothing import ByExamples
from runtime.compress.source import PackedSource
from tests.stored.models import lowered
from tests.stored.test_compress import done, folder

__all__ = ["folder"]  # the fixture: a model that was trained on 8 devices

GATED = """\
use std.layers (grouped_attention, rms_norm, swiglu)

model gated(batch, seq) {
  dim b = batch, s = seq, d = 64
  input x : compute[b,s,d]
  y[b,s,d] = x
  repeat 2 as block {
    y = y + grouped_attention(rms_norm(y) as first, 4, 2) as attention
    y = y + swiglu(rms_norm(y) as second, 128) as mlp
  }
  output y
}

strategy plan for gated {
  mesh (tp = 1)
  store weights as int4(group = 32)
}

job serve {
  infer gated(2, 4) using plan
  precision f64
}
"""


def gated(text: str = GATED) -> Model:
    return compile_job(evaluate(Source("gated.par", text))).job.serial.model


def told(found: list[ScaledInput]) -> list[tuple[tuple[str, ...], list[str], list[str]]]:
    return [(f.dims, [r.weight for r in f.readers], [m.weight for m in f.makers]) for f in found]


def test_where_inputs_can_be_scaled() -> None:
    a = "block.attention"
    assert told(scaled_inputs(gated())) == [
        (("d",), [f"{a}.wq", f"{a}.wk", f"{a}.wv"], ["block.first.gain"]),
        (("h", "k"), [f"{a}.wo"], [f"{a}.wv"]),  # queries that share a head's values share its scales
        (("d",), ["block.mlp.gate", "block.mlp.up"], ["block.second.gain"]),
        (("f",), ["block.mlp.down"], ["block.mlp.up"]),
    ]
    found = told(scaled_inputs(lowered("  store weights as int4(group = 32)").job.serial.model))
    assert found == [
        (("d",), [f"{a}.wq", f"{a}.wk", f"{a}.wv"], ["block.layer_norm.gain", "block.layer_norm.bias"]),
        (("h", "k"), [f"{a}.wo"], [f"{a}.wv", f"{a}.bv"]),
        (("d",), ["block.mlp.w1"], ["block.layer_norm_1.gain", "block.layer_norm_1.bias"]),  # GELU lets none through
        (("d",), ["head"], ["layer_norm.gain", "layer_norm.bias"]),
    ]


def test_what_something_else_reads_is_not_scaled() -> None:
    """A value that more than products read stays as it is."""
    text = GATED.replace(
        "    y = y + swiglu(rms_norm(y) as second, 128) as mlp\n",
        "    z = rms_norm(y) as second\n    y = y + z + swiglu(z, 128) as mlp\n",
    )
    assert [f.dims for f in scaled_inputs(gated(text))] == [("d",), ("h", "k"), ("f",)]


def drawn(model: Model) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights, stored ones whole, and a batch."""
    rng = np.random.default_rng(3)
    whole = {s.name: rng.standard_normal(s.type.shape) * 0.2 for s in model.stored}
    types = {w.name: w.value.type for w in model.weights}
    others = {n: rng.standard_normal(t.shape) if t.is_float else np.zeros(t.shape, "u4") for n, t in types.items()}
    batch = {i.value.name: rng.standard_normal(i.value.type.shape) for i in model.inputs}
    return {**others, **whole}, batch


def test_without_rounding_nothing_changes() -> None:
    """In f64, with scales over five decades."""
    model = gated()
    weights, batch = drawn(model)
    whole = {s.name: weights[s.name] for s in model.stored}
    before = Watched(model, whole, measure=True)
    (want,) = before.run({**weights, **batch}, 0)
    names = {w.name: w.value.type.names for w in model.weights} | {s.name: s.type.names for s in model.stored}
    wild = {n: {at: np.diag(10.0 ** np.random.default_rng(i).uniform(-5, 5, len(m))) for at, m in of.items()}
            for i, (n, of) in enumerate(before.moments.items())}  # fmt: skip

    def coarse(w: np.ndarray, moment: np.ndarray, of: object) -> Rounded:
        return Rounded(w, w, w, np.round(w * 4) / 4)

    made = balanced(scaled_inputs(model), weights, model.stored, names, wild, BySizes(wild, coarse))
    assert made.count == 8 and len(made.weights) == 9
    now = {**weights, **made.weights}
    assert np.abs(now["block.first.gain"] / weights["block.first.gain"]).max() > 10
    (found,) = Watched(model, {s.name: now[s.name] for s in model.stored}).run({**now, **batch}, 0)
    assert np.abs(found - want).max() <= 1e-10 * np.abs(want).max()


def test_moments_follow_the_scales() -> None:
    """What is told of inputs is what they are then."""
    model = gated()
    weights, batch = drawn(model)
    before = Watched(model, {s.name: weights[s.name] for s in model.stored}, measure=True)
    before.run({**weights, **batch}, 0)
    names = {w.name: w.value.type.names for w in model.weights} | {s.name: s.type.names for s in model.stored}

    def coarse(w: np.ndarray, moment: np.ndarray, of: object) -> Rounded:
        return Rounded(w, w, w, np.round(w * 2) / 2)

    made = balanced(scaled_inputs(model), weights, model.stored, names, before.moments, BySizes(before.moments, coarse))
    now = {**weights, **made.weights}
    after = Watched(model, {s.name: now[s.name] for s in model.stored}, measure=True)
    after.run({**now, **batch}, 0)
    for name, layers in after.moments.items():
        for at, moment in layers.items():
            np.testing.assert_allclose(made.moments[name][at], moment, rtol=1e-8, atol=1e-9 * np.abs(moment).max())


def with_outliers(saved: Path, out: Path, file: str, large: float = 32.0) -> None:
    """The same model, of which some inputs of products are many times as large as others, as those of large models are:
    gains are, and the weights behind them that much smaller."""
    found = Checkpoint.latest(saved)
    arrays, rng = found.arrays(), np.random.default_rng(0)
    changed = {}
    for norm, behind in (
        ("layer_norm", ("attention.wq", "attention.wk", "attention.wv")),
        ("layer_norm_1", ("mlp.w1",)),
    ):
        size = np.where(rng.random((2, 64)) < 0.1, large, 1.0).astype(np.float32)
        for part in ("gain", "bias"):
            changed[f"block.{norm}.{part}"] = arrays[f"block.{norm}.{part}"] * size
        for name in (f"block.{n}" for n in behind):
            x = arrays[name]
            changed[name] = x / size.reshape((2, 64) + (1,) * (x.ndim - 2))
    convert(PackedSource(found, (), changed), compile(file, job="fit", strategy="serial").program, out)


def test_scaled_inputs_lose_less_than_plain_rounding(folder: Path) -> None:
    """On batches that nothing was made with; what is written is a checkpoint with other gains."""
    file, saved, out = str(folder / "writer.par"), folder / "outliers", folder / "awq"
    with_outliers(folder / "saved", saved, file)
    words = ("compress", str(saved), file, "--job", "write", "-Dform=1", "--method", "awq", "--steps", "8")
    found = done(*words, "-o", str(out))
    lost, plain = found["made"] - found["loss"], found["plain"] - found["loss"]
    assert plain > 0.003 and lost < 0.5 * plain, (lost, plain)
    before, after = (Checkpoint.latest(x).arrays() for x in (saved, out))
    gain = "block.layer_norm.gain"
    assert np.ptp(np.abs(after[gain])) < 0.5 * np.ptp(np.abs(before[gain]))
    texts = done(
        "generate", file, "--job", "write", "-Dform=1", "--from", str(out), "--prompt", "To be", "--steps", "2"
    )["texts"]
    assert len(texts[0]["text"]) == 2


def test_of_four_the_two_that_count_most_are_kept() -> None:
    w = np.array([[3.0], [2.0], [1.1], [-1.5]])
    found = by_size(w, np.diag([0.01, 1.0, 4.0, 4.0]), WeightFormat("sparse"), "f32")
    assert found.numbers[:, 0].tolist() == [0, 0, 1, 1] and found.value[:, 0].tolist() == [0, 0, 1.1, -1.5]


# --- inputs that are rounded to 8 bits, too: `--method smooth`

RULE = "store weights as int4(group = 32)"
BOTH = "store weights as int8\n  store activations as int8"


def test_smoothing_changes_nothing_but_rounding() -> None:
    """In f64, where every other input is a thousand times as large as the others; those of one scope are rounded."""
    text = GATED.replace(RULE, f"{BOTH} in block.mlp")
    assert text != GATED
    job = compile_job(evaluate(Source("gated.par", text))).job
    rounding = job.serial.model
    model = exact_model(rounding)
    of_integers = rounded_inputs(job)
    assert of_integers.keys() == {"block.mlp.gate", "block.mlp.up", "block.mlp.down"}
    weights, batch = drawn(model)
    for gain in ("block.first.gain", "block.second.gain"):
        weights[gain][:, ::2] *= 1000.0
    whole = {s.name: weights[s.name] for s in model.stored}
    before = Watched(model, whole, measure=True, rows=5)
    (want,) = before.run({**weights, **batch}, 0)
    assert before.rows["block.mlp.down"][(1,)].shape == (5, 128) and before.rows.keys() == whole.keys()
    names = {w.name: w.value.type.names for w in model.weights} | {s.name: s.type.names for s in model.stored}
    made = balanced(
        scaled_inputs(model), weights, model.stored, names, before.moments, ByExamples(before.rows, of_integers)
    )
    now = {**weights, **made.weights}
    assert made.count == 4 and "block.first.gain" not in made.weights  # both inputs of both layers' second part
    assert np.ptp(np.log(np.abs(now["block.second.gain"]))) < np.ptp(np.log(np.abs(weights["block.second.gain"]))) - 3
    (found,) = Watched(model, {s.name: now[s.name] for s in model.stored}).run({**now, **batch}, 0)
    assert np.abs(found - want).max() <= 1e-10 * np.abs(want).max()


def test_outliers_cost_less(folder: Path) -> None:
    """A trained model with inputs 300 times as large as others, weights and inputs in 8 bits: on batches that nothing
    was made with, at most a third is lost of what is lost without scales."""
    file, saved = folder / "smooth.par", folder / "rough"
    text = (folder / "writer.par").read_text().replace("store weights as int4(group = 64)", BOTH)
    file.write_text(text)
    with_outliers(folder / "saved", saved, str(file), 300.0)
    words = ("compress", str(saved), str(file), "--job", "write", "--strategy", "alone", "--steps", "8")
    lost = {}
    for method in ("gptq", "smooth"):
        found = done(*words, "--method", method, "-o", str(folder / method))
        lost[method] = found["made"] - found["loss"]
    assert lost["gptq"] > 0.003 and lost["smooth"] < lost["gptq"] / 3, lost
    before, after = (Checkpoint.latest(x).arrays() for x in (saved, folder / "smooth"))
    gain = "block.layer_norm.gain"
    assert np.ptp(np.abs(after[gain])) < 0.5 * np.ptp(np.abs(before[gain]))


def test_whose_activations_are_whole_has_nothing_to_smooth(folder: Path) -> None:
    words = ["compress", str(folder / "saved"), str(folder / "writer.par"), "--job", "write", "-o", str(folder / "x")]
    found = CliRunner().invoke(cli, [*words, "--method", "smooth"])
    assert found.exit_code == 1 and "E0772" in found.stderr and "`store activations as int8`" in found.stderr
    assert not (folder / "x").exists()
