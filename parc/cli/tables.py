"""Plain aligned tables and numbers for people."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], color: bool = False, left: int = 1) -> str:
    """Columns two spaces apart; the first `left` ones flush left, the others right. The head is dim."""
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        return "  ".join(parts).rstrip()

    first = f"\x1b[2m{line(head)}\x1b[0m" if color else line(head)
    return "\n".join([first, *map(line, rows)])


def plural(number: int, what: str) -> str:
    """`1 device`, `2,048 devices`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def amount(number: float) -> str:
    """Bytes: `512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def seconds(number: float) -> str:
    """`1.234 s`, `56.7 ms`, `8.9 us`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if number >= scale:
            return f"{number / scale:.4g} {unit}"
    return f"{number / 1e-6:.3g} us"
