"""Mixtures of experts and latent attention of published rows, as functions of the language.

Published runs of mixtures are balanced by force, or say nothing of it: here each expert gets the same number of
positions, in turn. So nothing is dropped, no expert is waited for, and what moves is what an even router moves: copies
of positions to their experts and back. What a device receives is sorted by expert, and what experts give by device:
each is a kernel that reads and writes all of it (`taken`, `sorted`), and what was sorted is kept for the backward pass.
Experts weigh their results (Megatron-Core does), so that the backward pass needs none of them again.
"""

from __future__ import annotations

import re

from benchmarks.published.facts import Row, Unsupported

LATENT = {
    "DeepSeek-V2-Lite": (0, 512, 128, 64, 128),
    "DeepSeek": (1536, 512, 128, 64, 128),
    "Kimi": (1536, 512, 128, 64, 128),
}
"""Widths of latent attention by the beginning of the model's name: queries' and keys' latents (0: none), of a head what
has no position, what has, and values (their own publications)."""

LIMITED = {"DeepSeek-V2": 3, "DeepSeek-V2-Lite": 0, "DeepSeek-V3": 4, "DeepSeek-R1": 4}
"""To how many nodes at most a position goes, by the beginning of the model's name (DeepSeek's reports)."""

EXPERTS = """fn experts(x[b,s,d], positions, number, active, width, std = 0.02) {
  dim e = number, g = number, j = active, f = width, n = positions * active, slot = positions * active // number
  weight router[d,g] ~ normal(std)
  weight gate[e,d,f], up[e,d,f], down[e,f,d] ~ normal(std)
  p = softmax(cast(x, master) @ cast(router, master), over g)
  share, chosen = top_k(p, over g -> j)
  copies[b,s,j,d] = where(chosen >= 0.0, x, 0.0)
  sent[b,slot,g,d] = split(merge(copies, (s, j) -> n), n -> (slot, g))
  taken[b,slot,e,d] = 1.0 * rename(sent, g -> e)
  a[b,slot,e,f] = taken @ gate
  u[b,slot,e,f] = taken @ up
  part[b,slot,e] = rename(split(merge(share, (s, j) -> n), n -> (slot, g)), g -> e)
  y[b,slot,e,d] = silu(a) * u * cast(part, compute) @ down
  sorted[b,slot,e,d] = 1.0 * y
  got[b,slot,g,d] = rename(sorted, e -> g)
  back[b,s,j,d] = split(merge(got, (slot, g) -> n), n -> (s, j))
  return sum(back, over j)
}

"""

CLAMPED = """  weight ba[e,f], bu[e,f], bd[e,d] ~ zeros
  high = minimum(a + ba, 7.0)
  low = maximum(minimum(u + bu, 7.0), -7.0)
  y[b,slot,e,d] = high * sigmoid(1.702 * high) * (low + 1.0) * cast(part, compute) @ down
  sorted[b,slot,e,d] = y + bd
"""
"""Experts with biases and values within bounds, instead of the two lines (gpt-oss, its model card and code)."""

UNEVEN = (
    (" // number\n", " // number, m = positions * active // number * number\n"),
    ("split(merge(copies, (s, j) -> n), n ->", "split(slice(merge(copies, (s, j) -> n), n -> m, 0..m), m ->"),
    ("split(merge(share, (s, j) -> n), n ->", "split(slice(merge(share, (s, j) -> n), n -> m, 0..m), m ->"),
    ("split(merge(got, (slot, g) -> n), n ->", "split(pad(merge(got, (slot, g) -> m), m -> n, 0, n - m, 0.0), n ->"),
)
"""Where experts do not divide copies of positions, the few that are left over go nowhere."""

PLACES = (
    ("j = active,", "i = places, j = active // places, c = active,"),
    ("over g -> j)\n", "over g -> c)\n  picked[b,s,i,j] = split(chosen, c -> (i, j))\n"),
    (
        "  copies[b,s,j,d] = where(chosen >= 0.0, x, 0.0)",
        """  near[b,s,i,d] = where(max(picked, over j) >= 0.0, x, 0.0)
  copies[b,s,i,j,d] = where(picked >= 0.0, near, 0.0)""",
    ),
    ("merge(copies, (s, j) -> n)", "merge(copies, (s, i, j) -> n)"),
    ("merge(share, (s, j) -> n)", "merge(share, (s, c) -> n)"),
    ("back[b,s,j,d]", "back[b,s,i,j,d]"),
    ("n -> (s, j))\n  return sum(back, over j)", "n -> (s, i, j))\n  return sum(sum(back, over j), over i)"),
    ("active, width", "active, places, width"),
)
"""Where experts are chosen in so many places at most: copies for places, and of those copies for experts."""

