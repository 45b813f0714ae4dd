"""A published row as a job in the language: `python -m benchmarks.published.generate ROW_ID` prints it.

The sources say more or less; what is assumed where they are silent stands here and in README.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from fractions import Fraction

from benchmarks.published import machines, mixture, words
from benchmarks.published.facts import SINGLE_NODE, Row, Unsupported, load
from benchmarks.published.software import by_prefix, fused, stage

PREDICTED = 0.15
"""Share of the positions that BERT predicts: 20 of 128, 76 of 512 (at most; NVIDIA/DeepLearningExamples)."""

WINDOWS = {"Mistral-7B": 4096}
"""How many positions a model looks back, by the beginning of its name (its own publication)."""

WHOLE = ("maxtext",)
"""Families that take a step's batch in one pass: what they call `mbs` is per device, however many share a replica."""

DENSE = re.compile(r"$|dense|encoder$|decoder|gpt|llama|transformer|causal")
"""Architectures that are a stack of like layers; `encoder` sees all positions and predicts some."""

CORE = ("q", "key", "value", "mixed", "out")
"""What attention keeps where its core (scores, softmax) is made again: that is what a fused attention does as well."""


EXPERTS = ("logits", "share", "taken", "part", "a", "u", "y", "got", "out")
"""What experts keep where only what is between their products is made again."""


def dialect(row: Row) -> str:
    """`gpt` (learned positions, biases, tied head) or `llama` (rotary, gated, no biases, a head of its own)."""
    return "llama" if row.gated or mixture.mixed(row) else "gpt"


