"""A published row as a job in the language: `python -m benchmarks.published.generate ROW_ID` prints it.

The sources say more or less; what is assumed where they are silent stands here and in README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TypeVar

from benchmarks.published.facts import SINGLE_NODE, Row, load

T = TypeVar("T")

DEVICES = {
    "A100-80GB-SXM": "a100_80",
    "A100-40GB-SXM": "a100_40",
    "A100-SXM(mem not stated)": "a100_80",
    "H100-80GB-SXM": "h100",
    "TPU v4": "tpu_v4",
    "V100-32GB(DGX-2)": "v100",
    "H100-96GB-HBM2e-500W(Grand Teton)": "h100_hbm2e",
    "H200-141GB-SXM": "h200",
    "TPU v5e": "tpu_v5e",
    "TPU v5p": "tpu_v5p",
    "Ascend 910B (Atlas 900 A2 PODc)": "ascend910b",
    "Ascend 910B (Atlas 800T A2)": "ascend910b",
}
"""Devices of the standard library; all others are written out from what the row says."""

STACKS = {
    "megatron_sc21": "megatron_2021",
    "korthikanti": "megatron_2022",
    "megatron_readme": "megatron_2022",
    "megatron2020": "megatron_2020",
    "vtrain": "vtrain",
    "bloom": "bloom",
    "llmfoundry": "composer",
    "torchtitan": "torchtitan",
    "maxtext": "maxtext",
    "ascend_modellink": "modellink",
    "ascend_mindformers": "mindformers",
}
"""The software, whose efficiencies the device states, by the beginning of `family`."""

CORES = {"V100": 80, "H100": 132, "H200": 132, "TPU": 2}
LINKS = {"ICI 3D torus": 300.0, "ICI 2D": 180.0, "ICI 3D torus 90": 540.0, "HCCS": 392.0}
"""GB/s per device and direction, all links together, where the row has no number: by the beginning of `intra_link`."""

NETWORKS = {"A100": 25.0, "H100": 50.0, "TPU": 3.125, "Ascend": 25.0, "V100": 12.5}
"""GB/s per device between nodes where the row does not say: by the beginning of `accel`."""

PRECISIONS = {"fp16": "f16", "fp16 (recalled)": "f16", "bf16": "bf16", "amp_bf16 DEFAULT": "bf16", "bf16 PURE": "bf16"}
PRECISIONS |= {"bf16 eager": "bf16", "bf16 compile": "bf16", "bf16 eager/compile": "bf16"}
PRECISIONS |= {"bf16, fp32 weights": "bf16", "fp16/bf16": "bf16", "fp16 per card/bf16 in yaml": "bf16"}

FULL = {"full", "full (default)"}
NONE = {"none", "none in script", "none (script)", "not stated", "not stated in table"}
PRODUCTS = {"selective(op)", "selective (toml default)", "minimal"}
"""Only products of matrices are kept."""

CORE = ("q", "key", "value", "mixed", "out")
"""What attention keeps where its core (scores, softmax) is made again: that is what a fused attention does as well."""


class Unsupported(Exception):
    """The language, or this script, has no words for a row; the text says for what."""


def dialect(row: Row) -> str:
    """`gpt` (learned positions, biases, tied head) or `llama` (rotary, gated, no biases, a head of its own)."""
    return "llama" if row["glu"] == "1" else "gpt"


def degrees(row: Row) -> dict[str, int]:
    """The mesh, major to minor; `rep` are replicas of a group that shards its weights."""
    dp, tp, pp, cp = (row.whole(axis) for axis in ("dp", "tp", "pp", "cp"))
    shards = row.whole("fsdp_shards") if row["zero_stage"] == "3" else 1
    devices = row.whole("n_dev")
    if dp * tp * pp * cp == devices:
        if shards > 1 and shards not in (dp, dp * cp):
            if dp % shards:
                raise Unsupported(f"{shards} shards of {dp} replicas")
            return {"pp": pp, "rep": dp // shards, "dp": shards, "cp": cp, "tp": tp}
        return {"pp": pp, "rep": 1, "dp": dp, "cp": cp, "tp": tp}
    if dp * shards * tp * pp * cp == devices:
        return {"pp": pp, "rep": dp, "dp": shards, "cp": cp, "tp": tp}
    raise Unsupported(f"the degrees are not those of {devices} devices")


def microbatches(row: Row) -> int:
    """Micro-batches of a step and replica."""
    mesh = degrees(row)
    together = row.whole("mbs") * mesh["rep"] * mesh["dp"]
    if row.whole("gbs") % together:
        raise Unsupported(f"a batch of {row['gbs']} is not made of micro-batches of {together}")
    return row.whole("gbs") // together


def vocabulary(row: Row) -> int:
    """Padded to a multiple of 128 per tensor-parallel device, as Megatron does, where there are several."""
    unit = 128 * row.whole("tp")
    return -(-row.whole("vocab") // unit) * unit if row.whole("tp") > 1 else row.whole("vocab")


def by_prefix(table: Mapping[str, T], name: str) -> T | None:
    """The value of the longest key that `name` starts with."""
    found = [key for key in table if name.startswith(key)]
    return table[max(found, key=len)] if found else None


def _device(row: Row) -> tuple[str, str]:
    """The device's name, and its definition if the standard library has none."""
    name = DEVICES.get(row["accel"])
    if name:
        return name, ""
    if not (row["peak_tflops"] and row["mem_GB"] and row["mem_bw_GBps"]):
        raise Unsupported(f"peak or memory of {row['accel']} are not stated")
    peak = row.number("peak_tflops")
    lines = [f"  compute {kind} {peak:g} TFLOP/s" for kind in ("f16", "bf16")]
    lines += [f"  compute {kind} {peak / 16:g} TFLOP/s" for kind in ("f32", "f64")]
    lines += [f"  memory {row.number('mem_GB'):g} GB, {row.number('mem_bw_GBps'):g} GB/s", "  launch 4 us"]
    cores = by_prefix({k: float(v) for k, v in CORES.items()}, row["accel"])
    lines += [f"  cores {cores or 100:g}", "  tile 128, 128, 128" if "TPU" in row["accel"] else "  tile 128, 256, 64"]
    return "measured", "\n".join(["device measured {", *lines, "}", "", ""])


