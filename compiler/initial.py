"""How weights and states may begin: the kinds of initialisers, their numbers, and the types that these are for."""

from __future__ import annotations

from math import inf, isfinite

from compiler.graph import FLOATS, RANGES
from compiler.model import Init

KINDS = {"zeros": 0, "ones": 0, "constant": 1, "normal": 1, "uniform": 2}
"""By name: how many numbers each takes."""


def wrong_init(init: Init) -> str | None:
    """What is wrong with an initialiser of a kind that there is; None if nothing is."""
    count = KINDS[init.kind]
    if len(init.args) != count:
        return f"`{init.kind}` takes {count} number{'s' * (count != 1)}, got {len(init.args)}"
    if not all(isfinite(x) for x in init.args):
        return f"the numbers of `{init.kind}` are finite"
    if init.kind == "normal" and init.args[0] < 0:
        return "a deviation is not negative"
    if init.kind == "uniform" and init.args[0] > init.args[1]:
        return "the lower bound stands first"
    return None


def misfit(init: Init, dtype: str) -> str | None:
    """Why a tensor of the type cannot begin so; None if it can."""
    if dtype in FLOATS:
        return None
    if init.kind in ("normal", "uniform") or any(x != int(x) for x in init.args):
        return f"`{init}` is no beginning for {dtype}"
    low, high = RANGES.get(dtype, (-inf, inf))
    if any(not low <= x <= high for x in init.args):
        return f"`{init}` is beyond {dtype}, which reaches from {low} to {high}"
    return None
