"""Parts of a program that are one kernel of PyTorch (`runtime.torch.fusing`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from runtime.backend import Kernel, LocalValue
from runtime.torch.base import Standpoint, Values, kernel, maker
from runtime.torch.fusing.ops import (
    FusedActivation,
    FusedActivationBackward,
    FusedAttention,
    FusedAttentionBackward,
    FusedCrossEntropy,
    FusedCrossEntropyBackward,
    FusedNorm,
    FusedNormBackward,
    FusedPlacedAttention,
)
from runtime.torch.kernels.index import next_to_each_other

aten = torch.ops.aten


@maker(FusedNorm)
@kernel(FusedNorm)
def plan_norm(op: FusedNorm, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a layer norm; what its backward pass needs of it is as PyTorch keeps it."""
    shape, eps, run = list(ins[0].type.shape[-op.rank :]), op.eps, aten.native_layer_norm.default

    def norm(ctx: object, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Any:
        return run(x, shape, scale, shift, eps)

    return norm


@maker(FusedNormBackward)
@kernel(FusedNormBackward)
def plan_norm_backward(op: FusedNormBackward, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the derivative of a layer norm."""
    shape, run = list(ins[1].type.shape[-op.rank :]), aten.native_layer_norm_backward.default
    like = torch.ones(shape, dtype=torch.float32, device=where.device)
    mask = [True, *op.wanted]

    def backward(ctx: object, dy: Tensor, x: Tensor, mean: Tensor, root: Tensor, scale: Tensor | None = None) -> Any:
        given = like.to(x.dtype) if scale is None and any(mask[1:]) else scale
        found = run(dy, x, shape, mean, root, given, given, mask)
        return tuple(f for f, wanted in zip(found, mask) if wanted) if any(mask[1:]) else found[0]

    return backward


@maker(FusedActivation)
@kernel(FusedActivation)
def plan_activation(op: FusedActivation, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans an activation."""
    if op.fn == "gelu_tanh":
        return lambda ctx, x: aten.gelu.default(x, approximate="tanh")
    run = getattr(aten, op.fn).default
    return lambda ctx, x: run(x)


@maker(FusedActivationBackward)
@kernel(FusedActivationBackward)
def plan_activation_backward(op: FusedActivationBackward, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the derivative of an activation."""
    run = getattr(aten, f"{op.fn}_backward").default
    return lambda ctx, dy, x: run(dy, x)


def _permuted(names: Sequence[str], order: Sequence[str]) -> Callable[[Tensor], Tensor]:
    """A view of a tensor of dims `names` in another order."""
    perm = tuple(names.index(n) for n in order)
    return lambda x: x.permute(perm)


@maker(FusedAttention)
@kernel(FusedAttention)
def plan_attention(op: FusedAttention, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans attention of (batch, heads, positions, width), which are scaled already."""
    run, causal = aten._scaled_dot_product_flash_attention_for_cpu.default, op.causal
    q, k, v = (_permuted(x.type.names, order) for x, order in zip(ins, op.orders))
    back = _permuted(op.orders[3], outs[0].type.names)
    shared = _shared(op.orders, ins[0])

    def attention(ctx: object, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, sums = run(q(query), k(key), v(value), 0.0, causal, scale=1.0)
        return back(out), sums

    def grouped(ctx: object, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, sums = run(q(query).flatten(1, 2), k(key), v(value), 0.0, causal, scale=1.0)
        return back(out.unflatten(1, (-1, shared))), sums.unflatten(1, (-1, shared))

    return grouped if shared else attention


@maker(FusedPlacedAttention)
@kernel(FusedPlacedAttention)
def plan_placed_attention(op: FusedPlacedAttention, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans attention of (batch, heads, positions, width) to keys up to the queries' places. What is behind the last
    of them is not read."""
    run = aten._scaled_dot_product_flash_attention_for_cpu.default
    q, k, v = (_permuted(x.type.names, order) for x, order in zip(ins[:3], op.orders))
    back = _permuted(op.orders[3], outs[0].type.names)
    shared, rows = _shared(op.orders, ins[0]), ins[1].type.size(op.orders[1][-2])

    def attention(ctx: object, query: Tensor, key: Tensor, value: Tensor, places: Tensor) -> Tensor:
        causal, end, mask = _seen(places, rows, query.dtype)
        keys, values = k(key).narrow(2, 0, end), v(value).narrow(2, 0, end)
        queries = q(query).flatten(1, 2) if shared else q(query)
        out, _ = run(queries, keys, values, 0.0, causal, attn_mask=mask, scale=1.0)
        return back(out.unflatten(1, (-1, shared)) if shared else out)

    return attention


def _seen(places: Tensor, rows: int, dtype: torch.dtype) -> tuple[bool, int, Tensor | None]:
    """Whether queries at these places see what is up to their own number, of how many keys; and else what is added
    to scores `[batch or 1, 1, queries, keys]`, if anything is."""
    first, count = next_to_each_other(places) if places.ndim == 1 else None, len(places)
    if first is not None and first >= 0 and count == 1:
        return False, min(first + 1, rows), None
    if first == 0 and count <= rows:
        return True, count, None
    end = max(1, min(int(places.max()) + 1, rows))
    seen = places.unsqueeze(-1) >= torch.arange(end, dtype=places.dtype)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
    return False, end, mask.unsqueeze(-3) if places.ndim == 2 else mask[None, None]


def _shared(orders: Sequence[Sequence[str]], query: LocalValue) -> int:
    """How many queries share a key; 0 where there is no dim of them."""
    return query.type.size(orders[0][2]) if len(orders[0]) > len(orders[1]) else 0


@maker(FusedAttentionBackward)
@kernel(FusedAttentionBackward)
def plan_attention_backward(op: FusedAttentionBackward, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the derivatives of attention."""
    run, causal = aten._scaled_dot_product_flash_attention_for_cpu_backward.default, op.causal
    orders = (op.orders[3], *op.orders)
    views = [_permuted(x.type.names, order) for x, order in zip(ins, orders)]
    backs = [_permuted(order, x.type.names) for x, order in zip(outs, op.orders)]
    shared = _shared(op.orders, ins[1])

    def every(x: Tensor) -> Tensor:
        """Keys or values, once for each query."""
        return x.unsqueeze(2).expand(-1, -1, shared, -1, -1).flatten(1, 2)

    def grouped(ctx: object, *given: Tensor) -> Any:
        dout, q, k, v, out = (view(x) for view, x in zip(views, given))
        flat = (dout.flatten(1, 2), q.flatten(1, 2), every(k), every(v), out.flatten(1, 2))
        found = (d.unflatten(1, (-1, shared)) for d in run(*flat, given[5].flatten(1, 2), 0.0, causal, scale=1.0))
        dq, dk, dv = found
        return tuple(back(d) for back, d in zip(backs, (dq, dk.sum(2), dv.sum(2))))

    if shared:
        return grouped

    def backward(ctx: object, *given: Tensor) -> Any:
        found = run(*(view(x) for view, x in zip(views, given)), given[5], 0.0, causal, scale=1.0)
        return tuple(back(f) for back, f in zip(backs, found))

    return backward


def _index(targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The targets as an index along the last dim, and 1 where they are of it, else 0 (an index is 0 then)."""
    index = targets.long().unsqueeze(-1)
    inside = (index >= 0) & (index < size)
    return torch.where(inside, index, 0), inside


@maker(FusedCrossEntropy)
@kernel(FusedCrossEntropy)
def plan_cross_entropy(op: FusedCrossEntropy, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the losses of all positions; targets elsewhere than in the last dim of z pick nothing."""

    def losses(ctx: object, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logs = aten._log_softmax.default(z, -1, False)
        index, inside = _index(targets, z.shape[-1])
        picked = logs.gather(-1, index)
        if not inside.all():  # the sum of exponentials then is all of the loss
            shifted = z.gather(-1, index) - z.amax(-1, keepdim=True)
            picked = torch.where(inside, picked, picked - shifted)
        return -picked.squeeze(-1), logs

    return losses


@maker(FusedCrossEntropyBackward)
@kernel(FusedCrossEntropyBackward)
def plan_cross_entropy_backward(op: FusedCrossEntropyBackward, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the derivative of the losses: g (probability - 1 where the target is)."""

    def backward(ctx: object, g: Tensor, logs: Tensor, targets: Tensor) -> Tensor:
        found = logs.exp()
        index, inside = _index(targets, logs.shape[-1])
        found.scatter_add_(-1, index, inside.to(found.dtype).neg_())
        return found.mul_(g.unsqueeze(-1))

    return backward
