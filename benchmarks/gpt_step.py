"""One training step of a GPT: by hand in serial numpy and in PyTorch (eager), and emulated on 1 to 4,096 devices.

CPU seconds of the median step, and ratios to the serial one. Each contender is a process of its own (so that none
meets the memory, warm or fragmented, that another left behind), with one BLAS thread; they take turns, step by step.
The serial step runs twice: as it is, which the bounds are held against, and told to keep the memory that it frees
(`MALLOC_...`), which the emulator does by itself: the second ratio.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import serial_gpt

SIZE = serial_gpt.Size()
SERIAL = ("serial numpy", "serial numpy, keeps its memory")
TORCH = "torch, eager"
DEVICES: dict[str, tuple[dict[str, int], float | None, float | None]] = {
    "emulated, 1 device": ({}, None, None),
    "emulated, 8 devices (dp 2 x tp 4)": ({"dp": 2, "tp": 4}, 1.15, 1.2),
    "emulated, 8 devices, --backend fast": ({"dp": 2, "tp": 4}, None, 0.95),
    "emulated, 256 devices (dp 16 x cp 2 x tp 8)": ({"dp": 16, "cp": 2, "tp": 8}, 2.5, None),
    "emulated, 4,096 devices (pp 2 x dp 16 x cp 16 x tp 8)": ({"pp": 2, "dp": 16, "cp": 16, "tp": 8}, 3.0, None),
}
"""Sizes of the mesh axes; how many times the serial step as it is an emulated one may take, and torch's."""

KEEP = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
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


def torch_eager() -> Step:
    """With what the example has besides: biases, positions, clipping, and the accuracy."""
    import torch

    from benchmarks.peers import gpt

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = gpt.Size(SIZE.layers, SIZE.hidden, SIZE.heads, SIZE.vocab, SIZE.seq, SIZE.batch)
    model = gpt.GPT(size)
    shape = SIZE.batch, SIZE.seq
    tokens, targets = (torch.from_numpy(x.reshape(shape)).long() for x in serial_gpt.batch(SIZE))

    def forward(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(tokens)
        with torch.no_grad():
            (logits.argmax(-1) == targets).float().mean()
        return gpt.loss_of(logits, targets)

    step = gpt.trained(forward, model)
    return lambda: step(tokens, targets)


def emulated(axes: dict[str, int], fast: bool = False) -> Step:
    import parc
    from runtime.native import NativePlanner
    from runtime.stacked import Emulator

    params = {n: getattr(SIZE, n) for n in ("layers", "hidden", "heads", "vocab", "seq", "batch")}
    program = parc.compile(ROOT / "examples" / "gpt.par", params=params | axes).program
    emulator = Emulator(program, planner=NativePlanner() if fast else None)
    batch = {n: x.reshape(SIZE.batch, SIZE.seq) for n, x in zip(("tokens", "targets"), serial_gpt.batch(SIZE))}
    return lambda: float(emulator.step(batch).loss)


def made(title: str) -> Step:
    """What a contender does."""
    if title in DEVICES:
        return emulated(DEVICES[title][0], "--backend fast" in title)
    return torch_eager() if title == TORCH else serial()


def contend(step: Step) -> None:
    """In the contender's process: a step, and a line about it, for every line that comes in."""
    for _ in sys.stdin:
        start = time.process_time()
        loss = step()
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"loss": loss, "seconds": seconds, "memory": memory}), flush=True)


class Contender:
    """A process of the script that does a step when asked."""

    def __init__(self, title: str, script: str = __file__) -> None:
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, script, "--contender", title],
            env=os.environ | (KEEP if title == SERIAL[1] else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.steps: list[dict[str, float]] = []

    def step(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.steps.append(found)

    def end(self) -> None:
        self.process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each")
    parser.add_argument("--only", default="", help="leave out emulations whose titles do not contain this")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(made(options.contender))
        return 0
    error = serial_gpt.check()
    print(f"serial gradients against finite differences: {error:.1e}")
    peers = (TORCH,) if find_spec("torch") else ()
    contenders = {t: Contender(t) for t in (*SERIAL, *peers, *(t for t in DEVICES if options.only in t))}
    for _ in range(options.steps + 2):  # the first two are not measured: memory is touched, plans are made
        for contender in contenders.values():
            contender.step()
    for contender in contenders.values():
        contender.end()
    seconds = {title: median(s["seconds"] for s in c.steps[2:]) for title, c in contenders.items()}
    base, tuned = (seconds[title] for title in SERIAL)
    eager = seconds.get(TORCH, float("nan"))
    print(f"{'':<54} {'CPU s':>7} {'ratio':>6} {'tuned':>6} {'torch':>6} {'GFLOP/s':>8} {'MiB':>6}   loss")
    good = error <= 1e-6
    for title, contender in contenders.items():
        first, last = contender.steps[0]["loss"], contender.steps[-1]["loss"]
        ratio, bound = seconds[title] / base, DEVICES[title][1] if title in DEVICES else None
        beside = DEVICES[title][2] if title in DEVICES else None
        over = (bound is not None and ratio > bound) or (beside is not None and seconds[title] > beside * eager)
        rate = SIZE.flops / seconds[title] / 1e9
        print(
            f"{title:<54} {seconds[title]:7.3f} {ratio:6.2f} {seconds[title] / tuned:6.2f} "
            f"{seconds[title] / eager:6.2f} {rate:8.1f} {contender.steps[-1]['memory']:6.0f}   "
            f"{first:.4f} -> {last:.4f}" + ("   above its bound" if over else "")
        )
        good = good and last < first and not over
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
