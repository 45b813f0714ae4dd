"""Matrices of a few bits as GPTQ, AWQ and compressed-tensors lay them out in safetensors, read as the numbers that they
stand for: `(q - zero) * scale`, in the scales' type.

    GPTQ                qweight [in·bits/32, out], scales [groups, out], qzeros [groups, out·bits/32], g_idx [in]
    AWQ                 qweight [in, out·bits/32], scales [groups, out], qzeros [groups, out·bits/32]
    compressed-tensors  weight_packed [out, in·bits/32], weight_scale [out, groups],
                        weight_zero_point [out·bits/32, groups] where groups have one, weight_shape [2]

Bits lie in one stream, least ones first, across words too (3 bits); AWQ has the eight columns of a word in the order
0 2 4 6 1 3 5 7. GPTQ's first version stores zero points less 1; of 0 that is no number of so few bits, which readers
take for 0 or for 2^bits, and here it is refused. Without zero points compressed-tensors has 0 in the middle: as 8 of 4
bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

import numpy as np

from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.data.headers import HeldTensor
from runtime.data.stored import DataFile, Stored
from runtime.numpy import rounded
from runtime.numpy.base import Array

Tensors = MutableMapping[str, tuple[DataFile, HeldTensor]]
Parts = Mapping[str, tuple[DataFile, HeldTensor]]

GPTQ, AWQ, COMPRESSED = "gptq", "awq", "compressed-tensors"
PARTS = {
    GPTQ: ("qweight", "scales", "qzeros"),
    AWQ: ("qweight", "scales", "qzeros"),
    COMPRESSED: ("weight_packed", "weight_scale", "weight_shape"),
}
"""By the method of a configuration: the tensors that stand in the place of `weight`."""
OTHERS = {GPTQ: ("g_idx",), AWQ: (), COMPRESSED: ("weight_zero_point", "weight_g_idx")}
"""Those that there may be besides."""
MAPS = ("g_idx", "weight_g_idx")
"""Those that say the group of each column."""
BITS = (2, 3, 4, 8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column each place of a word has."""


@dataclass(frozen=True, slots=True)
class _Said:
    """An object of a configuration, of which keys are taken. path: of keys, with a point behind; name: of the file."""

    path: str
    values: Mapping[str, Any]
    name: str

    def wrong(self, key: str, expected: str) -> NoReturn:
        """Raise E0772: what it says there is not read."""
        found = f"is {self.values[key]!r:.60}" if key in self.values else "is missing"
        what = f"`{self.path}{key:.60}` {found} in `{self.name}`: weights quantised in a way that is not read"
        raise fail("E0772", what, help=f"expected {expected}")

    def one(self, key: str, known: Sequence[Any]) -> Any:
        """What a key says, which is one of these; None among them: or nothing."""
        found = self.values.get(key)
        if not any(type(found) is type(k) and found == k for k in known):
            self.wrong(key, " or ".join(json.dumps(k) for k in known if k is not None))
        return found

    def group(self) -> int:
        """`group_size`; 0 where it is not said."""
        found = self.values.get("group_size")
        if found is not None and (type(found) is not int or not (found == -1 or 0 < found < 2**31)):
            self.wrong("group_size", "a number of columns, or -1 for all")
        return found or 0

    def object(self, key: str, none: bool = False) -> _Said:
        """The object of a key; none: there may be none, which is empty."""
        found = self.values.get(key)
        if found is None and none:
            found = {}
        if not isinstance(found, dict):
            self.wrong(key, "an object")
        return _Said(f"{self.path}{key}.", found, self.name)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How a published model's matrices are stored.

    later: zero points of GPTQ as they are (`gptq_v2`); group: columns that share a scale, -1 for all of a row, 0 where
    nothing says it; more: parts that there must be besides, by what the configuration says.
    """

    method: str
    bits: int
    later: bool = False
    group: int = 0
    more: tuple[str, ...] = ()

    @staticmethod
    def of(config: Mapping[str, Any], name: str) -> Quantisation | None:
        """What a `config.json` says; None where it says nothing. Raises ParcError: E0772 for what is not read."""
        if config.get("quantization_config") is None:
            return None
        said = _Said("", config, name).object("quantization_config")
        method = said.one("quant_method", (GPTQ, AWQ, COMPRESSED))
        if method == COMPRESSED:
            return _compressed(said)
        bits, group = said.one("bits", BITS if method == GPTQ else (4,)), said.group()
        if method == AWQ:
            if str(said.values.get("version")).lower() != "gemm":
                said.one("version", ("gemm", None))
            return Quantisation(AWQ, bits, group=group)
        said.one("pack_dtype", ("int32", None))
        first = said.one("checkpoint_format", ("gptq", "gptq_v2", None))
        form = said.one("format", (first, None) if first else ("gptq", "gptq_v2", None)) or first
        if any(not key.startswith("-:") for key in said.object("dynamic", none=True).values):
            said.wrong("dynamic", "modules that are left out alone (`-:`): all others have the same bits and groups")
        ordered = said.one("desc_act", (True, False, None)) and group >= 0
        return Quantisation(GPTQ, bits, form == "gptq_v2", group, ("g_idx",) if ordered else ())


def _compressed(said: _Said) -> Quantisation:
    """What compressed-tensors' configuration says."""
    said.one("format", ("pack-quantized",))
    said.object("sparsity_config", none=True).one("format", ("dense", None))
    if said.object("transform_config", none=True).object("config_groups", none=True).values:
        said.wrong("transform_config", "none: what turns a layer's inputs is not read")
    groups = said.object("config_groups")
    if len(groups.values) != 1:
        said.wrong("config_groups", "one group: all matrices have the same bits")
    scheme = groups.object(next(iter(groups.values)))
    scheme.one("format", ("pack-quantized", None))
    weights = scheme.object("weights")
    bits = weights.one("num_bits", BITS)
    weights.one("type", ("int", None))
    weights.one("dynamic", (False, None))
    group, strategy = weights.group(), weights.one("strategy", ("group", "channel", None))
    if strategy == "group" and group < 1 or strategy == "channel" and group > 0:
        weights.wrong("group_size", "the columns of a group where the strategy is `group`, none where it is `channel`")
    zeros = ("weight_zero_point",) if weights.one("symmetric", (True, False, None)) is False else ()
    order = weights.one("actorder", ("weight", "static", "group", "dynamic", True, False, None))
    maps = ("weight_g_idx",) if order in ("group", "dynamic", True) else ()
    return Quantisation(COMPRESSED, bits, group=-1 if strategy == "channel" else group, more=(*zeros, *maps))


