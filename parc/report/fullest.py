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
    handed = f"All of it fits into {amount(full.allocation.size)} with offsets that are fixed beforehand "
    handed += f"({full.allocation.fragmentation:+.1%})"
    if full.reserved is not None:
        handed += f"; a caching allocator reserves {amount(full.reserved)} ({full.reserved / m.peak - 1:+.1%})"
    head = ["value", "role", "type on a device", "bytes", "of the peak"]
    title = tag("h3", "The largest values at that moment")
    return title + table(head, rows, left=3) + tag("p", esc(f"{handed}."), class_="note")
