"""The software of a published row: what is known of it, and whose numbers hold where nobody has fitted it.

A row of which the software is not known takes the numbers of its kin: by the year, whether attention is fused and by
which kernel, whether weights are sharded, and whose pipeline it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.published import mixture, words
from benchmarks.published.accelerators import SHEETS, accelerator, narrow
from benchmarks.published.facts import Row

T = TypeVar("T")

ALL = frozenset(("tp", "pp", "cp", "sp", "ep"))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of software without any number. year: of what was measured; kernel: of attention, "" where it is
    not fused; zero: the highest stage that it has; splits: axes that it has besides data; pipeline: whose it is."""

    year: int
    kernel: str
    zero: int
    splits: frozenset[str]
    pipeline: str = ""


KNOWN: Mapping[str, Known] = {
    "megatron_2020": Known(2020, "", 0, frozenset(("tp",)), "megatron"),
    "megatron_2021": Known(2021, "", 0, frozenset(("tp", "pp")), "megatron"),
    "megatron_2022": Known(2022, "", 1, frozenset(("tp", "pp", "sp")), "megatron"),
    "vtrain": Known(2022, "", 1, frozenset(("tp", "pp")), "deepspeed"),
    "bloom": Known(2022, "", 1, frozenset(("tp", "pp")), "deepspeed"),
    "dle": Known(2021, "fmha", 0, frozenset()),  # sequences without padding, which only its fused kernel takes
    "composer": Known(2023, "triton", 3, frozenset()),
    "torchtitan": Known(2024, "sdpa", 3, ALL, "pytorch"),
    "pax": Known(2023, "te", 3, ALL, "xla"),
    "maxtext": Known(2023, "pallas", 3, ALL, "xla"),
    "megatron_core": Known(2025, "te", 3, ALL, "megatron"),
    "modellink": Known(2024, "npu", 1, ALL, "megatron"),
    "mindformers": Known(2023, "npu", 3, ALL, "mindspore"),
}
"""From papers and code. A row whose strategy its software did not have ran something else."""

STACKS = {
    "megatron_sc21": "megatron_2021",
    "korthikanti": "megatron_2022",
    "megatron_readme": "megatron_2021",
    "megatron2020": "megatron_2020",
    "megatron_bridge": "megatron_core",
    "mcore": "megatron_core",
    "vtrain": "vtrain",
    "bloom": "bloom",
    "llmfoundry": "composer",
    "torchtitan": "torchtitan",
    "maxtext": "maxtext",
    "pax": "pax",
    "bert_dle": "dle",
    "ascend_modellink": "modellink",
    "ascend_mindformers": "mindformers",
}
"""The software, by the beginning of `family`."""

SOURCES = (
    ("torchtitan", "torchtitan"),
    ("maxtext", "maxtext"),
    ("llm.?foundry|mosaic|composer", "composer"),
    ("bigscience", "bloom"),
    ("vtrain", "vtrain"),
    ("sc21", "megatron_2021"),
    ("activation recomp", "megatron_2022"),
    ("megatron.?(bridge|core)|mcore|nemo", "megatron_core"),
    ("mindformers", "mindformers"),
    ("modellink|mindspeed", "modellink"),
    ("pax|jax.?toolbox", "pax"),
    ("te fused|transformer.?engine", "megatron_core"),
)
"""The same by words of `family`, `source` or `attn`, where the beginning of the family says nothing."""

FUSED_SINCE = 2022
"""The year since which attention is one kernel, where nothing is said (FlashAttention: May 2022)."""

KERNELS = (
    (r"flash\w*[ -]?(attn|attention)?[ -]?v?3\b|\bfa-?3\b", "flash3"),
    (r"cudnn", "cudnn"),
    (r"\bte\b|transformer.?engine", "te"),
    (r"flash\w*[ -]?(attn|attention)?[ -]?v?2\b|\bfa-?2\b", "flash2"),
    (r"sdpa", "sdpa"),
    (r"triton|flash|xformers|mem.?eff", "triton"),
)
"""Kernels of attention by words of `attn`, the first that is found. `flash` alone is the first of them."""

FAST = {"a100": ("flash2", "sdpa", "te", "cudnn", "flash3"), "h100": ("flash3", "te", "cudnn")}
FAST["b200"] = FAST["h100"]
"""By generation of devices, kernels that reach as much as any."""

CORES = {"a100": (0.4, 0.55), "h100": (0.25, 0.6), "b200": (0.25, 0.6)}
"""`core` with other kernels, and with those: what is plausible before anything is fitted (A100: Triton, and
FlashAttention 2; Hopper: SDPA, and Transformer Engine or cuDNN; Blackwell: Transformer Engine)."""

GRAPHS = (26, 6)
"""The release of Megatron-Bridge since which layers with experts run as CUDA graphs (the host does not wait for the
numbers of positions), and experts within bounds have one kernel for what is between their products."""


def by_prefix(table: Mapping[str, T], name: str) -> T | None:
    """The value of the longest key that `name` starts with."""
    found = [key for key in table if name.startswith(key)]
    return table[max(found, key=len)] if found else None


def stage(row: Row) -> int:
    """ZeRO's: what is split over shards of its own is split entirely, where the row does not say what."""
    said = words.stage(row["zero_stage"])
    return 3 if said == 0 and row.whole("fsdp_shards") > 1 else said


def base(row: Row) -> str:
    """The software, without its variants; empty if it is not known, or if it did not have what the row says."""
    said = f"{row.family} {row['source']} {row['attn']}".lower()
    name = by_prefix(STACKS, row.family) or next((of for found, of in SOURCES if re.search(found, said)), "")
    return name if name and _has(KNOWN[name], row) else ""


