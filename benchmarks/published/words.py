"""Words of tables, read: the same thing is called by many names."""

from __future__ import annotations

import re
from fractions import Fraction

NOTHING = {"n/a", "na", "-", "–", "?", "nan", "none stated", "not stated", "unknown", "null", "tbd"}
"""Cells that say nothing."""

YES = {"1", "true", "yes", "on", "y"}

PRECISIONS = (
    (r"bf16|bfloat16|fp8|float8|e4m3|e5m2|mxfp|fp4|float4", "bf16"),
    (r"fp16|float16|f16|half|amp|mixed", "f16"),
    (r"fp32|float32|f32|tf32|single", "f32"),
)
"""Types of the program by words of `precision`: the first found. Narrower products are the software's matter."""

UNTUNED = re.compile(
    r"determinis|untuned|not tuned|unoptimi[sz]ed|\bbaseline|\bCI\b|[Ff]unctional test|[Rr]egression test"
)
"""Words of `notes` that say that nobody tuned the run for speed."""

NONE = re.compile(r"no\b|none|not |false|off\b|0$|unknown|default$")
STAGES = re.compile(r"stage.*\[([\d, ]+)\]")
EVERY = re.compile(r"every (\d+)|every (other|second|third)")
PRODUCTS = re.compile(r"selective ?\(?(op|toml)|\bsac\b|minimal|save_dot|dots|matmul|except every")
MODULES = re.compile(r"selective|core|att|mlp|norm|act\b|module")
PIECES = (
    (r"core|att(n|ention)\b|softmax|^op$", "core"),
    (r"\bmlp|ffn|feed.?forward|shared.?exp", "mlp"),
    (r"norm|\bln\b", "norm"),
    (r"act(ivation)?s?\b|gelu|silu|swiglu|geglu", "act"),
    (r"up.?proj|mla", "up"),
    (r"\bmoe\b|expert", "experts"),
)
"""Modules in a list of `recompute`, by the first words that are found in each."""
FULL = re.compile(r"full|yes|true|all|1$|uniform|block|check|layer|^ac$|\bon\b|\bremat")


def number(text: str) -> float:
    """`1,024`, `~32`, `3.5 s`, `85%`. Raises `ValueError`."""
    found = re.fullmatch(r"[~≈]?\s*([-+]?[\d.,]+(?:[eE][-+]?\d+)?)\s*(?:s|sec|seconds|%|GB|GiB|TFLOP/?s)?", text)
    return float(found[1].replace(",", "") if found else text)


def stage(text: str) -> int:
    """ZeRO's: `1`, `ZeRO-3`, `FSDP`."""
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 3 if "fsdp" in text.lower() or "full" in text.lower() else 0


def precision(text: str) -> str | None:
    """f16, bf16 or f32; bf16 where nothing is said; None for others."""
    said = text.lower()
    return next((kind for words, kind in PRECISIONS if re.search(words, said)), None if said else "bf16")


def modules(text: str) -> frozenset[str] | None:
    """Of `selective(mlp, moe_act)` and the like which parts of a layer are made again: `core` of attention, `mlp`,
    `norm`, `act` (between the products of a feed-forward layer), `up` (projections of latent attention), `experts`.
    None for what is no list of modules; one of which none is known is empty."""
    found = re.fullmatch(r"(?:selective|modules?)?[ :]*[(\[]([^)\]]*)[)\]]", text.lower().strip())
    listed = re.split(r"[,;+/ ]+(?:and )?", found[1].strip()) if found else []
    if not listed or PRODUCTS.search(text.lower()) or EVERY.search(text.lower()):
        return None
    kinds = (next((kind for pattern, kind in PIECES if re.search(pattern, word)), "") for word in listed)
    return frozenset(kinds) - {""}


def recompute(text: str, layers: int, stages: int) -> tuple[str, Fraction] | None:
    """What is made again, `none`, `core` (of attention), `products` (all but them), `offload` (all but queries, keys
    and values, which are moved), `modules` (those of `modules`) or `full`, and in which share of the layers; None for
    what is not understood.

    Where it differs between stages, the slowest sets the pace: the share is that of the stage with most.
    """
    said = text.lower().strip()
    whole = Fraction(1)
    if not said or NONE.match(said):
        return "none", whole
    if found := STAGES.search(said):
        most = max(int(n) for n in found[1].split(","))
        return "full", min(whole, Fraction(most * stages, layers))
    if found := EVERY.search(said):
        every = int(found[1] or {"other": 2, "second": 2, "third": 3}[found[2]])
        return "full", Fraction(1, max(1, every))
    if listed := modules(text):
        return "core" if listed == {"core"} else "modules", whole
    if "offload" in said:
        return "offload", whole
    kinds = ((PRODUCTS, "products"), (FULL, "full") if said.startswith("full") else (MODULES, "core"), (FULL, "full"))
    return next(((kind, whole) for words, kind in kinds if words.search(said)), None)
