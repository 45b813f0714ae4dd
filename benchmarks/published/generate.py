"""A published row as a job in the language: `python -m benchmarks.published.generate ROW_ID` prints it.

The sources say more or less; what is assumed where they are silent stands here and in README.md.
"""

from __future__ import annotations

import sys

from benchmarks.published import machines
from benchmarks.published.facts import SINGLE_NODE, Row, Unsupported, load
from benchmarks.published.machines import fused

PRECISIONS = {"fp16": "f16", "bf16": "bf16", "fp8": "bf16", "float8": "bf16", "mxfp8": "bf16", "nvfp4": "bf16"}
"""Types of the program by a word in `precision`. Narrower products are a matter of the stack: `machines.narrow`."""

PRODUCTS = {"selective(op)", "selective (toml default)", "minimal"}
"""Only products of matrices are kept; of TorchTitan's every second (parallelize_llama.py: "except every second mm")."""

PREDICTED = 0.15
"""Share of the positions that BERT predicts: 20 of 128, 76 of 512 (at most; NVIDIA/DeepLearningExamples)."""

WINDOWS = {"Mistral-7B": 4096}
"""How many positions a model looks back, by the beginning of its name (its own publication)."""

WHOLE = ("maxtext",)
"""Families that take a step's batch in one pass: what they call `mbs` is per device, however many share a replica."""

CORE = ("q", "key", "value", "mixed", "out")
"""What attention keeps where its core (scores, softmax) is made again: that is what a fused attention does as well."""


def dialect(row: Row) -> str:
    """`gpt` (learned positions, biases, tied head) or `llama` (rotary, gated, no biases, a head of its own)."""
    return "llama" if row["glu"] == "1" else "gpt"


def stage(row: Row) -> int:
    """ZeRO's: what is split over shards of its own is split entirely, where the row does not say what."""
    said = row.whole("zero_stage", 0)
    return 3 if said == 0 and row.whole("fsdp_shards") > 1 else said


def degrees(row: Row) -> dict[str, int]:
    """The mesh, major to minor; `rep` are replicas of a group that shards its weights."""
    dp, tp, pp, cp = (row.whole(axis) for axis in ("dp", "tp", "pp", "cp"))
    shards = row.whole("fsdp_shards") if stage(row) == 3 else 1
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
    if row.family.startswith(WHOLE):
        return 1
    together = row.whole("mbs") * mesh["rep"] * mesh["dp"]
    if row.whole("gbs") % together:
        raise Unsupported(f"a batch of {row['gbs']} is not made of micro-batches of {together}")
    return row.whole("gbs") // together


def vocabulary(row: Row) -> int:
    """Padded to a multiple of 128 per tensor-parallel device, as Megatron does, where there are several, or where it is
    none of 8: nobody lets the largest product be slow."""
    unit, words = 128 * row.whole("tp"), row.whole("vocab")
    return -(-words // unit) * unit if row.whole("tp") > 1 or words % 8 else words


def _attention(row: Row) -> str:
    grouped = dialect(row) == "llama" or (row["kv_heads"] or row["heads"]) != row["heads"]
    heads, size = row.whole("heads"), row.whole("head_dim", 0)
    wide = f", size = {size}" if size and size * heads != row.whole("hidden") else ""
    seen = ", causal = false" if row["arch"] == "encoder" else ""
    window = machines.by_prefix(WINDOWS, row["model"])
    if window and window < row.whole("seq_len"):
        seen += f", window = {window}"
        grouped = True
    if not grouped:
        if wide:
            raise Unsupported("heads that are not hidden // heads wide, without grouped queries")
        return f"attention({{}}, {heads}{seen})"
    return f"grouped_attention({{}}, {heads}, {row.whole('kv_heads', heads)}{wide}{seen})"


def _model(row: Row) -> str:
    norm = "rms_norm" if dialect(row) == "llama" else "layer_norm"
    mlp = "swiglu" if dialect(row) == "llama" else "mlp"
    attend = _attention(row).format(f"{norm}(x)")
    encoder = row["arch"] == "encoder"
    known = max(1, round(PREDICTED * row.whole("seq_len")))
    lines = [
        "model gpt {",
        f"  dim b = {row['gbs']}, s = {row['seq_len']}, d = {row['hidden']}, v = {vocabulary(row)}",
    ]
    if encoder:  # which positions are predicted is not drawn here: as many stand at the beginning
        lines += [f"  dim m = {known}, c = {row['hidden']}", "  weight transform[d,c] ~ normal(0.02)"]
        lines += ["  input tokens : int32[b,s] in 0..v", "  input targets : int32[b,m] in 0..v"]
    else:
        lines.append("  input tokens, targets : int32[b,s] in 0..v")
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
    ]
    if encoder:
        lines += [
            f"  found[b,m,c] = slice({norm}(x), s -> m, 0..{known}) @ transform",
            f"  logits[b,m,v] = {norm}(rename(gelu(found), c -> d)) @ wte",
        ]
    else:
        lines.append(f"  logits[b,s,v] = {head}")
    return "\n".join([*lines, "  loss cross_entropy(logits, targets, over v)", "}"]) + "\n"


