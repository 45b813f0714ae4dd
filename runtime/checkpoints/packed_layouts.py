"""Matrices of a few bits as GPTQ, AWQ and compressed-tensors lay them out in safetensors, read as the numbers that they
stand for: `(q - zero) * scale`, in the scales' type.

    GPTQ                qweight [in·bits/32, out], scales [groups, out], qzeros [groups, out·bits/32], g_idx [in]
    AWQ                 qweight [in, out·bits/32], scales [groups, out], qzeros [groups, out·bits/32]
    compressed-tensors  weight_packed [out, in·bits/32], weight_scale [out, groups],
                        weight_zero_point [out·bits/32, groups] where groups have one, weight_shape [2]

Bits lie in one stream, least ones first, across words too (3 bits); AWQ has the eight columns of a word in the order
0 2 4 6 1 3 5 7. GPTQ's first version stores zero points less 1. Without zero points compressed-tensors has 0 in the
middle: as 8 of 4 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.data.headers import HeldTensor
from runtime.data.stored import DataFile
from runtime.numpy.base import Array

Tensors = MutableMapping[str, tuple[DataFile, HeldTensor]]

GPTQ, AWQ, COMPRESSED = "gptq", "awq", "compressed-tensors"
PARTS = {
    GPTQ: ("qweight", "scales", "qzeros"),
    AWQ: ("qweight", "scales", "qzeros"),
    COMPRESSED: ("weight_packed", "weight_scale", "weight_shape"),
}
"""By the method of a configuration: the tensors that stand in the place of `weight`."""
OTHERS = {GPTQ: ("g_idx",), AWQ: (), COMPRESSED: ("weight_zero_point", "weight_g_idx")}
"""Those that there may be besides."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column each place of a word has."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How a published model's matrices are stored. later: zero points of GPTQ as they are (`gptq_v2`)."""

    method: str
    bits: int
    later: bool = False

    @staticmethod
    def of(config: Mapping[str, Any], name: str) -> Quantisation | None:
        """What a `config.json` says; None where it says nothing. Raises ParcError: E0772 for what is not read."""
        said = config.get("quantization_config")
        if not isinstance(said, dict):
            return None
        method = said.get("quant_method")
        known = {GPTQ: (2, 3, 4, 8), AWQ: (4,)}.get(str(method), ())
        if said.get("bits") in known and str(said.get("version", "gemm")).lower() == "gemm":
            return Quantisation(str(method), int(said["bits"]), said.get("checkpoint_format") == "gptq_v2")
        groups = said.get("config_groups")
        if method == COMPRESSED and isinstance(groups, dict):
            weights = [g.get("weights") or {} for g in groups.values() if isinstance(g, dict)]
            bits = {w.get("num_bits") for w in weights if w.get("type") == "int"}
            if said.get("format") == "pack-quantized" and len(bits) == len(weights) == 1 and bits <= {2, 3, 4, 8}:
                return Quantisation(COMPRESSED, int(bits.pop() or 0))
        message = f"`{name}` has weights quantised in a way that is not read: `{method}`"
        help = "GPTQ and AWQ (gemm) are read, and the format pack-quantized of compressed-tensors"
        raise fail("E0772", message, help=help)


