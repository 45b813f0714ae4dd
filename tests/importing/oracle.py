"""What the tests of imported models share: their logits, by the serial program and by transformers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import parc
from dsl.source import Source
from parc.importing.importing import ImportedJob, import_config
from runtime.checkpoint_names import from_checkpoint, to_checkpoint
from runtime.prove.serial import serial_gradients
from tests.importing.small import sizes

Arrays = dict[str, np.ndarray[Any, Any]]


def imported(config: Mapping[str, Any], precision: str = "f32", cluster: tuple[int, str] | None = None) -> ImportedJob:
    return import_config(Source("config.json", json.dumps(config)), cluster, (), precision)


def declared(job: ImportedJob, params: Mapping[str, object]) -> dict[str, object]:
    """Those that are parameters of the job."""
    known = {line.split()[1] for line in job.text.splitlines() if line.startswith("param ")}
    return {name: value for name, value in params.items() if name in known}


class Small:
    """The model of a small configuration, to be evaluated: shapes by name, logits."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.job = imported(config)
        self.params = declared(self.job, sizes(config))
        compiled = parc.compile(Source("job.par", self.job.text), params=self.params, entry="evaluate")
        self.training = compiled.training
        held = (*self.training.model.weights, *self.training.model.states)
        self.dims = {w.name: tuple((d.name, d.size) for d in w.value.type.dims) for w in held}
        self.states = {s.name for s in self.training.model.states}

    def batch(self) -> Arrays:
        """Numbers in the ranges of the inputs, the same always."""
        found: Arrays = {}
        for i in self.training.model.inputs:
            rng = np.random.default_rng(zlib.crc32(i.value.name.encode()))
            t = i.value.type
            found[i.value.name] = (
                rng.standard_normal(t.shape).astype(np.float32)
                if t.is_float
                else rng.integers(i.low or 0, i.high or 2, t.shape).astype(np.int32)
            )
        return found

    def weights(self) -> Arrays:
        """Random numbers of a size at which every part of the model counts, the same always."""
        found: Arrays = {}
        for name, dims in self.dims.items():
            shape = [n for _, n in dims]
            if name.endswith(".load"):
                found[name] = np.zeros(shape, np.float32)
                continue
            x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
            one = name.endswith(".gain") and not self.one_plus(name)
            found[name] = ((1.0 if one else 0.0) + (0.1 if name.endswith(".gain") else 0.2) * x).astype(np.float32)
        return found

    def one_plus(self, name: str) -> bool:
        """Whether a gain is counted from 1: it begins with zeros."""
        return next(w.init.kind for w in self.training.model.weights if w.name == name) == "zeros"

    def logits(self, weights: Arrays, batch: Arrays) -> np.ndarray[Any, Any]:
        states = {n: weights[n] for n in self.states}
        held = {n: w for n, w in weights.items() if n not in self.states}
        return serial_gradients(self.training, held, states, batch).outputs["logits"]

    def checkpoint(self, weights: Arrays) -> Arrays:
        return dict(to_checkpoint(self.job.table, weights, self.dims))

    def read(self, tensors: Arrays) -> Arrays:
        return from_checkpoint(self.job.table, tensors, self.dims)


GIVEN: dict[str, Callable[[Arrays], Arrays]] = {
    "bert": lambda b: {"input_ids": b["tokens"], "token_type_ids": b["segment"]},
    "vit": lambda b: {"pixel_values": b["image"].transpose(0, 3, 1, 2)},
    "t5": lambda b: {"input_ids": b["tokens"], "decoder_input_ids": b["decoder_tokens"]},
}
"""What transformers' models are given, by `model_type`; the others take tokens alone."""


def reference(config: Mapping[str, Any], tensors: Arrays, batch: Arrays, folder: Path) -> np.ndarray[Any, Any]:
    """The logits that transformers computes of a checkpoint with these tensors, in f32. Its names must all be known."""
    from safetensors.numpy import save_file

    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return read_by_transformers(config, batch, folder)


def read_by_transformers(config: Mapping[str, Any], batch: Arrays, folder: Path) -> np.ndarray[Any, Any]:
    """The logits that transformers computes of a folder, in f32."""
    import torch
    import transformers

    model, told = getattr(transformers, config["architectures"][0]).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"], told
    given = GIVEN.get(config["model_type"], lambda b: {"input_ids": b["tokens"]})(batch)
    with torch.no_grad():
        found = model.eval()(
            **{k: torch.tensor(v.astype(np.int64 if v.dtype == np.int32 else v.dtype)) for k, v in given.items()}
        )
    return found.logits.numpy()  # type: ignore[no-any-return]
