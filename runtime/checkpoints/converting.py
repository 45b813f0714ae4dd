"""Makes a checkpoint for a program of another, whatever strategies and devices they have: file by file."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from compiler.graph import ITEMSIZE
from compiler.packed_formats import packed_formats
from compiler.program import Program
from compiler.shards import ShardMap, Spans, common, elements, files
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.replacing import new_folder
from runtime.checkpoints.manifest import Manifest
from runtime.checkpoints.reading import Owned, WeightSource, fitting_names
from runtime.checkpoints.saving import (
    LARGEST,
    digest,
    file_name,
    saved_tensors,
    unwritable,
    write_manifest,
)
from runtime.checkpoints.shard_file import Disk, Watch, write_shard


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a checkpoint becomes. Bytes are those of numbers, in the types that they are written in.

    before, after: devices. tensors: how many stay; dropped: those that the new one has no use for; cast: those whose
    type is another. bytes: of all that is written, `moved` of it by another device than the one (of the same rank) that
    wrote it before.
    """

    before: int
    after: int
    tensors: int
    dropped: tuple[str, ...]
    cast: tuple[str, ...]
    bytes: int
    moved: int


class Owners(Mapping[int, Sequence[tuple[str, Spans]]]):
    """What each device of a program writes, found out when it is asked for."""

    def __init__(self, shards: ShardMap) -> None:
        self.shards = shards

    def __getitem__(self, rank: int) -> list[tuple[str, Spans]]:
        return [(lot.name, lot.spans) for lot in self.shards.of(rank)]

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.shards.devices))

    def __len__(self) -> int:
        return self.shards.devices


def plan(before: Owned, devices: int, types: Mapping[str, str], after: ShardMap) -> Conversion:
    """What becomes of parts that so many devices wrote, in tensors of these dtypes. Nothing is read, and nothing grows
    with the devices of the larger of the two: what does not move is what two devices of one rank have in common."""
    wanted = after.tensors
    stays = 0
    for rank in after.writers[: bisect_left(after.writers, devices)]:
        had: dict[str, list[Spans]] = {}
        for name, spans in before.get(rank, ()):
            had.setdefault(name, []).append(spans)
        for lot in after.of(rank):
            both = (common(spans, lot.spans) for spans in had.get(lot.name, ()))
            stays += ITEMSIZE[lot.decl.type.dtype] * sum(elements(c) for c in both if c is not None)
    return Conversion(
        devices,
        after.devices,
        len(wanted),
        tuple(sorted(types.keys() - wanted.keys())),
        tuple(name for name, kept in wanted.items() if types.get(name, kept.type.dtype) != kept.type.dtype),
        after.bytes,
        after.bytes - stays,
    )


def plan_checkpoint(found: WeightSource, program: Program) -> tuple[Conversion, ShardMap]:
    """What a checkpoint becomes for a program. Raises ParcError: E0772 where it lacks tensors, or has other sizes."""
    manifest = found.manifest
    fitting_names(manifest, program, found.folder)
    shards = ShardMap(program)
    types = {name: t.dtype for name, t in manifest.tensors.items()}
    return plan(found.owned(), manifest.moment.devices, types, shards), shards


def plan_programs(before: Program, after: Program) -> Conversion:
    """The same of what one program would save, before there is anything."""
    one, other = ShardMap(before), ShardMap(after)
    _check_same(one, other)
    types = {name: kept.type.dtype for name, kept in one.tensors.items()}
    return plan(Owners(one), one.devices, types, other)


def _check_same(one: ShardMap, other: ShardMap) -> None:
    had_formats = packed_formats(one.program)
    for name, resting in packed_formats(other.program).items():
        before = had_formats.get(name)
        if before is not None and before.format != resting.format:
            shown = f"{before.format} in `{one.program.name}`, and {resting.format} in `{other.program.name}`"
            raise fail("E0772", f"`{name}` are {shown}", help="store the weight alike in both jobs' strategies")
    for name, kept in other.tensors.items():
        had = one.tensors.get(name)
        if had is None:
            raise fail("E0772", f"`{one.program.name}` has no tensor `{name}`, which `{other.program.name}` has")
        if had.type.shape != kept.type.shape:
            message = f"`{name}` is {had.type} in `{one.program.name}`, and {kept.type} in `{other.program.name}`"
            raise fail("E0772", message, help="models of other sizes have other weights")


def convert(
    found: WeightSource,
    program: Program,
    folder: Path,
    largest: int = LARGEST,
    watch: Watch = lambda where: None,
) -> Conversion:
    """Write the checkpoint `folder`, which a run of the program can go on from: the same numbers.

    In memory is one file that is written, at most. What program was saved is that of the new
    one: its step, data position and seed are as they were.

    Raises ParcError: E0771 for a file that is not what was written, E0772, E0773 where it cannot be written, or is
    there.
    """
    told, shards = plan_checkpoint(found, program)
    if os.path.lexists(folder):
        raise fail("E0773", f"cannot write `{folder}`: it is there", help="name a folder that is to be made")
    source, tensors = found.parts(), saved_tensors(shards)
    written = 0
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder, watch) as made, Disk() as disk:
            saved = []
            for rank in shards.writers:
                order = [(lot.name, lot.spans, ITEMSIZE[lot.decl.type.dtype]) for lot in shards.of(rank)]
                for i, parts in enumerate(files(order, largest)):
                    held = source.read(parts, {name: tensors[name].dtype for name, _ in parts})
                    path = made / file_name(rank, i)
                    saved.append(write_shard(path, parts, tensors, lambda n, x, h=held: h[n, x], disk, watch))  # type: ignore[misc]
                    written += sum(x.nbytes for x in held.values())
            moment = replace(found.manifest.moment, job=program.name, program=digest(program), devices=program.devices)
            disk.wait()
            write_manifest(made, Manifest(moment, tensors, tuple(saved)), watch)
    except OSError as error:
        raise unwritable(folder, error) from None
    assert written == told.bytes, (written, told)
    return told