def _has(of: Known, row: Row) -> bool:
    used = {axis for axis in ("tp", "pp", "cp", "ep") if row.whole(axis) > 1} | ({"sp"} if row.yes("sp") else set())
    return stage(row) <= of.zero and used <= of.splits


def year(row: Row) -> int | None:
    """When a row was measured, as far as it says so: the column `year`, else a year in what it says of its source; a
    model of LLaMA's kind, or with experts that are not one in all, is of 2023 at least."""
    if row["year"]:
        return row.whole("year")
    said = " ".join((row["notes"], row["source"], row.family))
    found = [int(n) for n in re.findall(r"(?<!\d)(20(?:1[7-9]|2\d))(?=\D|(?:0[1-9]|1[0-2])(?!\d)|$)", said)]
    modern = row.gated or row.number("kv_heads", row.number("heads")) < row.number("heads")
    return max([*found, 2023] if modern else found, default=None)


def fused(row: Row) -> bool:
    """Whether attention is one kernel: as the row says, else as its software had it, else by the year, of the row or of
    its accelerator."""
    if row["attn"]:
        return not row["attn"].lower().startswith("unfused")
    if of := base(row):
        return bool(KNOWN[of].kernel) and not accelerator(row).startswith("V100")
    if pipeline(row) == "deepspeed":
        return False
    of_device = SHEETS[accelerator(row)].year if accelerator(row) in SHEETS else FUSED_SINCE
    return (year(row) or of_device) >= FUSED_SINCE


def pipeline(row: Row) -> str:
    """Whose pipeline it is, known or not: `megatron`, `deepspeed`, others, or nothing."""
    if of := base(row):
        return KNOWN[of].pipeline
    said = f"{row.family} {row['source']} {row['notes']}".lower()
    if "deepspeed" in said:
        return "deepspeed"
    if re.search(r"megatron|nemo", said):
        return "megatron"
    # Who splits layers, and keeps weights whole, has a plan of Megatron's kind.
    return "megatron" if stage(row) < 3 and (row.whole("tp") > 1 or row.whole("pp") > 1) else ""


def kernel(row: Row) -> str:
    """Of attention, as the row says, or as its software has it; "" where that is not known, or it is not fused."""
    if not fused(row):
        return ""
    said = f"{row['attn']} {row['precision']}".lower()
    found = next((name for pattern, name in KERNELS if re.search(pattern, said)), "")
    if found or row["attn"]:
        return found
    return KNOWN[of].kernel if (of := base(row)) else "te" if pipeline(row) == "megatron" else ""


def generation(device: str) -> str:
    """Of a device of the library: `a100`, `h100`, `b200`, or nothing."""
    kinds = (("a100", "a100"), ("h100", "h100"), ("h200", "h100"), ("b200", "b200"), ("gb200", "b200"))
    return next((found for name, found in kinds if device.startswith(name)), "")


def fast(kernel: str, device: str) -> bool | None:
    """Whether a kernel of attention is one of the fast ones there; None where that is not known."""
    of = generation(device)
    return kernel in FAST[of] if of and kernel in {name for _, name in KERNELS} else None


def kin(row: Row, device: str) -> list[str]:
    """Names of stacks that stand for software like a row's, the nearest first; the last is a device's general one."""
    if not fused(row):
        return ["unfused_deepspeed", "unfused"] if pipeline(row) == "deepspeed" else ["unfused"]
    found = ["megatron"] if pipeline(row) == "megatron" and stage(row) < 3 else []
    return [*found, *(["fast_attention"] if found or fast(kernel(row), device) else []), ""]


def software(row: Row, device: str = "") -> list[str]:
    """Names of stacks that would hold for a row on a device, the most special first: what the row says of compilation,
    of messages that are hidden in products, of mended hosts and of narrow types are stacks of their own, and so are
    Megatron-Core's experts of its later releases, and those with bounds. Last stands its kin."""
    of = base(row)
    return [*(_variants(row, of) if of else []), *relatives(row, device)]


def relatives(row: Row, device: str) -> list[str]:
    """As if its software were not known."""
    near = kin(row, device)
    if narrow(row) == 1:
        return near
    kinds = ["float4", "float8"] if narrow(row) == 4 else ["float8"]
    said = f"{row['precision']} {row['notes']}".lower()
    kinds = ["float8_rowwise", *kinds] if "rowwise" in said else kinds
    # where nothing is known of the software in these types, `machines.device` adds the factor in general
    return [f"{name}_{kind}" if name else kind for name in near for kind in kinds] + near


def _variants(row: Row, of: str) -> list[str]:
    said = f"{row['precision']} {row['notes']}".lower()
    variants = []
    if narrow(row) > 1:
        variants.append("float4" if narrow(row) == 4 else "float8_rowwise" if "rowwise" in said else "float8")
    release = re.search(r"\b(2\d)\.(\d\d)", row["source"])  # NeMo's: 26.06 and so on
    new = release is not None and (int(release[1]), int(release[2])) >= GRAPHS
    if of == "megatron_core" and mixture.mixed(row) and (new or mixture.clamped(row)):
        variants.append("graphs" if new else "clamped")
    if re.search(r"async ?tp", said):
        variants.append("async")
    if "eager" in said and "compile" not in said:
        variants.append("eager")
    if "pure" in said:
        variants.append("pure")
    if "numa fix" in said:
        variants.append("numa")
    names = ["_".join([of, *variants]), *(f"{of}_{v}" for v in variants)]
    if narrow(row) > 1:
        names += [f"{of}_float8", of, *(v for v in variants if v.startswith("float")), "float8"]
    return [*names, of]
