"""How long a checkpoint takes beside writing as many bytes: `python -m benchmarks.saving --size 1024`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

import parc
from compiler.shards import ShardMap
from dsl.source import Source
from runtime.checkpoints.manifest import RunPoint
from runtime.checkpoints.saving import Saving, digest, save
from runtime.stacked import Emulator

TEXT = """\
use std.optimizers (adamw)

model net {
  dim b = 4, d = 1024, f = %d
  input x : f32[b,d]
  weight w[d,f] ~ normal(0.02)
  y[b,f] = x @ w
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
"""A weight and two states of it, on two devices."""

MOST = 1.3
"""Of the time that writing alone takes."""

CHUNK = 4 * 2**20
"""Bytes that are written at once."""


def plain(folder: Path, sizes: list[int], content: memoryview) -> None:
    """Write files of these sizes, and be sure that they are on the disk."""
    folder.mkdir()
    for i, size in enumerate(sizes):
        with open(folder / str(i), "wb", buffering=0) as file:
            done = 0
            while done < size:
                done += file.write(content[done : min(done + CHUNK, size)])
            os.fsync(file.fileno())
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Of the clock, and of CPU in the thread that writes: on an idle machine one that hashes goes beside it."""
    begun, cpu = time.perf_counter(), time.thread_time()
    run()
    return time.perf_counter() - begun, time.thread_time() - cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the state")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk that is meant")
    asked = parser.parse_args()
    program = parc.compile(Source("net.par", TEXT % (asked.size * 2**20 // (3 * 4 * 1024) // 2 * 2))).program
    run, shards = Emulator(program), ShardMap(program)
    moment = RunPoint(program.name, digest(program), program.devices, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="saving-", dir=asked.folder) as name:
        ours, theirs = Path(name) / "ours", Path(name) / "theirs"
        made = save(Saving(ours), moment, shards, run)
        sizes = [p.stat().st_size for p in made.iterdir()]
        shutil.rmtree(ours)
        content = np.random.default_rng(0).integers(0, 2**32, max(sizes) // 4 + 1, np.uint32).view(np.uint8).data
        ways = [
            ("saved", ours, lambda: save(Saving(ours), moment, shards, run)),
            ("written alone", theirs, lambda: plain(theirs, sizes, content)),
        ]
        took: dict[str, list[tuple[float, float]]] = {what: [] for what, *_ in ways}
        for i in range(asked.rounds):
            for what, folder, way in ways[:: 1 if i % 2 else -1]:  # who comes first has other memory
                took[what].append(seconds(way))
                clock, cpu = took[what][-1]
                print(f"{sum(sizes) / 2**20:,.0f} MiB {what}: {clock:.2f} s, {cpu:.2f} s of CPU", flush=True)
                shutil.rmtree(folder)
    ratio, cpu = (min(t[i] for t in took["saved"]) / min(t[i] for t in took["written alone"]) for i in (0, 1))
    slow = "" if ratio <= MOST else "  TOO SLOW"
    print(f"{ratio:.2f} of writing alone, {cpu:.2f} by CPU, the best of {asked.rounds}{slow}")
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
