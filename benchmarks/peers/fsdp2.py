"""Data parallelism with all states split: `fully_shard` of every block, then of the whole."""

from __future__ import annotations

from torch.distributed.fsdp import fully_shard

from benchmarks.peers.gpt import GPT, Size, Step, loss_of, trained


def make(size: Size) -> Step:
    """On every process."""
    model = GPT(size)
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return trained(lambda tokens, targets: loss_of(model(tokens), targets), model)
