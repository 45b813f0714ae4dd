"""Reads checkpoints: whole tensors for a run on any devices, whatever lay where when they were saved."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from compiler.origin import Role
from compiler.packed_formats import RestingFormat, packed_formats
from compiler.program import Program
from compiler.shards import ShardMap, Spans
from compiler.weight_format import WORDS, ZERO, bits
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics, fail
from runtime.checkpoints.manifest import NAME, Manifest
from runtime.checkpoints.parts import PartReader, SavedParts
from runtime.checkpoints.saving import digest, whole
from runtime.checkpoints.shard_file import Array, read_shard
from runtime.numpy import STORAGE

Owned = Mapping[int, Sequence[tuple[str, Spans]]]
"""By the rank of a device: the parts of tensors that it writes, or wrote."""


_OTHER_SIZES = "models of other sizes have other weights"


class WeightSource(Protocol):
    """What weights are taken of: a folder, and what it says of its tensors."""

    @property
    def folder(self) -> Path: ...

    @property
    def manifest(self) -> Manifest: ...

    @property
    def without(self) -> tuple[Role, ...]:
        """Roles of tensors that it never has: those begin as they are declared."""

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Whole tensors by name, as numpy holds numbers of their dtypes; all, if none are named. Raises ParcError."""

    def owned(self) -> Owned:
        """What each device wrote."""

    def parts(self) -> PartReader:
        """What reads parts of them."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose manifest is there, so that it is whole."""

    folder: Path
    manifest: Manifest
    without: tuple[Role, ...] = ()

    @staticmethod
    def latest(folder: Path) -> Checkpoint:
        """The checkpoint, or the last one of those in a folder. Raises ParcError: E0770 where there is none."""
        if not os.path.exists(folder / NAME):
            found = whole(folder)
            if not found:
                what = "is not there" if not os.path.exists(folder) else "has no whole checkpoint"
                help = "`parc run FILE --save FOLDER` makes them: `FOLDER/step-00000020` is one"
                raise fail("E0770", f"`{folder}` {what}", help=help)
            folder = found[-1]
        return Checkpoint(folder, Manifest.read(folder))

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Whole tensors by name, as numpy holds numbers of their dtypes; all of them, if none are named.

        Raises ParcError: E0771 where a file is not what was written.
        """
        tensors = self.manifest.tensors
        wanted = dict.fromkeys(tensors if names is None else names)
        found = {name: np.empty(tensors[name].shape, STORAGE[tensors[name].dtype]) for name in wanted}
        for file in self.manifest.files:
            if wanted.keys().isdisjoint(name for name, _ in file.parts):
                continue
            arrays = read_shard(self.folder / file.name, file, tensors)
            for (name, spans), part in zip(file.parts, arrays, strict=True):
                if name in found:
                    found[name][tuple(slice(*span) for span in spans)] = part
        return found

    def owned(self) -> Owned:
        """What each device wrote."""
        owned: dict[int, list[tuple[str, Spans]]] = {}
        for file in self.manifest.files:
            rank = int(file.name.removeprefix("device-").partition(".")[0])
            owned.setdefault(rank, []).extend(file.parts)
        return owned

    def parts(self) -> SavedParts:
        """What reads parts of it, of whose files little is in memory."""
        return SavedParts(self.folder, self.manifest)


def resumed(found: Checkpoint, program: Program) -> dict[str, Array]:
    """All that a run goes on from, bit for bit. Raises ParcError: E0774 where another program was saved, E0772 where
    packed weights are in another format, E0771."""
    moment = found.manifest.moment
    if moment.program != digest(program):
        help = "`parc convert CHECKPOINT --to FILE -o FOLDER` makes one of it that this job can go on from"
        message = f"`{found.folder}` was saved by another program than this job's: by `{moment.job}`"
        raise fail("E0774", f"{message}, on {moment.devices:,} devices", help=help)
    wrong, tensors = Diagnostics(), found.manifest.tensors
    said = [f for f in packed_formats(program).values() if f.words in tensors and tensors[f.words].format is not None]
    _check_formats(found.manifest, said, found.folder, wrong)  # where nothing is said the program tells
    wrong.raise_if_any()
    return found.arrays()


def taken(
    found: WeightSource, program: Program, others: tuple[Role, ...] = (), own: Collection[str] = ()
) -> dict[str, Array]:
    """What a program takes of a checkpoint that another one may have made: all weights and states that it has, but for
    counters and states of an optimizer that are not there; others: further roles that may begin as declared; own: names
    of what does so whatever the checkpoint has.

    Raises ParcError: E0772 where they do not fit, E0771.
    """
    return found.arrays(taken_names(found, program, others, own))


def taken_names(
    found: WeightSource, program: Program, others: tuple[Role, ...] = (), own: Collection[str] = ()
) -> list[str]:
    """What `taken` takes, by name: nothing is read but what the checkpoint says of itself. Raises ParcError: E0772."""
    roles = (Role.COUNTER, Role.OPTIMIZER, *found.without, *others)
    return fitting_names(found.manifest, program, found.folder, roles, own)


def fitting_names(
    manifest: Manifest, program: Program, folder: Path, others: tuple[Role, ...] = (), own: Collection[str] = ()
) -> list[str]:
    """The program's tensors, all of which the checkpoint has, in the same shapes; `others`: roles that may begin as
    declared; own: names of those that do. Raises ParcError: E0772."""
    wrong, names = Diagnostics(), []
    wanted = ShardMap(program).tensors.values()
    formats = packed_formats(program).values()
    unlike, packed = (
        _check_formats(manifest, formats, folder, wrong),
        {n for f in formats for n in (f.words, *f.others)},
    )
    if Role.OPTIMIZER not in others and all(t.role != Role.OPTIMIZER for t in manifest.tensors.values()):
        lacking = next((kept for kept in wanted if kept.role == Role.OPTIMIZER), None)
        if lacking is not None:
            help = f"`--from {folder}` begins training with them; what infers can have a checkpoint of weights alone"
            message = f"`{folder}` has weights alone, and `{program.name}` has an optimizer with `{lacking.name}`"
            raise fail("E0772", message, help=help)
    for kept in wanted:
        there = manifest.tensors.get(kept.name)
        if kept.name in own or kept.name in unlike or (there is None and kept.role in others):
            continue
        names.append(kept.name)
        words = manifest.tensors.get(f"{kept.name}.{WORDS}")
        if there is None and words is not None:
            resting = words.format or "in fewer bits"
            help = f"store the weight so in the job's strategy, or take the checkpoint that `{folder}` was made of"
            wrong.error("E0772", f"`{kept.name}` is {resting} in `{folder}`, and whole here", help=help)
        elif there is None:
            help = f"it was saved by `{manifest.moment.job}`, whose model has no such {kept.role}"
            wrong.error("E0772", f"`{folder}` has no tensor `{kept.name}`", help=help)
        elif there.shape != kept.type.shape:
            message = (
                f"`{kept.name}` is {shown_shape(there.shape)} in `{folder}`, and {shown_shape(kept.type.shape)} here"
            )
            help = "models of other sizes, and other formats, have other parts" if kept.name in packed else _OTHER_SIZES
            wrong.error("E0772", message, help=help)
        elif there.format is not None and kept.type.dtype != "uint32":
            message = f"`{kept.name}` are words of {there.format} in `{folder}`, and {kept.type} here"
            wrong.error("E0772", message, help=_OTHER_SIZES)
    wrong.raise_if_any()
    return names


def _check_formats(manifest: Manifest, formats: Iterable[RestingFormat], folder: Path, wrong: Diagnostics) -> set[str]:
    """The parts of packed weights that a checkpoint has in other formats than a program, each told as E0772."""
    unlike: set[str] = set()
    for here in formats:
        tensor = manifest.tensors.get(here.words)
        if tensor is None or tensor.format == here.format or (tensor.format is None and _told_by_parts(manifest, here)):
            continue
        unlike |= {here.words, *here.others}
        if tensor.format is not None:
            help = "store the weight so in the job's strategy, or `parc compress` the whole weights for this job"
            wrong.error("E0772", f"`{here.words}` are {tensor.format} in `{folder}`, and {here.format} here", help=help)
        else:
            help = "it was saved before checkpoints said so: `parc compress` the whole weights for this job"
            message = f"`{here.words}` are {here.format} here, and `{folder}` does not say in which format they are"
            wrong.error("E0772", message, help=help)
    return unlike


def _told_by_parts(manifest: Manifest, here: RestingFormat) -> bool:
    """Whether parts of which no format is said can be in this one alone, where their shapes fit: `int8` and `fp8` have
    the same, if there are no zero points (which had this name when no manifest said formats)."""
    tensors = manifest.tensors
    zeros = here.words.removesuffix(WORDS) + ZERO in tensors
    if tensors[here.words].dtype != "uint32" or zeros != here.format.zeros:
        return False
    return zeros or bits(here.format.code) != bits("fp8")


def shown_shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