def _uses(row: Row, device: str) -> str:
    gated = dialect(row) == "llama"
    names = {"cross_entropy", "rms_norm" if gated else "layer_norm", "swiglu" if gated else "mlp"}
    names |= {_attention(row).partition("(")[0]} | ({"embedding", "linear"} if gated else set())
    names |= {"gelu"} if row["arch"] == "encoder" else set()
    known = f"use std.devices ({device})\n" if device != "measured" else ""
    optimizer = "lamb" if row["optimizer"] == "LAMB" else "adam"
    return f"{known}use std.layers ({', '.join(sorted(names))})\nuse std.optimizers ({optimizer})\n\n"


def _recompute(row: Row) -> list[str]:
    """What the backward pass makes again."""
    scope = _attention(row).partition("(")[0]
    core = [f"block.{scope}.{name}" for name in CORE]
    kind = row["recompute"]
    if kind.startswith("full"):
        return ["  recompute block"]
    if kind == "qkv_proj_offloaded":  # what is moved to the host is kept here
        return [f"  recompute block keep {', '.join(core[:3])}"]
    if kind in PRODUCTS and row.family.startswith("torchtitan"):
        kept = [f"block.{scope}.{name}" for name in ("q", "value", "mixed")]
        return [f"  recompute block keep {', '.join(kept)}, block.swiglu.a, block.swiglu.out"]
    if kind in PRODUCTS:
        kept = ["block.swiglu.a", "block.swiglu.u"] if dialect(row) == "llama" else ["block.mlp.u"]
        return [f"  recompute block keep {', '.join(core + kept)}"]
    nothing = kind.startswith(("none", "not stated")) or not kind
    if kind == "selective" or (nothing and fused(row)):
        return [f"  recompute block.{scope} keep {', '.join(core)}"]
    if nothing:
        return []
    raise Unsupported(f"recompute {kind}: it differs between layers or stages")


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
    classes = {1: "optimizer", 2: "optimizer, gradients", 3: "optimizer, gradients, weights"}.get(stage(row))
    if classes:
        over_cp = row.whole("fsdp_shards") == mesh["dp"] * mesh["cp"]
        lines += [f"  shard {classes} on {a}" for a in ("dp", "cp") if a in axes and (a == "dp" or over_cp)]
    lines += _recompute(row)
    if mesh["pp"] > 1:
        # Megatron may count embedding and head among the layers of stages: as many chunks as there are layers for.
        chunks = min(row.whole("vpp"), row.whole("layers") // mesh["pp"])
        extra = f", chunks = {chunks}" if chunks > 1 else ""
        kind = "interleaved" if chunks > 1 else "one_f_one_b"
        lines.append(f"  pipeline block on pp, schedule {kind}(microbatches = {count}, over = b{extra})")
    elif count > 1:
        lines.append(f"  microbatches {count} over b")
    return "\n".join([*lines, "}"]) + "\n"


NEEDED = ("n_dev", "layers", "hidden", "ffn", "heads", "vocab", "seq_len", "gbs")


def expressible(row: Row) -> str:
    """The data type of the program. Raises `Unsupported` for what the language, or the issue, leaves out."""
    if row["task"] not in ("", "train"):
        raise Unsupported(f"task {row['task']}: only training steps are modelled")
    if row["arch"] not in ("", "dense", "encoder") or row.whole("experts", 0):
        raise Unsupported(f"a model of the kind {row['arch']}")
    missing = [column for column in NEEDED if not row[column]]
    if missing:
        raise Unsupported(f"not stated: {', '.join(missing)}")
    if row.whole("n_dev") > 1 and not any(row[axis] for axis in ("dp", "tp", "cp", "fsdp_shards")):
        raise Unsupported("degrees of data and tensor parallelism are not stated")
    if any(row.number(column) < 1 for column in NEEDED):
        raise Unsupported(f"sizes below 1: {', '.join(c for c in NEEDED if row.number(c) < 1)}")
    words = row["precision"].lower().replace("-", " ").replace("_", " ").replace("/", " ").replace(",", " ").split()
    found = next((compute for word, compute in PRECISIONS.items() if word in words), None)
    if found is None:
        found = next((compute for word, compute in PRECISIONS.items() if any(word in w for w in words)), None)
    if found is None:
        raise Unsupported(f"precision {row['precision'] or 'not stated'}")
    return found


def job(row: Row) -> str:
    """The text of a `.par` file with one job; raises `Unsupported`."""
    compute = expressible(row)
    device, defined = machines.device(row)
    scale = ", loss_scale 1024" if compute == "f16" else ""
    optimizer = "lamb" if row["optimizer"] == "LAMB" else "adam"
    return (
        f"# {row['row_id']}: {row['model']} on {row['n_dev']} {row['accel']}\n\n"
        + _uses(row, device)
        + defined
        + f"{_model(row)}\n{machines.cluster(row, device)}\n{_strategy(row)}\n"
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
