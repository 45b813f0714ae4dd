"""`parc compress`: what rounding gives, that calibration helps where it should, and the way from training to text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from compiler.driver import Compiled
from compiler.graph import ITEMSIZE
from compiler.shards import ShardMap, elements
from compiler.weight_format import WeightFormat, levels
from dsl.diagnostics import ParcError
from parc.api.compiling import compile
from parc.cli import cli
from runtime.checkpoints.converting import convert, plan_checkpoint, plan_programs
from runtime.checkpoints.manifest import NAME, Manifest, RunPoint
from runtime.checkpoints.reading import Checkpoint, resumed, taken
from runtime.checkpoints.saving import Saving, digest, save, write_manifest
from runtime.compress.compressing import Method, compress
from runtime.compress.rounding import calibrated, nearest
from runtime.compress.source import PackedSource
from runtime.stacked import Emulator
from tests.stored.models import byte_of_e4m3, lowered

ROOT = Path(__file__).parent.parent.parent


def drawn(inputs: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, and the second moment of inputs that go together."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((inputs // 4, inputs)) * np.exp(rng.standard_normal(inputs))
    x = rng.standard_normal((256, inputs // 4)) @ mixed + 0.1 * rng.standard_normal((256, inputs))
    return rng.standard_normal((inputs, outputs)) * 0.1, x.T @ x


@pytest.mark.parametrize("code", ["int8", "int4", "int3", "fp8"])
@pytest.mark.parametrize("zeros", [False, True])
def test_each_number_goes_to_the_nearest(code: str, zeros: bool) -> None:
    if code == "fp8" and zeros:
        return
    w, _ = drawn(32, 3)
    found = nearest(w, WeightFormat(code, 16, zeros), "f64")
    low, high = levels(code) if code != "fp8" else (0, 0)
    every = [byte_of_e4m3(b) for b in range(256) if b & 127 != 127] if code == "fp8" else range(high - low + 1)
    for i, o in np.ndindex(w.shape):
        scale, zero = found.scale[i // 16, o], found.zero[i // 16, o]
        closest = min(abs((q - (0 if code == "fp8" else zero)) * scale - w[i, o]) for q in every)
        assert abs(found.value[i, o] - w[i, o]) <= closest + 1e-6 * scale
        if zeros:  # both ends are reached, the largest error is half of a step
            assert closest <= scale
    assert (found.scale > 0).all() and found.numbers.dtype == np.uint8


def loss_of(w: np.ndarray, value: np.ndarray, moment: np.ndarray) -> float:
    return float(np.einsum("io,ij,jo->", w - value, moment, w - value))


@pytest.mark.parametrize("format", [WeightFormat("int3", 32), WeightFormat("int4", 32, True), WeightFormat("sparse")])
def test_calibration_loses_less_than_half(format: WeightFormat) -> None:
    w, moment = drawn(64, 40)
    plain, better = nearest(w, format, "f32"), calibrated(w, moment, format, "f32")
    assert loss_of(w, better.value, moment) <= 0.5 * loss_of(w, plain.value, moment)
    if format.code == "sparse":
        assert (better.numbers.reshape(-1, 4, 40).sum(1) == 2).all()
        assert ((better.value != 0) <= (better.numbers != 0)).all()


def test_inputs_that_are_always_zero_change_nothing() -> None:
    w, moment = drawn(64, 8)
    moment[5] = moment[:, 5] = 0
    found = calibrated(w, moment, WeightFormat("int4", 16), "f32")
    assert np.isfinite(found.value).all()


WRITER = """\
use std.layers (attention, cross_entropy, layer_norm, mlp)
use std.optimizers (adamw)
use std.tactics (data_parallel, megatron, optimizer_parallel, tensor_parallel)

param form = 0

model writer(batch, places) {
  dim b = batch, s = places, d = 64, v = 80
  input tokens, targets : int32[b,s] in 0..v
  weight table[v,d], position[s,d] ~ normal(0.1)
  x[b,s,d] = take(table, tokens, over v) + position
  repeat 2 as block {
    x = x + attention(layer_norm(x), 2)
    x = x + mlp(layer_norm(x), 128)
  }
  logits[b,s,v] = layer_norm(x) @ table
  if not training {
    output logits
  }
  loss cross_entropy(logits, targets, over v)
}

strategy eight for writer {
  mesh (pp = 2, dp = 2, tp = 2)
  data_parallel(dp)
  megatron(tp)
  optimizer_parallel(dp, 1)
  pipeline block on pp, schedule one_f_one_b(microbatches = 2)
}

strategy packed for writer {
  mesh (tp = 2)
  tensor_parallel(tp)
  if form == 0 {
    store weights as int4(group = 64)
  }
  if form == 1 {
    store weights as int3(group = 64)
  }
}

strategy alone for writer {
  mesh (tp = 1)
  store weights as int4(group = 64)
}

job fit {
  train writer(8, 32) using eight
  optimizer adamw(lr = 0.01)
  data text("corpus.txt")
}

job write {
  infer writer(8, 32) using packed
  precision f16, master f32
  data text("corpus.txt")
  decode over s, prefill 4
}

