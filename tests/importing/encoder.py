"""A small sentence encoder with random numbers, as a folder of published files, and its vectors by plain numpy."""

from __future__ import annotations

import json
from functools import cache
from math import erf
from pathlib import Path
from typing import Any

import numpy as np

from dsl.files import load
from parc.importing.importing import public_names
from runtime.checkpoints.shard_file import safetensors_header

Array = np.ndarray[Any, Any]

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "vocab_size": 300,
}
TEXTS = ("To be, or not to be", "I", "That is the question.", "ab")
"""Of several lengths, in bytes."""


def folder_of(folder: Path, pooling: str = "mean_tokens", normalised: bool = True, longest: int = 24) -> Path:
    """The files: weights, the configuration, and what says how vectors are made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")][: 2 + normalised]
    (folder / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds])
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{m}": m == pooling for m in ("mean_tokens", "cls_token", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    rng = np.random.default_rng(5)
    tensors = {}
    for t in public_names(load(folder / "config.json")).tensors():
        one = t.name.endswith("LayerNorm.weight")
        tensors[t.name] = ((1.0 if one else 0.0) + (0.1 if one else 0.2) * rng.standard_normal(t.shape)).astype("f4")
    head = safetensors_header("pt", [(n, "f32", x.shape) for n, x in tensors.items()])
    (folder / "model.safetensors").write_bytes(head + b"".join(x.tobytes() for x in tensors.values()))
    return folder


def tensors_of(folder: Path) -> dict[str, Array]:
    """Of the folder's file, those in f32."""
    content = (folder / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    entries = {n: e for n, e in json.loads(content[8:begin]).items() if e.get("dtype") == "F32"}
    return {
        n: np.frombuffer(content[begin:][slice(*e["data_offsets"])], np.float32).reshape(e["shape"])
        for n, e in entries.items()
    }


def reference(folder: Path, tokens: list[int], pooling: str = "mean_tokens", normalised: bool = True) -> Array:
    """The vector of one text, in f64: no batch, no mask, no padding."""
    config = json.loads((folder / "config.json").read_text())
    w = {n: x.astype(np.float64) for n, x in tensors_of(folder).items() if "word_embeddings" not in n}
    words = tensors_of(folder)["embeddings.word_embeddings.weight"]
    heads = config["num_attention_heads"]

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    e = "embeddings"
    x = words[tokens] + w[f"{e}.position_embeddings.weight"][: len(tokens)] + w[f"{e}.token_type_embeddings.weight"][0]
    x = norm(x, e)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{n}").reshape(len(x), heads, -1).transpose(1, 0, 2)
            for n in ("query", "key", "value")
        )
        shares = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
        mixed = (shares / shares.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), -1)
        x = norm(x + linear(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output")
        wide = linear(x, f"{layer}.intermediate.dense")
        wide = 0.5 * wide * (1 + np.vectorize(erf)(wide / np.sqrt(2)))
        x = norm(x + linear(wide, f"{layer}.output.dense"), f"{layer}.output")
    found: Array = x.mean(0) if pooling == "mean_tokens" else x[0]
    return found / np.linalg.norm(found) if normalised else found


def by_transformers(folder: Path, tokens: list[int]) -> Array:
    """The mean over its positions of what transformers' model makes of one text, of length 1, in f32."""
    import torch

    with torch.no_grad():
        found = _model(folder)(input_ids=torch.tensor([tokens])).last_hidden_state[0].mean(0)
    return (found / found.norm()).numpy()  # type: ignore[no-any-return]


@cache
def _model(folder: Path) -> Any:
    import torch
    import transformers

    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
