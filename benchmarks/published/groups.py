"""What is fitted together: devices and software stacks that share numbers, and which of them are free."""

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
RING = {"ring": 0.8, "balanced": 1.0}  # of context parallelism: TorchTitan, Transformer Engine
SLOW_CORE = {"core": (0.25, 0.35)}  # of Hopper with Triton's attention, or PyTorch's
QUICK = {"core": (0.6, 0.35)}  # with Transformer Engine's
SENDS = {"scattered": 1.0}  # Megatron's pipelines since 2021: each tensor-parallel device sends its part
AGAIN = {"reentrant": 1.0}  # Megatron's and DeepSpeed's checkpoints run a layer again to its end
BUCKETS = {"bucket": 8e7}  # Megatron-Core: 40 million parameters at least, in 16 bits
# recipes: grad_reduce_in_fp32 = False
MIXTURES = {**FUSED, "distinct": 1.0, "gradient_wire": 2.0, **SENDS, **BUCKETS, **RING, **AGAIN}
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

GROUPS = (
    # --- Megatron and its kin, before fused attention ---
    Group(
        "megatron_2021",
        ("a100_80",),
        ("megatron_2021",),
        (*UNFUSED, "slowdown"),
        fixed=MEGATRON,
        priors=RAILS,
    ),
    Group("megatron_2022", ("a100_80",), ("megatron_2022",), UNFUSED, fixed=MEGATRON, priors=RAILS),
    Group("megatron_2020_a100", ("a100_40",), ("megatron_2020",), FEW, fixed=MEGATRON),
    Group("megatron_2020_v100", ("v100",), ("megatron_2020",), FEW, fixed=MEGATRON),
    Group(
        "vtrain",
        ("a100_80",),
        ("vtrain",),
        (*UNFUSED, "inner_half", "fixed"),
        fixed=MEGATRON,
        # small models wait for their host: between 25 and 60 us a kernel, a guess of ours
        priors={"host": (4.5e-5, 0.3), "ramp": (300.0, 0.6), **LATE},
    ),
    # DeepSpeed's pipeline; from some day on after a fix of the hosts (PCIe and NUMA), which rows state.
    Group(
        "bloom",
        ("a100_80",),
        ("bloom", "bloom_numa"),
        (*UNFUSED, "inner_half", "fixed"),
        fixed={**SENDS, **AGAIN},
        priors=LATE,
        own={"bloom_numa": ("inner",)},
        only={"inner": ("bloom",)},
        like={"bloom_numa": "bloom"},
    ),
    # --- PyTorch with fused attention ---
    *(
        Group(
            f"composer_{device}",
            (device,),
            ("composer", "composer_pure"),
            (*GENERAL, "fusion", "fixed", "ahead"),
            fixed=WIDE,
            settled={"composer_pure": {"gradient_wire": 2.0}},
            like={"composer_pure": "composer"},
        )
        for device in ("a100_80", "a100_40")
    ),
    Group(
        "composer_h100",
        ("h100",),
        ("composer", "composer_pure"),
        ("product", "ramp", "vector", "core", "inner", "host", "fusion", "fixed", "ahead"),
        fixed=WIDE,
        settled={"composer_pure": {"gradient_wire": 2.0}},
        like={"composer_pure": "composer"},
        priors=SLOW_CORE,
    ),
    Group(
        "torchtitan_a100",
        ("a100_80",),
        ("torchtitan",),
        ("product", "vector", "core", "inner", "outer", "fusion", "ahead"),
        fixed={**WIDE, **RING, "wire": 2.0},
        priors={"core": (0.55, 0.35)},
    ),
    Group(
        "torchtitan_h100",
        ("h100_hbm2e", "h200"),
        (
            "torchtitan",
            "torchtitan_async",
            "torchtitan_eager",
            "torchtitan_float8",
            "torchtitan_float8_async",
            "torchtitan_float8_rowwise",
        ),
        ("product", "vector", "core", "inner", "fusion", "narrow", "overlap", "ahead"),
        own={"torchtitan_eager": ("fusion",), "torchtitan_float8_rowwise": ("narrow",)},
        fixed={**WIDE, **RING},
        settled={"torchtitan_float8": {"wire": 1.0}, "torchtitan_float8_async": {"wire": 1.0}},
        only={
            "narrow": ("torchtitan_float8", "torchtitan_float8_async"),
            "overlap": ("torchtitan_async", "torchtitan_float8_async"),
        },
        like={
            "torchtitan_async": "torchtitan",
            "torchtitan_eager": "torchtitan",
            "torchtitan_float8": "torchtitan",
            "torchtitan_float8_async": "torchtitan_float8",
            "torchtitan_float8_rowwise": "torchtitan",
        },
        priors=SLOW_CORE,
        power=True,
    ),
    # --- Megatron-Core with Transformer Engine: tensor-parallel messages beside products; of experts (`mixture.py`)
    # copies of a position go once to a node and a device (DeepEP, HybridEP), products are dispatched one by one ---
    Group(
        "megatron_core_h100",
        ("h100",),
        ("megatron_core", "megatron_core_float8", "megatron_core_clamped"),
        ("product", "core", "vector", "inner", "outer", "overlap", "narrow", "exchange", "grouped", "fusion"),
        fixed=MIXTURES,
        only={"narrow": ("megatron_core_float8",), "fusion": ("megatron_core_clamped",)},
        like={"megatron_core_float8": "megatron_core", "megatron_core_clamped": "megatron_core"},
        priors={"product": (0.74, 0.05), "overlap": (0.5, 0.3), "fusion": (0.5, 0.5), "narrow": (1.8, 0.1), **QUICK},
    ),
    Group(
        "megatron_core_gb200",
        ("gb200",),
        (
            "megatron_core",
            "megatron_core_float8",
            "megatron_core_float4",
            "megatron_core_graphs",
            "megatron_core_float8_graphs",
            "megatron_core_float4_graphs",
            "megatron_core_clamped",
        ),
        ("product", "core", "vector", "inner", "overlap", "narrow", "exchange", "grouped", "fusion"),
        own={"megatron_core_float4": ("narrow",), "megatron_core_float8_graphs": ("exchange",)},
        fixed=MIXTURES,
        settled={
            "megatron_core_graphs": GRAPH,
            "megatron_core_float8_graphs": GRAPH,
            "megatron_core_float4_graphs": GRAPH,
        },
        shared={
            "megatron_core_float4_graphs": {
                "narrow": "megatron_core_float4",
                "exchange": "megatron_core_float8_graphs",
            },
        },
        only={
            "narrow": ("megatron_core_float8", "megatron_core_float8_graphs"),
            "grouped": ("megatron_core", "megatron_core_float8", "megatron_core_float4", "megatron_core_clamped"),
            "fusion": ("megatron_core_clamped",),
        },
        like={
            "megatron_core_float8": "megatron_core",
            "megatron_core_float4": "megatron_core",
            "megatron_core_graphs": "megatron_core",
            "megatron_core_float8_graphs": "megatron_core_graphs",
            "megatron_core_float4_graphs": "megatron_core_float8_graphs",
            "megatron_core_clamped": "megatron_core",
        },
        priors={"product": (0.67, 0.07), "overlap": (0.5, 0.3), "fusion": (0.5, 0.5), **QUICK},
    ),
    # --- XLA ---
    Group(
        "pax_a100",
        ("a100_80",),
        ("pax",),
        ("product", "core", "vector", "inner", "outer", "fixed", "ahead"),
        fixed=FUSED,
    ),
    Group(
        "pax_h100",
        ("h100",),
        ("pax", "pax_float8"),
        ("product", "core", "vector", "inner", "outer", "fixed", "ahead"),
        own={"pax_float8": ("narrow",)},
        like={"pax_float8": "pax"},
        fixed=FUSED,
        priors=QUICK,
    ),
    Group(
        "maxtext_v4",
        ("tpu_v4",),
        ("maxtext",),
        ("product", "ramp", "vector", "core", "outer", "ahead"),
        fixed=XLA,
        launch=2e-6,
    ),
    Group(
        "maxtext_v5e",
        ("tpu_v5e",),
        ("maxtext",),
        ("product", "ramp", "vector", "core", "inner", "outer", "ahead"),
        fixed=XLA,
        launch=2e-6,
    ),
    Group(
        "maxtext_v5p",
        ("tpu_v5p",),
        ("maxtext",),
        ("product", "ramp", "vector", "core", "inner", "outer", "overlap", "ahead"),
        fixed=XLA,
        launch=2e-6,
    ),
    # --- Ascend ---
    Group(
        "modellink",
        ("ascend910b",),
        ("modellink",),
        ("product", "ramp", "vector", "core", "fusion", "inner", "overlap"),
        fixed={**WIDE, **SENDS, **BUCKETS, **AGAIN},
        priors={"overlap": (0.5, 0.3)},  # MC2 is on in its scripts
        launch=5e-6,
    ),
    Group(
        "mindformers",
        ("ascend910b",),
        ("mindformers",),
        ("product", "ramp", "vector", "core", "fusion", "inner"),
        fixed=FUSED,
        launch=5e-6,
    ),
    # --- devices with software that is not named above: all of a kind together, families counting alike ---
    # A row has the numbers of its kin (`software.kin`): of a fast kernel of attention, or of Megatron's plans.
    Group(
        "a100",
        ("a100_80", "a100_40"),
        ("general", "fast_attention", "megatron"),
        (*GENERAL, "fusion", "ahead"),
        own={"fast_attention": ("core",), "megatron": ("overlap",)},
        shared={"megatron": {"core": "fast_attention"}},
        only={"core": ("general",)},
        settled={"megatron": AGAIN},
        like={"fast_attention": "general", "megatron": "fast_attention"},
        fixed={**FUSED, **SENDS, **RING},
        priors={"core": (0.4, 0.2), "fast_attention core": (0.55, 0.2), "megatron overlap": (0.4, 0.3)},
        families=("llmfoundry", "torchtitan", "pax"),
    ),
    Group(
        "a100_unfused",
        ("a100_80", "a100_40"),
        ("unfused", "unfused_deepspeed"),
        UNFUSED,
        own={"unfused_deepspeed": ("inner_half", "fixed")},
        like={"unfused_deepspeed": "unfused"},
        fixed=MEGATRON,
        priors=LATE,
        families=("megatron_sc21", "korthikanti", "megatron_readme", "megatron2020", "vtrain_multi", "bloom"),
    ),
    Group("v100", ("v100",), ("general",), FEW, families=("megatron2020",), **NVLINK2),
    Group(
        "h100",
        ("h100", "h100_hbm2e", "h200"),
        ("general", "fast_attention", "megatron", "float8", "fast_attention_float8", "megatron_float8"),
        ("product", "ramp", "vector", "core", "inner", "outer", "fusion", "ahead"),
        own={"fast_attention": ("core",), "megatron": ("overlap",), "float8": ("narrow",)},
        shared={
            "megatron": {"core": "fast_attention"},
            "fast_attention_float8": {"core": "fast_attention", "narrow": "float8"},
            "megatron_float8": {"core": "fast_attention", "overlap": "megatron", "narrow": "float8"},
        },
        only={"core": ("general", "float8")},
        settled=dict.fromkeys(("megatron", "megatron_float8"), AGAIN),
        like={
            "fast_attention": "general",
            "megatron": "fast_attention",
            "float8": "general",
            "fast_attention_float8": "fast_attention",
            "megatron_float8": "megatron",
        },
        fixed={**FUSED, **SENDS, **RING},
        priors={
            "core": (0.25, 0.2),
            "fast_attention core": (0.6, 0.2),
            "megatron overlap": (0.5, 0.3),
            "inner": (0.8, 0.1),
            "outer": (0.8, 0.2),
            "narrow": (1.8, 0.1),
        },
        families=("llmfoundry", "torchtitan", "pax", "megatron_bridge", "mcore"),
    ),
    Group(
        "b200",
        ("gb200",),
        ("general", "fast_attention", "megatron", *NARROWER),
        ("product", "vector", "inner", "outer"),
        own={
            "fast_attention": ("core",),
            "megatron": ("overlap",),
            "megatron_float8": ("narrow",),
            "megatron_float4": ("narrow",),
        },
        shared={
            "megatron": {"core": "fast_attention"},
            "megatron_float8": {"core": "fast_attention", "overlap": "megatron"},
            "megatron_float4": {"core": "fast_attention", "overlap": "megatron"},
            "fast_attention_float8": {"core": "fast_attention", "narrow": "megatron_float8"},
            "fast_attention_float4": {"core": "fast_attention", "narrow": "megatron_float4"},
            "float8": {"narrow": "megatron_float8"},
            "float4": {"narrow": "megatron_float4"},
        },
        settled={
            **{name: {"core": 0.25} for name in ("general", "float8", "float4")},
            **dict.fromkeys(("megatron", "megatron_float8", "megatron_float4"), AGAIN),
        },
        like={
            "fast_attention": "general",
            "megatron": "fast_attention",
            **{f"{of}_{kind}": of for kind in ("float8", "float4") for of in ("megatron", "fast_attention")},
            **{kind: "general" for kind in ("float8", "float4")},
        },
        fixed={**FUSED, **SENDS, **RING},
        priors={"fast_attention core": (0.6, 0.2), "megatron overlap": (0.5, 0.3)},
        families=("megatron_bridge",),
        relatives=("b200",),
    ),
    *(
        Group(
            device,
            (device,),
            ("general",),
            ("product", "ramp", "vector", "core", "inner", "outer", "ahead"),
            fixed=XLA,
            families=("maxtext",),
            launch=2e-6,
        )
        for device in ("tpu_v4", "tpu_v5e", "tpu_v5p")
    ),
    Group(
        "ascend910b",
        ("ascend910b",),
        ("general", "megatron"),
        ("product", "ramp", "vector", "core", "fusion", "inner"),
        own={"megatron": ("overlap",)},
        settled={"megatron": {**SENDS, **AGAIN}},
        like={"megatron": "general"},
        fixed=FUSED,
        priors={"megatron overlap": (0.5, 0.3)},
        families=("ascend",),
        launch=5e-6,
    ),
)
"""The order is that of the table in docs/validation.md."""
