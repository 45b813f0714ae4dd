"""Checkpoints in fewer bits, written as GPTQ, AWQ and compressed-tensors lay them out: read back to the bit, and read
alike by the packages that define them, where those are installed."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import parc
from dsl.files import load
from parc.cli import cli
from parc.importing.weights import public_model
from runtime.checkpoints.laying_out import stream
from runtime.checkpoints.packed_layouts import unpacked
from runtime.checkpoints.public import SINGLE
from runtime.checkpoints.reading import Checkpoint
from runtime.checkpoints.shard_file import safetensors_header
from runtime.numpy import rounded
from tests.importing.oracle import Small, read_by_transformers
from tests.importing.small import SMALL, kin
from tests.stored.models import meant

Array = np.ndarray[Any, Any]

CONFIG = kin(
    "Llama",
    "llama",
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    intermediate_size=64,
    tie_word_embeddings=False,
)

CASES = [
    ("gptq", "int4(group = 32)", "f16"),
    ("gptq", "int3(group = 16, zeros = true)", "f32"),
    ("gptq", "int8", "bf16"),
    ("awq", "int4(group = 32)", "f16"),
    ("awq", "int4(group = 16, zeros = true)", "f16"),
    ("compressed-tensors", "int4(group = 16)", "bf16"),
    ("compressed-tensors", "int3(zeros = true)", "f32"),
    ("compressed-tensors", "int8(group = 32)", "f16"),
]


def run(*words: str, code: int = 0) -> str:
    found = CliRunner().invoke(cli, list(words))
    assert found.exit_code == code, found.output
    return found.output


def serving(small: Small, rules: str, precision: str) -> str:
    """The job of a configuration, which infers, with these rules."""
    text = re.sub(r"  optimizer adamw\(.*?\n  \)\n", "", small.job.text, flags=re.S).replace("  train ", "  infer ")
    said = f"precision {precision}, master f32"
    return text.replace("precision f32, master f32", said).replace("  megatron(tp)\n", f"  megatron(tp)\n{rules}")


class Made:
    """A small published model, and what is made of it."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.config, self.small = folder, config, Small(config)
        self.public = folder / "public"
        self.public.mkdir()
        (self.public / "config.json").write_text(json.dumps(config))
        given = self.small.checkpoint(self.small.weights())
        head = safetensors_header("pt", [(n, "f32", x.shape) for n, x in given.items()])
        (self.public / SINGLE).write_bytes(head + b"".join(np.ascontiguousarray(x).tobytes() for x in given.values()))

    def packed(self, rules: str, precision: str, tp: int = 1, of: Path | None = None) -> tuple[Path, Path]:
        """A job that stores weights so, and the checkpoint for it."""
        folder = self.folder / re.sub(r"\W+", "-", f"{rules} {precision} {tp} {of.parent.name if of else ''}")
        if not folder.exists():
            folder.mkdir()
            (folder / "job.par").write_text(serving(self.small, rules, precision))
            given = f"-Dtp={tp}", *(f"-D{k}={v}" for k, v in self.small.params.items())
            run("convert", str(of or self.public), "--to", str(folder / "job.par"), "-o", str(folder / "saved"), *given)
        return folder / "job.par", folder / "saved"

    def laid_out(self, layout: str, rules: str, precision: str) -> tuple[Path, Path]:
        """A checkpoint, and the folder that is made of it."""
        _, saved = self.packed(rules, precision, tp=2)
        out = saved.parent / layout
        if not out.exists():
            words = ("convert", str(saved), "--to", layout, "--config", str(self.public / "config.json"))
            told = run(*words, "-o", str(out))
            assert told.startswith(f"2 devices -> {layout}: ")
        return saved, out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("laid_out"), CONFIG)


def rule(form: str) -> str:
    return f"  store weights as {form} in block\n"


