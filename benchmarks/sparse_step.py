"""A step on a large table of which few rows are taken: its gradient as a list of rows, and as a tensor of its size.

    python benchmarks/sparse_step.py [--rows 10000000] [--columns 4] [--batch 4096] [--steps 3] [--limit 0.1]
        [--zipf 1.05] [--cache 65536 --steps 200]

Both are programs of one job; the second is compiled without lists. Medians of the seconds of all steps but the first,
in the emulator, and the bytes of a device. Ends with 1 if the step with a list takes more than `limit` of the other, or
if their tables differ afterwards. zipf: rows are asked for as often as 1 / number ** this (0: all alike). With `cache`
the table rests with the host, the device keeps so many rows of it, and what is told is the share of look-ups, of the
second half of the steps, that were there.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.memory.tiers import FIRST
from dsl.source import Source
from runtime.stacked import Emulator

OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "lazy_adam")

TEXT = """\
use std.optimizers ({optimizer})

model look_up(rows, columns, batch) {{
  dim b = batch, u = rows, e = columns
  input user : int32[b] in 0..u
  input wanted : f32[b,e]
  weight table[u,e] ~ zeros
  found[b,e] = take(table, user, over u)
  loss mean((found - wanted) ** 2)
}}

strategy alone for look_up {{
  mesh (dp = 1)
}}

job fit {{
  train look_up({rows}, {columns}, {batch}) using alone
  optimizer {optimizer}(lr = 0.1)
  precision f32, master f32
}}
"""


def measured(source: Source, lists: bool, batches: list[dict[str, Any]]) -> tuple[float, int, np.ndarray]:
    """Seconds of a step, bytes of a device at its fullest, the table after all steps."""
    program = compile_job(evaluate_file(source, {}).job, lists=lists).program
    emulator = Emulator(program)
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        emulator.step(batch)
        seconds.append(time.perf_counter() - start)
    peak = max(use[FIRST].bytes for use in emulator.memory.values())
    return median(seconds[1:]), peak, emulator.weights()["table"]


def drawn(rng: np.random.Generator, rows: int, exponent: float, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of rows by Zipf's law."""
    likely = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -exponent)
    return np.searchsorted(likely, rng.random(shape) * likely[-1]).astype(np.int32)


def hits(text: str, rows: int, batches: list[dict[str, Any]]) -> float:
    """The share of look-ups that a device has of a table that rests with its host, once its cache of rows is warm."""
    text = text.replace("  mesh (dp = 1)\n", f"  mesh (dp = 1)\n  offload rows to host cache {rows}\n")
    emulator = Emulator(compile_job(evaluate_file(Source("sparse_step.par", text), {}).job).program)
    for k, batch in enumerate(batches):
        if k == len(batches) // 2:
            before = emulator.caches["table"]
        emulator.step(batch)
    after = emulator.caches["table"]
    return 1 - (after.fetched - before.fetched) / (after.asked - before.asked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--optimizer", default="rowwise_adagrad", choices=["sgd", "adagrad", "rowwise_adagrad", "lazy_adam"]
    )
    parser.add_argument("--limit", type=float, default=0.1)
    parser.add_argument("--zipf", type=float, default=0.0)
    parser.add_argument("--cache", type=int, default=0)
    args = parser.parse_args()
    text = TEXT.format(rows=args.rows, columns=args.columns, batch=args.batch, optimizer=args.optimizer)
    source, rng = Source("sparse_step.par", text), np.random.default_rng(0)
    users = drawn(rng, args.rows, args.zipf, (args.steps + 1, args.batch))
    wanted = rng.standard_normal((*users.shape, args.columns)).astype(np.float32)
    batches = [{"user": user, "wanted": w} for user, w in zip(users, wanted, strict=True)]
    if args.cache:
        share = hits(text, args.cache, batches)
        print(
            f"{args.rows:,} rows, {args.batch:,} taken by 1 / k^{args.zipf:g}, {args.cache:,} kept: {share:.1%} there"
        )
        return 0
    found = {lists: measured(source, lists, batches) for lists in (True, False)}
    (sparse, less, own), (dense, more, other) = found[True], found[False]
    print(f"{args.rows:,} rows of {args.columns}, {args.batch:,} taken, {args.optimizer}")
    print(f"list of rows      {sparse:8.4f} s a step, {less / 2**20:8.1f} MiB")
    print(f"whole gradient    {dense:8.4f} s a step, {more / 2**20:8.1f} MiB")
    print(f"ratio             {sparse / dense:8.4f}, bound {args.limit}")
    if not np.allclose(own, other, rtol=1e-6, atol=1e-7):
        print("the tables differ")
        return 1
    return int(sparse > args.limit * dense)


if __name__ == "__main__":
    sys.exit(main())
