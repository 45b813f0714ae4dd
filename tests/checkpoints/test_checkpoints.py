"""Saving and resuming: bit for bit under every strategy; each byte is checked; what is not whole is not there."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

import parc
from compiler.shards import ShardMap, cut, elements, files
from dsl.diagnostics import ParcError
from parc.keeping import Keeper, Keeping
from runtime.checkpoints import shard_file
from runtime.checkpoints.converting import convert
from runtime.checkpoints.manifest import NAME, Manifest, SavedTensor
from runtime.checkpoints.reading import Checkpoint, resumed, taken
from runtime.checkpoints.saving import Saving, whole
from runtime.data.headers import safetensors
from runtime.data.stored import DataFile
from runtime.prove import random_batch
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.checkpoints.kills import PLACES, kills
from tests.checkpoints.models import STRATEGIES, arrays, program, saved, trained

STATES = [f"states of {name}" for name in ("pipeline", "interleaved", "many_columns", "many_rows", "turns", "two")]
EVERY = [*STRATEGIES, *STATES, "all in bf16", "zero 2 in f16"]
RANKS = ["zero 3", "uneven", "interleaved", "all", "states of pipeline", "states of turns", "all in bf16"]


MORE = ("recompute", "zero 1", "gpipe", "all", "zero 2 in f16")
"""With what the others have: by default on one executor at most."""


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *(pytest.param(n, Emulator, marks=pytest.mark.nightly if n in MORE else ()) for n in EVERY),
        *((name, RankExecutor) for name in RANKS),
    ],
)
def test_resuming_is_bit_for_bit(name: str, make: type[Emulator | RankExecutor], tmp_path: Path) -> None:
    of = program(name)
    run = trained(of, make, 2)
    folder = saved(run, tmp_path)
    found = Checkpoint.latest(tmp_path)
    assert found.folder == folder == tmp_path / "step-00000002"
    given = resumed(found, of)
    assert given.keys() == arrays(run).keys()
    again = make(of, initial=given)
    again.steps = found.manifest.moment.step
    for step in (2, 3):
        batch = random_batch(of.inputs, 0, step)
        one, other = run.step(batch), again.step(batch)
        assert one.loss.tobytes() == other.loss.tobytes()
        assert {n: x.tobytes() for n, x in one.metrics.items()} == {n: x.tobytes() for n, x in other.metrics.items()}
    have = arrays(again)
    assert all(x.tobytes() == have[n].tobytes() for n, x in arrays(run).items())


@pytest.mark.parametrize("name", ["all", "states of interleaved"])
def test_executors_save_the_same_bytes(name: str, tmp_path: Path) -> None:
    of = program(name)
    run = trained(of, Emulator, 1)
    other = RankExecutor(of, initial=arrays(run))
    other.steps = run.steps
    one, two = saved(run, tmp_path / "1"), saved(other, tmp_path / "2")
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


@pytest.mark.parametrize("name", EVERY)
def test_each_element_is_written_once(name: str) -> None:
    shards = ShardMap(program(name))
    written = {n: np.zeros(kept.type.shape, np.int64) for n, kept in shards.tensors.items()}
    for rank in range(shards.devices):
        for lot in shards.of(rank):
            written[lot.name][tuple(slice(*span) for span in lot.spans)] += 1
    assert written and all((x == 1).all() for x in written.values())
    assert shards.bytes == sum(lot.bytes for rank in range(shards.devices) for lot in shards.of(rank))
    writing = [rank for rank in range(shards.devices) if any(True for _ in shards.of(rank))]
    assert sorted(shards.writers) == list(shards.writers) and set(shards.writers) >= set(writing)
    assert shards.parts <= len(shards.writers) * shards.program.microbatches


def test_what_is_written_is_a_part_that_the_device_has() -> None:
    """Of a tensor that 2 x 2 devices split, each writes a quarter; of one that they all have, the first writes it."""
    shards = ShardMap(program("all"))
    by = Counter(lot.name for rank in range(shards.devices) for lot in shards.of(rank))
    assert by["block.mlp.w1"] == 16 and by["layer_norm.gain"] >= 1  # 2 stages of 2 chunks, on 2 x 2 devices each


def test_parts_are_cut_to_size() -> None:
    for spans, most in ((((0, 7), (2, 9)), 40), (((3, 4), (0, 100)), 64), ((), 1), (((0, 5),), 1)):
        parts = list(cut(spans, 4, most))
        assert sum(map(elements, parts)) == elements(spans)
        assert all(elements(p) * 4 <= max(most, 4) for p in parts)
    lots = [("a", ((0, 10),), 4), ("b", ((0, 3),), 4), ("c", ((0, 1), (0, 2)), 8)]
    made = list(files(lots, 24))
    sizes = {"a": 4, "b": 4, "c": 8}
    assert all(sum(elements(s) * sizes[n] for n, s in parts) <= 24 for parts in made)
    assert [n for parts in made for n, _ in parts] == ["a", "a", "b", "c"]


def test_files_have_a_largest_size(tmp_path: Path) -> None:
    run = trained(program("tp"), Emulator, 1)
    folder = saved(run, tmp_path, largest=300)
    found = Manifest.read(folder)
    assert len(found.files) > 2
    for file in found.files:
        numbers = sum(elements(s) * 4 for _, s in file.parts)
        assert numbers <= 300 and (folder / file.name).stat().st_size == file.bytes
    assert all(x.tobytes() == arrays(run)[n].tobytes() for n, x in Checkpoint.latest(tmp_path).arrays().items())


def test_files_are_safetensors(tmp_path: Path) -> None:
    """As the reader of data has them, which takes nothing on trust."""
    run = trained(program("zero 3"), Emulator, 1)
    folder = saved(run, tmp_path)
    found, have = Manifest.read(folder), arrays(run)
    for file in found.files:
        opened = DataFile.find(file.name, str(folder), None)
        name, spans = file.parts[0]
        shape = found.tensors[name].shape
        part = "" if spans == tuple((0, n) for n in shape) else f"[{', '.join(f'{a}:{b}' for a, b in spans)}]"
        stored = safetensors(opened, f"{name}{part}")
        read = stored.read(np.arange(stored.shape[0]), [slice(0, n) for n in stored.shape[1:]])
        assert np.array_equal(read, have[name][tuple(slice(*s) for s in spans)])


@pytest.mark.parametrize("where", ["first", "header", "middle", "last"])
def test_a_flipped_byte_is_found(where: str, tmp_path: Path) -> None:
    """In any file, wherever it is; the message names the file."""
    of = program("all")
    folder = saved(trained(of, Emulator, 1), tmp_path)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        at = {"first": 0, "header": 9, "middle": len(content) // 2, "last": len(content) - 2}[where]
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ParcError) as caught:
            resumed(Checkpoint.latest(tmp_path), of)
        assert [d.code for d in caught.value.diagnostics] == ["E0771"] and path.name in str(caught.value)
        path.write_bytes(content)
    resumed(Checkpoint.latest(tmp_path), of)


def test_a_file_that_is_short_long_or_gone_is_found(tmp_path: Path) -> None:
    of = program("dp")
    folder = saved(trained(of, Emulator, 1), tmp_path)
    (path,) = folder.glob("device-*")
    content = path.read_bytes()
    for other in (content[:-1], content + b"\0", b""):
        path.write_bytes(other)
        with pytest.raises(ParcError, match=f"E0771.*{path.name}"):
            resumed(Checkpoint.latest(tmp_path), of)
    path.unlink()
    with pytest.raises(ParcError, match=f"E0771.*{path.name}"):
        resumed(Checkpoint.latest(tmp_path), of)


def twice(inner: str) -> str:
    """A manifest in which one half of a tensor is there twice, and the other is not: as many numbers as it has."""
    body = json.loads(inner)
    halves = [
        (part, other)
        for file in body["files"] for part in file["parts"]
        for further in body["files"] for other in further["parts"]
        if part[0] == other[0] and part[1] != other[1] and sizes(part[1]) == sizes(other[1])
    ]  # fmt: skip
    halves[0][1][1] = halves[0][0][1]
    return json.dumps(body, separators=(",", ":"))


def sizes(spans: list[list[int]]) -> list[int]:
    return [high - low for low, high in spans]


def test_hostile_manifests_are_refused(tmp_path: Path) -> None:
    """With the right digest, too: files elsewhere, parts beyond tensors, tensors that are not whole."""
    from hashlib import sha256

    folder = saved(trained(program("dp"), Emulator, 1), tmp_path)
    text = (folder / NAME).read_text()
    inner = text[text.index('"checkpoint":') + 13 : -2]
    for old, new in (
        ('"device-00000', '"../device-00000'),
        ("[[0,", "[[-1,"),
        ('"step":1', '"step":-1'),
        ('"step":1', '"step":1e9'),
        ('"dtype":"f32"', '"dtype":"f99"'),
        ('"shape":[12,8]', '"shape":[13,8]'),
        ("parc checkpoint 1", "parc checkpoint 9"),
        ('"files":[', '"files":[0,'),
    ):
        assert old in inner
        made = inner.replace(old, new, 1)
        digest = sha256(made.encode()).hexdigest()
        (folder / NAME).write_text(f'{{"sha256":"{digest}","checkpoint":{made}}}\n')
        with pytest.raises(ParcError, match="E077[01]"):
            Checkpoint.latest(tmp_path)
    parted = (saved(trained(program("tp"), Emulator, 1), tmp_path / "parted") / NAME).read_text()
    parted = parted[parted.index('"checkpoint":') + 13 : -2]
    named = inner.split('"tensors":{"')[1].split('"')[0]
    unseen = inner.replace(f'"{named}"', '"w\\nerror[E0001]: forged"')
    for made in (inner.replace('"tensors":{', '"tensors":[],"others":{', 1), twice(parted), unseen):
        digest = sha256(made.encode()).hexdigest()
        (folder / NAME).write_text(f'{{"sha256":"{digest}","checkpoint":{made}}}\n')
        with pytest.raises(ParcError, match="E0770"):
            Checkpoint.latest(tmp_path)
    for odd in ("", "{", "[1]", "{}", '{"sha256":1,"checkpoint":[' + "[" * 100_000, "\xff"):
        (folder / NAME).write_text(odd)
        with pytest.raises(ParcError, match="E0771"):
            Checkpoint.latest(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
@pytest.mark.parametrize("name", [NAME, "device-00000.safetensors"])
def test_nobody_waits_for_what_is_no_file(name: str, tmp_path: Path) -> None:
    folder = saved(trained(program("dp"), Emulator, 1), tmp_path)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ParcError, match="no ordinary file"):
        Checkpoint.latest(folder).arrays()
    with pytest.raises(ParcError, match="no ordinary file"):
        convert(Checkpoint.latest(folder), program("serial"), tmp_path / "other")


def test_what_is_not_whole_is_not_there(tmp_path: Path) -> None:
    run = trained(program("dp"), Emulator, 1)
    folder = saved(run, tmp_path)
    (tmp_path / "step-00000009").mkdir()
    assert whole(tmp_path) == [folder] and Checkpoint.latest(tmp_path).folder == folder
    (folder / NAME).unlink()
    with pytest.raises(ParcError, match="E0770"):
        Checkpoint.latest(tmp_path)
    with pytest.raises(ParcError, match="E0770"):
        Checkpoint.latest(tmp_path / "nowhere")


def test_the_last_are_kept_and_a_run_from_an_earlier_one_counts_behind_all(tmp_path: Path) -> None:
    run = Emulator(program("dp"))
    names = []
    for step in (1, 2, 3, 4):
        run.steps = step
        names.append(saved(run, tmp_path, keep=2).name)
    assert names == [f"step-0000000{n}" for n in (1, 2, 3, 4)]
    assert [p.name for p in whole(tmp_path)] == names[2:]
    run.steps = 3  # again, from there
    assert saved(run, tmp_path, keep=2).name == "step-00000003.1"
    assert Checkpoint.latest(tmp_path).folder.name == "step-00000003.1"
    run.steps = 4
    assert saved(run, tmp_path, keep=2).name == "step-00000004.1"
    assert [p.name for p in whole(tmp_path)] == ["step-00000003.1", "step-00000004.1"]


def test_another_program_is_refused(tmp_path: Path) -> None:
    saved(trained(program("dp"), Emulator, 1), tmp_path)
    with pytest.raises(ParcError, match="E0774"):
        resumed(Checkpoint.latest(tmp_path), program("tp"))


def test_weights_go_to_any_program_of_the_model(tmp_path: Path) -> None:
    """Whatever laid them out: the same loss."""
    run = trained(program("all"), Emulator, 2)
    saved(run, tmp_path)
    found = Checkpoint.latest(tmp_path)
    batch = random_batch(run.program.inputs, 0, 5)
    want = run.step(batch).loss
    for name in ("serial", "zero 3", "uneven", "interleaved"):
        other = Emulator(program(name), initial=taken(found, program(name)))
        assert other.step(batch).loss == pytest.approx(want, rel=1e-5)
    with pytest.raises(ParcError, match="E0772.*has no tensor"):
        taken(found, program("states of pipeline"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    run = Emulator(program("dp"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ParcError, match="E0773"):
        saved(run, tmp_path / "file")
    with pytest.raises(ParcError, match="E0773"):
        saved(run, Path("/proc/saved"))
    assert sorted(os.listdir(tmp_path)) == ["file"]


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/saved"])
def test_that_it_cannot_be_written_is_told_before_the_run_begins(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keeper = Keeper(Keeping(Saving(tmp_path / folder)), program("dp"))
    with pytest.raises(ParcError, match="E0773"):
        keeper.begin()


@pytest.mark.parametrize("chunk", [1, 40, 2**20])
def test_bytes_are_those_of_arrays_however_they_lie(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a block stays as it is while as many more are made as are hashed beside."""
    monkeypatch.setattr(shard_file, "CHUNK", chunk)
    x = np.arange(7 * 6 * 5, dtype=np.float32).reshape(7, 6, 5)
    arrays = {
        "whole": ("f32", x), "columns": ("f32", x[:, :, 1:4]), "turned": ("f32", x.T), "backwards": ("f32", x[::-1]),
        "shorter": ("bf16", x), "number": ("f32", x[1, 2, 3]), "nothing": ("f32", x[:0]),
        "spread": ("f32", x[:1, :, :1]), "words": ("uint32", x.astype(np.uint32)[::2]), "tests": ("bool", x[0] > 3),
    }  # fmt: skip
    parts = [(name, tuple((0, n) for n in np.shape(a))) for name, (_, a) in arrays.items()]
    tensors = {name: SavedTensor("weight", dtype, np.shape(a), "") for name, (dtype, a) in arrays.items()}
    found, before = b"", []
    for block in shard_file.blocks(parts, tensors, lambda name, spans: np.asarray(arrays[name][1])):
        found += block
        before = [*before[-4:], (block, bytes(block))]
        assert all(bytes(view) == was for view, was in before)
    want = [np.ascontiguousarray(a, shard_file.STORED[dtype]).tobytes() for dtype, a in arrays.values()]
    assert found == shard_file.header(parts, tensors) + b"".join(want)


