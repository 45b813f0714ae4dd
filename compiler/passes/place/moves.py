"""How an axis stands in a layout, and what it takes to change that."""

from __future__ import annotations

from math import inf

State = tuple[str, str]  # ("split", dim) | ("pending", fn) | ("whole", "")
WHOLE: State = ("whole", "")


def move_cost(have: State, need: State, n: int, size: float) -> float:
    """Bytes that a device sends to change one axis (of n devices) of a piece of `size` bytes."""
    if have in (need, WHOLE):
        return 0.0
    if have[0] == "pending":
        if need[0] == "pending":
            return inf
        return (n - 1) / n * size * (2 if need == WHOLE else 1)
    if need == WHOLE:
        return (n - 1) * size
    return (n - 1) / n * size if need[0] == "split" else inf
