"""Data parallelism by `DistributedDataParallel`."""

from __future__ import annotations

from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.gpt import GPT, Size, Step, loss_of, trained


def make(size: Size) -> Step:
    """On every process."""
    model = DistributedDataParallel(GPT(size))
    return trained(lambda tokens, targets: loss_of(model(tokens), targets), model)
