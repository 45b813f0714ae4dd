"""How long a checkpoint takes beside writing as many bytes: `python -m benchmarks.saving --size 1024`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
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


def seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the state")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk that is meant")
    asked = parser.parse_args()
    program = parc.compile(Source("net.par", TEXT % (asked.size * 2**20 // (3 * 4 * 1024) // 2 * 2))).program
    run, shards = Emulator(program), ShardMap(program)
    moment = RunPoint(program.name, digest(program), program.devices, 0, 0, 0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="saving-", dir=asked.folder) as name:
        folder = Path(name)
        for i in range(asked.rounds):
            ours = seconds(lambda: save(Saving(folder / "ours"), moment, shards, run))
            (made,) = (folder / "ours").iterdir()
            sizes = [p.stat().st_size for p in made.iterdir()]
            content = np.random.default_rng(i).integers(0, 2**32, max(sizes) // 4 + 1, np.uint32).view(np.uint8).data
            shutil.rmtree(folder / "ours")
            theirs = seconds(partial(plain, folder / "plain", sizes, content))
            shutil.rmtree(folder / "plain")
            rows.append((ours, theirs))
            print(f"{sum(sizes) / 2**20:,.0f} MiB: {ours:.2f} s, writing alone {theirs:.2f} s", flush=True)
    ratio = min(o for o, _ in rows) / min(t for _, t in rows)
    print(f"{ratio:.2f} of writing alone, the best of {asked.rounds}{'' if ratio <= MOST else '  TOO SLOW'}")
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
