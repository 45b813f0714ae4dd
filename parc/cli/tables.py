"""Plain aligned tables and numbers for people."""

from __future__ import annotations

from collections.abc import Sequence

from dsl.diagnostics import plural
from parc.units import amount, seconds

__all__ = ["amount", "plural", "seconds", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], color: bool = False, left: int = 1) -> str:
    """Columns two spaces apart; the first `left` ones flush left, the others right. The head is dim."""
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        return "  ".join(parts).rstrip()

    first = f"\x1b[2m{line(head)}\x1b[0m" if color else line(head)
    return "\n".join([first, *map(line, rows)])
