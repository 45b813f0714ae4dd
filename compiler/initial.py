"""How weights and states may begin: the kinds of initialisers, their numbers, and the types that these are for."""

from __future__ import annotations

from math import inf

from compiler.graph import BEYOND_F32, FLOATS, RANGES
from compiler.model import Init

KINDS = {"zeros": 0, "ones": 0, "constant": 1, "normal": 1, "uniform": 2, "bits": 1}
"""By name: how many numbers each takes."""

STATED = tuple(kind for kind in KINDS if kind != "bits")
"""Those that the language has."""


def wrong_init(init: Init) -> str | None:
    """What is wrong with an initialiser of a kind that there is; None if nothing is."""
    count = KINDS[init.kind]
    if len(init.args) != count:
        return f"`{init.kind}` takes {count} number{'s' * (count != 1)}, got {len(init.args)}"
    if not all(abs(x) < BEYOND_F32 for x in init.args):
        return f"the numbers of `{init.kind}` are finite, and below {BEYOND_F32:.4g}"
    if init.kind == "normal" and init.args[0] < 0:
        return "a deviation is not negative"
    if init.kind == "bits" and not (0 <= init.args[0] < 2**32 and init.args[0] == int(init.args[0])):
        return "`bits` takes those of 32 bits that may be set, as a number"
    if init.kind == "uniform" and init.args[0] > init.args[1]:
        return "the lower bound stands first"
    return None


def misfit(init: Init, dtype: str) -> tuple[str, str] | None:
    """Why a tensor of the type cannot begin so, as the code and the message of an error of `.par`; None if it can."""
    if init.kind == "bits":
        return None if dtype == "uint32" else ("E0202", f"`{init}` is a beginning for uint32 alone, not for {dtype}")
    if dtype in FLOATS:
        return None
    if init.kind in ("normal", "uniform") or any(x != int(x) for x in init.args):
        return "E0202", f"`{init}` is no beginning for {dtype}"
    low, high = RANGES.get(dtype, (-inf, inf))
    if any(not low <= x <= high for x in init.args):
        return "E0206", f"`{init}` is beyond {dtype}, which reaches from {low} to {high}"
    return None
