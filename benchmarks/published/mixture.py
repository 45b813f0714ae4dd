"""Mixtures of experts and latent attention of published rows: the standard library's, `moe` and `latent_attention`.

Published runs of mixtures are balanced by force, or say nothing of it: here each expert gets the same number of
positions, in turn (`balanced`). So nothing is dropped, no expert is waited for, and what moves is what an even router
moves: copies of positions to their experts and back. Experts weigh their results (Megatron-Core does), so that the
backward pass needs none of them again.
"""

from __future__ import annotations

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

GROUPS = 8
"""Of experts, of which a position goes to so many at most (DeepSeek's reports)."""


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


def layer(row: Row, norm: str, pieces: int) -> list[str]:
    """Lines of the second half of a layer; `x` goes in and out. A sequence is dealt with in so many pieces.

    Each device that has a part of it sends what it has.
    """
    columns = ("experts", "topk", "moe_ffn")
    missing = [column for column in columns if row.whole(column, 0) < 1]
    if missing:
        raise Unsupported(f"not stated: {', '.join(missing)}")
    number, active, width = (row.whole(column) for column in columns)
    options = [f"active = {active}", "capacity = 1.0"]
    options += [f"groups = {GROUPS}", f"limit = {places(row)}"] if places(row) else []
    options += [f"shared = {row.whole('shared_ffn')}"] if row.whole("shared_ffn", 0) else []
    options += ["bounded = true"] if clamped(row) else []
    options += [f"pieces = {pieces}"] if pieces > 1 else []
    call = f"moe({norm}(x), {number}, {width}, {', '.join(options)}, balanced = true)"
    return [f"y, balance = {call}", "x = x + y"]


def clamped(row: Row) -> bool:
    """Whether experts have biases, and values within bounds."""
    return mixed(row) and row["model"].lower().startswith("gpt-oss")
