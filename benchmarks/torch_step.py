"""One training step on four processes over gloo: parc's engine on PyTorch, and the same strategy written by hand.

CPU seconds of the median step, summed over the processes, and ratios. Both take turns: a round of steps of the one, a
round of the other, so that what else the machine does meets both. Needs the extra `torch`.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import socket
import sys
import time
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROCESSES = 4
SIZES = {"layers": 4, "hidden": 256, "heads": 4, "vocab": 128, "seq": 128, "batch": 16}
CASES: dict[str, tuple[str, dict[str, int], float]] = {
    "DDP (dp 4)": ("ddp", {"dp": 4}, 1.05),
    "FSDP2 (dp 4)": ("fsdp2", {"dp": 4, "zero": 3}, 1.05),
    "pipelining (pp 2 x dp 2, 1F1B)": ("pipeline", {"pp": 2, "dp": 2, "microbatches": 4}, 1.05),
    "DTensor (tp 4)": ("tensor", {"tp": 4}, 0.7),
}
"""The peer, parc's parameters for the same strategy, and how many times its CPU time parc may take."""


def peer(name: str, rank: int, port: int, pipe: Connection) -> None:
    """A process of a peer: does as many steps as it is asked for, and answers with the CPU seconds of each."""
    import torch
    import torch.distributed as dist

    from benchmarks.peers.gpt import Size

    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, PROCESSES, rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    size = Size(**SIZES)
    step = import_module(f"benchmarks.peers.{name}").make(size)
    parts = {"tensor": 1, "pipeline": 2}.get(name, PROCESSES)
    tokens = torch.randint(0, size.vocab, (size.batch // parts, size.seq))
    while count := pipe.recv():
        taken = []
        for _ in range(count):
            start = time.process_time()
            step(tokens, tokens)
            taken.append(time.process_time() - start)
        pipe.send(taken)
    dist.destroy_process_group()


def free_port() -> int:
    """A port of this host that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def clock(pid: int) -> float:
    """CPU seconds of a process, with all of its threads."""
    return time.clock_gettime((~pid) << 3 | 2)


def compare(name: str, rounds: int, steps: int) -> tuple[list[float], list[float]]:
    """CPU seconds of the peer's steps and of parc's."""
    from dsl.source import Source
    from parc import api
    from runtime.data import open_data
    from runtime.torch.engine import Engine

    module, params, _ = CASES[name]
    context, port = get_context("spawn"), free_port()
    pipes, processes = [], []
    for rank in range(PROCESSES):
        ours, theirs = context.Pipe()
        p = context.Process(target=peer, args=(module, rank, port, theirs))
        p.start()
        pipes.append(ours)
        processes.append(p)
    peers: list[float] = []
    parcs: list[float] = []
    path = ROOT / "examples" / "gpt.par"
    # The peer's tensor parallelism cuts heads and the width of the MLP, neither positions nor the vocabulary.
    text = path.read_text().replace("  megatron(tp)\n", "  split h, f on tp\n")
    compiled = api.compile(Source(str(path), text, str(path)), params={**SIZES, **params})
    reader = open_data(compiled.job.data, compiled.program.inputs)
    with Engine(patience=300) as engine:
        run = engine.executor(compiled.program)
        assert engine.followers is not None
        pids = [os.getpid(), *(p.pid for p in engine.followers.started)]
        number = 0
        for turn in range(rounds + 1):
            for pipe in pipes:
                pipe.send(steps)
            found = [sum(each) for each in zip(*(pipe.recv() for pipe in pipes), strict=True)]
            peers += found if turn else []
            for _ in range(steps):
                batch = reader.batch(7, number)
                start = sum(map(clock, pids))
                run.step(batch)
                number += 1
                if turn:
                    parcs.append(sum(map(clock, pids)) - start)
    for pipe in pipes:
        pipe.send(0)
    for p in processes:
        p.join()
    return peers, parcs


def main() -> int:
    """Print a line for each case; 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("cases", nargs="*", help="parts of names; all if left out")
    options = parser.parse_args()
    missed = False
    print(f"{'CPU seconds of a step, 4 processes':36} {'peer':>7} {'parc':>7} {'ratio':>6} {'limit':>6}")
    for name, (_, _, limit) in CASES.items():
        if options.cases and not any(part in name for part in options.cases):
            continue
        theirs, ours = compare(name, options.rounds, options.steps)
        ratio = median(ours) / median(theirs)
        missed |= ratio > limit
        print(f"{name:36} {median(theirs):7.3f} {median(ours):7.3f} {ratio:6.2f} {limit:6.2f}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
