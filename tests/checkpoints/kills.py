"""Runs that are killed (SIGKILL) while they save: what was said to be saved is there, whole; what is there is whole.

python -m tests.checkpoints.kills 2000                                    # tells its totals by place as it goes
python -m tests.checkpoints.kills 2000 --minutes 10 --resume kills.json   # ends, and goes on from there
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import numpy as np

import parc
from compiler.program import Program
from compiler.shards import ShardMap
from dsl.replacing import replacing
from dsl.source import Source
from runtime.checkpoints import shard_file
from runtime.checkpoints.manifest import RunPoint
from runtime.checkpoints.reading import Checkpoint
from runtime.checkpoints.saving import Saving, digest, save, whole
from runtime.stacked import Emulator
from tests.fuzz.campaign import record

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
"""Where a run is in saving, as `save` tells: it kills itself there."""
CHANCE = "by chance"
"""It is killed from outside, wherever it is once it saves; counted by the place that it told of last."""
LATEST, SOON = 100, 0.002
"""That comes behind so many of a run's places at most, and within so many seconds of one."""
TOLD = 20.0
"""Seconds between two lines of what came of them so far."""


@dataclass
class Kills:
    """What came of so many of a seed: how many at each place; `wrong`: what was lost, or torn."""

    seed: int = 0
    done: int = 0
    at: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        places = ", ".join(f"{n:,} at {place}" for place, n in Counter(self.at).most_common())
        return "\n".join([f"{self.done:,} kills ({places}), {len(self.wrong)} losses", *self.wrong[:20]])


def kills(
    count: int,
    seed: int,
    folder: Path,
    found: Kills | None = None,
    end: float | None = None,
    told: Callable[[Kills], None] = lambda found: None,
) -> Kills:
    """Kill runs that save, at each place in turn, and now and then at a moment by chance. Each goes on from what the
    one before has left in the folder.

    found: of those before, to go on from. end: of `time.monotonic`, when no more are begun. told: hears what came of
    them, now and then.
    """
    program = parc.compile(Source("net.par", TEXT)).program
    fresh = Emulator(program)  # what each run begins with: it takes longer to make than to save
    found = found or Kills(seed)
    last = time.monotonic()
    for number in range(found.done, count):
        if end is not None and time.monotonic() > end:
            break
        place = (*PLACES, CHANCE)[number % (len(PLACES) + 1)]
        said, met = _killed(fresh, folder, place, Random(f"{seed} {number}"))
        found.done += 1
        found.at[met] = found.at.get(met, 0) + 1
        _check(program, folder, number, met, said, found)
        if time.monotonic() - last > TOLD:
            last = time.monotonic()
            told(found)
    if whole(folder):
        _left_over(program, folder, found)
    return found


def _killed(fresh: Emulator, folder: Path, place: str, rng: Random) -> tuple[list[int], str]:
    """The steps that a run said to have saved, and where it was killed."""
    read, write = os.pipe()
    nth = rng.randrange(1, 12) if place in ("write", "fsync") else rng.randrange(1, 5)
    with mmap.mmap(-1, 2) as where:  # shared with the run: its last place, from 1, and how many it met
        pid = os.fork()
        if not pid:
            os.close(read)
            try:
                _run(fresh, folder, write, place, nth, where)
            finally:
                os._exit(0)
        os.close(write)
        if place == CHANCE:
            after = rng.randrange(1, LATEST)
            while where[1] < after and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                time.sleep(0.0005)
            time.sleep(rng.random() * SOON)
            os.kill(pid, signal.SIGKILL)
        told = b""
        while more := os.read(read, 4096):
            told += more
        os.close(read)
        _, status = os.waitpid(pid, 0)
        met = "nowhere" if not os.WIFSIGNALED(status) else place
        if met == CHANCE:
            met = f"{CHANCE} behind {PLACES[where[0] - 1]}"
    return [int(line) for line in told.split()], met


def _run(run: Emulator, folder: Path, told: int, place: str, nth: int, where: mmap.mmap) -> None:
    """Train and save each step, and say so, until it is killed."""
    shard_file.CHUNK = 40  # several writes to a file
    seen = 0

    def watch(at: str) -> None:
        nonlocal seen
        where[:] = bytes((PLACES.index(at) + 1, min(255, where[1] + 1)))
        seen += at == place
        if at == place and seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    program = run.program
    shards, text = ShardMap(program), digest(program)
    if whole(folder):
        last = Checkpoint.latest(folder)
        run.put(last.arrays())
        run.steps = last.manifest.moment.step
    for _ in range(40):
        run.step(batch(run.steps))
        moment = RunPoint(program.name, text, program.devices, run.steps, run.steps, 0)
        save(Saving(folder, 1, KEEP), moment, shards, run, watch=watch)
        os.write(told, b"%d\n" % run.steps)


def batch(step: int) -> dict[str, np.ndarray]:
    """Data of a step."""
    return {"x": np.random.default_rng(step).standard_normal((4, 6)).astype(np.float32)}


_EXPECTED: dict[int, dict[str, np.ndarray]] = {}


def expected(program: Program, step: int) -> dict[str, np.ndarray]:
    """Weights and states after so many steps of a run that nobody ends."""
    if step not in _EXPECTED:
        first = max((s for s in _EXPECTED if s <= step), default=0)
        run = Emulator(program, initial=_EXPECTED.get(first))
        run.steps = first
        while run.steps < step + 20:  # others will be asked for
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


def main() -> int:
    """0 if nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.checkpoints.kills", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="end after so many")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep totals there, and go on from them")
    parser.add_argument("--record", action="store_true", help="add the totals to tests/fuzz/totals.csv")
    options = parser.parse_args()
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    found = Kills(options.seed)
    if options.resume is not None and options.resume.exists():
        found = Kills(**json.loads(options.resume.read_text()))
        if found.seed != options.seed:
            parser.error(f"{options.resume} is of `--seed {found.seed}`")

    def told(found: Kills) -> None:
        print(found, flush=True)
        if options.resume is not None:
            with replacing(options.resume) as file:
                file.write(json.dumps(asdict(found), indent=1).encode() + b"\n")

    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        told(kills(options.count, options.seed, Path(name), found, end, told))
    if options.record:
        by_chance = sum(n for place, n in found.at.items() if place.startswith(CHANCE))
        record("saves", found.seed, found.done, len(found.wrong), f"{by_chance} by chance; others at each place alike")
    return int(bool(found.wrong))


if __name__ == "__main__":
    sys.exit(main())
