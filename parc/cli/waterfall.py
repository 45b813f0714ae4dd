"""What fills a memory at its fullest moment: by role from the bottom up, and the largest values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parc.cli.tables import amount, table
from parc.units import percent

if TYPE_CHECKING:
    from parc.estimate import FullMemory, ProgramMemory

WIDTH = 24
"""Characters of the bars that stand for all that is alive."""

SHOWN = 5
"""Of the largest values."""


def waterfall(full: FullMemory, capacity: float | None, style: bool) -> str:
    """Each role begins where the one before ended; below, what is reserved and needed for that, and what the program's
    own values take."""
    from compiler.memory.capacity import when
    from compiler.numbering import show_ranks

    m = full.moment
    rows, below = [], 0
    for role, size in sorted(m.roles.items(), key=lambda item: -item[1]):
        if size / m.peak >= 0.0005:
            rows.append([role, amount(size), percent(size / m.peak), _bar(below, size, m.peak)])
        below += size
    rows.append(["in all", amount(m.peak), "", ""])
    if full.reserved > m.peak:
        rows.append(["reserved by the allocator", amount(full.reserved), f"{full.reserved / m.peak - 1:+.1%}", ""])
    if full.needed > full.reserved:
        rows.append(["with the driver's", amount(full.needed), "", ""])
    if capacity:
        rows.append(["that there is", amount(capacity), "", ""])
    head = [f"{m.memory} of {show_ranks(full.ranks)}", "bytes", "", f"fullest in {when(m)}"]
    largest = [[a.name, _role(a.role, a.count), amount(a.bytes), a.type] for a in m.alive[:SHOWN]]
    values = table(["largest values then", "", "bytes", "type"], largest, style, left=2, words=(3,))
    return "\n\n".join((table(head, rows, style, words=(3,)), values, _program(full.program, style)))


def _program(own: ProgramMemory, style: bool) -> str:
    """What the emulator holds: the program's own values."""
    from compiler.memory.capacity import when
    from compiler.numbering import show_ranks

    peak = own.moment.peak
    handed = [("at the peak", peak), ("with fixed offsets", own.allocation.size)]
    handed += [("reserved by a caching allocator", own.reserved)] if own.reserved is not None else []
    rows = [[what, amount(n), f"{n / peak - 1:+.1%}" if n != peak else "", ""] for what, n in handed if peak]
    head = [f"the program's own, of {show_ranks(own.ranks)}", "bytes", "", f"fullest in {when(own.moment)}"]
    return table(head, rows, style, words=(3,))


def _bar(start: int, size: int, whole: int) -> str:
    first, last = round(start / whole * WIDTH), round((start + size) / whole * WIDTH)
    return " " * first + ("█" * (last - first) or "▏")


def _role(role: str, count: int) -> str:
    return f"{role} of {count} micro-batches" if count > 1 else role
