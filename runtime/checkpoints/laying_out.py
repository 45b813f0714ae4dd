"""Matrices of a checkpoint that rest in fewer bits, written as GPTQ, AWQ and compressed-tensors lay them out: the way
back of `packed_layouts`, which says what lies where. The numbers stay as they are, bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np

from compiler.graph import Dim, Type
from compiler.stored import packed_weight
from compiler.weight_format import BITS, KEPT, SCALE, SPARSE, WORDS, ZERO, PackedWeight, WeightFormat, levels
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from runtime.checkpoint_names import NamedTensor, WeightPiece
from runtime.checkpoints.packed_layouts import AWQ, AWQ_ORDER, COMPRESSED, GPTQ
from runtime.checkpoints.parts import SavedParts
from runtime.checkpoints.public import PublicNames
from runtime.checkpoints.reading import Checkpoint
from runtime.checkpoints.shard_file import Array
from runtime.numpy.packed import unpacked

Layout = Literal["gptq", "awq", "compressed-tensors"]

TIED_HEADS = ("lm_head", "cls.predictions.decoder")
"""What families call a product with the table of words where that has no tensor of its own: it stays as it is."""

Entry = tuple[str, str, tuple[int, ...]]
"""Name, type and shape of a tensor in a file."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A weight of which a tensor takes parts: all of it, by whatever index."""

    numbers: Array

    def __getitem__(self, index: object) -> Array:
        return self.numbers


@dataclass(frozen=True, slots=True)
class LaidOutMatrix:
    """A tensor `[outputs, inputs]` of a published model whose weights rest in fewer bits.

    columns: the group of each of its columns; plain: groups are of neighbours, all as large. dtype: of its scales.
    """

    tensor: NamedTensor
    of: tuple[PackedWeight, ...]
    columns: Array
    plain: bool
    dtype: str

    @property
    def base(self) -> str:
        """What the names of its parts begin with."""
        return self.tensor.name.removesuffix("weight")

    @property
    def groups(self) -> int:
        """How many scales a row has."""
        return int(self.columns.max()) + 1

    def entries(self, how: ModelLayout) -> list[Entry]:
        """Its parts in a file."""
        rows, inputs = self.tensor.shape
        deep, across = -(-inputs * how.bits // 32), -(-rows * how.bits // 32)
        if how.layout == COMPRESSED:
            found: list[Entry] = [
                (self.base + "weight_packed", "int32", (rows, deep)),
                (self.base + "weight_scale", self.dtype, (rows, self.groups)),
                (self.base + "weight_shape", "int64", (2,)),
            ]
            found += [(self.base + "weight_zero_point", "int32", (across, self.groups))] if how.zeros else []
            return found + ([(self.base + "weight_g_idx", "int32", (inputs,))] if how.ordered else [])
        words = (deep, rows) if how.layout == GPTQ else (inputs, across)
        found = [
            (self.base + "qweight", "int32", words),
            (self.base + "qzeros", "int32", (self.groups, across)),
            (self.base + "scales", self.dtype, (self.groups, rows)),
        ]
        return found + ([(self.base + "g_idx", "int32", (inputs,))] if how.layout == GPTQ else [])

    def arrays(self, how: ModelLayout, source: SavedParts) -> list[Array]:
        """The numbers of its parts, in the same order."""
        read = [_parts(of, piece, source) for of, piece in zip(self.of, self.tensor.pieces, strict=True)]
        numbers, scales, zeros = (
            self.tensor.made({of.name: _Told(x[k]) for of, x in zip(self.of, read, strict=True)}) for k in range(3)
        )
        first = [int(np.argmax(self.columns == g)) for g in range(self.groups)]
        scale, zero = scales[:, first], zeros[:, first].astype(np.uint8)
        if how.layout == COMPRESSED:
            found = [stream(numbers, how.bits), scale, np.array(numbers.shape, np.int64)]
            found += [stream(zero.T, how.bits).T] if how.zeros else []
            return found + ([self.columns.astype(np.int32)] if how.ordered else [])
        if how.layout == AWQ:
            return [stream(_eights(x.T), how.bits) for x in (numbers, zero)] + [scale.T]
        less = zero.T if how.later else zero.T - np.uint8(1)
        return [stream(numbers, how.bits).T, stream(less, how.bits), scale.T, self.columns.astype(np.int32)]


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """How a model's matrices are written. group: columns that share a scale, -1 for all; later: GPTQ's second version,
    whose zero points may be 0; ordered: columns have numbers of groups. others: modules whose products stay whole."""

    layout: Layout
    bits: int
    group: int
    zeros: bool
    later: bool
    ordered: bool
    others: tuple[str, ...]
    head: bool

    def config(self) -> dict[str, Any]:
        """`quantization_config`, as the layout's package writes it."""
        if self.layout == AWQ:
            return {
                "quant_method": AWQ,
                "version": "gemm",
                "bits": self.bits,
                "group_size": self.group,
                "zero_point": True,
                "modules_to_not_convert": list(self.others) or None,
            }
        if self.layout == GPTQ:
            form = "gptq_v2" if self.later else "gptq"
            kept = [n for n in self.others if n not in TIED_HEADS]
            return {
                "quant_method": GPTQ,
                "bits": self.bits,
                "group_size": self.group,
                "desc_act": self.ordered,
                "sym": not self.zeros,
                "lm_head": self.head,
                "checkpoint_format": form,
                "format": form,
                "pack_dtype": "int32",
                **({"dynamic": {f"-:^{re.escape(n)}$": {} for n in kept}} if kept else {}),
            }
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": not self.zeros,
            "strategy": "group" if self.group > 0 else "channel",
            "group_size": self.group if self.group > 0 else None,
            "actorder": "group" if self.ordered else None,
            "dynamic": False,
        }
        scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
        return {
            "quant_method": COMPRESSED,
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": {**scheme, "format": "pack-quantized"}},
            "ignore": list(self.others),
            "kv_cache_scheme": None,
        }


