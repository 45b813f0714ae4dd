"""The devices, links and software of published rows: what they say, and what is assumed where they are silent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from benchmarks.published.facts import Row, Unsupported
from dsl.parser import parse

T = TypeVar("T")

DEVICES = {
    "A100-80GB": "a100_80",
    "A100-40GB": "a100_40",
    "A100": "a100_80",
    "H100-96GB-HBM2e": "h100_hbm2e",
    "H100": "h100",
    "H200": "h200",
    "B200": "b200",
    "GB200": "gb200",
    "V100": "v100",
    "TPU v4": "tpu_v4",
    "TPU v5e": "tpu_v5e",
    "TPU v5p": "tpu_v5p",
    "Ascend 910B": "ascend910b",
}
"""Devices of the standard library, by the beginning of `accel`."""

RELATIVES = {
    "A": "a100_80",
    "H": "h100",
    "B": "b200",
    "GB": "gb200",
    "GH": "h200",
    "MI": "h100",
    "V": "v100",
    "T4": "v100",
    "TPU": "tpu_v4",
    "TPU v5e": "tpu_v5e",
    "TPU v5p": "tpu_v5p",
    "TPU v6": "tpu_v5e",
    "Trainium": "tpu_v4",
    "Ascend": "ascend910b",
}
"""Of a device that is written out from what its row says: that whose efficiencies, cores and tiles it takes."""

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

UNFUSED = {"megatron_2020", "megatron_2021", "megatron_2022", "vtrain", "bloom"}
"""Software from before fused attention."""

LINKS = {"ICI 3D torus": 300.0, "ICI 2D": 180.0, "ICI 3D torus 90": 540.0, "HCCS": 392.0, "NVLink2": 150.0}
LINKS |= {"NVLink3": 300.0, "NVLink4": 450.0, "NVLink5": 900.0}
LINKS |= {"A100": 300.0, "A800": 200.0, "H": 450.0, "H800": 200.0, "GH": 450.0, "B": 900.0, "GB": 900.0, "V100": 150.0}
"""GB/s per device and direction, all links together, where the row has no number: by the beginning of `intra_link`, or
of `accel` (data sheets)."""

NETWORKS = {"A": 25.0, "H": 50.0, "GH": 50.0, "B": 50.0, "GB": 50.0, "V100": 12.5}
NETWORKS |= {"TPU": 6.25, "TPU v5e": 3.125, "TPU v6": 12.5, "Ascend": 25.0, "Trainium": 3.125}
"""GB/s per device between nodes where the row does not say (TPU: between slices; 50 Gbit/s per chip, v5e 25, v6e 100,
says the cloud's documentation): by the beginning of `accel`."""

NARROW = ("fp8", "float8", "mxfp8", "nvfp4")
"""Words for products in fewer than 16 bits."""


def by_prefix(table: Mapping[str, T], name: str) -> T | None:
    """The value of the longest key that `name` starts with."""
    found = [key for key in table if name.startswith(key)]
    return table[max(found, key=len)] if found else None


@cache
def library() -> Mapping[str, tuple[tuple[tuple[str, ...], str], ...]]:
    """Of each device of the standard library: the words before each setting's numbers, and the setting as written."""
    path = Path(__file__).resolve().parents[2] / "dsl" / "std" / "devices.par"
    text = path.read_text(encoding="utf-8")
    found = {}
    for item in parse(text, path.name).items:
        if hasattr(item, "body") and hasattr(item, "name"):
            settings = []
            for s in item.body:
                words = (s.keyword.id, *(w.id for w in s.words))
                settings.append((words, text[s.span.start : s.span.end].strip()))
            found[item.name.id] = tuple(settings)
    return found


def stacks(device: str) -> set[str]:
    """The software for which a device of the standard library states what it reaches."""
    return {words[1] for words, _ in library().get(device, ()) if words[0] == "efficiency" and len(words) == 3}


def fused(row: Row) -> bool:
    """Whether attention is one kernel: as the row says, else as its software had it."""
    if row["attn"]:
        return not row["attn"].lower().startswith("unfused")
    return by_prefix(STACKS, row.family) not in UNFUSED


def narrow(row: Row) -> bool:
    """Whether products with weights are in fewer than 16 bits."""
    return any(word in row["precision"].lower() for word in NARROW)


def software(row: Row) -> list[str]:
    """Names of stacks that would hold for a row, the most special first: what the row says of compilation, of messages
    that are hidden in products, and of narrow types are stacks of their own."""
    base = by_prefix(STACKS, row.family) or ""
    said = f"{row['precision']} {row['notes']}".lower()
    variants = []
    if narrow(row):
        variants.append("float4" if "fp4" in said else "float8_rowwise" if "rowwise" in said else "float8")
    if re.search(r"async ?tp", said):
        variants.append("async")
    if "eager" in said and "compile" not in said:
        variants.append("eager")
    if "pure" in said:
        variants.append("pure")
    names = ["_".join([base, *variants]), *(f"{base}_{v}" for v in variants)] if base else []
    names += [v for v in variants if v.startswith("float")]
    if narrow(row):
        names += [f"{base}_float8", "float8"] if base else ["float8"]
    return [*names, base] if base else [*names, "" if fused(row) else "unfused"]


def stack(row: Row, device: str) -> str:
    """The first of those that the device states. Empty: its general efficiencies hold."""
    stated = stacks(device)
    return next((name for name in software(row) if name in stated), "")


def device(row: Row) -> tuple[str, str]:
    """The device's name, and its definition if the standard library has none."""
    name = by_prefix(DEVICES, row["accel"])
    if name:
        return name, ""
    if not (row["peak_tflops"] and row["mem_GB"]):
        raise Unsupported(f"peak or memory of {row['accel'] or 'the device'} are not stated")
    relative = by_prefix(RELATIVES, row["accel"]) or "h100"
    like = library()[relative]
    peak = row.number("peak_tflops") / (1.0 if not narrow(row) else 4.0 if "fp4" in row["precision"] else 2.0)
    bandwidth = row.number("mem_bw_GBps") or 3000.0 * row.number("mem_GB") / 80  # as H100 has for its size
    lines = [f"compute {kind} {peak:g} TFLOP/s" for kind in ("f16", "bf16")]
    lines += [f"compute {kind} {peak / 16:g} TFLOP/s" for kind in ("f32", "f64")]
    lines.append(f"memory {row.number('mem_GB'):g} GB, {bandwidth:g} GB/s")
    lines += [text for words, text in like if words[0] in ("launch", "cores", "tile", "efficiency") and len(words) < 3]
    known = stack(row, relative)
    lines += [text for words, text in like if known and len(words) == 3 and words[1] == known]
    return "measured", "\n".join(["device measured {", *(f"  {line}" for line in lines), "}", "", ""])


def cluster(row: Row, name: str) -> str:
    """`name`: of the device."""
    devices, per_node = row.whole("n_dev"), row.whole("dev_per_node", 8)
    inside = min(devices, per_node)
    domain = re.search(r"NVL(\d+)", row["intra_link"])
    if domain:  # one domain of NVLink is larger than a node
        inside = max(n for n in range(1, int(domain[1]) + 1) if devices % n == 0)
    if devices % inside:
        raise Unsupported(f"{devices} devices are not whole nodes of {per_node}")
    intra = row.number("intra_GBps_dir_per_dev") or (
        by_prefix(LINKS, row["intra_link"]) or by_prefix(LINKS, row["accel"])
    )
    inter = row.number("inter_Gbps_per_node") / 8 / per_node or by_prefix(NETWORKS, row["accel"])
    intra, inter = intra or (1.0 if inside == 1 else None), inter or (1.0 if inside == devices else None)
    if not intra or not inter:
        raise Unsupported(f"links of {row['accel']} are not stated")
    known = stack(row, name if name != "measured" else by_prefix(RELATIVES, row["accel"]) or "h100")
    return (
        "cluster pod {\n"
        f"  device npu = {name}\n"
        f"  level server = {inside} npu over {intra:g} GB/s, 1 us\n"
        f"  level pod = {devices // inside} server over {inter:g} GB/s, 5 us\n"
        + (f"  stack {known}\n" if known else "")
        + "}\n"
    )
