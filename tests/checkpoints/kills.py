"""Runs that are killed (SIGKILL) while they save: what was said to be saved is there, whole; what is there is whole."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

import parc
from compiler.program import Program
from compiler.shards import ShardMap
from dsl.source import Source
from runtime.checkpoints import shard_file
from runtime.checkpoints.manifest import RunPoint
from runtime.checkpoints.reading import Checkpoint
from runtime.checkpoints.saving import Saving, digest, save, whole
from runtime.stacked import Emulator

TEXT = """\
use std.optimizers (adamw)

model net {
  dim b = 4, d = 6, f = 4
  input x : f32[b,d]
  weight w1[d,f], w2[f,d]
  h[b,f] = x @ w1
  y[b,d] = tanh(h) @ w2
  loss mean(y * y)
}

strategy plan for net {
  mesh (tp = 2)
  split f on tp
}

job fit {
  train net using plan
  optimizer adamw(lr = 0.1)
}
"""

KEEP = 2
PLACES = ("write", "fsync", "manifest", "manifest fsync", "rename", "renamed", "remove", "removing", "saved")
"""Where a run is in saving, as `save` tells; `by chance`: wherever it was when it was killed from outside."""
CHANCE = "by chance"


@dataclass
class Kills:
    """What came of them: how many at each place; `wrong`: what was lost, or torn."""

    at: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        places = ", ".join(f"{n:,} at {place}" for place, n in self.at.most_common())
        return "\n".join([f"{self.at.total():,} kills ({places}), {len(self.wrong)} losses", *self.wrong[:20]])


def kills(count: int, seed: int, folder: Path) -> Kills:
    """Kill runs that save, at each place in turn, and now and then at a moment by chance. Each goes on from what the
    one before has left."""
    program = parc.compile(Source("net.par", TEXT)).program
    found, rng = Kills(), Random(seed)
    for number in range(count):
        place = (*PLACES, CHANCE)[number % (len(PLACES) + 1)]
        said, met = _killed(program, folder, place, rng)
        found.at[met] += 1
        _check(program, folder, number, met, said, found)
    if count:
        _left_over(program, folder, found)
    return found


def _killed(program: Program, folder: Path, place: str, rng: Random) -> tuple[list[int], str]:
    """The steps that a run said to have saved, and where it was killed."""
    read, write = os.pipe()
    nth = rng.randrange(1, 12) if place in ("write", "fsync") else rng.randrange(1, 5)
    chance = rng.random() * 0.2
    pid = os.fork()
    if not pid:
        os.close(read)
        try:
            _run(program, folder, write, place, nth)
        finally:
            os._exit(0)
    os.close(write)
    if place == CHANCE:
        time.sleep(chance)
        os.kill(pid, signal.SIGKILL)
    told = b""
    while more := os.read(read, 4096):
        told += more
    os.close(read)
    _, status = os.waitpid(pid, 0)
    return [int(line) for line in told.split()], place if os.WIFSIGNALED(status) else "nowhere"


def _run(program: Program, folder: Path, told: int, place: str, nth: int) -> None:
    """Train and save each step, and say so, until it is killed."""
    shard_file.CHUNK = 40  # several writes to a file
    seen = 0

    def watch(where: str) -> None:
        nonlocal seen
        seen += where == place
        if where == place and seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    run, shards = Emulator(program), ShardMap(program)
    if whole(folder):
        last = Checkpoint.latest(folder)
        run.put(last.arrays())
        run.steps = last.manifest.moment.step
    for _ in range(40):
        run.step(batch(run.steps))
        moment = RunPoint(program.name, digest(program), program.devices, run.steps, run.steps, 0)
        save(Saving(folder, 1, KEEP), moment, shards, run, watch=watch)
        os.write(told, b"%d\n" % run.steps)


def batch(step: int) -> dict[str, np.ndarray]:
    """Data of a step."""
    return {"x": np.random.default_rng(step).standard_normal((4, 6)).astype(np.float32)}


_EXPECTED: dict[int, dict[str, np.ndarray]] = {}


def expected(program: Program, step: int) -> dict[str, np.ndarray]:
    """Weights and states after so many steps of a run that nobody ends."""
    first = max((s for s in _EXPECTED if s <= step), default=0)
    run = Emulator(program, initial=_EXPECTED.get(first))
    run.steps = first
    while run.steps < step:
        run.step(batch(run.steps))
        _EXPECTED[run.steps] = {**run.weights(), **run.states()}
    return _EXPECTED[step]


def _check(program: Program, folder: Path, number: int, place: str, said: list[int], found: Kills) -> None:
    """Those that are there are whole and right; the last that was said is there, or a later one, and as many as are
    kept."""
    there: dict[int, Path] = {}
    for path in whole(folder):
        try:
            checkpoint = Checkpoint.latest(path)
            step = checkpoint.manifest.moment.step
            arrays, want = checkpoint.arrays(), expected(program, step)
        except parc.ParcError as error:
            found.wrong.append(f"kill {number}, {place}: {error}")
            continue
        there[step] = path
        if any(arrays[name].tobytes() != x.tobytes() for name, x in want.items()) or arrays.keys() != want.keys():
            found.wrong.append(f"kill {number}, {place}: {path.name} is another")
    if said and max(there, default=0) < said[-1]:
        found.wrong.append(f"kill {number}, {place}: step {said[-1]} was said to be saved, there are {sorted(there)}")
    if len(said) >= KEEP and len(there) < KEEP:
        found.wrong.append(f"kill {number}, {place}: {sorted(there)} of {KEEP} that are kept")


def _left_over(program: Program, folder: Path, found: Kills) -> None:
    """A run that is left to itself removes what the others have left."""
    run, shards = Emulator(program), ShardMap(program)
    moment = RunPoint(program.name, digest(program), program.devices, 0, 0, 0)
    save(Saving(folder, 1, KEEP), moment, shards, run)
    left = [name for name in os.listdir(folder) if name.startswith(".parc-")]
    if left:
        found.wrong.append(f"left over: {left}")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        result = kills(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1, Path(name))
    print(result)
    sys.exit(bool(result.wrong))
