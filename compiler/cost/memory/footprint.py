"""Memory of training systems: what they keep that our programs have not, and the reverse. All commands speak of it.

`compiler.memory.peak` says what our own program needs, to the byte. Training systems differ from it in known ways,
which are here and in `systems`:

- Weights are kept in the compute type beside the master copy (`copy`), which goes with the optimizer's states; unless
  shards of them are gathered for each layer: then those are the master copy. What computes as it is stored has no copy.
- Gradients have a buffer all the time, unless they are sharded as they come: `gradient` bytes per parameter where it
  computes in bf16, `gradient_f16` where in fp16, of which a split optimizer makes a copy in f32 (`partition`) for its
  part. Megatron sums up bf16 in f32, and fp16 in itself; DeepSpeed's pipelines have f32 sums beside those of bf16.
- A cross entropy needs `loss` bytes per logit at its peak. Megatron: the logits, a copy in f32, and their exponentials
  (vocab_parallel_cross_entropy). PyTorch: logits, log_softmax, and the gradients of that and of its input; compiled
  (TorchTitan since 2025): logits in 16 bits, their gradient in f32. Logits in f32 are 2 bytes more.
- An allocator reserves more than it gives out: of what comes and goes by a share (`reserve`), not of what is there all
  the time. Driver, libraries and message buffers take more than that (`context`), where it is known that they do (of
  CUDA: 2 GB, if nothing else is measured): a job fits if all of it does.
  FSDP reduces gradients on a stream of its own, and PyTorch's allocator has a pool for each stream: shards of gradients
  never lie where activations have been.

Sources: V. Korthikanti and others, "Reducing Activation Recomputation in Large Transformer Models" (2022), for what
layers keep; S. Rajbhandari and others, "ZeRO" (2020), and DeepSpeed's stage_1_and_2.py and bf16_optimizer.py for
states; Megatron-LM's distributed_optimizer.md (bf16: 6 + 12/d bytes per parameter, fp16: 4 + 16/d, f32: 8 + 8/d);
Y. Zhao and others, "PyTorch FSDP" (2023), and FSDP2's _fsdp_collectives.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from compiler import stacks
from compiler.graph import ITEMSIZE
from compiler.layout import TIME, Layout, local_type
from compiler.memory.tiers import FIRST
from compiler.model import Device
from compiler.origin import Role, within
from compiler.program import DeviceClass, StateDecl, listed
from compiler.row_caches import cache_bytes
from compiler.strategy import ShardRule, Strategy
from dsl.data import dataclass

MEGATRON, PYTORCH = 10.0, 14.0
"""Bytes per logit that a loss holds at its peak: in 16 bits, and two or three values in f32."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes per parameter; `loss` per logit (0: not stated); `reserve`: share of what comes and goes; `context`: bytes.

    The defaults are for systems of which nothing is known: mixed precision as in Megatron. Where weights are sharded
    the system is one like PyTorch's FSDP.
    """

    copy: float = 2.0
    gradient: float = 4.0
    gradient_f16: float = 2.0
    partition: float = 4.0
    loss: float = 0.0
    reserve: float = 0.1
    context: float = 0.0

    def logits(self, strategy: Strategy, itemsize: int) -> float:
        """Bytes per logit at the peak of the loss: as stated, else of PyTorch's loss or Megatron's."""
        sharded = any("weights" in rule.classes for rule in strategy.shards)
        return (self.loss or (PYTORCH if sharded else MEGATRON)) + max(0, itemsize - 2)


def footprint(device: Device, stack: str = "") -> Footprint:
    """`footprint STACK NAME VALUE` of a device, for the stack or for one that it is like; else the default holds."""
    return Footprint(**stacks.stated(device, "footprint", stack))


@dataclass(frozen=True, slots=True)
class Shards:
    """Which axes split what is kept of a value, besides those of its layout in computation."""

    rules: tuple[ShardRule, ...]
    sizes: Mapping[str, int]

    def axes(self, state: StateDecl, *classes: str) -> set[str]:
        """Of the `shard` rules of these classes that hold for the state (for a weight, or a state of it)."""
        rules = (r for r in self.rules if r.axis in self.sizes and within(state.logical, r.scope))
        return {r.axis for r in rules if set(classes) & set(r.classes)}

    def gathered(self, weight: StateDecl) -> bool:
        """Whether shards of it are gathered for computation."""
        return bool(self.axes(weight, "weights"))

    def bytes(self, state: StateDecl, split: str) -> float:
        """On a device, as the class `split` is split: evenly, for systems cut one long buffer, whatever the sizes of
        tensors. Where such an axis splits it in computation already (experts), that is all."""
        own = self.axes(state, split)
        layout = Layout(tuple(tuple(a for a in dim if a not in own) for dim in state.layout.dims))
        return local_type(state.type, layout, self.sizes).bytes / prod(self.sizes[a] for a in own)


States = dict[str, list[tuple[str, int]]]
"""Role -> (name, bytes) of each."""


def states(cls: DeviceClass, shards: Shards, of: Footprint, dtype: str) -> States:
    """What the devices of a class keep all the time, of device memory: weights, their gradients where these have a
    buffer of their own, and the optimizer's states. dtype: of computation."""
    found: States = {Role.WEIGHT: [], Role.GRADIENT: [], Role.OPTIMIZER: []}
    weights = {(s.logical, s.chunk): s for s in cls.states if s.role is Role.WEIGHT}
    trained = {s.logical for s in cls.states if s.role is Role.GRADIENT}
    narrow = ITEMSIZE[dtype] == 2  # what is published of mixed precision is of 16 bits

    def keep(role: str, name: str, size: float) -> None:
        found[role].append((name, round(size)))

    for s in cls.states:
        stored = ITEMSIZE[s.type.dtype]
        mixed = s.type.is_float and ITEMSIZE[dtype] < stored
        if s.memory != FIRST:
            if s.cache is not None:
                keep(s.role, s.name, cache_bytes(s, shards.sizes))
            continue
        if s.role is Role.STATE:
            found.setdefault(Role.STATE, [])
            times = shards.sizes[TIME] if TIME in s.layout.split_axes else 1
            keep(Role.STATE, s.name, times * local_type(s.type, s.layout, shards.sizes).bytes)
        elif s.role is Role.OPTIMIZER:
            keep(Role.OPTIMIZER, s.name, shards.bytes(s, "optimizer"))
        elif s.role is Role.WEIGHT and (shards.gathered(s) or not mixed):
            keep(Role.WEIGHT, s.name, shards.bytes(s, "weights"))
        elif s.role is Role.WEIGHT:
            copy = of.copy if narrow else ITEMSIZE[dtype]
            keep(Role.WEIGHT, s.name, copy * local_type(s.type, s.layout, shards.sizes).elements)
            if s.logical in trained:
                more = of.partition / stored if dtype == "f16" else 0.0
                keep(Role.OPTIMIZER, s.name, shards.bytes(s, "optimizer") * (1 + more))
        elif s.role is Role.ROWS or s.numbers:  # lists are kept as they are
            times = shards.sizes[TIME] if listed(s) else 1
            keep(Role.GRADIENT, s.name, times * local_type(s.type, s.layout, shards.sizes).bytes)
        elif s.role is Role.GRADIENT:
            of_weight = weights.get((s.logical, s.chunk), s)  # what computes it may have left it in pieces
            if not shards.gathered(of_weight):
                each = of.gradient_f16 if dtype == "f16" else of.gradient
                each = each if mixed and narrow else stored
                keep(Role.GRADIENT, s.name, shards.bytes(of_weight, "gradients") * each / stored)
    return found