def test_nothing_is_lost_when_a_run_is_killed(tmp_path: Path) -> None:
    """At each place of saving, three times; `python -m tests.checkpoints.kills 2000` takes more."""
    found = kills(30, Random().randrange(1000), tmp_path)
    assert not found.wrong, str(found)
    assert set(PLACES) <= set(found.at)


def test_data_go_on_where_they_were(tmp_path: Path) -> None:
    """A run that is resumed reads the batches that the other one would have read."""
    file = Path(__file__).resolve().parents[2] / "examples" / "gpt.par"
    params = {"layers": 1, "hidden": 8, "heads": 2, "seq": 8, "batch": 4}
    from parc.keeping import Keeping
    from runtime.checkpoints.saving import Saving

    one = parc.run(file, 5, params=params)
    keeping = Keeping(Saving(tmp_path, 2, 1))
    parc.run(file, 3, params=params, keeping=keeping)
    assert [p.name for p in whole(tmp_path)] == ["step-00000003"]
    again = parc.run(file, 5, params=params, keeping=Keeping(Saving(tmp_path), str(tmp_path)))
    assert (again.first, again.steps) == (3, 2) and again.losses == one.losses[3:]
    assert {n: x[3:] for n, x in one.metrics.items()} == again.metrics
    done = parc.run(file, 5, params=params, keeping=Keeping(Saving(tmp_path), str(tmp_path)))
    assert done.losses == [] and done.steps == 0


def test_a_first_run_may_say_that_it_goes_on(tmp_path: Path) -> None:
    """So that one command is right however often it is started; another folder must have something."""
    from parc.keeping import Keeping
    from runtime.checkpoints.saving import Saving

    file, params = Path(__file__).resolve().parents[2] / "examples" / "towers.par", {"hidden": 4, "batch": 4}
    there = str(tmp_path / "there")
    assert parc.run(file, 1, params=params, keeping=Keeping(Saving(Path(there)), there)).first == 0
    with pytest.raises(ParcError, match="E0770"):
        parc.run(file, 1, params=params, keeping=Keeping(None, str(tmp_path / "else")))


@pytest.mark.parametrize("name", ["absent", "no\0name", "x" * 5000])
def test_what_cannot_be_a_folder_has_no_checkpoints(name: str, tmp_path: Path) -> None:
    assert whole(tmp_path / name) == []
