"""Checkpoints for other strategies: the same numbers, in bounded memory, and as many bytes as the layouts say."""

from __future__ import annotations

import filecmp
import time
import tracemalloc
from pathlib import Path
from random import Random

import numpy as np
import pytest

import parc
from compiler.graph import ITEMSIZE
from compiler.program import Program
from compiler.shards import ShardMap
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.checkpoints.converting import convert, plan_checkpoint, plan_programs
from runtime.checkpoints.manifest import Manifest
from runtime.checkpoints.reading import Checkpoint, resumed
from runtime.prove import random_batch
from runtime.stacked import Emulator
from tests.checkpoints.models import STRATEGIES, arrays, program, saved, trained


def same(one: Path, other: Path) -> bool:
    """Whether two folders have the same files, to the byte."""
    names = sorted(p.name for p in one.iterdir())
    if names != sorted(p.name for p in other.iterdir()):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


def moved(before: Program, after: Program) -> int:
    """Bytes that another device writes, element by element: a different rule from that of `plan`."""
    writers = []
    for of in (before, after):
        shards = ShardMap(of)
        who = {n: np.full(kept.type.shape, -1) for n, kept in shards.tensors.items()}
        for rank in range(shards.devices):
            for lot in shards.of(rank):
                who[lot.name][tuple(slice(*span) for span in lot.spans)] = rank
        writers.append(who)
    types = {n: kept.type.dtype for n, kept in ShardMap(after).tensors.items()}
    return sum(int((writers[0][n] != x).sum()) * ITEMSIZE[types[n]] for n, x in writers[1].items())


@pytest.mark.parametrize("seed", [1, 2])
def test_round_all_strategies_and_back(seed: int, tmp_path: Path) -> None:
    """Each is made of the one before, by its files alone; the numbers never change, and in the end nor has a byte."""
    names = [*STRATEGIES]
    Random(seed).shuffle(names)
    first = program(names[0])
    run = trained(first, Emulator, 2)
    want, at = arrays(run), saved(run, tmp_path / "first")
    begin, before = at, first
    for i, name in enumerate([*names[1:], names[0]]):
        of, to = program(name), tmp_path / str(i)
        told = convert(Checkpoint.latest(at), of, to)
        assert told.moved == moved(before, of) and told == plan_programs(before, of)
        found = resumed(Checkpoint.latest(to), of)
        assert found.keys() == want.keys() and all(x.tobytes() == want[n].tobytes() for n, x in found.items())
        at, before = to, of
    assert same(begin, at)


def test_eight_two_one_eight(tmp_path: Path) -> None:
    run = trained(program("all"), Emulator, 2)
    at = begin = saved(run, tmp_path / "8")
    for i, name in enumerate(("dp", "serial", "all")):
        assert program(name).devices == (2, 1, 8)[i]
        convert(Checkpoint.latest(at), program(name), tmp_path / str(i))
        at = tmp_path / str(i)
    assert same(begin, at)


@pytest.mark.parametrize("name", ["states of pipeline", "states of interleaved", "states of two"])
def test_states_go_with_weights(name: str, tmp_path: Path) -> None:
    one, other = program(name), program("states of gpipe" if "two" not in name else name)
    run = trained(one, Emulator, 2)
    folder = saved(run, tmp_path / "a")
    convert(Checkpoint.latest(folder), other, tmp_path / "b")
    convert(Checkpoint.latest(tmp_path / "b"), one, tmp_path / "c")
    assert same(folder, tmp_path / "c")


def test_closed_forms(tmp_path: Path) -> None:
    """On whole sizes: ZeRO-1 of N devices to one moves all states but the first's, tensors of t devices to one all but
    1/t of what they split."""
    zero, serial, tensors = (program(n) for n in ("zero 1", "serial", "tp"))
    kinds: dict[str, int] = {}
    for kept in ShardMap(zero).tensors.values():
        kinds[kept.role] = kinds.get(kept.role, 0) + kept.type.bytes
    split = _split(zero)
    assert plan_programs(zero, serial).moved == split // 2 and split == kinds["optimizer"]
    assert plan_programs(serial, zero).moved == split // 2
    assert plan_programs(tensors, serial).moved == _split(tensors) // 2
    assert plan_programs(program("dp"), serial).moved == 0


def _split(of: Program) -> int:
    """Bytes of the tensors that devices have pieces of."""
    (cls,) = of.classes
    kept = ShardMap(of).tensors
    return sum(kept[s.logical or s.name].type.bytes for s in cls.states if s.layout.split_axes and _lasts(s.role))


def _lasts(role: str) -> bool:
    return role in ("weight", "optimizer", "state")