@pytest.mark.parametrize(("layout", "form", "precision"), CASES)
def test_there_and_back(layout: str, form: str, precision: str, made: Made) -> None:
    """What is read are the numbers that the bits stood for; a job that stores them alike has the same bits."""
    saved, out = made.laid_out(layout, rule(form), precision)
    job, again = made.packed(rule(form), precision, of=out)
    before, after = Checkpoint.latest(saved).arrays(), Checkpoint.latest(again).arrays()
    assert before.keys() == after.keys() and sum(n.endswith(".words") for n in before) == 7
    assert all(np.array_equal(before[n], after[n]) for n in before)
    read = public_model(out).arrays()
    model = parc.compile(load(job), params=made.small.params).job.serial.model
    for of in model.stored:
        want = meant(of, {part: before[name] for part, name in of.parts.items()})
        assert np.array_equal(read[of.name], rounded(want.astype(np.float32), of.type.dtype)), of.name
    assert np.array_equal(read["head.w"], before["head.w"])


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / SINGLE))


def modules(out: Path) -> dict[str, Array]:
    """What is read of a folder, `[outputs, inputs]` of each product in a layer."""
    found, held = public_model(out), dict[str, Array]()
    for name, (tensor, file, x) in found._held.items():
        if ".layers." in name and len(tensor.shape) == 2:
            held[name.removesuffix(".weight")] = np.asarray(
                x.stored(file).read(np.arange(tensor.shape[0]), [slice(None)])
            )
    return held


def of_package(name: str, *path: str) -> Any:
    """A module of a package, by itself: the package's own beginning asks for much that is not needed here."""
    pytest.importorskip("torch")
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"needs {name}")
    file = Path(found.submodule_search_locations[0]).joinpath(*path)
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_autogptq_computes_with_the_same(made: Made) -> None:
    """Its own layer, on a CPU, of which all parts are given: products with one input each are the matrix."""
    qlinear = of_package("auto_gptq", "nn_modules", "qlinear", "qlinear_cuda.py")
    import torch

    for layout, form, precision in CASES[:3]:
        _, out = made.laid_out(layout, rule(form), precision)
        said, there = json.loads((out / "config.json").read_text())["quantization_config"], tensors(out)
        kind = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[precision]
        for name, want in modules(out).items():
            layer = qlinear.QuantLinear(said["bits"], said["group_size"], *want.T.shape, False, weight_dtype=kind)
            layer.load_state_dict({p: there[f"{name}.{p}"] for p in ("qweight", "qzeros", "scales", "g_idx")})
            assert layer.scales.dtype == there[f"{name}.scales"].dtype
            np.testing.assert_array_equal(layer(torch.eye(want.shape[1], dtype=kind)).float().numpy().T, want)


def test_autoawq_unpacks_the_same(made: Made) -> None:
    utils = of_package("awq", "utils", "packing_utils.py")
    for layout, form, precision in CASES[3:5]:
        _, out = made.laid_out(layout, rule(form), precision)
        said, there = json.loads((out / "config.json").read_text())["quantization_config"], tensors(out)
        for name, want in modules(out).items():
            parts = [there[f"{name}.{p}"] for p in ("qweight", "qzeros", "scales")]
            found = utils.dequantize_gemm(*parts, said["bits"], said["group_size"])
            np.testing.assert_array_equal(found.float().numpy().T, want)


def test_compressed_tensors_unpacks_the_same(made: Made) -> None:
    pytest.importorskip("torch")
    base = pytest.importorskip("compressed_tensors.compressors.pack_quantized.base")
    scheme_of = pytest.importorskip("compressed_tensors.quantization").QuantizationScheme
    for layout, form, precision in CASES[5:]:
        _, out = made.laid_out(layout, rule(form), precision)
        said, there = json.loads((out / "config.json").read_text())["quantization_config"], tensors(out)
        scheme = scheme_of.model_validate(said["config_groups"]["group_0"])
        for name, want in modules(out).items():
            parts = {n.removeprefix(f"{name}."): x for n, x in there.items() if n.startswith(f"{name}.")}
            asked = base.PackedQuantizationCompressor.compression_param_names(scheme)
            assert parts.keys() == set(asked) and parts["weight_shape"].tolist() == list(want.shape)
            found = base.PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
            np.testing.assert_array_equal(found.float().numpy(), want)


