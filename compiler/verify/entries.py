"""Entries of one program: states that live across steps are shared, so all entries that declare one agree on it."""

from __future__ import annotations

from compiler.program import LASTING, Entry, Program, StateDecl
from compiler.text.locations import Site
from compiler.verify.report import Report


def check_entry(program: Program, before: Program, report: Report) -> None:
    """An entry's states that live across steps, and those of the entries before it.

    Where one of them renews a state, a device that has it in another has it there as well: else it would go stale.
    """
    known: dict[tuple[str, int], StateDecl] = {}
    renewed: set[str] = set()
    for entry in before.entries:
        found, new = _lasting(entry)
        known |= found
        renewed |= new
    mine, renews = _lasting(program.entries[0])
    stale = {s.logical: (s, g) for (name, g), s in known.items() if s.logical in renews and (name, g) not in mine}
    for c, cls in enumerate(program.classes):
        for i, s in enumerate(cls.states):
            if s.role not in LASTING:
                continue
            site = Site(c, "state", i)
            theirs = [known.get((s.name, g)) for g in cls.groups]
            if s.logical in stale:
                old, g = stale.pop(s.logical)
                message = f"{old.role} {old.name} is renewed here, but not on stage {g}, where another entry has it"
                report.error("E0651", site, message, "states are renewed wherever an entry reads them")
            if any(t is None for t in theirs) and s.logical in renewed:
                message = f"{s.role} {s.name} lies here, but where another entry renews it it does not"
                report.error("E0651", site, message, "states are renewed wherever an entry reads them")
            elif any(t is not None and _shape(t) != _shape(s) for t in theirs):
                message = f"{s.role} {s.name} is declared otherwise by another entry"
                report.error("E0651", site, message, "all entries of a program share its states")


def _lasting(entry: Entry) -> tuple[dict[tuple[str, int], StateDecl], set[str]]:
    """What lives across steps, by buffer and group of devices; of which tensors the entry renews any."""
    found: dict[tuple[str, int], StateDecl] = {}
    renewed: set[str] = set()
    for cls in entry.classes:
        writes = frozenset[str]().union(*(f.writes for f in cls.functions))
        for s in (s for s in cls.states if s.role in LASTING):
            found.update(((s.name, g), s) for g in cls.groups)
            renewed.update([s.logical] if s.name in writes else ())
    return found, renewed


def _shape(s: StateDecl) -> object:
    return s.role, s.type, s.layout, s.chunk, s.init, s.memory, s.logical
