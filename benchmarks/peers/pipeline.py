"""Two stages (1F1B) with torch's own pipelining, each of them data parallel over two processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.gpt import Block, Embed, Size, Step, adamw, loss_of

MICROBATCHES = 4


class Stage(nn.Module):
    """Half of the blocks, with what stands before or behind them. (The head is on another stage and so not tied.)"""

    def __init__(self, size: Size, number: int) -> None:
        super().__init__()
        self.embed = Embed(size) if number == 0 else None
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers // 2)))
        self.head = None
        if number == 1:
            self.head = nn.Sequential(nn.LayerNorm(size.hidden), nn.Linear(size.hidden, size.vocab, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embed is None else self.embed(x)
        x = self.blocks(x)
        return x if self.head is None else self.head(x)


def make(size: Size) -> Step:
    """On every process: processes 0 and 1 are the first stage."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    number = mesh["pp"].get_local_rank()
    model = Stage(size, number)
    whole = DistributedDataParallel(model, process_group=mesh["dp"].get_group())
    stage = PipelineStage(whole, number, 2, torch.device("cpu"), group=mesh["pp"].get_group())
    schedule, optimizer = Schedule1F1B(stage, MICROBATCHES, loss_fn=loss_of), adamw(model)

    def step(tokens: Tensor, targets: Tensor) -> float:
        losses: list[Tensor] = []
        if number == 0:
            schedule.step(tokens)
        else:
            schedule.step(target=targets, losses=losses)
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).square()
        dist.all_reduce(norm, group=mesh["pp"].get_group())
        nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, norm.sqrt())
        optimizer.step()
        optimizer.zero_grad()
        return float(torch.stack(losses).mean().detach()) if losses else 0.0

    return step