@pytest.mark.filterwarnings("ignore")
def test_transformers_computes_with_the_same(made: Made) -> None:
    """A folder that it reads by compressed-tensors has the logits that the serial program has of these numbers."""
    for package in ("torch", "transformers", "compressed_tensors"):
        pytest.importorskip(package)
    layout, form, precision = CASES[-1]
    _, out = made.laid_out(layout, rule(form), precision)
    batch, public = made.small.batch(), public_model(out)
    weights = public.arrays()
    for name in weights:
        if (said := public.bits(name)) is not None:
            _, numbers, zeros, scales = said
            weights[name] = (numbers - zeros) * scales  # in f32, as it has them here
    there = read_by_transformers(made.config, batch, out)
    np.testing.assert_allclose(made.small.logits(weights, batch), there, rtol=0, atol=1e-4)
    assert np.abs(there - made.small.logits(made.small.weights(), batch)).max() > 1e-3


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_stream_of_bits_is_what_is_read(bits: int) -> None:
    numbers = np.random.default_rng(bits).integers(0, 1 << bits, (3, 20)).astype(np.uint8)
    assert np.array_equal(unpacked(stream(numbers, bits), bits)[:, :20], numbers)


def test_joined_tensors_and_experts(tmp_path: Path) -> None:
    """Three matrices in one tensor, a tensor for each expert: there and back."""
    expert = {"intermediate_size": 64, "moe_intermediate_size": 32}
    for kind, widths in (("phi3", {"intermediate_size": 64}), ("qwen3_moe", expert)):
        (tmp_path / kind).mkdir()
        made = Made(tmp_path / kind, {**SMALL[kind], **widths})
        rules = "  store weights as int4(group = 16)\n"
        saved, out = made.laid_out("compressed-tensors", rules, "f16")
        _, again = made.packed(rules, "f16", of=out)
        before, after = Checkpoint.latest(saved).arrays(), Checkpoint.latest(again).arrays()
        assert before.keys() == after.keys() and all(np.array_equal(before[n], after[n]) for n in before)
        assert sum(n.endswith(".words") for n in before) >= 5


@pytest.mark.parametrize(
    ("layout", "rules", "precision", "told"),
    [
        ("gptq", rule("fp8"), "f16", "rests as `fp8`, which gptq has no words for"),
        ("awq", rule("int8"), "f16", "rests as `int8`, which awq"),
        ("awq", rule("int4(group = 16)"), "bf16", "the scales of `block.attention.wq` are bf16"),
        ("awq", "  store weights as int4(group = 16)\n", "f16", "`lm_head` rests in fewer bits"),
        ("compressed-tensors", "  store weights as sparse in block.mlp\n", "f16", "rests as `sparse`"),
        ("gptq", rule("int4") + "  store weights as int8 in block.mlp\n", "f16", "`block.mlp.gate` as `int8`"),
        (
            "awq",
            rule("int4(group = 32)") + "  store weights as int4(group=16) in block.mlp\n",
            "f16",
            "groups of 32, others of 16",
        ),
        ("gptq", "", "f16", "has no weights that rest in fewer bits"),
        ("hf", rule("int4"), "f16", "has no weight `block.attention.wk`"),
    ],
)
def test_what_a_layout_has_no_words_for(layout: str, rules: str, precision: str, told: str, made: Made) -> None:
    _, saved = made.packed(rules, precision)
    out = saved.parent / "refused"
    words = ("convert", str(saved), "--to", layout, "--config", str(made.public / "config.json"), "-o", str(out))
    said = run(*words, code=1)
    assert "E0772" in said and told in re.sub(r"\s+", " ", said) and not out.exists()


def test_whole_weights_are_not_said_to_be_quantised(made: Made) -> None:
    """What a quantised folder is read as, written whole, has a configuration without it."""
    _, out = made.laid_out(*(CASES[0][0], rule(CASES[0][1]), CASES[0][2]))
    _, saved = made.packed("", "f16", of=out)
    folder = saved.parent / "whole"
    run("convert", str(saved), "--to", "hf", "--config", str(out / "config.json"), "-o", str(folder))
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    one, other = public_model(folder).arrays(), public_model(out).arrays()
    assert one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)