ATTENTION = """fn latent_attention(x[b,s,d], heads, queries, latent, plain, turned, values, std = 0.02) {
  dim h = heads, lk = latent, k = plain, kr = turned, kv = values
QUERIES
  weight wa[d,lk], wr[d,kr], wk[lk,h,k], wv[lk,h,kv], wo[h,kv,d] ~ normal(std)
  latents[b,s,lk] = rms_norm(x @ wa)
  key[b,t,h,k] = rename(latents @ wk, s -> t)
  value[b,t,h,kv] = rename(latents @ wv, s -> t)
  place[b,t,kr] = rename(rotary(x @ wr, over s), s -> t)
  scores[b,h,s,t] = (q @ key + rotary(qr, over s) @ place) / sqrt(plain + turned)
  scores = where(iota(s) >= iota(t), scores, -30000.0)
  p = softmax(scores, over t)
  mixed[b,s,h,kv] = p @ value
  out[b,s,d] = mixed @ wo
  return out
}

"""

LOW = """  dim lq = queries
  weight wl[d,lq], wq[lq,h,k], wqr[lq,h,kr] ~ normal(std)
  low[b,s,lq] = rms_norm(x @ wl)
  q[b,s,h,k] = low @ wq
  qr[b,s,h,kr] = low @ wqr"""

DIRECT = """  weight wq[d,h,k], wqr[d,h,kr] ~ normal(std)
  q[b,s,h,k] = x @ wq
  qr[b,s,h,kr] = x @ wqr"""


def inner(row: Row) -> int:
    """How many neighbours along the data axis share a set of experts. Tensor-parallel devices have experts of their
    own, where there are as many (Megatron's expert tensor parallelism of 1); else they split each."""
    ep = max(1, row.whole("ep"))
    return ep // row.whole("tp") if own(row) else ep


def own(row: Row) -> bool:
    """Whether tensor-parallel devices have experts of their own."""
    return mixed(row) and row.whole("tp") > 1 and row.whole("ep") % row.whole("tp") == 0


def mixed(row: Row) -> bool:
    """Whether layers are mixtures of experts."""
    return row.whole("experts", 0) > 1


def latent(row: Row) -> tuple[int, ...] | None:
    """What latent attention has, or None for others. Raises `Unsupported` where its widths are not known."""
    if "mla" not in row["arch"].lower():
        return None
    found = [name for name in LATENT if row["model"].startswith(name)]
    if not found:
        raise Unsupported(f"the widths of the latent attention of {row['model']} are not known")
    return LATENT[max(found, key=len)]


def places(row: Row) -> int:
    """To how many nodes at most a position goes; 0: to any number."""
    found = [name for name in LIMITED if row["model"].startswith(name)]
    most = LIMITED[max(found, key=len)] if found and mixed(row) else 0
    return most if most and row.whole("topk") % most == 0 else 0


def layer(row: Row, norm: str) -> list[str]:
    """Lines of the second half of a layer; `x` goes in and out."""
    columns = ("experts", "topk", "moe_ffn")
    missing = [column for column in columns if row.whole(column, 0) < 1]
    if missing:
        raise Unsupported(f"not stated: {', '.join(missing)}")
    number, active, width = (row.whole(column) for column in columns)
    few = f"{active}, {places(row)}" if places(row) else f"{active}"
    shared = f" + swiglu(y, {row.whole('shared_ffn')})" if row.whole("shared_ffn", 0) else ""
    return [f"y = {norm}(x)", f"x = x + experts(y, {row.whole('seq_len')}, {number}, {few}, {width}){shared}"]


def clamped(row: Row) -> bool:
    """Whether experts have biases, and values within bounds."""
    return mixed(row) and row["model"].lower().startswith("gpt-oss")


def functions(row: Row) -> str:
    """Definitions that the model of a row needs."""
    widths = latent(row)
    queries = LOW if widths and widths[0] else DIRECT
    plain = "".join(line + "\n" for line in EXPERTS.splitlines() if re.match(r" +(y|sorted)\[", line))
    experts = EXPERTS.replace(plain, CLAMPED) if clamped(row) else EXPERTS
    if mixed(row) and row.whole("seq_len") * row.whole("topk") % row.whole("experts"):
        for even, uneven in UNEVEN:
            experts = experts.replace(even, uneven)
    if places(row):
        for plain, limited in PLACES:
            experts = experts.replace(plain, limited)
    return (experts if mixed(row) else "") + (ATTENTION.replace("QUERIES", queries) if widths else "")