def _cluster(row: Row, device: str) -> str:
    devices, per_node = row.whole("n_dev"), row.whole("dev_per_node", 8)
    inside = min(devices, per_node)
    if devices % inside:
        raise Unsupported(f"{devices} devices are not whole nodes of {per_node}")
    intra = row.number("intra_GBps_dir_per_dev") or by_prefix(LINKS, row["intra_link"])
    inter = row.number("inter_Gbps_per_node") / 8 / per_node or by_prefix(NETWORKS, row["accel"])
    if not intra or not inter:
        raise Unsupported("links are not stated")
    stack = by_prefix(STACKS, row.family)
    return (
        "cluster pod {\n"
        f"  device npu = {device}\n"
        f"  level server = {inside} npu over {intra:g} GB/s, 1 us\n"
        f"  level pod = {devices // inside} server over {inter:g} GB/s, 5 us\n"
        + (f"  stack {stack}\n" if stack else "")
        + "}\n"
    )


def _attention(row: Row) -> str:
    grouped = dialect(row) == "llama" or row["kv_heads"] != row["heads"]
    heads, size = row.whole("heads"), row.whole("head_dim", 0)
    wide = f", size = {size}" if size and size * heads != row.whole("hidden") else ""
    if not grouped:
        if wide:
            raise Unsupported("heads that are not hidden // heads wide, without grouped queries")
        return f"attention({{}}, {heads})"
    return f"grouped_attention({{}}, {heads}, {row.whole('kv_heads', heads)}{wide})"