def laid_out(
    found: Checkpoint, names: PublicNames, layout: Layout
) -> tuple[ModelLayout, dict[str, LaidOutMatrix], dict[str, PackedWeight]]:
    """How a checkpoint's matrices are written in a layout; those of its tensors that are, by name; and the weights of
    which they are made.

    Raises ParcError: E0772 where the layout has no words for how they rest, or the checkpoint has none that do.
    """
    stored = _stored(found, names)
    if not stored:
        help = "`parc compress` makes a checkpoint whose matrices do; `--to hf` writes whole weights"
        raise fail("E0772", f"`{found.folder}` has no weights that rest in fewer bits", help=help)
    one = _format(stored, layout)
    matrices: dict[str, LaidOutMatrix] = {}
    others: list[str] = []
    there: set[str] = set()
    for tensor in names.tensors():
        there.add(tensor.name.removesuffix(".weight"))
        packed = [w for w in tensor.weights if w in stored]
        if not packed:
            if all(w in names.matrices for w in tensor.weights) and len(tensor.shape) == 2:
                others.append(tensor.name.removesuffix(".weight"))
            continue
        if len(packed) < len(tensor.weights):
            left = next(w for w in tensor.weights if w not in stored)
            _refuse(layout, f"`{tensor.name}` is made of `{packed[0]}` and `{left}`", "store both alike, or neither")
        matrices[tensor.name] = _matrix(found, tensor, [stored[w] for w in tensor.weights], layout)
    scopes = {name.partition(".")[0] for name in there}
    others += [h for h in TIED_HEADS if h not in there and ("." not in h or h.partition(".")[0] in scopes)]
    group = _group(matrices, layout)
    _check(matrices, layout, one, others)
    later = layout == GPTQ and any(_has_zero(found, of) for of in stored.values() if ZERO in of.parts)
    head = any(name.removesuffix(".weight") in TIED_HEADS for name in matrices)
    ordered = not all(m.plain for m in matrices.values())
    how = ModelLayout(layout, BITS[one.code], group, one.zeros, later, ordered, tuple(others), head)
    return how, matrices, stored


def with_quantisation(config: bytes, said: Mapping[str, Any] | None) -> bytes:
    """A configuration that says so of its matrices; None: that they are whole."""
    read = json.loads(config)
    if said is None and (not isinstance(read, dict) or "quantization_config" not in read):
        return config
    kept = {k: v for k, v in read.items() if k != "quantization_config"}
    return json.dumps(kept if said is None else {**kept, "quantization_config": said}, indent=2).encode() + b"\n"


# --- what rests how ---------------------------------------------------------------------------------------------------


def _stored(found: Checkpoint, names: PublicNames) -> dict[str, PackedWeight]:
    """The weights of which a checkpoint has parts."""
    tensors, stored = found.manifest.tensors, dict[str, PackedWeight]()
    for name, matrix in names.matrices.items():
        words = tensors.get(f"{name}.{WORDS}")
        if words is None or name in tensors:
            continue
        if words.format is None:
            help = "it was saved before checkpoints said so: `parc convert` makes another one of it, for its own job"
            raise fail("E0772", f"`{found.folder}` does not say how `{name}.{WORDS}` are packed", help=help)
        kept = tensors.get(f"{name}.{SCALE}") or tensors.get(f"{name}.{KEPT}")
        type = Type(kept.dtype if kept else "f32", tuple(Dim(n, size) for n, size in names.dims[name]))
        try:
            of = packed_weight(name, type, matrix.loops, matrix.inputs, words.format)
            fits = all(tensors[p].shape == of.type_of(p).shape for p in of.parts.values())
        except (ParcError, KeyError):
            fits = False
        if not fits:
            help = "models of other sizes have other weights"
            raise fail("E0772", f"`{name}` rests in `{found.folder}` as no weight of {names.family} does", help=help)
        stored[name] = of
    return stored