job plain {
  infer writer(8, 32) using serial
  precision f16, master f32
  data text("corpus.txt")
  decode over s, prefill 4
}
"""


def done(*words: str) -> dict[str, Any]:
    """The result of a command."""
    found = CliRunner().invoke(cli, [*words, "--json"])
    assert found.exit_code == 0, found.output
    return dict(json.loads(found.stdout)["result"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained on 8 devices, saved."""
    made = tmp_path_factory.mktemp("compress")
    shutil.copy(ROOT / "examples" / "data" / "corpus.txt", made)
    (made / "writer.par").write_text(WRITER)
    done("run", str(made / "writer.par"), "--job", "fit", "--steps", "60", "--save", str(made / "saved"))
    return made


def test_4_bits_take_a_third_and_lose_a_hundredth(folder: Path) -> None:
    file = str(folder / "writer.par")
    found = done("compress", str(folder / "saved"), file, "--job", "write", "-o", str(folder / "int4"))
    assert found["weights"] == 6 and found["after"] <= 0.3 * found["before"]
    assert found["made"] <= 1.01 * found["loss"] and 2.0 < found["loss"] < 3.5
    there = Checkpoint.latest(folder / "int4").manifest.tensors
    words = there["block.mlp.w1.words"]
    assert words.dtype == "uint32" and words.shape == (2, 8, 128) and "block.mlp.w1" not in there
    # what is told is what a run has: held-out batches from where the training had ended
    whole = done(
        "evaluate", file, "--job", "fit", "--strategy", "serial", "--from", str(folder / "saved"), "--steps", "68"
    )
    assert abs(np.mean(whole["losses"][60:]) - found["loss"]) < 2e-3
    # for one device it is the same bits
    done(
        "convert",
        str(folder / "int4"),
        "--to",
        file,
        "--job",
        "write",
        "--strategy",
        "alone",
        "-o",
        str(folder / "one"),
    )
    one, two = (Checkpoint.latest(folder / name).arrays() for name in ("one", "int4"))
    assert one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)
    texts = [
        done("generate", file, "--job", "write", *more, "--prompt", "To be", "--steps", "6")["texts"][0]["text"]
        for more in (["--from", str(folder / "int4")], ["--strategy", "alone", "--from", str(folder / "one")])
    ]
    assert len(texts[0]) == 6 and texts[0] == texts[1]


def test_calibrated_3_bits_lose_at_most_half_of_what_plain_ones_lose(folder: Path) -> None:
    file = str(folder / "writer.par")
    words = ("compress", str(folder / "saved"), file, "--job", "write", "-D", "form=1", "--steps", "16")
    found = done(*words, "-o", str(folder / "int3"))
    lost, plain = found["made"] - found["loss"], found["plain"] - found["loss"]
    assert plain > 0.001 and lost <= 0.5 * plain, (lost, plain)


def test_whole_weights_are_rounded_where_they_are_read(folder: Path) -> None:
    """A job that stores weights takes any checkpoint: as `--method nearest` would have made it."""
    file, saved = str(folder / "writer.par"), str(folder / "saved")
    done("compress", saved, file, "--job", "write", "--method", "nearest", "-o", str(folder / "near"), "--steps", "1")
    done("convert", saved, "--to", file, "--job", "write", "-o", str(folder / "converted"))
    near, converted = (Checkpoint.latest(folder / name).arrays() for name in ("near", "converted"))
    assert near.keys() == converted.keys() and all(np.array_equal(near[n], converted[n]) for n in near)
    results = []
    for given in (saved, str(folder / "near")):
        out = folder / f"{Path(given).name}.npz"
        done("run", file, "--job", "write", "--from", given, "--steps", "1", "-o", str(out))
        results.append(np.load(out)["logits"])
    assert np.array_equal(*results)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("saved", "plain"), "stores no weights in fewer bits"),
        (("converted", "write"), "no whole `block.attention.wq`"),
    ],
)
def test_what_cannot_be_compressed_is_refused(folder: Path, words: tuple[str, str], told: str) -> None:
    if not (folder / "converted").exists():
        done(
            "convert",
            str(folder / "saved"),
            "--to",
            str(folder / "writer.par"),
            "--job",
            "write",
            "-o",
            str(folder / "converted"),
        )
    given = ["compress", str(folder / words[0]), str(folder / "writer.par"), "--job", words[1], "-o", str(folder / "x")]
    found = CliRunner().invoke(cli, given)
    assert found.exit_code == 1 and "E0772" in found.stderr and told in found.stderr and not (folder / "x").exists()


def packed(format: str) -> Compiled:
    return lowered(f"  mesh (tp = 2)\n  tensor_parallel(tp)\n  store weights as {format} in block.mlp", "f32")


def saved(c: Compiled, folder: Path) -> Checkpoint:
    p = c.program
    moment = RunPoint(p.name, digest(p), p.devices, 0, 0, 0)
    return Checkpoint.latest(save(Saving(folder), moment, ShardMap(p), Emulator(p)))


