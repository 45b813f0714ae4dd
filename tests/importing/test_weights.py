"""Weights of published models: written from checkpoints, read in their place."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dsl.diagnostics import ParcError
from dsl.files import load
from parc.cli import cli
from parc.importing.importing import public_names
from parc.importing.weights import public_model
from runtime.checkpoints.parts import SavedParts
from runtime.checkpoints.public import INDEX, SINGLE
from runtime.checkpoints.publishing import publish
from runtime.checkpoints.reading import Checkpoint
from runtime.checkpoints.shard_file import safetensors_header
from tests.importing.oracle import Small, declared, imported, read_by_transformers
from tests.importing.small import SMALL, sizes

FAMILIES = ("gpt2", "qwen3_moe", "deepseek_v3")
"""Joined tensors with biases; a tensor for each expert; states, and pairs side by side."""

Tensors = dict[str, np.ndarray[Any, Any]]


def invoke(*words: str) -> Result:
    found = CliRunner().invoke(cli, list(words))
    assert found.exit_code == 0, found.output
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family: its configuration, its job, a checkpoint of two steps, and what that is published as.

    The numbers are trained on two devices, so that parts of tensors lie in several files."""
    folder = tmp_path_factory.mktemp("public")
    for name in FAMILIES:
        config, of = SMALL[name], folder / name
        of.mkdir()
        (of / "config.json").write_text(json.dumps(config))
        job = imported(config, cluster=(2, "a100_80"))
        (of / "job.par").write_text(job.text)
        given = declared(job, sizes(config) | {"dp": 1, "tp": 2})
        (of / "given").write_text("\n".join(f"-D\n{k}={v}" for k, v in given.items()))
        invoke("run", str(of / "job.par"), "--steps", "2", "--save", str(of / "saved"), *params(of))
        invoke(
            "convert", str(of / "saved"), "--to", "hf", "--config", str(of / "config.json"), "-o", str(of / "public")
        )
    return folder


def params(of: Path) -> list[str]:
    return (of / "given").read_text().split("\n")