def _model(row: Row) -> str:
    norm = "rms_norm" if dialect(row) == "llama" else "layer_norm"
    mlp = "swiglu" if dialect(row) == "llama" else "mlp"
    attend = _attention(row).format(f"{norm}(x)")
    lines = [
        "model gpt {",
        f"  dim b = {row['gbs']}, s = {row['seq_len']}, d = {row['hidden']}, v = {vocabulary(row)}",
        "  input tokens, targets : int32[b,s] in 0..v",
    ]
    if dialect(row) == "llama":
        lines.append("  x = embedding(tokens, over v, over d)")
        head = f"linear({norm}(x), over v, bias = false) as head"
    else:
        lines += [
            "  weight wte[v,d] ~ normal(0.02)",
            "  weight wpe[s,d] ~ normal(0.01)",
            "  x[b,s,d] = take(wte, tokens, over v) + wpe",
        ]
        head = f"{norm}(x) @ wte"
    lines += [
        f"  repeat {row['layers']} as block {{",
        f"    x = x + {attend}",
        f"    x = x + {mlp}({norm}(x), {row['ffn']})",
        "  }",
        f"  logits[b,s,v] = {head}",
        "  loss cross_entropy(logits, targets, over v)",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _uses(row: Row, device: str) -> str:
    gated = dialect(row) == "llama"
    names = {"cross_entropy", "rms_norm" if gated else "layer_norm", "swiglu" if gated else "mlp"}
    names |= {_attention(row).partition("(")[0]} | ({"embedding", "linear"} if gated else set())
    known = f"use std.devices ({device})\n" if device != "measured" else ""
    optimizer = "lamb" if row["optimizer"] == "LAMB" else "adam"
    return f"{known}use std.layers ({', '.join(sorted(names))})\nuse std.optimizers ({optimizer})\n\n"


def _recompute(row: Row) -> list[str]:
    """What the backward pass makes again."""
    scope = _attention(row).partition("(")[0]
    core = [f"block.{scope}.{name}" for name in CORE]
    kind = row["recompute"]
    if kind in FULL:
        return ["  recompute block"]
    if kind in PRODUCTS:
        kept = ["block.swiglu.a", "block.swiglu.u"] if dialect(row) == "llama" else ["block.mlp.u"]
        return [f"  recompute block keep {', '.join(core + kept)}"]
    if kind == "selective" or (kind in NONE and row["attn"] not in ("", "unfused")):
        return [f"  recompute block.{scope} keep {', '.join(core)}"]
    if kind in NONE:
        return []
    raise Unsupported(f"recompute {kind}")


def _strategy(row: Row) -> str:
    mesh, count = degrees(row), microbatches(row)
    axes = {axis: size for axis, size in mesh.items() if size > 1} or {"dp": 1}
    lines = ["strategy published for gpt {"]
    lines.append(f"  mesh ({', '.join(f'{axis} = {size}' for axis, size in axes.items())})")
    lines += [f"  split b on {axis}" for axis in ("rep", "dp") if axis in axes]
    if "cp" in axes:
        lines.append("  split s on cp for activations")
    if "tp" in axes:
        lines.append(f"  split h, f, v{', s' if row['sp'] == '1' else ''} on tp")
    classes = {1: "optimizer", 2: "optimizer, gradients", 3: "optimizer, gradients, weights"}.get(
        row.whole("zero_stage", 0)
    )
    if classes:
        over_cp = row.whole("fsdp_shards") == mesh["dp"] * mesh["cp"]
        lines += [f"  shard {classes} on {a}" for a in ("dp", "cp") if a in axes and (a == "dp" or over_cp)]
    lines += _recompute(row)
    if mesh["pp"] > 1:
        chunks = row.whole("vpp")
        extra = f", chunks = {chunks}" if chunks > 1 else ""
        kind = "interleaved" if chunks > 1 else "one_f_one_b"
        lines.append(f"  pipeline block on pp, schedule {kind}(microbatches = {count}, over = b{extra})")
    elif count > 1:
        lines.append(f"  microbatches {count} over b")
    return "\n".join([*lines, "}"]) + "\n"


def job(row: Row) -> str:
    """The text of a `.par` file with one job; raises `Unsupported`."""
    if row["arch"] != "dense" or row["experts"]:
        raise Unsupported(f"a model of the kind {row['arch']}")
    if row["precision"] not in PRECISIONS:
        raise Unsupported(f"precision {row['precision']}")
    device, defined = _device(row)
    compute = PRECISIONS[row["precision"]]
    scale = ", loss_scale 1024" if compute == "f16" else ""
    optimizer = "lamb" if row["optimizer"] == "LAMB" else "adam"
    return (
        f"# {row['row_id']}: {row['model']} on {row['n_dev']} {row['accel']}\n\n"
        + _uses(row, device)
        + defined
        + f"{_model(row)}\n{_cluster(row, device)}\n{_strategy(row)}\n"
        + "job step {\n"
        "  train gpt on pod using published\n"
        f"  optimizer {optimizer}(lr = 1e-4, clip = 1.0)\n"
        f"  precision {compute}, master f32{scale}\n"
        "}\n"
    )


def main(names: list[str]) -> int:
    rows = {str(row): row for row in (*load(), *load(SINGLE_NODE))}
    for name in names:
        if name not in rows:
            print(f"no row {name}", file=sys.stderr)
            return 2
        print(job(rows[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