def degrees(row: Row) -> dict[str, int]:
    """The mesh, major to minor; `rep` are replicas of a group that shards its weights, or its experts."""
    mesh, inner = _degrees(row), mixture.inner(row) if mixture.mixed(row) else 1
    if inner in (1, mesh["dp"], mesh["dp"] * mesh["cp"]):
        return mesh
    if mesh["rep"] > 1 or mesh["dp"] % inner:
        raise Unsupported(f"experts of {inner} among {mesh['dp']} data-parallel devices")
    return mesh | {"rep": mesh["dp"] // inner, "dp": inner}


def _degrees(row: Row) -> dict[str, int]:
    dp, tp, pp, cp = (row.whole(axis) for axis in ("dp", "tp", "pp", "cp"))
    shards = row.whole("fsdp_shards") if stage(row) == 3 else 1
    devices = row.whole("n_dev")
    if not row["dp"] and devices % (tp * pp * cp) == 0 and (row["tp"] or row["cp"] or not row["fsdp_shards"]):
        dp = devices // (tp * pp * cp)  # what is left
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
    """Micro-batches of a step and replica: as the column `microbatches` says, or as `mbs` does. A pipeline has as
    many as stages at least, unless that column says otherwise: many call all that a replica has of a step its batch,
    and their system cuts it."""
    mesh = degrees(row)
    if row.family.startswith(WHOLE):
        return 1
    replicas, batch = mesh["rep"] * mesh["dp"], row.whole("gbs")
    if row["microbatches"]:
        found = row.whole("microbatches")
        if found < 1 or batch % (replicas * found):
            raise Unsupported(f"a batch of {batch} is not made of {found} micro-batches of {replicas} replicas")
        return found
    together = row.whole("mbs") * replicas
    if batch % together:
        raise Unsupported(f"a batch of {batch} is not made of micro-batches of {together}")
    found, stages = batch // together, mesh["pp"]
    if found >= stages and (row["mbs"] or stages == 1):
        return found
    if batch % (
        replicas * stages
    ):  # what is called the size of a batch is all of a replica's: how it is cut is not said
        raise Unsupported("micro-batches are not stated")
    return stages


def vocabulary(row: Row) -> int:
    """Padded to a multiple of 128 per tensor-parallel device, as Megatron does, where there are several, or where it is
    none of 8: nobody lets the largest product be slow."""
    unit, words = 128 * row.whole("tp"), row.whole("vocab")
    return -(-words // unit) * unit if row.whole("tp") > 1 or words % 8 else words


def _attention(row: Row) -> str:
    heads, size = row.whole("heads"), row.whole("head_dim", 0)
    kv_heads, tp = row.whole("kv_heads", heads), row.whole("tp")
    if kv_heads < tp and tp % kv_heads == 0 and heads % tp == 0:
        kv_heads = tp  # each device has a copy of those that its queries need
    grouped = dialect(row) == "llama" or kv_heads != heads or size * heads not in (0, row.whole("hidden"))
    wide = f", size = {size}" if size and size * heads != row.whole("hidden") else ""
    seen = ", causal = false" if row["arch"] == "encoder" else ""
    window = by_prefix(WINDOWS, row["model"])
    if widths := mixture.latent(row):
        return f"latent_attention({{}}, {heads}, {', '.join(map(str, widths))})"
    if window and window < row.whole("seq_len"):
        seen += f", window = {window}"
        grouped = True
    if not grouped:
        return f"attention({{}}, {heads}{seen})"
    return f"grouped_attention({{}}, {heads}, {kv_heads}{wide}{seen})"


def _model(row: Row) -> str:
    norm = "rms_norm" if dialect(row) == "llama" else "layer_norm"
    mlp = "swiglu" if dialect(row) == "llama" else "mlp"
    attend = _attention(row).format(f"{norm}(x)")
    encoder = row["arch"] == "encoder"
    share = _again(row)[1]
    hidden, layers = row.whole("hidden"), row.whole("layers")
    known = max(1, round(PREDICTED * row.whole("seq_len")))
    lines = [
        "model gpt {",
        f"  dim b = {row.whole('gbs')}, s = {row.whole('seq_len')}, d = {hidden}, v = {vocabulary(row)}",
    ]
    if encoder:  # which positions are predicted is not drawn here: as many stand at the beginning
        lines += [f"  dim m = {known}, c = {hidden}", "  weight transform[d,c] ~ normal(0.02)"]
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
    dense = [f"x = x + {attend}", f"x = x + {mlp}({norm}(x), {row.whole('ffn')})"]
    layer = [dense[0], *mixture.layer(row, norm, _pieces(row))] if mixture.mixed(row) else dense
    if first := _dense_layers(row):
        lines += [f"  repeat {first} as first {{", *(f"    {line}" for line in dense), "  }"]
        layers -= first
    if share == 1:
        lines += [f"  repeat {layers} as block {{", *(f"    {line}" for line in layer), "  }"]
    else:  # the first `numerator` of each `denominator` layers are made again
        calls = [f"    x = layer(x) as {name}" for name in _layers(share)]
        lines = ["fn layer(x) {", *(f"  {line}" for line in layer), "  return x", "}", "", *lines]
        lines += [f"  repeat {layers // share.denominator} as block {{", *calls, "  }"]
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
    names |= {"moe"} if mixture.mixed(row) else set()
    names -= {"swiglu"} if mixture.mixed(row) and not _dense_layers(row) else set()
    known = f"use std.devices ({device})\n" if device != "measured" else ""
    optimizer = "lamb" if row["optimizer"] == "LAMB" else "adam"
    return f"{known}use std.layers ({', '.join(sorted(names))})\nuse std.optimizers ({optimizer})\n\n"


def _again(row: Row) -> tuple[str, Fraction]:
    """What the backward pass makes again, and in which share of the layers."""
    found = words.recompute(row["recompute"], row.whole("layers"), row.whole("pp"))
    if found is None:
        raise Unsupported(f"recompute {row['recompute']}: it is not known what that is")
    kind, share = found
    if share < 1 and row.whole("layers") % (share.denominator * row.whole("pp")):
        raise Unsupported(f"recompute {row['recompute']}: it does not divide the layers of a stage")
    return kind, share


def _dense_layers(row: Row) -> int:
    """Layers without experts before the others. In a pipeline all have them: as wide in sum, and stages stay even."""
    return row.whole("dense_layers", 0) if mixture.mixed(row) and row.whole("pp") == 1 else 0


def _wide(row: Row) -> bool:
    """Whether experts are split over devices that have parts of one sequence."""
    return mixture.mixed(row) and row.whole("ep") > 1 and mixture.inner(row) > degrees(row)["dp"]


def _pieces(row: Row) -> int:
    """Parts of a sequence of which positions go to experts from one device each."""
    mesh = degrees(row)
    return (mesh["cp"] if _wide(row) else 1) * (mesh["tp"] if row.yes("sp") and mixture.own(row) else 1)


def _layers(share: Fraction) -> list[str]:
    """Names of layers that are not alike: `again1` and so on are made again, `kept1` and so on are not."""
    made = [f"again{i + 1}" for i in range(share.numerator)]
    return made + [f"kept{i + 1}" for i in range(share.denominator - share.numerator)]


def _recompute(row: Row) -> list[str]:
    """What the backward pass makes again, of each layer that is not like the others."""
    kind, share = _again(row)
    if share == 1:
        first = _recompute_in(row, "first", kind) if _dense_layers(row) else []
        return first + _recompute_in(row, "block", kind)
    return [
        line
        for name in _layers(share)
        for line in _recompute_in(row, f"block.{name}", kind if name.startswith("again") else "none")
    ]


def _recompute_in(row: Row, layer: str, kind: str) -> list[str]:
    scope = _attention(row).partition("(")[0]
    latent = (*CORE, "qr", "place")
    core = [f"{layer}.{scope}.{name}" for name in (latent if mixture.latent(row) else CORE)]
    if kind == "full":
        return [f"  recompute {layer}"]
    if kind == "modules":
        return _modules(row, layer, scope, core)
    if kind == "offload":  # what is moved to the host is kept here
        return [f"  recompute {layer} keep {', '.join(core[:3])}"]
    if (
        kind == "products"
        and row.family.startswith("torchtitan")
        and dialect(row) == "llama"
        and not mixture.mixed(row)
    ):
        kept = [f"{layer}.{scope}.{name}" for name in ("q", "value", "mixed")]
        return [f"  recompute {layer} keep {', '.join(kept)}, {layer}.swiglu.a, {layer}.swiglu.out"]
    if kind == "products":
        wide = (
            "moe.routed_experts"
            if mixture.mixed(row) and layer != "first"
            else "swiglu"
            if dialect(row) == "llama"
            else "mlp"
        )
        kept = [f"{layer}.{wide}.u", *([f"{layer}.{wide}.a"] if wide != "mlp" else [])]
        return [f"  recompute {layer} keep {', '.join(core + kept)}"]
    if kind == "core" or fused(row):
        return [f"  recompute {layer}.{scope} keep {', '.join(core)}"]
    return []


def _modules(row: Row, layer: str, attention: str, core: Sequence[str]) -> list[str]:
    """Of a list of modules each by its scope; core: what attention keeps where its core is made again."""
    of = words.modules(row["recompute"]) or frozenset()
    lines = []
    if "up" in of and mixture.latent(row):  # what has few dims, of which queries, keys and values are, is made as well
        kept = ("place", "mixed", "out")
        lines.append(f"  recompute {layer}.{attention} keep {', '.join(f'{layer}.{attention}.{n}' for n in kept)}")
    elif "core" in of or fused(row):
        lines.append(f"  recompute {layer}.{attention} keep {', '.join(core)}")
    norm = "rms_norm" if dialect(row) == "llama" else "layer_norm"
    lines += [f"  recompute {layer}.{norm}{n}" for n in ("", "_1")] if "norm" in of else []
    mixed = mixture.mixed(row) and layer != "first"
    if mixed and "experts" in of:
        return [*lines, f"  recompute {layer}.moe"]
    shared = mixed and row.whole("shared_ffn", 0) > 0
    wide = f"{layer}.moe.shared" if shared else "" if mixed else f"{layer}.{'swiglu' if norm == 'rms_norm' else 'mlp'}"
    if wide and "mlp" in of:
        lines.append(f"  recompute {wide}")
    if "act" in of:
        scopes = [wide] if wide and "mlp" not in of else []
        scopes += [f"{layer}.moe.routed_experts"] if mixed else []
        for name in scopes:
            inner = EXPERTS if name.endswith("experts") else ("a", "u", "out") if "mlp" not in name else ("u", "out")
            lines.append(f"  recompute {name} keep {', '.join(f'{name}.{n}' for n in inner)}")
    return lines


def _strategy(row: Row) -> str:
    mesh, count = degrees(row), microbatches(row)
    axes = {axis: size for axis, size in mesh.items() if size > 1} or {"dp": 1}
    lines = ["strategy published for gpt {"]
    lines.append(f"  mesh ({', '.join(f'{axis} = {size}' for axis, size in axes.items())})")
    experts = mixture.mixed(row) and row.whole("ep") > 1
    e = "e, " if experts else ""
    lines += [f"  split {e if axis == 'dp' else ''}b on {axis}" for axis in ("rep", "dp") if axis in axes]
    if "cp" in axes:
        lines += ["  split e on cp", "  split s, p on cp for activations"] if _wide(row) else []
        lines += [] if _wide(row) else ["  split s on cp for activations"]
    if "tp" in axes:
        own = "e, " if mixture.own(row) else ""
        s = ", s, p" if row.yes("sp") and own else ", s" if row.yes("sp") else ""
        lines.append(f"  split {own}h, f, v{s} on tp")
    # Systems that shard weights gather them once a step where there is a pipeline, not for each of its micro-batches
    # (TorchTitan: "to avoid per-microbatch all-gathers"), and reduce gradients after the last: that is what 1 is.
    kept = 1 if mesh["pp"] > 1 and stage(row) == 3 else stage(row)
    classes = {1: "optimizer", 2: "optimizer, gradients", 3: "optimizer, gradients, weights"}.get(kept)
    if classes:
        # Megatron's distributed optimizer splits over all that hold the same weights.
        over_cp = stage(row) < 3 or row.whole("fsdp_shards") == mesh["dp"] * mesh["cp"]
        every = {"rep": experts and stage(row) < 3, "dp": True, "cp": over_cp}
        lines += [f"  shard {classes} on {a} pad" for a, shards in every.items() if a in axes and shards]
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
    if not row["task"].lower().startswith(("train", "pretrain", "pre-train", "finetune", "fine-tune")) and row["task"]:
        raise Unsupported(f"task {row['task']}: only training steps are modelled")
    if not (DENSE.match(row["arch"].lower()) or mixture.mixed(row)):
        raise Unsupported(f"a model of the kind {row['arch']}")
    missing = [column for column in NEEDED if not row[column]]
    if missing:
        raise Unsupported(f"not stated: {', '.join(missing)}")
    if row.whole("n_dev") > 1 and not any(row[axis] for axis in ("dp", "tp", "cp", "fsdp_shards")):
        raise Unsupported("degrees of data and tensor parallelism are not stated")
    if any(row.number(column) < 1 for column in NEEDED):
        raise Unsupported(f"sizes below 1: {', '.join(c for c in NEEDED if row.number(c) < 1)}")
    found = words.precision(row["precision"])
    if found is None:
        raise Unsupported(f"precision {row['precision']}")
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