def test_to_infer_there_are_weights_alone(tmp_path: Path) -> None:
    run = trained(program("all"), Emulator, 2)
    folder = saved(run, tmp_path / "a")
    serving = program("tp to infer")
    told = convert(Checkpoint.latest(folder), serving, tmp_path / "b")
    assert told.after == 2 and told.dropped and all(n not in told.dropped for n in ShardMap(serving).tensors)
    found = Manifest.read(tmp_path / "b")
    assert {t.role for t in found.tensors.values()} == {"weight"}
    assert found.moment.step == 2 and 3 * told.bytes < Manifest.read(folder).bytes
    infer = Emulator(serving, initial=resumed(Checkpoint.latest(tmp_path / "b"), serving))
    batch = random_batch(run.program.inputs, 0, 9)
    one, other = run.step(batch).outputs, infer.step({i.name: batch[i.name] for i in serving.inputs}).outputs
    assert all(np.allclose(one[n], x, rtol=1e-4, atol=1e-5) for n, x in other.items())
    with pytest.raises(ParcError, match="E0772"):
        convert(Checkpoint.latest(tmp_path / "b"), program("dp"), tmp_path / "c")


def test_narrow_weights_are_those_that_training_computes_with(tmp_path: Path) -> None:
    """A job in bf16 with f32 masters, served in bf16: the weights are the masters, rounded once."""
    from tests.entries.test_evaluate import source

    text = source("tp").text
    served = text[: text.index("job fit")] + "job serve {\n  infer net using plan\n  precision bf16, master f32\n}\n"
    of = parc.compile(Source("net.par", served)).program
    run = trained(program("all in bf16"), Emulator, 1)
    told = convert(Checkpoint.latest(saved(run, tmp_path / "a")), of, tmp_path / "b")
    assert set(told.cast) == set(ShardMap(of).tensors)
    found = Checkpoint.latest(tmp_path / "b")
    assert {t.dtype for t in found.manifest.tensors.values()} == {"bf16"}
    import ml_dtypes

    for name, x in resumed(found, of).items():
        assert np.array_equal(x, run.weights()[name].astype(ml_dtypes.bfloat16).astype(np.float32)), name


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    folder = saved(trained(program("all"), Emulator, 1), tmp_path / "a")
    path = folder / "device-00003.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 128
    path.write_bytes(content)
    with pytest.raises(ParcError, match=f"E0771.*{path.name}"):
        convert(Checkpoint.latest(folder), program("dp"), tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    folder = saved(Emulator(program("dp")), tmp_path / "a")
    with pytest.raises(ParcError, match="E0773"):
        convert(Checkpoint.latest(folder), program("tp"), tmp_path / "a")


WIDE = """\
use std.optimizers (adamw)

model net {{
  dim b = 2, d = 512, f = 512
  input x : f32[b,d]
  weight w1[d,f], w2[f,d]
  h[b,f] = x @ w1
  y[b,d] = tanh(h) @ w2
  loss mean(y * y)
}}

strategy plan for net {{
  mesh (tp = {0})
  split f on tp
}}

job fit {{
  train net using plan
  optimizer adamw(lr = 0.1)
}}
"""


def test_memory_is_bounded_by_files(tmp_path: Path) -> None:
    """6 MiB of numbers in files of 128 KiB: no more than a few of them are in memory at once."""
    one, other = (parc.compile(Source("net.par", WIDE.format(n))).program for n in (4, 2))
    largest = 128 * 2**10
    folder = saved(Emulator(one), tmp_path / "a", largest=largest)
    found = Checkpoint.latest(folder)
    tracemalloc.start()
    told = convert(found, other, tmp_path / "b", largest=largest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told.bytes > 6e6 and peak < 6 * largest
    assert all(p.stat().st_size < 1.1 * largest for p in (tmp_path / "b").glob("*.safetensors"))


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_two_thousand_devices_to_64_are_planned_in_a_second() -> None:
    """PanGu's own layouts: only what the layouts say is looked at, and no device beyond the smaller number."""
    before, after = (parc.compile(EXAMPLES / f"{name}.par").program for name in ("pangu_200b", "serving"))
    assert (before.devices, after.devices) == (2048, 64)
    start = time.process_time()
    told = plan_programs(before, after)
    assert time.process_time() - start < 1
    assert told.before == 2048 and 0 < told.moved < told.bytes and told.bytes > 2 * 190e9
    assert told.dropped and told.cast


def test_a_plan_is_what_happens(tmp_path: Path) -> None:
    folder = saved(Emulator(program("all")), tmp_path / "a")
    found = Checkpoint.latest(folder)
    told, _ = plan_checkpoint(found, program("interleaved"))
    assert told == convert(found, program("interleaved"), tmp_path / "b")
