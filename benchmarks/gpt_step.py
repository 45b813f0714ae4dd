"""One training step of a GPT: written by hand in serial numpy, and emulated on 8 and on 256 devices, in one run.

CPU seconds of the median step, and ratios to the serial one. One BLAS thread.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import parc
from benchmarks import serial_gpt
from runtime.emulate import Emulator

SIZE = serial_gpt.Size()
DEVICES = {
    "emulated, 1 device": {},
    "emulated, 8 devices (dp 2 x tp 4)": {"dp": 2, "tp": 4},
    "emulated, 256 devices (dp 16 x cp 2 x tp 8)": {"dp": 16, "cp": 2, "tp": 8},
}
Step = Callable[[], float]
"""Does one step, returns the loss."""


def serial() -> Step:
    weights, (tokens, targets) = serial_gpt.initial(SIZE), serial_gpt.batch(SIZE)
    first, second = ({k: np.zeros_like(x) for k, x in weights.items()} for _ in range(2))
    count = 0

    def step() -> float:
        nonlocal count
        count += 1
        loss, gradients = serial_gpt.gradients(weights, tokens, targets, SIZE)
        serial_gpt.adamw(weights, gradients, first, second, count)
        return loss

    return step


def emulated(axes: dict[str, int]) -> Step:
    params = {n: getattr(SIZE, n) for n in ("layers", "hidden", "heads", "vocab", "seq", "batch")}
    emulator = Emulator(parc.compile(ROOT / "examples" / "gpt.par", params=params | axes).program)
    batch = {n: x.reshape(SIZE.batch, SIZE.seq) for n, x in zip(("tokens", "targets"), serial_gpt.batch(SIZE))}
    return lambda: float(emulator.step(batch).loss)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each")
    steps = parser.parse_args().steps
    error = serial_gpt.check()
    print(f"serial gradients against finite differences: {error:.1e}")
    contenders = {"serial numpy": serial()} | {title: emulated(axes) for title, axes in DEVICES.items()}
    losses = {title: [step()] for title, step in contenders.items()}  # not measured: memory is touched, plans are made
    times: dict[str, list[float]] = {title: [] for title in contenders}
    for _ in range(steps):
        for title, step in contenders.items():
            start = time.process_time()
            losses[title].append(step())
            times[title].append(time.process_time() - start)
    base = median(times["serial numpy"])
    print(f"{'':<44} {'CPU s':>7} {'ratio':>6} {'GFLOP/s':>8}   loss")
    for title, found in times.items():
        seconds = median(found)
        print(
            f"{title:<44} {seconds:7.3f} {seconds / base:6.2f} {SIZE.flops / seconds / 1e9:8.1f}   "
            f"{losses[title][0]:.4f} -> {losses[title][-1]:.4f}"
        )
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 1 if error > 1e-6 or any(found[-1] >= found[0] for found in losses.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
