"""Saves a run: a folder of its own for each step that is saved, which is there when all of it is on the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from compiler.declared import logical
from compiler.graph import ITEMSIZE
from compiler.packed_formats import packed_formats
from compiler.program import LASTING, Program
from compiler.shards import Lot, ShardMap, Spans, common, files
from compiler.text.printer import show, show_type
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.replacing import new_folder, remove_folder
from runtime.checkpoints.manifest import NAME, Manifest, RunPoint, SavedFile, SavedTensor
from runtime.checkpoints.shard_file import Array, Disk, Watch, write_shard
from runtime.executor import Executor
from runtime.mesh import parted

LARGEST = 2**30
"""Bytes of numbers that a file has at most."""

_STEP = re.compile(r"step-(\d{8,19})(?:\.(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Saving:
    """Where a run is saved, after how many steps again and again (0: at its end only), and how many of the last are
    kept (0: all)."""

    folder: Path
    every: int = 0
    keep: int = 0


def digest(program: Program) -> str:
    """Of a program's text: what a checkpoint is resumed by."""
    return sha256(show(program).encode()).hexdigest()


def saved_tensors(shards: ShardMap) -> dict[str, SavedTensor]:
    """What a manifest says of a program's tensors."""
    found: dict[str, SavedTensor] = {}
    sizes, formats = shards.sizes, packed_formats(shards.program)
    for cls in shards.program.classes:
        for decl in cls.states:
            name = logical(decl)
            if decl.role in LASTING and name not in found:
                kept = shards.tensors[name]
                shown = show_type(decl.type, decl.layout, sizes)
                format = formats[name].format if name in formats else None
                found[name] = SavedTensor(kept.role, kept.type.dtype, kept.type.shape, shown, format)
    return {name: found[name] for name in shards.tensors}


def file_name(rank: int, number: int) -> str:
    """Of a device's files, which are counted from 0."""
    return f"device-{rank:05}{f'.{number}' if number else ''}.safetensors"


def save(
    where: Saving,
    moment: RunPoint,
    shards: ShardMap,
    run: Executor,
    largest: int = LARGEST,
    watch: Watch = lambda where: None,
) -> Path:
    """Save what lasts of a run; its folder, when it is on the disk. Then the oldest beyond `where.keep` are removed.

    largest: bytes of numbers in a file. Raises ParcError: E0773 where it cannot be written.
    """
    held = {(g, decl.name): x for decl, _, g, x in run.pieces(LASTING)}
    tensors = saved_tensors(shards)
    try:
        where.folder.mkdir(parents=True, exist_ok=True)
        target = _free(where.folder, moment.step)
        with new_folder(target, watch) as folder, Disk() as disk:
            found: list[SavedFile] = []
            for rank in shards.writers:
                found += _of_device(folder, rank, shards, tensors, held, largest, disk, watch)
            disk.wait()
            write_manifest(folder, Manifest(moment, tensors, tuple(found)), watch)
        for old in whole(where.folder)[: -where.keep] if where.keep else ():
            remove_folder(old, watch)
    except OSError as error:
        raise unwritable(where.folder, error) from None
    watch("saved")
    return target


def ready(folder: Path) -> None:
    """Make the folder that checkpoints go to, before there is any. Raises ParcError: E0773 where none can be there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(0, "it cannot be written to")
    except OSError as error:
        raise unwritable(folder, error) from None


def unwritable(folder: Path, error: OSError) -> Exception:
    """E0773."""
    help = "what was saved before is as it was" if whole(folder) else None
    return fail("E0773", f"cannot save to `{folder}`: {error.strerror or error}", help=help)


def write_manifest(folder: Path, manifest: Manifest, watch: Watch = lambda where: None) -> None:
    """The last file of a folder. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    with os.fdopen(os.open(folder / NAME, flags, 0o666), "wb") as file:
        watch("manifest")
        file.write(manifest.text().encode())
        file.flush()
        watch("manifest fsync")
        os.fsync(file.fileno())


def whole(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order in which they were saved (`_free`)."""
    return [path for *_, path in _numbered(folder)]


def _numbered(folder: Path) -> list[tuple[int, int, Path]]:
    """Each with the number of its line and its step."""
    found: list[tuple[int, int, Path]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = _STEP.fullmatch(entry.name)
                if name is not None and os.path.isfile(folder / entry.name / NAME):
                    found.append((int(name[2] or 0), int(name[1]), folder / entry.name))
    except (OSError, ValueError):  # a name with a NUL is none
        return []
    return sorted(found)


def _free(folder: Path, step: int) -> Path:
    """A name that is not taken. A run that was resumed from an earlier checkpoint than the last begins a new line of
    them, which counts behind all others, and has a number behind the step in their names."""
    line, last, _ = max(_numbered(folder), default=(0, -1, folder))
    line += step <= last
    while (target := folder / f"step-{step:08}{f'.{line}' if line else ''}").exists():
        line += 1
    return target


def _of_device(
    folder: Path,
    rank: int,
    shards: ShardMap,
    tensors: dict[str, SavedTensor],
    held: Mapping[tuple[int, str], Array],
    largest: int,
    disk: Disk,
    watch: Watch,
) -> list[SavedFile]:
    """The files of a device."""
    group, at = shards.ranks.group(rank), shards.at(rank)
    lots: dict[str, list[Lot]] = {}
    order = []
    for lot in shards.of(rank):
        lots.setdefault(lot.name, []).append(lot)
        order.append((lot.name, lot.spans, ITEMSIZE[lot.decl.type.dtype]))

    def array(name: str, spans: Spans) -> Array:
        lot = next(x for x in lots[name] if common(x.spans, spans) == spans)
        x = held[group, lot.decl.name]
        x = x[lot.micro] if parted(lot.decl) else x
        lead = tuple(at[a] if x.shape[i] > 1 else 0 for i, a in enumerate(shards.mesh))
        inner = [slice(low - first, high - first) for (low, high), (first, _) in zip(spans, lot.spans, strict=True)]
        front = len(lot.decl.iterations)
        part = np.asarray(x[lead][tuple(inner[front:])])
        return part.reshape((*[1] * front, *part.shape))

    made = enumerate(files(order, largest))
    return [write_shard(folder / file_name(rank, i), parts, tensors, array, disk, watch) for i, parts in made]