def tensors(folder: Path) -> Tensors:
    """Of the only file, which is in f32."""
    content = (folder / SINGLE).read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    found = {}
    for name, entry in json.loads(content[8:begin]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32"
            low, high = entry["data_offsets"]
            found[name] = np.frombuffer(content[begin + low : begin + high], np.float32).reshape(entry["shape"])
    return found


def written(folder: Path, given: Tensors) -> None:
    head = safetensors_header("pt", [(n, "f32", x.shape) for n, x in given.items()])
    (folder / SINGLE).write_bytes(head + b"".join(np.ascontiguousarray(x).tobytes() for x in given.values()))


def copied(made: Path, name: str, to: Path) -> Path:
    shutil.copytree(made / name / "public", to)
    return to


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back(name: str, made: Path) -> None:
    """All numbers, bit for bit; and parts of them."""
    of = made / name
    found, public = Checkpoint.latest(of / "saved"), public_model(of / "public")
    arrays, back = found.arrays(public.manifest.tensors), public.arrays()
    assert arrays.keys() == back.keys() and len(back) > 10
    for weight, x in arrays.items():
        np.testing.assert_array_equal(back[weight], x)
        spans = tuple((n // 2, n) for n in x.shape)
        part = public.read([(weight, spans)], {weight: "f32"})[weight, spans]
        np.testing.assert_array_equal(part, x[tuple(slice(*s) for s in spans)])
        np.testing.assert_array_equal(part, SavedParts(found.folder, found.manifest).part(weight, spans, "f32"))
    assert len(found.manifest.files) > 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_job_begins_with_them(name: str, made: Path) -> None:
    of = made / name
    said = [
        invoke("evaluate", str(of / "job.par"), "--from", str(of / where), "--steps", "1", *params(of)).stdout
        for where in ("saved", "public")
    ]
    assert said[0].split("\n")[0] == said[1].split("\n")[0] and "loss" in said[0]


def test_a_model_of_other_names_is_told_once(made: Path, tmp_path: Path) -> None:
    """What is called otherwise altogether is one error, which says where such weights are."""
    configs = (["--config", str(made / "qwen3_moe" / "public" / "config.json")], [])
    for config, code in zip(configs, (1, 2), strict=True):
        words = ["convert", str(made / "gpt2" / "saved"), "--to", "hf", *config, "-o", str(tmp_path / "a")]
        found = CliRunner().invoke(cli, words)
        said = re.sub(r"\s+", " ", found.stderr)
        assert found.exit_code == code and said.count("error[E0772]") == len(config) // 2, said
        assert "`parc init --from` made the job of" in said and "--to FILE.par" in said
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_of_them(made: Path, tmp_path: Path) -> None:
    """What infers can have one; what trains is told how to begin."""
    of = made / "gpt2"
    job = of / "job.par"
    refused = CliRunner().invoke(
        cli, ["convert", str(of / "public"), "--to", str(job), "-o", str(tmp_path / "a"), *params(of)]
    )
    assert refused.exit_code == 1 and "E0772" in refused.stderr and "--from" in refused.stderr
    text = re.sub(r"  optimizer \w+\([^)]*\([^)]*\)[^)]*\)\n", "", job.read_text())
    serving = of / "serve.par"
    serving.write_text(text.replace("  train ", "  infer ").replace(", master f32", ""))
    told = invoke("convert", str(of / "public"), "--to", str(serving), "-o", str(tmp_path / "b"), *params(of)).stdout
    assert told.startswith("1 device -> 2: ")
    there = Checkpoint.latest(tmp_path / "b").arrays()
    for weight, x in public_model(of / "public").arrays().items():
        np.testing.assert_array_equal(there[weight], there[weight].astype(x.dtype))
        np.testing.assert_allclose(there[weight], x, rtol=2**-7)


def test_several_files(made: Path, tmp_path: Path) -> None:
    of = made / "gpt2"
    found, names = Checkpoint.latest(of / "saved"), public_names(load(of / "config.json"))
    told = publish(found, names, b"{}", tmp_path / "out", largest=20_000)
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert told.files == len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"]["total_size"] == told.bytes and len(index["weight_map"]) == told.tensors
    (tmp_path / "out" / "config.json").write_bytes((of / "config.json").read_bytes())
    for weight, x in public_model(tmp_path / "out").arrays().items():
        np.testing.assert_array_equal(x, found.arrays([weight])[weight])
    (tmp_path / "out" / files[0]).unlink()
    with pytest.raises(ParcError, match="not whole"):
        public_model(tmp_path / "out")


def test_as_older_files_have_them(made: Path, tmp_path: Path) -> None:
    """Names without the first part, the triangle of the attention, and tied weights once more."""
    folder = copied(made, "gpt2", tmp_path / "old")
    before = tensors(folder)
    bare = {name.removeprefix("transformer."): x for name, x in before.items()}
    more = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32), "lm_head.weight": bare["wte.weight"].copy()}
    written(folder, bare | more)
    for weight, x in public_model(made / "gpt2" / "public").arrays().items():
        np.testing.assert_array_equal(public_model(folder).arrays()[weight], x)


def test_what_is_not_the_model_is_refused(made: Path, tmp_path: Path) -> None:
    folder = copied(made, "gpt2", tmp_path / "other")
    right = tensors(folder)
    head = right["transformer.wte.weight"]
    wrong: dict[str, Tensors] = {
        "has 1 tensors that are none of the model's": right | {"lm_head.weight": head + 1},
        "an adapter": right | {"transformer.h.0.attn.c_attn.lora_a": np.zeros((2, 2), np.float32)},
        "has no tensor `transformer.ln_f.bias`": {n: x for n, x in right.items() if n != "transformer.ln_f.bias"},
        "by config.json": right | {"transformer.ln_f.bias": np.zeros(3, np.float32)},
    }
    for message, given in wrong.items():
        written(folder, given)
        with pytest.raises(ParcError) as error:
            public_model(folder)
        (d,) = error.value.diagnostics
        assert d.code == "E0772" and message in f"{d.message} {d.help}", d
    written(folder, right)
    text = (folder / SINGLE).read_bytes().replace(b'"F32"', b'"I32"', 1)
    (folder / SINGLE).write_bytes(text)
    with pytest.raises(ParcError, match="no numbers of a weight"):
        public_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": 900}))
    with pytest.raises(ParcError, match=r"has no tensor|no numbers of a weight"):
        public_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    written(folder, right)
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-1])
    with pytest.raises(ParcError, match="cut off"):
        public_model(folder)
    (folder / SINGLE).unlink()
    with pytest.raises(ParcError, match="no weights in safetensors"):
        public_model(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}}))
    with pytest.raises(ParcError, match="not whole"):
        public_model(folder)
    (folder / INDEX).write_text('{"weight_map": {"a": "../config.json"}}')
    with pytest.raises(ParcError, match="in which file"):
        public_model(folder)


def test_only_what_init_made_is_published(made: Path, tmp_path: Path) -> None:
    saved, config = made / "gpt2" / "saved", made / "deepseek_v3" / "config.json"
    found = CliRunner().invoke(
        cli, ["convert", str(saved), "--to", "hf", "--config", str(config), "-o", str(tmp_path / "x")]
    )
    assert found.exit_code == 1 and "E0772" in found.stderr and not (tmp_path / "x").exists()
    for words in (["--to", "hf", "-o", "x"], ["--to", "hf", "--config", str(config), "--plan"]):
        assert CliRunner().invoke(cli, ["convert", str(saved), *words]).exit_code == 2


@pytest.mark.skipif(find_spec("transformers") is None or find_spec("torch") is None, reason="needs the extra `hf`")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_them(name: str, made: Path) -> None:
    """And computes of them what the job does."""
    of, small = made / name, Small(SMALL[name])
    public, batch = public_model(of / "public"), small.batch()
    weights = small.weights() | public.arrays()  # but for the states that such files do not have
    there = read_by_transformers(SMALL[name], batch, of / "public")
    np.testing.assert_allclose(small.logits(weights, batch), there, rtol=0, atol=1e-4)
    assert np.abs(there).max() > 0.1
