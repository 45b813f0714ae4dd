"""Numbers for people: times and sizes with their units. The unit is the largest of which there is one at least, after
rounding: never `1000 ms`, and never `0.0 GFLOP`."""

from __future__ import annotations

from collections.abc import Sequence

_TIMES = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))
_PREFIXES = (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3), ("", 1.0))
_BYTES = (("PiB", 2.0**50), ("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0))


def seconds(number: float) -> str:
    """`12,345 s`, `1.234 s`, `56.7 ms`, `8.9 us`, `3 ns`."""
    if number >= 9999.5:
        return f"{number:,.0f} s"
    count, unit = _in(number, _TIMES if number else _TIMES[:1])
    return f"{count:.4g} {unit}"


def percent(share: float) -> str:
    """`12.5%`, `0.014%`."""
    return f"{100 * share:.2g}%" if 1e-9 <= share < 1e-3 else f"{share:.1%}"


def flop(number: float) -> str:
    """Operations: `412.0 GFLOP`, `96 FLOP`."""
    count, prefix = _in(number, _PREFIXES)
    return f"{count:.1f} {prefix}FLOP" if prefix else f"{count:.0f} FLOP"


def flops(number: float) -> str:
    """`181.4 TFLOP/s`."""
    return f"{flop(number)}/s"


def amount(number: float) -> str:
    """Bytes: `512 B`, `1.5 MiB`."""
    count, unit = _in(number, _BYTES)
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def _in(number: float, units: Sequence[tuple[str, float]]) -> tuple[float, str]:
    """The number in the first unit (they come largest first) of which there is one, if need be after rounding."""
    found = next((u for u in units if abs(float(f"{number / u[1]:.4g}")) >= 1), units[-1])
    return number / found[1], found[0]
