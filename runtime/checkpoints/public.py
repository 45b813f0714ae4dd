"""Weights in safetensors under the names that a family of published models gives them, as Hugging Face's files have
them: read like a checkpoint of one device."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compiler.graph import FLOATS
from compiler.origin import Role
from compiler.shards import Spans, common
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.checkpoint_names import Dims, NamedTensor, StoredTensor, named
from runtime.checkpoints.manifest import Manifest, RunPoint, SavedTensor
from runtime.checkpoints.packed_layouts import Quantisation, QuantisedTensor, quantised
from runtime.checkpoints.parts import rounded, within
from runtime.checkpoints.reading import Owned, shown_shape
from runtime.checkpoints.shard_file import DTYPES, STORED, Array
from runtime.data.headers import HeldTensor, tensors
from runtime.data.stored import DataFile
from runtime.numpy import STORAGE

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
"""Names of files in such a folder: the configuration; which tensor is in which file; the only file."""

_SPOKEN = {word: dtype for dtype, word in DTYPES.items() if dtype in FLOATS}
_INDEX_BYTES = 64 * 2**20

UNUSED = re.compile(
    r".*\battn\.(bias|masked_bias)"  # the triangle of GPT-2's attention, which is no weight
    r"|.*\brotary_emb\.inv_freq|.*\bposition_ids"  # numbers that follow from the configuration
    r"|(bert\.)?pooler\..*|cls\.seq_relationship\..*"  # BERT's other heads
)
"""Tensors of published files that are no part of the model: what older versions of transformers wrote beside it."""


@dataclass(frozen=True, slots=True)
class PublicMatrix:
    """A weight that products take and nothing else does. inputs: the dims that these sum over; loops: so many of its
    dims come from loops."""

    inputs: tuple[str, ...]
    loops: int


@dataclass(frozen=True, slots=True)
class PublicNames:
    """What a family calls the weights of a model: `model_type`, its table, and the dims of each weight; which of them
    are matrices."""

    family: str
    table: tuple[StoredTensor, ...]
    dims: Mapping[str, Dims]
    matrices: Mapping[str, PublicMatrix]

    def tensors(self) -> Iterator[NamedTensor]:
        """All of them, in the table's order."""
        return named(self.table, self.dims)

    def shape(self, weight: str) -> tuple[int, ...]:
        """Of a weight of the program."""
        return tuple(n for _, n in self.dims[weight])