def _format(stored: Mapping[str, PackedWeight], layout: Layout) -> WeightFormat:
    """The format of all of them, but for its group. Raises ParcError: E0772."""
    first = next(iter(stored.values()))
    one = first.format
    for of in stored.values():
        if of.format.code in ("fp8", SPARSE) or layout == AWQ and of.format.code != "int4":
            can = "`int4`" if layout == AWQ else "`int8`, `int4` or `int3`"
            _refuse(layout, f"`{of.name}` rests as `{of.format.code}`", f"it holds {can}")
        if (of.format.code, of.format.zeros) != (one.code, one.zeros):
            what = f"`{first.name}` rests as `{one}`, `{of.name}` as `{of.format}`"
            _refuse(layout, what, "its configuration says one format for all matrices")
        kinds = ("f16",) if layout == AWQ else ("f16", "bf16", "f32")
        if of.scale.dtype not in kinds:
            help = f"scales there are {' or '.join(kinds)}: say `precision f16, master f32` in the job"
            _refuse(layout, f"the scales of `{of.name}` are {of.scale.dtype}", help)
    return one


def _refuse(layout: Layout, what: str, help: str) -> NoReturn:
    raise fail("E0772", f"{what}, which {layout} has no words for", help=help)


def _matrix(found: Checkpoint, tensor: NamedTensor, of: Sequence[PackedWeight], layout: Layout) -> LaidOutMatrix:
    """A tensor's place in the layout. Raises ParcError: E0772 where it is no matrix `[outputs, inputs]`."""
    if len(tensor.shape) != 2 or not tensor.name.endswith(".weight"):
        shape = " x ".join(map(str, tensor.shape))
        _refuse(layout, f"`{tensor.name}` is {shape}", "leave it out of what is stored with `in SCOPE`")
    numbered, grouped = {}, {}
    inputs = groups = 0
    for weight, piece in zip(of, tensor.pieces, strict=True):
        along = tensor.axis == 1  # one behind the other, columns of the second go on where the first ends
        numbers = _counted(weight, weight.type, piece) + inputs * along
        numbered[weight.name] = _Told(numbers)
        grouped[weight.name] = _Told(_counted(weight, weight.scale, piece) + groups * along)
        inputs, groups = inputs + weight.count, groups + weight.count // (weight.format.group or weight.count)
    which = tensor.made(numbered)
    if not (which == which[:1]).all():
        help = "leave it out of what is stored with `in SCOPE`: tensors there have their inputs in rows"
        _refuse(layout, f"`{tensor.name}` lies with its inputs in columns", help)
    groups_of = tensor.made(grouped)
    if not (groups_of == groups_of[:1]).all():
        _refuse(layout, f"parts of `{tensor.name}` have groups of different sizes", "store them alike")
    columns = groups_of[0]
    _, first, back = np.unique(columns, return_index=True, return_inverse=True)
    columns = np.argsort(np.argsort(first))[back]
    size = len(columns) // len(first)
    plain = bool((columns == np.arange(len(columns)) // size).all())
    return LaidOutMatrix(tensor, tuple(of), columns, plain, of[0].scale.dtype)


def _counted(of: PackedWeight, type: Type, piece: WeightPiece) -> Array:
    """Of each of a piece's numbers the number of its input, or of the group of that (`type`: of scales)."""
    at, step = np.zeros((), np.int64), 1
    names = [(d.name, d.size) for d in of.type.dims]
    for i, (name, size) in reversed(list(enumerate(names))):
        if name in of.inputs:
            coarse = type.size(name) if type.has(name) else 1
            shape = [size if j == i else 1 for j in range(len(names))]
            at = at + (np.arange(size) // (size // coarse) * step).reshape(shape)
            step *= coarse
    whole = np.broadcast_to(at, [size for _, size in names])
    return np.ascontiguousarray(whole[piece.index])


def _group(matrices: Mapping[str, LaidOutMatrix], layout: Layout) -> int:
    """The columns that share a scale, in all of them; -1: all of a row."""
    sizes = {name: (m.tensor.shape[1] // m.groups, m.tensor.shape[1]) for name, m in matrices.items()}
    if all(size == columns for size, columns in sizes.values()):
        known = {columns for _, columns in sizes.values()}
        return known.pop() if len(known) == 1 and layout == AWQ else -1
    group = max(size for size, columns in sizes.values() if size < columns)
    for name, (size, columns) in sizes.items():
        if size != group and not (size == columns <= group and layout == GPTQ):
            what = f"`{name}` has groups of {size}, others of {group}"
            _refuse(layout, what, "choose a `group` that all have, or leave it out with `in SCOPE`")
    return group


def _check(matrices: Mapping[str, LaidOutMatrix], layout: Layout, one: WeightFormat, others: Sequence[str]) -> None:
    """Raise E0772 for what the layout's words do not fit on."""
    for name, m in matrices.items():
        rows, columns = m.tensor.shape
        if layout == GPTQ and (rows % 32 or columns % 32) or layout == AWQ and rows % 8:
            unit = "multiples of 32" if layout == GPTQ else "a multiple of 8 outputs"
            _refuse(layout, f"`{name}` is {rows} x {columns}, and no {unit}", "leave it out with `in SCOPE`")
        if layout == AWQ and not m.plain:
            _refuse(layout, f"the groups of `{name}` are not of neighbours", "choose another `group`")
        module = name.removesuffix(".weight")
        if layout == AWQ and module in TIED_HEADS:
            _refuse(layout, f"`{module}` rests in fewer bits", "leave it out: say `in block`")
        inner = next((n for n in others if n in module), None) if layout == AWQ else None
        if inner is not None:
            what = f"`{module}` rests in fewer bits and `{inner}`, whose name is part of that, does not"
            _refuse(layout, what, "its configuration names modules by parts of names: store both, or neither")


def _has_zero(found: Checkpoint, of: PackedWeight) -> bool:
    """Whether a zero point is 0, which GPTQ's first version, storing less 1, has no bits for."""
    name = of.parts[ZERO]
    return bool((found.arrays([name])[name] == 0).any())


# --- numbers ----------------------------------------------------------------------------------------------------------


def _parts(of: PackedWeight, piece: WeightPiece, source: SavedParts) -> tuple[Array, Array, Array]:
    """Of a piece of a weight: its numbers from 0 on (uint8), and of each the scale and the zero point."""

    def read(part: str, type: Type) -> Array:
        """With all dims of the weight, of size 1 where it has none."""
        spans: list[tuple[int, int]] = []
        for d, i in zip(of.type.dims, piece.index, strict=True):
            if type.has(d.name):
                cut = isinstance(i, int) and type.size(d.name) == d.size
                spans.append((i, i + 1) if cut and isinstance(i, int) else (0, type.size(d.name)))
        order = [d.name for d in of.type.dims if type.has(d.name)]
        assert list(type.names) == order, type
        x = source.part(of.parts[part], tuple(spans), type.dtype)
        sizes = dict(zip(order, x.shape, strict=True))
        return x.reshape([sizes.get(d.name, 1) for d in of.type.dims])

    def spread(x: Array) -> Array:
        """Of each number of the piece its own."""
        for axis, (d, i) in enumerate(zip(of.type.dims, piece.index, strict=True)):
            if isinstance(i, int):
                x = x if x.shape[axis] == 1 else np.take(x, [i * x.shape[axis] // d.size], axis)
            elif 1 < x.shape[axis] < d.size:
                x = np.repeat(x, d.size // x.shape[axis], axis)
        whole = [1 if isinstance(i, int) else d.size for d, i in zip(of.type.dims, piece.index, strict=True)]
        return np.broadcast_to(x, whole).reshape(piece.part)

    axis = of.type.index(of.dim)
    numbers = unpacked(read(WORDS, of.words), axis, of.format.code)
    middle = np.full([1] * len(of.type.dims), -levels(of.format.code)[0], np.float32)
    zero = read(ZERO, of.scale).astype(np.float32) if ZERO in of.parts else middle
    return spread(numbers), spread(read(SCALE, of.scale)), spread(zero)


def stream(numbers: Array, bits: int) -> Array:
    """Words (int32) in whose bits these numbers lie along the last dim, in one stream, least bits first."""
    rows, columns = numbers.shape
    each = (numbers[..., None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    flat = np.zeros((rows, -(-columns * bits // 32) * 32), np.uint8)
    flat[:, : columns * bits] = each.reshape(rows, columns * bits)
    words: Array = np.packbits(flat, axis=1, bitorder="little").view("<i4")
    return words


def _eights(numbers: Array) -> Array:
    """Columns in AWQ's order."""
    return numbers.reshape(len(numbers), -1, 8)[:, :, list(AWQ_ORDER)].reshape(numbers.shape)
