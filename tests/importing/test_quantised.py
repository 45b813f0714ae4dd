"""Published models whose matrices are as GPTQ, AWQ or compressed-tensors lay them out: read as what the bits say."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
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

CONFIG: dict[str, dict[str, Any]] = {
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
    along = np.array([words(list(row), int(bits)) for row in q.tolist()], np.int32)
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
    zeros = np.array([words(list(r), int(bits)) for r in (zero - (not later)).T.tolist()], np.int32)
    return {"qweight": along.T, "qzeros": zeros, "scales": scale.T, "g_idx": group.astype(np.int32)}


def drawn(method: str, outputs: int, inputs: int) -> tuple[dict[str, Array], Array]:
    """The tensors of a matrix, and what they stand for."""
    rng = np.random.default_rng(outputs + inputs)
    bits, groups = int(CONFIG[method].get("bits", 4)), max(1, inputs // 8)
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


Change = Callable[[Array], Array | None]


def folder_of(method: str, to: Path, part: str = "", change: Change = lambda x: x[:-1]) -> dict[str, Array]:
    """A folder of a small llama whose projections are in the layout, one part of one changed (None: left out); what its
    matrices are."""
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
            given |= {tensor.name.removesuffix("weight") + p: x for p, x in parts.items()}
        else:
            given[tensor.name] = whole[tensor.name] = rng.standard_normal(tensor.shape).astype(np.float32)
    if part:
        name = next((n for n in given if n.endswith(part)), f"{FIRST}.{part}")
        changed = change(given.pop(name, np.empty(0)))
        given |= {name: changed} if changed is not None else {}
    kinds = {np.dtype(x): word for x, word in (("f4", "F32"), ("i4", "I32"), ("i8", "I64"), ("i1", "I8"))}
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


FIRST = "model.layers.0.self_attn.q_proj"
"""Whose parts are changed; 32 x 32, in 4 groups."""


def test_a_zero_point_that_the_first_version_cannot_say_is_refused(tmp_path: Path) -> None:
    """0, less 1: some read 0 there and others 16; the second version has it as it is."""
    folder_of("gptq", tmp_path, "qzeros", _set(0, -1))
    with pytest.raises(ParcError, match=f"E0761.*zero point of 0, less 1, in `{FIRST}.qzeros`"):
        public_model(tmp_path).arrays()
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    (tmp_path / "config.json").write_text(json.dumps(config))
    public_model(tmp_path).arrays()


def _set(at: int, value: int) -> Change:
    def change(x: Array) -> Array:
        x[at] = value
        return x

    return change


@pytest.mark.parametrize(
    ("method", "part", "change", "told"),
    [
        ("gptq", "scales", lambda x: x[:-1], "`%` as F32 [3, 32], and it has to be F16/BF16/F32 [4, 32]"),
        ("gptq", "scales", lambda x: x.astype("i4"), "`%` as I32 [4, 32]"),
        ("gptq", "scales", lambda x: x[0], "`%` as F32 [32]"),
        ("gptq", "qweight", lambda x: x.astype("i8"), "`%` as I64 [4, 32], and it has to be I32 [4, 32]"),
        ("gptq", "qweight", lambda x: None, "there is no `%`"),
        ("gptq", "qzeros", lambda x: None, "there is no `%`"),
        ("gptq", "qzeros", lambda x: x[:, :-1], "`%` as I32 [4, 3]"),
        ("gptq", "g_idx", lambda x: None, "there is no `%`"),  # `desc_act` says that columns are ordered
        ("gptq", "g_idx", _set(3, 99), "has 99 in `%`, groups are 0 to 3"),
        ("gptq", "g_idx", _set(3, -1), "has -1 in `%`"),
        ("gptq", "g_idx", lambda x: x * 0 - 1, "has -1 in `%`"),
        ("awq", "qweight", lambda x: x.T, "`%` as I32 [4, 32], and it has to be I32 [32, 4]"),
        ("awq", "qzeros", lambda x: None, "there is no `%`"),
        ("compressed", "weight_shape", lambda x: x[None], "`%` as I64 [1, 2], and it has to be I32/I64 [2]"),
        ("compressed", "weight_shape", lambda x: x[0].reshape(()), "`%` as I64 []"),
        ("compressed", "weight_shape", _set(1, 31), "has 32 x 31 as `%`"),
        ("compressed", "weight_scale", lambda x: None, "there is no `%`"),
        ("compressed", "weight_zero_point", lambda x: x.astype("i1"), "`%` as I8 [4, 4]"),
        ("compressed", "weight_g_idx", lambda x: np.r_[-1, np.zeros(31)].astype("i4"), "has -1 in `%`"),
        ("compressed", "weight_g_idx", lambda x: np.full(32, 4, "i4"), "has 4 in `%`"),
    ],
)
def test_a_part_that_is_wrong_is_named(method: str, part: str, change: Change, told: str, tmp_path: Path) -> None:
    folder_of(method, tmp_path, part, change)
    with pytest.raises(ParcError) as found:
        public_model(tmp_path)
    (d,) = found.value.diagnostics
    assert d.code == "E0761" and told.replace("%", f"{FIRST}.{part}") in d.message


def test_no_group_at_all_is_none_where_the_format_says_so(tmp_path: Path) -> None:
    folder_of("compressed", tmp_path)
    without = public_model(tmp_path).arrays()
    folder_of("compressed", tmp_path, "weight_g_idx", lambda x: np.full(32, -1, "i4"))
    found = public_model(tmp_path).arrays()
    assert all(np.array_equal(found[name], x) for name, x in without.items())


@pytest.mark.parametrize(
    ("method", "key", "value"),
    [
        ("gptq", "quant_method", "exl2"),
        ("gptq", "quant_method", ["gptq"]),
        ("gptq", "bits", [4]),
        ("gptq", "bits", 4.0),
        ("gptq", "bits", True),
        ("gptq", "bits", 5),
        ("gptq", "bits", None),
        ("gptq", "group_size", 0),
        ("gptq", "group_size", "8"),
        ("gptq", "desc_act", 1),
        ("gptq", "checkpoint_format", "marlin"),
        ("gptq", "dynamic", {"+:.*": {"bits": 8}}),
        ("awq", "bits", 3),
        ("awq", "version", ["gemm"]),
        ("awq", "version", "gemv"),
        ("compressed", "format", "int-quantized"),
        ("compressed", "config_groups", {}),
        ("compressed", "config_groups", [1]),
        ("compressed", "config_groups.group_0", 3),
        ("compressed", "config_groups.group_0.weights", "x"),
        ("compressed", "config_groups.group_0.weights.num_bits", [4]),
        ("compressed", "config_groups.group_0.weights.type", "float"),
        ("compressed", "config_groups.group_0.weights.strategy", {}),
        ("compressed", "config_groups.group_0.weights.group_size", None),
        ("compressed", "config_groups.group_0.weights.symmetric", "no"),
        ("compressed", "transform_config", {"config_groups": {"R1": {}}}),
    ],
)
def test_a_configuration_that_is_wrong_is_told_by_its_key(method: str, key: str, value: object) -> None:
    said = copy.deepcopy(CONFIG[method])
    inner: Any = said
    *path, last = key.split(".")
    for step in path:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(ParcError) as found:
        Quantisation.of({"quantization_config": said}, "it")
    (d,) = found.value.diagnostics
    assert d.code == "E0772" and f"`quantization_config.{key}" in d.message and d.help


@pytest.mark.parametrize("said", ["gptq", [1], 4])
def test_a_configuration_of_another_kind_is_refused(said: object) -> None:
    with pytest.raises(ParcError, match="E0772.*quantization_config"):
        Quantisation.of({"quantization_config": said}, "it")


def test_the_last_group_may_be_shorter_and_columns_fill_no_word() -> None:
    """20 columns in groups of 8, 4 bits: the third group has 4."""
    rng = np.random.default_rng(3)
    q, zero = rng.integers(0, 16, (8, 20)), rng.integers(1, 16, (8, 3))
    scale = rng.uniform(0.01, 0.02, (8, 3)).astype(np.float32)
    parts = packed("gptq", q, zero, scale, np.arange(20) // 8)
    of = Quantisation.of({"quantization_config": {**CONFIG["gptq"], "desc_act": False}}, "it")
    assert of is not None
    want = (q - zero[:, np.arange(20) // 8]).astype(np.float32) * scale[:, np.arange(20) // 8]
    assert np.array_equal(matrix(of, parts, q.shape), want)
    del parts["g_idx"]
    assert np.array_equal(matrix(of, parts, q.shape), want)


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
