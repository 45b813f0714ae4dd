"""The GPT of examples/gpt.par in PyTorch's own modules, with fused attention, and what the peers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], float]
"""A step on this process' part of a batch; the loss."""


@dataclass(frozen=True)
class Size:
    """The sizes of the model and of a batch over all processes."""

    layers: int = 4
    hidden: int = 256
    heads: int = 4
    vocab: int = 128
    seq: int = 128
    batch: int = 16


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        d = size.hidden
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v = nn.Linear(d, d), nn.Linear(d, d, bias=False), nn.Linear(d, d)
        self.out, self.up, self.down = nn.Linear(d, d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (w(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Embed(nn.Module):
    """Tokens and positions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(size.vocab, size.hidden) * 0.02)
        self.place = nn.Parameter(torch.randn(size.seq, size.hidden) * 0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.table) + self.place


class GPT(nn.Module):
    """The whole model: from tokens to logits, with a tied head."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = Embed(size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.table.T


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross entropy."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """As the example's."""
    return torch.optim.AdamW(model.parameters(), lr=3e-4, foreach=True)


def trained(forward: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> Step:
    """A step of data parallelism: the loss of the own part, gradients, clipping, update."""
    optimizer = adamw(model)

    def step(tokens: Tensor, targets: Tensor) -> float:
        loss = forward(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step
