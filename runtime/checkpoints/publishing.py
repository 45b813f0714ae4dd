"""Writes the weights of a checkpoint as a published model: safetensors under the names of its family."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

from compiler.graph import ITEMSIZE
from compiler.origin import Role
from compiler.shards import Spans
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics, fail
from dsl.replacing import new_folder
from runtime.checkpoint_names import NamedTensor
from runtime.checkpoints.parts import SavedParts
from runtime.checkpoints.public import CONFIG, INDEX, SINGLE, PublicNames
from runtime.checkpoints.reading import Checkpoint, shown_shape
from runtime.checkpoints.saving import LARGEST, unwritable
from runtime.checkpoints.shard_file import Array, Disk, safetensors_header


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


def publish(found: Checkpoint, names: PublicNames, config: bytes, folder: Path, largest: int = LARGEST) -> Publication:
    """Write `folder`: the configuration, the weights in files of at most `largest` bytes of numbers, and, if there are
    several, their index. In memory is one tensor at a time.

    Raises ParcError: E0771 for a file that is not what was written, E0772 where the checkpoint is of another model than
    the configuration describes, E0773 where it cannot be written, or is there.
    """
    if folder.exists():
        raise fail("E0773", f"cannot write `{folder}`: it is there", help="name a folder that is to be made")
    tensors = found.manifest.tensors
    _check(found, names)
    source = found.parts()
    weights = {w: _Weight(source, w, names.shape(w), tensors[w].dtype) for w in names.dims if w in tensors}
    listed = list(names.tensors())
    dtypes = {t.name: tensors[t.weights[0]].dtype for t in listed}
    groups = _groups(listed, dtypes, largest)
    total = sum(_bytes(t, dtypes) for group in groups for t in group)
    where: dict[str, str] = {}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as made, Disk() as disk:
            for i, group in enumerate(groups, 1):
                name = SINGLE if len(groups) == 1 else f"model-{i:05}-of-{len(groups):05}.safetensors"
                where |= {t.name: name for t in group}
                with (made / name).open("xb") as file:
                    file.write(safetensors_header("pt", [(t.name, dtypes[t.name], t.shape) for t in group]))
                    for tensor in group:
                        file.write(tensor.made(weights).reshape(-1).view("u1").data)
                    file.flush()
                    disk.take(file.fileno())
            texts = {CONFIG: config}
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
    dropped = tuple(sorted(tensors.keys() - weights.keys()))
    return Publication(found.manifest.moment.devices, len(where), len(groups), total, dropped)


def _check(found: Checkpoint, names: PublicNames) -> None:
    """Raise E0772 for weights that the two do not have alike."""
    wrong, tensors = Diagnostics(), found.manifest.tensors
    used = {w for t in names.table for w in (x.name for x in t.weights)}
    for weight in sorted(used):
        there = tensors.get(weight)
        if there is None:
            wrong.error("E0772", f"`{found.folder}` has no weight `{weight}`, which {names.family} has")
        elif there.shape != names.shape(weight):
            shown = f"{shown_shape(there.shape)} in `{found.folder}`, and {shown_shape(names.shape(weight))}"
            wrong.error("E0772", f"`{weight}` is {shown} by {CONFIG}", help="models of other sizes have other weights")
    for name, t in tensors.items():
        if t.role == Role.WEIGHT and name not in used:
            help = "only what `parc init --from` made of the configuration has names in such files"
            wrong.error("E0772", f"{names.family} has no name for the weight `{name}` of `{found.folder}`", help=help)
    wrong.raise_if_any()


def _bytes(tensor: NamedTensor, dtypes: dict[str, str]) -> int:
    return prod(tensor.shape) * ITEMSIZE[dtypes[tensor.name]]


def _groups(tensors: Sequence[NamedTensor], dtypes: dict[str, str], largest: int) -> list[list[NamedTensor]]:
    """Which tensors go into a file together; one that is larger has a file of its own."""
    found: list[list[NamedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        more = _bytes(tensor, dtypes)
        if found[-1] and size + more > largest:
            found.append([])
            size = 0
        found[-1].append(tensor)
        size += more
    return found
