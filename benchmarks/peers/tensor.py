"""Tensor parallelism by DTensor, as Megatron cuts: heads and the width of the MLP."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.peers.gpt import GPT, Size, Step, loss_of


def make(size: Size) -> Step:
    """On every process."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = GPT(size)
    for block in model.blocks:
        plan = {n: ColwiseParallel() for n in ("q", "k", "v", "up")} | {n: RowwiseParallel() for n in ("out", "down")}
        parallelize_module(block, mesh, plan)
        block.heads //= mesh.size()  # those of this process: what the modules give is its own part
    kinds = [[p for p in model.parameters() if isinstance(p, DTensor) is cut] for cut in (False, True)]
    optimizers = [torch.optim.AdamW(found, lr=3e-4, foreach=True) for found in kinds]  # the two kinds do not mix

    def step(tokens: Tensor, targets: Tensor) -> float:
        loss = loss_of(model(tokens), targets)
        loss.backward()
        norms = [nn.utils.get_total_norm([p.grad for p in found if p.grad is not None]) for found in kinds]
        whole = torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]).norm()
        for found, optimizer in zip(kinds, optimizers, strict=True):
            nn.utils.clip_grads_with_norm_(found, 1.0, whole)
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())

    return step
