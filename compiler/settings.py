"""Numbers that a device may state of itself with its software, by keyword and name: their units and their bounds.

What they mean, and the defaults, stand with those who use them (`cost.price.calibration`, `cost.memory.footprint`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Literal

from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """unit: "s", "B", or "" of a plain number. positive: it is never 0; most: the largest value that makes sense."""

    unit: Literal["", "s", "B"] = ""
    positive: bool = False
    most: float = inf

    def hold(self, value: float) -> bool:
        """Whether a value is within them."""
        return 0 <= value <= self.most and not (self.positive and value == 0)

    def __str__(self) -> str:
        low = "above 0" if self.positive else "0 or more"
        return low if self.most == inf else f"from 0 to {self.most:g}"


PART, SHARE, POSITIVE = Bounds(most=1), Bounds(positive=True, most=1), Bounds(positive=True)
TIME, SIZE, NUMBER = Bounds("s"), Bounds("B"), Bounds()

EFFICIENCIES: Mapping[str, Bounds] = {
    **dict.fromkeys(("product", "core", "narrow", "wire", "gradient_wire"), POSITIVE),
    **dict.fromkeys(("vector", "inner", "outer"), SHARE),
    **dict.fromkeys(("hidden", "hidden_gather", "ahead", "prefetch", "overlap", "ring", "exchange"), PART),
    **dict.fromkeys(
        ("fusion", "distinct", "fused_attention", "balanced", "reentrant", "scattered", "blocking_sends"), PART
    ),
    **dict.fromkeys(("launch", "host", "grouped", "fixed"), TIME),
    **dict.fromkeys(("inner_half", "outer_half", "bucket"), SIZE),
    **dict.fromkeys(("ramp", "alpha", "slowdown", "jitter"), NUMBER),
}
"""`efficiency NAME VALUE`. Products may be more than the peak that somebody states."""

FOOTPRINTS: Mapping[str, Bounds] = {
    **dict.fromkeys(("copy", "gradient", "gradient_f16", "partition", "loss", "reserve"), NUMBER),
    "context": SIZE,
}
"""`footprint NAME VALUE`: what software keeps in memory."""

STATED: Mapping[str, Mapping[str, Bounds]] = {"efficiency": EFFICIENCIES, "footprint": FOOTPRINTS}