@dataclass(frozen=True, slots=True)
class QuantisedTensor:
    """What stands for a matrix `[out, in]`: like a tensor of a file, of the scales' type."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    of: Quantisation
    parts: Parts

    def stored(self, file: DataFile) -> QuantisedTensor:
        """Itself: what reads parts."""
        return self

    def read(self, rows: Array, inner: Sequence[slice]) -> Array:
        """Its rows, and of them these columns."""
        found: Array = matrix(self.of, self._held(), self.shape)[rows]
        return rounded(found[(slice(None), *inner)], self.dtype.lower())

    def apart(self) -> tuple[Array, Array, Array]:
        """Its numbers from 0 on, and of each its zero point and its scale. Raises ParcError: E0761."""
        return apart(self.of, self._held(), self.shape)

    def _held(self) -> dict[str, Array]:
        whole = {part: _whole(held.stored(file)) for part, (file, held) in self.parts.items()}
        _held_to(self.of, self.name, self.parts, whole, self.shape)
        return whole


def quantised(
    name: str, there: Tensors, of: Quantisation | None, shape: tuple[int, ...]
) -> tuple[DataFile, QuantisedTensor] | None:
    """The matrix of this name (`….weight`) and shape `[out, in]`, whose tensors are taken out of those that are there;
    None: it has none. Raises ParcError: E0761 where they are not what such a matrix is made of."""
    base = name.removesuffix("weight")
    if of is None or base == name or name in there or len(shape) != 2:
        return None
    parts = {p: there.pop(base + p) for p in (*PARTS[of.method], *OTHERS[of.method]) if base + p in there}
    if not parts:
        return None
    needed = (*PARTS[of.method], *of.more)
    file = next(iter(parts.values()))[0]
    for part in needed:
        if part not in parts:
            help = f"by `quantization_config` a matrix is {', '.join(needed)}"
            file.wrong(f"has `{base}{next(iter(parts))}`, and there is no `{base}{part}`", help)
    scaled, scale = parts[PARTS[of.method][1]]
    groups = scale.shape[of.method == COMPRESSED] if len(scale.shape) == 2 else 0
    if not of.group and (not groups or shape[1] % groups):
        what = f"has `{scale.name}` as {_shown(scale.dtype, scale.shape)}"
        scaled.wrong(f"{what}, which has no groups of equally many of {shape[1]} columns")
    for part, expected in _shapes(of, shape, groups).items():
        at, held = parts.get(part, (file, None))
        if held and (held.dtype not in _kinds(part) or held.shape != expected):
            what = f"has `{base}{part}` as {_shown(held.dtype, held.shape)}"
            size = f"{shape[0]} x {shape[1]} of {of.bits} bits" + f", groups of {of.group}" * (of.group > 0)
            kinds = _shown("/".join(_kinds(part)), expected)
            at.wrong(f"{what}, and it has to be {kinds}", f"by `config.json` the matrix is {size}")
    small = {p: _whole(held.stored(f)) for p, (f, held) in parts.items() if p in (*MAPS, "weight_shape")}
    _held_to(of, name, parts, small, shape)
    return file, QuantisedTensor(name, scale.dtype, shape, of, parts)


def _shapes(of: Quantisation, shape: tuple[int, ...], groups: int) -> dict[str, tuple[int, ...]]:
    """What parts of a matrix have; groups: how many there are where the configuration does not say it."""
    outputs, inputs = shape
    if of.group:
        groups = 1 if of.group < 0 else -(-inputs // of.group)
    deep, across = -(-inputs * of.bits // 32), -(-outputs * of.bits // 32)
    if of.method == COMPRESSED:
        return {
            **{"weight_packed": (outputs, deep), "weight_scale": (outputs, groups), "weight_shape": (2,)},
            **{"weight_zero_point": (across, groups), "weight_g_idx": (inputs,)},
        }
    words = (deep, outputs) if of.method == GPTQ else (inputs, across)
    return {"qweight": words, "scales": (groups, outputs), "qzeros": (groups, across), "g_idx": (inputs,)}


def _kinds(part: str) -> tuple[str, ...]:
    """The types that a part's numbers may have."""
    if part in ("scales", "weight_scale"):
        return ("F16", "BF16", "F32")
    return ("I32", "I64") if part in (*MAPS, "weight_shape") else ("I32",)