class PublicModel:
    """A folder of a published model. Its numbers are taken as they are; no digest says what was written."""

    without = (Role.STATE,)

    def __init__(self, folder: Path, names: PublicNames) -> None:
        """Raises ParcError: E0770 where there are no such files, E0761 where one is damaged, E0772 where their tensors
        are not those of the model."""
        self.folder = folder
        there, said = _tensors(folder), _quantisation(folder)
        self._held: dict[str, tuple[NamedTensor, DataFile, HeldTensor | QuantisedTensor]] = {}
        self._of: dict[str, list[NamedTensor]] = {}
        bare: bool | None = None
        for tensor in names.tensors():  # which may be many more than there are
            short = tensor.name.partition(".")[2]
            if bare is None and tensor.name != short:
                bare = tensor.name not in there and short in there
            name = short if bare else tensor.name
            matrix = quantised(name, there, said, tensor.shape)
            if matrix is None and name not in there:
                raise fail("E0772", f"`{folder}` has no tensor `{name}`", help=f"{CONFIG} says that it is there")
            file, held = matrix or there.pop(name)
            if held.shape != tensor.shape:
                message = (
                    f"`{name}` is {shown_shape(held.shape)} in `{folder}`, and {shown_shape(tensor.shape)} by {CONFIG}"
                )
                raise fail("E0772", message)
            self._held[tensor.name] = tensor, file, held
            for weight in tensor.weights:
                self._of.setdefault(weight, []).append(tensor)
        self._refuse(there)
        types = {w: self._dtype(of[0]) for w, of in self._of.items()}
        kept = {w: SavedTensor("weight", types[w], names.shape(w), "") for w in self._of}
        self.manifest = Manifest(RunPoint(names.family, "", 1, 0, 0, 0), kept, ())

    def _dtype(self, tensor: NamedTensor) -> str:
        _, file, held = self._held[tensor.name]
        held.stored(file)
        if held.dtype not in _SPOKEN:
            file.wrong(f"has the weight `{held.name}` in {held.dtype}, which are no numbers of a weight")
        return _SPOKEN[held.dtype]

    def _refuse(self, others: Mapping[str, tuple[DataFile, HeldTensor]]) -> None:
        """Raise E0772 for tensors that the model does not have, unless they are known, or another one's numbers again
        (weights that are tied)."""
        unknown = [n for n, (file, held) in others.items() if not UNUSED.fullmatch(n) and not self._again(file, held)]
        if unknown:
            message = f"`{self.folder}` has {len(unknown)} tensors that are none of the model's, such as `{unknown[0]}`"
            help = f"{CONFIG} describes another model than was saved: an adapter, another head, quantised weights?"
            raise fail("E0772", message, help=help)

    def _again(self, file: DataFile, held: HeldTensor) -> bool:
        for _, other, known in self._held.values():
            if known.shape == held.shape and known.dtype == held.dtype and len(held.shape) > 0:
                blocks = ((i, min(i + 256, held.shape[0])) for i in range(0, held.shape[0], 256))
                if all(np.array_equal(_rows(file, held, *b), _rows(other, known, *b), equal_nan=True) for b in blocks):
                    return True
        return False

    def owned(self) -> Owned:
        """All by one device."""
        return {0: [(name, tuple((0, n) for n in t.shape)) for name, t in self.manifest.tensors.items()]}

    def parts(self) -> PublicModel:
        """Itself: what reads parts of weights."""
        return self

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Whole weights by name; all, if none are named. Raises ParcError: E0761."""
        tensors = self.manifest.tensors
        wanted = list(tensors if names is None else names)
        whole = {name: tuple((0, n) for n in tensors[name].shape) for name in wanted}
        return {n: self._part(n, whole[n], STORAGE[tensors[n].dtype], tensors[n].dtype) for n in wanted}

    def read(self, parts: Sequence[tuple[str, Spans]], dtypes: Mapping[str, str]) -> dict[tuple[str, Spans], Array]:
        """Parts of weights, in these dtypes. In memory are those, and one tensor of the files. Raises ParcError."""
        return {(name, spans): self._part(name, spans, STORED[dtypes[name]], dtypes[name]) for name, spans in parts}

    def bits(self, name: str) -> tuple[int, Array, Array, Array] | None:
        """Of a weight all of which rests in so many bits its numbers from 0 on, and of each the zero point and the
        scale; None where any of it is whole, or rests in others. Raises ParcError: E0761."""
        held = [(tensor, self._held[tensor.name][2]) for tensor in self._of[name]]
        several = {x.of.bits if isinstance(x, QuantisedTensor) else 0 for _, x in held}
        if len(several) > 1 or 0 in several:
            return None
        shape = self.manifest.tensors[name].shape
        found: list[Array] = [np.empty(shape, kind) for kind in (np.uint8, np.float32, np.float32)]
        for tensor, x in held:
            assert isinstance(x, QuantisedTensor)
            k = tensor.weights.index(name)
            for whole, part in zip(found, x.apart(), strict=True):
                whole[tensor.pieces[k].index] = tensor.parts(part)[k]
        return several.pop(), found[0], found[1], found[2]

    def _part(self, name: str, spans: Spans, into: Any, dtype: str) -> Array:
        made = np.empty([high - low for low, high in spans], into)
        shape, same = self.manifest.tensors[name].shape, self.manifest.tensors[name].dtype == dtype
        for tensor in self._of[name]:
            k = tensor.weights.index(name)
            index = tensor.pieces[k].index
            there = tuple((i, i + 1) if isinstance(i, int) else (0, n) for i, n in zip(index, shape, strict=True))
            both = common(spans, there)
            if both is None:
                continue
            _, file, held = self._held[tensor.name]
            part = tensor.parts(_rows(file, held, 0, held.shape[0]))[k].reshape([high - low for low, high in there])
            x = part[within(both, there)]
            made[within(both, spans)] = x if same else rounded(x, dtype)
        return made


def _tensors(folder: Path) -> dict[str, tuple[DataFile, HeldTensor]]:
    """All tensors of the folder's files, by name."""
    found: dict[str, tuple[DataFile, HeldTensor]] = {}
    for name in _files(folder):
        path = folder / name
        if not os.path.isfile(path):  # also where no file can be called so
            raise fail("E0770", f"`{folder}` is not whole: `{name}` is not there", help=f"{INDEX} says that it is")
        file = DataFile.at(os.fspath(path), os.path.realpath(path))
        for held in tensors(file).values():
            if held.name in found:
                raise fail("E0772", f"`{folder}` has the tensor `{held.name}` in two files")
            found[held.name] = file, held
    return found


def _files(folder: Path) -> list[str]:
    """The names of the files with tensors. Raises ParcError: E0770."""
    index = folder / INDEX
    if os.path.isfile(index):
        try:
            with index.open("rb") as file:
                mapped = json.loads(file.read(_INDEX_BYTES))["weight_map"]
            names = sorted(set(mapped.values()))
            if all(os.path.basename(n) == n and n.endswith(".safetensors") for n in names):
                return names
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        raise fail("E0770", f"`{index}` says of no tensor in which file it is")
    if os.path.isfile(folder / SINGLE):
        return [SINGLE]
    help = f"there is no `{SINGLE}`: pickled weights (`.bin`, `.pt`) are not read, they can run anything"
    raise fail("E0770", f"`{folder}` has no weights in safetensors", help=help)


def _quantisation(folder: Path) -> Quantisation | None:
    """How its configuration, which was read before, says that matrices are stored. Raises ParcError: E0772."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return Quantisation.of(config, f"{folder / CONFIG}") if isinstance(config, dict) else None


def _rows(file: DataFile, held: HeldTensor | QuantisedTensor, first: int, last: int) -> Array:
    stored = held.stored(file)
    return stored.read(np.arange(first, last), [slice(0, n) for n in held.shape[1:]])