def silent(found: Checkpoint) -> Checkpoint:
    """As it was saved before manifests said formats."""
    m = found.manifest
    old = Manifest(m.moment, {n: replace(t, format=None) for n, t in m.tensors.items()}, m.files)
    (found.folder / NAME).unlink()
    write_manifest(found.folder, old)
    return Checkpoint.latest(found.folder)


KINDS = [
    "int8",
    "fp8",
    "int8(group = 32)",
    "int8(zeros = true)",
    "int4",
    "int4(zeros = true)",
    "int3(group = 64)",
    "sparse",
]


@pytest.mark.parametrize("format", KINDS)
def test_packed_weights_are_read_in_their_own_format_alone(format: str, tmp_path: Path) -> None:
    own = packed(format)
    found = saved(own, tmp_path / "saved")
    said = found.manifest.tensors["block.mlp.w1.words"].format
    assert said is not None and said == own.training.model.stored[0].resting
    assert Manifest.read(found.folder) == found.manifest
    assert resumed(found, own.program).keys() == taken(found, own.program).keys()
    convert(found, own.program, tmp_path / "same")
    assert Checkpoint.latest(tmp_path / "same").manifest.tensors == found.manifest.tensors
    old = silent(saved(own, tmp_path / "old"))
    if format not in ("int8", "fp8", "int8(group = 32)"):  # which have the same parts
        assert taken(old, own.program).keys() == taken(found, own.program).keys()
    for other in (k for k in KINDS if k != format):
        of = packed(other)
        source = PackedSource(found, of.training.model.stored)
        with pytest.raises(ParcError) as error:
            taken(source, of.program)
        first, second = error.value.diagnostics
        here = of.training.model.stored[0].resting
        assert first.code == second.code == "E0772" and second.message.startswith("`block.mlp.w2.words`")
        assert first.message == f"`block.mlp.w1.words` are {said} in `{found.folder}`, and {here} here"
        with pytest.raises(ParcError, match="E0772"):
            convert(found, of.program, tmp_path / "converted")
        with pytest.raises(ParcError, match="E0772.*block.mlp.w1.words` are"):
            plan_programs(own.program, of.program)
        with pytest.raises(ParcError, match="E0772"):
            taken(old, of.program)


@pytest.mark.parametrize("format", ["int8", "int4(zeros = true)"])
def test_a_job_whose_weights_are_whole_is_told_how_they_rest(format: str, tmp_path: Path) -> None:
    found, bare = saved(packed(format), tmp_path / "saved"), lowered("  mesh (tp = 2)\n  tensor_parallel(tp)", "f32")
    said = found.manifest.tensors["block.mlp.w1.words"].format
    for take in (lambda: taken(found, bare.program), lambda: convert(found, bare.program, tmp_path / "converted")):
        with pytest.raises(ParcError) as error:
            take()
        first, second = error.value.diagnostics
        assert first.message == f"`block.mlp.w1` is {said} in `{found.folder}`, and whole here"
        assert second.code == "E0772" and second.message.startswith("`block.mlp.w2` is ") and first.help is not None


@pytest.mark.parametrize("format", ["int8", "int3", "sparse"])
def test_who_had_a_weight_has_its_packed_parts(format: str, tmp_path: Path) -> None:
    """Nothing moves to the same devices; to one, what the other had: of parts as of weights its share."""
    two = "  mesh (tp = 2)\n  tensor_parallel(tp)\n"
    rule = f"  store weights as {format} in block.mlp"
    found = saved(lowered(two, "f32"), tmp_path / "saved")
    same, alone = lowered(two + rule, "f32"), lowered("  mesh (one = 1)\n" + rule, "f32")
    told, of_one = (plan_checkpoint(PackedSource(found, c.training.model.stored), c.program)[0] for c in (same, alone))
    shards = ShardMap(same.program)
    second = sum(ITEMSIZE[lot.decl.type.dtype] * elements(lot.spans) for lot in shards.of(1))
    assert told.moved == 0 < second == of_one.moved and told.bytes == of_one.bytes


class Changed(PackedSource):
    """A checkpoint with other numbers: `given`."""

    given: dict[str, np.ndarray]

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        return {n: self.given[n] for n in (self.given if names is None else names)}


@pytest.mark.parametrize("method", ["nearest", "gptq"])
@pytest.mark.filterwarnings("error")
def test_weights_that_are_no_numbers_are_not_packed(method: Method, folder: Path, tmp_path: Path) -> None:
    found = Checkpoint.latest(folder / "saved")
    for name in ("block.mlp.w2", "position"):
        arrays = found.arrays()
        arrays[name].flat[3] = np.nan
        changed = Changed(found, ())
        changed.given = arrays
        compiled = compile(str(folder / "writer.par"), job="write")
        with pytest.raises(ParcError, match=f"E0772.*1 of .* elements of `{name}` in .* are no numbers"):
            compress(changed, compiled, tmp_path / "x", method, 1)
        with pytest.raises(ParcError, match="E0772") if name != "position" else nullcontext():
            PackedSource(changed, compiled.training.model.stored).arrays(["block.mlp.w2.words"])
    assert not (tmp_path / "x").exists()
