"""What fills a memory at its fullest moment: the largest values, and what allocators make of all of them."""

from __future__ import annotations

from parc.estimate import FullMemory
from parc.report.html import esc, table, tag
from parc.units import amount, percent

SHOWN = 10


def largest(full: FullMemory, drawn: tuple[str, ...]) -> str:
    """A table, and a sentence. drawn: roles with a colour of their own."""
    m = full.moment
    if not m.peak:
        return ""
    rows = []
    for a in m.alive[:SHOWN]:
        kind = a.role if a.role in drawn else "other"
        role = f"{a.role} of {a.count} micro-batches" if a.count > 1 else a.role
        key = tag("i", class_=f"key m-{kind}")
        name, type_ = tag("code", esc(a.name)), tag("code", esc(a.type))
        rows.append(
            [
                name,
                tag("span", key, f" {esc(role)}", class_="role"),
                type_,
                esc(amount(a.bytes)),
                percent(a.bytes / m.peak),
            ]
        )
    own = full.program
    told = f"The allocator reserves {amount(full.reserved)} for that. " if full.reserved > m.peak else ""
    told += f"The program's own values, as the emulator holds them, take {amount(own.moment.peak)} at most; "
    told += (
        f"{amount(own.allocation.size)} with offsets that are fixed beforehand ({own.allocation.fragmentation:+.1%})"
    )
    if own.reserved is not None and own.moment.peak:
        told += f", of a caching allocator {amount(own.reserved)} ({own.reserved / own.moment.peak - 1:+.1%})"
    head = ["value", "role", "type on a device", "bytes", "of the peak"]
    title = tag("h3", "The largest values at that moment")
    return title + table(head, rows, left=3) + tag("p", esc(f"{told}."), class_="note")
