"""A group of devices and software that are fitted together, and what their code states, which is not fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Group:
    """free: fitted, the same for all `stacks`, or `only` for some. own: fitted for one stack. fixed, settled: stated.
    like: of stacks that are written as another with what is different (`general`: like what holds for no stack).
    shared: of a stack without rows, numbers that are another's own. relatives: devices without rows, with the same
    numbers, but products by what the best reach (`accelerators.scale`). power: those with rows as well.

    A row belongs to the group of its device and stack, or, where `families` are named, of its family. The stack
    `general` is what holds for no stack in particular.
    """

    name: str
    devices: tuple[str, ...]
    stacks: tuple[str, ...]
    free: tuple[str, ...]
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    settled: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shared: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    like: Mapping[str, str] = field(default_factory=dict)
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    relatives: tuple[str, ...] = ()
    power: bool = False
    launch: float = 4e-6

    def takes(self, device: str, stack: str, family: str) -> bool:
        """Whether a row is fitted here."""
        if device not in self.devices:
            return False
        return family.startswith(self.families) if self.families else bool(self._near(stack))

    def owner(self, stack: str, kin: Sequence[str]) -> str:
        """The stack whose numbers hold for a row that was taken: of its software, or, where families of several are
        fitted together, the first of its kin that there is."""
        if self.families:
            return next((name or "general" for name in kin if (name or "general") in self.stacks), self.stacks[0])
        return max(self._near(stack), key=len, default=self.stacks[0])

    def _near(self, stack: str) -> list[str]:
        """`torchtitan_float8` is near `torchtitan_float8_async`; so is `float8`, where there is none nearer."""
        return [s for s in self.stacks if stack == s or stack.startswith(f"{s}_") or s in stack.split("_")[1:]]


NVLINK2: Any = {"fixed": {"inner_half": 5e6}, "priors": {"inner": (0.9, 0.1)}}  # micro.csv: all-reduces on V100
HIDDEN = {"hidden": 0.8, "hidden_gather": 0.8}
"""What goes of gradients beside the last backward pass, and of weights beside the next forward pass, since DDP, FSDP
and Megatron-Core do that by default; nothing of Megatron of 2021. The same number for all: no row tells it apart."""
JITTER = {"jitter": 0.01}
"""Of hosts, with each doubling of the servers: a guess, where no rows of hundreds of servers tell."""
FUSED = {"fused_attention": 1.0, **HIDDEN, **JITTER}
WIDE = {**FUSED, "gradient_wire": 4.0}  # gradients are reduced in f32: autocast; FSDP2 with `reduce_dtype` float32
RING = {"ring": 0.8}  # of context parallelism
DEALT = {
    "balanced": 1.0
}  # TorchTitan, Transformer Engine; where no software is named, a job says itself how pieces lie
SLOW_CORE = {"core": (0.25, 0.35)}  # of Hopper with Triton's attention, or PyTorch's
QUICK = {"core": (0.6, 0.35)}  # with Transformer Engine's
SENDS = {"scattered": 1.0}  # Megatron's pipelines since 2021: each tensor-parallel device sends its part
AGAIN = {"reentrant": 1.0}  # Megatron's and DeepSpeed's checkpoints run a layer again to its end
BUCKETS = {"bucket": 8e7}  # Megatron-Core: 40 million parameters at least, in 16 bits
# recipes: grad_reduce_in_fp32 = False
MIXTURES = {**FUSED, "distinct": 1.0, "gradient_wire": 2.0, **SENDS, **BUCKETS, **RING, **DEALT, **AGAIN}
XLA = {"fused_attention": 1.0, "gradient_wire": 2.0, "host": 0.0, "fusion": 1.0, **HIDDEN}
GENERAL = ("product", "ramp", "vector", "core", "inner", "outer", "host")
UNFUSED = ("product", "ramp", "vector", "inner", "outer", "host", "jitter")
FEW = ("product", "ramp", "inner", "host")
MEGATRON = {"gradient_wire": 2.0, "blocking_sends": 1.0, **SENDS, **AGAIN}
"""In fp16 gradients are reduced as they are (`--accumulate-allreduce-grads-in-fp32` is for bf16), and a stage waits for
what it sends (`torch.cuda.synchronize()` in p2p_communication.py)."""
RAILS: Any = {
    "jitter": (0.003, 1.0)
}  # of one cluster (Selene) with a network for each of the eight devices of a server
GRAPH = {"launch": 1.5e-6}
"""Of kernels in a CUDA graph: assumed, neither fitted nor published; the device goes from one to the next by itself."""
NARROWER = tuple(f"{of}{kind}" for kind in ("float8", "float4") for of in ("", "fast_attention_", "megatron_"))
LATE = {"inner_half": (3e7, 0.7)}
"""A message begins when the last of eight hosts has dispatched it: some 0.1 ms, of links of 300 GB/s."""
