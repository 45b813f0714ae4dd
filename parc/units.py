"""Numbers for people: times and sizes with their units."""

from __future__ import annotations


def seconds(number: float) -> str:
    """`12,345 s`, `1.234 s`, `56.7 ms`, `8.9 us`."""
    if number >= 9999.5:
        return f"{number:,.0f} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if number >= scale or not number or unit == "us":
            break
    return f"{number / scale:.4g} {unit}"


def percent(share: float) -> str:
    """`12.5%`, `0.014%`."""
    return f"{100 * share:.2g}%" if 1e-9 <= share < 1e-3 else f"{share:.1%}"


def flops(number: float) -> str:
    """`181.4 TFLOP/s`."""
    for unit, scale in (("PFLOP/s", 1e15), ("TFLOP/s", 1e12)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number / 1e9:.1f} GFLOP/s"


def amount(number: float) -> str:
    """Bytes: `512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