def _held_to(of: Quantisation, name: str, parts: Parts, whole: Mapping[str, Array], shape: tuple[int, ...]) -> None:
    """Raise E0761 unless the numbers that describe a matrix are right: its shape, the groups of its columns."""
    base = name.removesuffix("weight")
    stated = whole.get("weight_shape")
    if stated is not None and stated.tolist() != list(shape):
        said = " x ".join(map(str, stated.tolist()))
        parts["weight_shape"][0].wrong(
            f"has {said} as `{base}weight_shape`, by `config.json` it is {shape[0]} x {shape[1]}"
        )
    if of.method == GPTQ and not of.later and "qzeros" in whole:
        stored = unpacked(whole["qzeros"], of.bits)[:, : shape[0]]
        if (stored == (1 << of.bits) - 1).any():
            what = f"has a zero point of 0, less 1, in `{base}qzeros`: {of.bits} bits have no such number"
            parts["qzeros"][0].wrong(what, "the second version (`gptq_v2`) stores zero points as they are")
    groups = parts[PARTS[of.method][1]][1].shape[of.method == COMPRESSED]
    for part in MAPS:
        if part in whole and not _none(of, whole[part]):
            strays = whole[part][(whole[part] < 0) | (whole[part] >= groups)]
            if len(strays):
                help = "each number is the group of a column" + ("; all are -1 for none" * (of.method == COMPRESSED))
                what = f"has {strays[0]} in `{base}{part}`, groups are 0 to {groups - 1}"
                parts[part][0].wrong(what, help)


def _none(of: Quantisation, index: Array) -> bool:
    """Whether columns are in their order: compressed-tensors has -1 everywhere then."""
    return of.method == COMPRESSED and bool((index == -1).all())


def _shown(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype:.20} [{', '.join(map(str, shape))}]"


def _whole(stored: Stored) -> Array:
    return np.asarray(stored.read(np.arange(stored.shape[0]), [slice(0, n) for n in stored.shape[1:]]))


def matrix(of: Quantisation, parts: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """The matrix `[out, in]` that parts stand for."""
    q, zero, scale = apart(of, parts, shape)
    return (q.astype(np.float32) - zero) * scale


def apart(of: Quantisation, parts: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """The numbers from 0 on of a matrix `[out, in]`, and of each its zero point and its scale, in float32."""
    outputs, inputs = shape
    word, scale = parts[PARTS[of.method][0]], parts[PARTS[of.method][1]].astype(np.float32)
    if of.method == COMPRESSED:
        q = unpacked(word, of.bits)[:, :inputs]
        packed = parts.get("weight_zero_point")
        middle = np.full((outputs, scale.shape[1]), 1 << (of.bits - 1))
        zero = middle if packed is None else unpacked(packed.T, of.bits)[:, :outputs].T
        group = parts.get("weight_g_idx")
    elif of.method == AWQ:
        q = _columns(unpacked(word, of.bits))[:, :outputs].T
        zero = _columns(unpacked(parts["qzeros"], of.bits))[:, :outputs].T
        group, scale = None, scale.T
    else:
        q = unpacked(word.T, of.bits)[:, :inputs]
        stored = unpacked(parts["qzeros"], of.bits)[:, :outputs].T
        zero = stored if of.later else stored + 1
        group, scale = parts.get("g_idx"), scale.T
    at = np.arange(inputs) // (of.group if of.group > 0 else inputs // scale.shape[1])
    if group is not None and not _none(of, group):
        at = group
    return q, zero.astype(np.float32)[:, at], scale[:, at]


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
