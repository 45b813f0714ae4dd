"""Writes the weights of a checkpoint as a published model: safetensors under the names of its family."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from compiler.origin import Role
from compiler.shards import Spans
from compiler.weight_format import WORDS
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics, ParcError, fail, plural
from dsl.replacing import new_folder
from runtime.checkpoint_names import NamedTensor
from runtime.checkpoints.laying_out import Entry, Layout, laid_out, with_quantisation
from runtime.checkpoints.parts import SavedParts
from runtime.checkpoints.public import CONFIG, INDEX, SINGLE, PublicNames
from runtime.checkpoints.reading import Checkpoint, shown_shape
from runtime.checkpoints.saving import LARGEST, unwritable
from runtime.checkpoints.shard_file import Array, Disk, file_bytes, safetensors_header

_FEW = 3
"""Weights that are not alike, each of which is told."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What was written: of a checkpoint of so many devices, tensors in files, the bytes of their numbers; dropped: what
    the files have no place for, such as an optimizer's states."""

    before: int
    tensors: int
    files: int
    bytes: int
    dropped: tuple[str, ...]


class _Weight:
    """A weight of which one takes parts by index: they are read when they are asked for."""

    def __init__(self, source: SavedParts, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self.source, self.name, self.shape, self.dtype = source, name, shape, dtype

    def __getitem__(self, index: tuple[int | slice, ...]) -> Array:
        spans: Spans = tuple(
            (i, i + 1) if isinstance(i, int) else (0, n) for i, n in zip(index, self.shape, strict=True)
        )
        x = self.source.part(self.name, spans, self.dtype)
        return x.reshape([n for i, n in zip(index, self.shape, strict=True) if not isinstance(i, int)])


def publish(
    found: Checkpoint,
    names: PublicNames,
    config: bytes,
    folder: Path,
    largest: int = LARGEST,
    layout: Layout | None = None,
) -> Publication:
    """Write `folder`: the configuration, the weights in files of at most `largest` bytes of numbers, and, if there are
    several, their index. In memory is one tensor at a time.

    layout: of matrices that rest in fewer bits; None: all are whole.

    Raises ParcError: E0771 for a file that is not what was written, E0772 where the checkpoint is of another model than
    the configuration describes, or rests in a way that the layout has no words for, E0773 where it cannot be written,
    or is there.
    """
    if os.path.lexists(folder):
        raise fail("E0773", f"cannot write `{folder}`: it is there", help="name a folder that is to be made")
    tensors = found.manifest.tensors
    how, matrices, stored = laid_out(found, names, layout) if layout else (None, {}, {})
    parts = {part for of in stored.values() for part in of.parts.values()}
    _check(found, names, stored.keys(), parts)
    source = found.parts()
    weights = {w: _Weight(source, w, names.shape(w), tensors[w].dtype) for w in names.dims if w in tensors}
    listed: list[_Published] = []
    for t in names.tensors():
        if how is not None and t.name in matrices:
            m = matrices[t.name]
            listed.append(_Published(tuple(m.entries(how)), partial(m.arrays, how, source)))
        else:
            entry = t.name, tensors[t.weights[0]].dtype, t.shape
            listed.append(_Published((entry,), partial(_whole, t, weights)))
    groups = _groups(listed, largest)
    total = sum(p.bytes for group in groups for p in group)
    where: dict[str, str] = {}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as made, Disk() as disk:
            for i, group in enumerate(groups, 1):
                name = SINGLE if len(groups) == 1 else f"model-{i:05}-of-{len(groups):05}.safetensors"
                entries = [e for p in group for e in p.entries]
                where |= {e[0]: name for e in entries}
                with (made / name).open("xb") as file:
                    file.write(safetensors_header("pt", entries))
                    for published in group:
                        for x, (_, _, shape) in zip(published.make(), published.entries, strict=True):
                            assert x.shape == shape, (published.entries, x.shape)
                            file.write(np.ascontiguousarray(x).reshape(-1).view("u1").data)
                    file.flush()
                    disk.take(file.fileno())
            texts = {CONFIG: with_quantisation(config, how.config() if how else None)}
            if len(groups) > 1:
                index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
                texts[INDEX] = json.dumps(index, indent=2).encode() + b"\n"
            for name, text in texts.items():
                with (made / name).open("xb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            disk.wait()
    except OSError as error:
        raise unwritable(folder, error) from None
    dropped = tuple(sorted(tensors.keys() - weights.keys() - parts))
    return Publication(found.manifest.moment.devices, len(where), len(groups), total, dropped)


@dataclass(frozen=True, slots=True)
class _Published:
    """Tensors that are written together, and what makes their numbers."""

    entries: tuple[Entry, ...]
    make: Callable[[], list[Array]]

    @property
    def bytes(self) -> int:
        return sum(prod(shape) * file_bytes(dtype) for _, dtype, shape in self.entries)


def _whole(tensor: NamedTensor, weights: Mapping[str, _Weight]) -> list[Array]:
    return [tensor.made(weights)]


def _check(found: Checkpoint, names: PublicNames, stored: Set[str], parts: Set[str]) -> None:
    """Raise E0772 for weights that the two do not have alike. stored: those of which there are parts."""
    wrong, tensors = Diagnostics(), found.manifest.tensors
    used = {w for t in names.table for w in (x.name for x in t.weights)}
    missing = [w for w in sorted(used - stored) if w not in tensors]
    unnamed = [
        name
        for name, t in tensors.items()
        if t.role == Role.WEIGHT and not {name, name.rpartition(".")[0]} & used and name not in parts
    ]
    if missing and unnamed and len(missing) + len(unnamed) > _FEW:
        raise _called_otherwise(found, names, missing, unnamed)
    for weight in missing:
        packed = f"{weight}.{WORDS}" in tensors
        help = "its parts rest in fewer bits: `--to gptq`, `awq` or `compressed-tensors`" if packed else None
        wrong.error("E0772", f"`{found.folder}` has no weight `{weight}`, which {names.family} has", help=help)
    for weight in sorted(used - stored):
        there = tensors.get(weight)
        if there is not None and there.shape != names.shape(weight):
            shown = f"{shown_shape(there.shape)} in `{found.folder}`, and {shown_shape(names.shape(weight))}"
            wrong.error("E0772", f"`{weight}` is {shown} by {CONFIG}", help="models of other sizes have other weights")
    for name in unnamed:
        help = "only what `parc init --from` made of the configuration has names in such files"
        wrong.error("E0772", f"{names.family} has no name for the weight `{name}` of `{found.folder}`", help=help)
    wrong.raise_if_any()


def _called_otherwise(
    found: Checkpoint, names: PublicNames, missing: Sequence[str], unnamed: Sequence[str]
) -> ParcError:
    """E0772 for a model that is not what `parc init` makes of such a configuration."""
    message = (
        f"`{found.folder}` has {plural(len(unnamed), 'weight')} that {names.family} has no name for, such as "
        f"`{unnamed[0]}`, and lacks {len(missing)} of its own, such as `{missing[0]}`: it is of another model"
    )
    help = (
        "`--config` is the config.json that `parc init --from` made the job of, whose weights have names there; those "
        "of a model that is written in a `.par` lie in checkpoints under its own names, in safetensors: of a strategy "
        "of one device whole (`parc convert CHECKPOINT --to FILE.par -o DIR`)"
    )
    return fail("E0772", message, help=help)


def _groups(published: Sequence[_Published], largest: int) -> list[list[_Published]]:
    """Which tensors go into a file together; one that is larger has a file of its own."""
    found: list[list[_Published]] = [[]]
    size = 0
    for one in published:
        if found[-1] and size + one.bytes > largest:
            found.append([])
            size = 0
        found[-1].append(one)
        size += one.bytes
    return found