@dataclass(frozen=True, slots=True)
class QuantisedTensor:
    """What stands for a matrix `[out, in]`: like a tensor of a file, of the scales' type."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    of: Quantisation
    parts: Mapping[str, tuple[DataFile, HeldTensor]]

    def stored(self, file: DataFile) -> QuantisedTensor:
        """Itself: what reads parts."""
        return self

    def read(self, rows: Array, inner: Sequence[slice]) -> Array:
        """Its rows, and of them these columns."""
        x = {part: held.stored(file) for part, (file, held) in self.parts.items()}
        whole = {
            part: np.asarray(s.read(np.arange(s.shape[0]), [slice(0, n) for n in s.shape[1:]])) for part, s in x.items()
        }
        found: Array = matrix(self.of, whole, self.shape)[rows]
        return found[(slice(None), *inner)]


def quantised(name: str, there: Tensors, of: Quantisation | None) -> tuple[DataFile, QuantisedTensor] | None:
    """The matrix of this name (`….weight`), whose tensors are taken out of those that are there; None: it has none."""
    base = name.removesuffix("weight")
    if of is None or base == name or any(f"{base}{part}" not in there for part in PARTS[of.method]):
        return None
    parts = {p: there.pop(base + p) for p in (*PARTS[of.method], *OTHERS[of.method]) if base + p in there}
    file, scale = parts[PARTS[of.method][1]]
    word = parts[PARTS[of.method][0]][1]
    if len(word.shape) != 2 or len(scale.shape) != 2 or 0 in scale.shape:
        file.wrong(f"has `{name}` in parts that are no matrices")
    rows, columns = word.shape
    more = 32 // of.bits if of.bits != 3 else 0

    def many(n: int) -> int:
        return n * more if more else n * 32 // 3

    shape = {COMPRESSED: (rows, many(columns)), AWQ: (many(columns), rows), GPTQ: (columns, many(rows))}[of.method]
    if of.method == COMPRESSED:  # words may have room for more
        stated = parts["weight_shape"][1].stored(parts["weight_shape"][0]).read(np.arange(2), [])
        shape = (rows, int(stated[1])) if 0 < stated[1] <= shape[1] and stated[0] == rows else shape
    outputs, inputs = shape
    groups = scale.shape[1] if of.method == COMPRESSED else scale.shape[0]
    across = -(-outputs * of.bits // 32)
    expected: dict[str, tuple[int, ...]] = {
        **{"scales": (groups, outputs), "qzeros": (groups, across), "g_idx": (inputs,), "weight_g_idx": (inputs,)},
        **{"weight_scale": (outputs, groups), "weight_zero_point": (across, groups), "weight_shape": (2,)},
    }
    for part, (_, held) in parts.items():
        whole = (
            held.dtype in ("F16", "BF16", "F32") if part in ("scales", "weight_scale") else held.dtype in ("I32", "I64")
        )
        if held.shape != expected.get(part, held.shape) or not whole or inputs % groups:
            file.wrong(
                f"has `{base}{part}` as {held.dtype} {list(held.shape)}, which is no part of {outputs} x {inputs}"
            )
    return file, QuantisedTensor(name, scale.dtype, shape, of, parts)


def matrix(of: Quantisation, parts: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """The matrix `[out, in]` that parts stand for."""
    outputs, inputs = shape
    word, scale = parts[PARTS[of.method][0]], parts[PARTS[of.method][1]].astype(np.float32)
    if of.method == COMPRESSED:
        q = unpacked(word, of.bits)[:, :inputs]
        packed = parts.get("weight_zero_point")
        zero = np.float32(1 << (of.bits - 1)) if packed is None else unpacked(packed.T, of.bits)[:, :outputs].T
        group, scale = parts.get("weight_g_idx"), scale
    elif of.method == AWQ:
        q = _columns(unpacked(word, of.bits)).T
        zero = _columns(unpacked(parts["qzeros"], of.bits)).T.astype(np.float32)
        group, scale = None, scale.T
    else:
        q = unpacked(word.T, of.bits)
        stored = unpacked(parts["qzeros"], of.bits).astype(np.float32).T
        zero = stored if of.later else stored + 1
        group, scale = parts.get("g_idx"), scale.T
    at = np.arange(inputs) // (inputs // scale.shape[1])
    if group is not None and group.min() >= 0:
        at = np.minimum(group, scale.shape[1] - 1)
    middle = zero if np.ndim(zero) == 0 else np.asarray(zero, np.float32)[:, at]
    return (q.astype(np.float32) - middle) * scale[:, at]


def unpacked(words: Array, bits: int) -> Array:
    """The numbers that lie in words along the last dim, in one stream of bits, least ones first."""
    stream = np.unpackbits(np.ascontiguousarray(words.astype("<i4")).view(np.uint8), axis=1, bitorder="little")
    count = stream.shape[1] // bits
    each = stream[:, : count * bits].reshape(len(words), count, bits).astype(np.int32)
    numbers: Array = (each << np.arange(bits, dtype=np.int32)).sum(2)
    return numbers


def _columns(found: Array) -> Array:
    """AWQ's columns in their own order: in a word those of even numbers stand first."""
    eights = found.reshape(len(found), -1, 8)
    out = np.empty_like(eights)
    out[:, :, list(AWQ_ORDER)] = eights
    return out.reshape(found.shape)
