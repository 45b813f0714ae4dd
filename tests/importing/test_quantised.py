"""Published models whose matrices are as GPTQ, AWQ or compressed-tensors lay them out: read as what the bits say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsl.diagnostics import ParcError
from parc.importing.weights import public_model
from runtime.checkpoints.packed_layouts import Quantisation, matrix
from runtime.checkpoints.public import SINGLE
from tests.importing.small import SMALL

Array = np.ndarray[Any, Any]

CONFIG = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": True},
    "gptq 3": {"quant_method": "gptq", "bits": 3, "group_size": 32, "checkpoint_format": "gptq_v2"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm"},
    "compressed": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 8}}},
    },
}


def words(numbers: list[int], bits: int) -> list[int]:
    """One stream of bits, least ones first, as int32."""
    stream = "".join(format(n, f"0{bits}b")[::-1] for n in numbers)
    stream += "0" * (-len(stream) % 32)
    found = [int(stream[i : i + 32][::-1], 2) for i in range(0, len(stream), 32)]
    return [n - 2**32 if n >= 2**31 else n for n in found]


def packed(method: str, q: Array, zero: Array, scale: Array, group: Array) -> dict[str, Array]:
    """The tensors of a matrix, in loops. q: [out, in], zero, scale: [out, groups]."""
    bits, later = CONFIG[method].get("bits", 4), "3" in method
    along = np.array([words(list(row), int(bits)) for row in q.tolist()], np.int32)  # type: ignore[arg-type]
    if method == "compressed":
        zeros = np.array([words(list(column), 4) for column in zero.T.tolist()], np.int32).T
        return {
            "weight_packed": along,
            "weight_scale": scale,
            "weight_zero_point": zeros,
            "weight_shape": np.array(q.shape, np.int64),
        }
    if method == "awq":

        def row(numbers: list[int]) -> list[int]:
            return words([numbers[8 * (i // 8) + (0, 2, 4, 6, 1, 3, 5, 7)[i % 8]] for i in range(len(numbers))], 4)

        found = {"qweight": [row(list(r)) for r in q.T.tolist()], "qzeros": [row(list(r)) for r in zero.T.tolist()]}
        return {**{name: np.array(x, np.int32) for name, x in found.items()}, "scales": scale.T}
    zeros = np.array([words(list(r), int(bits)) for r in (zero - (not later)).T.tolist()], np.int32)  # type: ignore[arg-type]
    return {"qweight": along.T, "qzeros": zeros, "scales": scale.T, "g_idx": group.astype(np.int32)}


def drawn(method: str, outputs: int, inputs: int) -> tuple[dict[str, Array], Array]:
    """The tensors of a matrix, and what they stand for."""
    rng = np.random.default_rng(outputs + inputs)
    bits, groups = int(CONFIG[method].get("bits", 4)), max(1, inputs // 8)  # type: ignore[arg-type]
    q = rng.integers(0, 1 << bits, (outputs, inputs))
    zero = rng.integers(1, 1 << bits, (outputs, groups))
    scale = rng.uniform(0.01, 0.02, (outputs, groups)).astype(np.float32)
    group = np.arange(inputs) // (inputs // groups)
    if "gptq" in method:
        group = rng.permutation(group)
    value = np.zeros(q.shape, np.float32)
    for o, i in np.ndindex(q.shape):
        value[o, i] = np.float32(q[o, i] - zero[o, group[i]]) * scale[o, group[i]]
    return packed(method, q, zero, scale, group), value


@pytest.mark.parametrize("method", CONFIG)
def test_bits_are_read_as_they_are_laid_out(method: str) -> None:
    parts, value = drawn(method, 32, 64)
    of = Quantisation.of({"quantization_config": CONFIG[method]}, "it")
    assert of is not None and np.array_equal(matrix(of, parts, value.shape), value)


def folder_of(method: str, to: Path, change: str = "") -> dict[str, Array]:
    """A folder of a small llama whose projections are in the layout; what its matrices are."""
    config = {**SMALL["llama"], "quantization_config": CONFIG[method]}
    (to / "config.json").write_text(json.dumps(config))
    from dsl.files import load
    from parc.importing.importing import public_names

    names = public_names(load(to / "config.json"))
    rng = np.random.default_rng(0)
    given: dict[str, Array] = {}
    whole: dict[str, Array] = {}
    for tensor in names.tensors():
        if "_proj.weight" in tensor.name:
            parts, whole[tensor.name] = drawn(method, *tensor.shape)
            given |= {tensor.name.removesuffix("weight") + part: x for part, x in parts.items()}
        else:
            given[tensor.name] = whole[tensor.name] = rng.standard_normal(tensor.shape).astype(np.float32)
    if change:
        name = next(n for n in given if n.endswith(change))
        given[name] = given[name][:-1]
    kinds = {np.dtype(np.float32): "F32", np.dtype(np.int32): "I32", np.dtype(np.int64): "I64"}
    entries, at = {}, 0
    for name, x in given.items():
        entries[name] = {"dtype": kinds[x.dtype], "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    head = json.dumps(entries).encode()
    content = b"".join(np.ascontiguousarray(x).tobytes() for x in given.values())
    (to / SINGLE).write_bytes(len(head).to_bytes(8, "little") + head + content)
    return {t.name: whole[t.name] for t in names.tensors()}


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed"])
def test_a_model_is_read(method: str, tmp_path: Path) -> None:
    whole = folder_of(method, tmp_path)
    found = public_model(tmp_path)
    arrays = found.arrays()
    total = sum(float(np.abs(x).astype(np.float64).sum()) for x in arrays.values())
    assert total == pytest.approx(sum(float(np.abs(x).astype(np.float64).sum()) for x in whole.values()), rel=1e-12)
    down = next(x for n, x in whole.items() if n.endswith("layers.1.mlp.down_proj.weight"))
    (mine,) = [x[1] for n, x in arrays.items() if x.ndim == 3 and x.shape[1:] == down.T.shape]
    assert np.array_equal(mine, down.T)


def test_what_is_not_whole_or_not_known_is_refused(tmp_path: Path) -> None:
    folder_of("gptq", tmp_path, "scales")
    with pytest.raises(ParcError, match="no part of"):
        public_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "exl2", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ParcError, match="not read"):
        public_model(tmp_path)


def test_compressed_tensors_writes_such_bits() -> None:
    """Against the package that defines them, where it is installed."""
    torch = pytest.importorskip("torch")
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    rng = np.random.default_rng(1)
    of = Quantisation.of({"quantization_config": CONFIG["compressed"]}, "it")
    assert of is not None
    q, zero = rng.integers(-8, 8, (16, 64)).astype(np.int8), rng.integers(-8, 8, (16, 8)).astype(np.int8)
    scale = rng.uniform(0.01, 0.02, (16, 8)).astype(np.float32)
    parts = {
        "weight_packed": helpers.pack_to_int32(torch.from_numpy(q), 4).numpy(),
        "weight_zero_point": helpers.pack_to_int32(torch.from_numpy(zero), 4, packed_dim=0).numpy(),
        "weight_scale": scale,
    }
    want = (q.astype(np.float32) - np.repeat(zero, 8, 1)) * np.repeat(scale, 8, 1)
    assert np.array_equal(matrix(of, parts, q.shape), want)
    del parts["weight_zero_point"]
    assert np.array_equal(matrix(of, parts, q.shape), q.astype(np.float32) * np.repeat(scale, 8, 1))
