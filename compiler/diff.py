"""What a program holds, as a table, and what differs between two programs.

buffers       bytes of one device by role and memory, each at its most
diff          what changes in layouts, collectives (`compiler.traffic`), buffers and operations between two programs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from compiler.layout import local_type
from compiler.memory.peak import most
from compiler.memory.tiers import FIRST
from compiler.operations import operations
from compiler.origin import Role
from compiler.program import DeviceClass, For, FunctionPhase, Program, Run, StateDecl
from compiler.text.attrs import runs, show_number, show_run, show_within
from compiler.text.printer import show_entry, show_homes, show_input, show_schedule, show_type
from compiler.traffic import CollectiveCalls, collectives
from dsl.data import dataclass

T = TypeVar("T")

TOLD = 20
"""So many kinds of operations that differ are shown: two strategies differ in many; JSON has all."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes of one device of the groups for the buffers of one role in one memory.

    Saved values count for as many micro-batches as are in flight at most.
    """

    groups: tuple[int, ...]
    role: str
    memory: str
    bytes: int


# --- buffers -------------------------------------------------------------------------------------


def buffers(program: Program) -> tuple[Buffers, ...]:
    """Bytes that a device holds for weights, gradients, states and saved values (of its fullest group)."""
    found: list[Buffers] = []
    for cls in program.classes:
        chunks = max(1, len({f.chunk for f in cls.functions if f.phase is FunctionPhase.FORWARD}))
        flying = max((in_flight(cls, g) for g in cls.groups), default=0)
        totals: dict[tuple[str, str], int] = {}
        for s in cls.states:
            # In flight are (chunk, micro-batch) pairs, spread over the chunks.
            copies = -(-flying // chunks) if s.role is Role.SAVED else 1
            key = (s.role, s.memory)
            totals[key] = totals.get(key, 0) + copies * local_type(s.type, s.layout, program.sizes).bytes
        found += [Buffers(cls.groups, role, memory, n) for (role, memory), n in totals.items()]
    return tuple(found)


def in_flight(cls: DeviceClass, group: int) -> int:
    """Most (chunk, micro-batch) pairs whose forward has run and whose last backward action has not."""
    kinds = {f.phase for f in cls.functions}
    last = FunctionPhase.WEIGHTS if FunctionPhase.WEIGHTS in kinds else FunctionPhase.BACKWARD
    if last not in kinds:
        return 0
    held = most = 0

    def step(kind: FunctionPhase, times: int = 1) -> None:
        nonlocal held, most
        held += times if kind is FunctionPhase.FORWARD else -times if kind == last else 0
        most = max(most, held)

    for e in cls.schedule:
        if isinstance(e, Run):
            step(e.action, e.high.at(group) - e.low.at(group))
        elif isinstance(e, For):
            count = e.count.at(group)
            net = sum(1 if kind is FunctionPhase.FORWARD else -1 if kind == last else 0 for kind, _, _ in e.steps)
            # The first iteration or, if each leaves more behind than it found, the last one is the fullest.
            held += net * (count - 1) if net > 0 and count > 0 else 0
            for kind, _, _ in e.steps if count > 0 else ():
                step(kind)
            held += net * (count - 1) if net <= 0 and count > 0 else 0
    return most


# --- differences ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` was `before` and is `after`; None where there is nothing."""

    what: str
    before: str | float | None
    after: str | float | None


@dataclass(frozen=True, slots=True)
class ProgramDiff:
    """What differs, by kind; for collectives and buffers of the device that sends or holds most."""

    frame: tuple[Difference, ...]
    layouts: tuple[Difference, ...]
    calls: tuple[Difference, ...]
    bytes: tuple[Difference, ...]
    buffers: tuple[Difference, ...]
    operations: tuple[Difference, ...]

    def __bool__(self) -> bool:
        return any((self.frame, self.layouts, self.calls, self.bytes, self.buffers, self.operations))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        parts = (
            ("the whole", self.frame, str),
            ("layouts", self.layouts, str),
            ("calls per step", self.calls, lambda x: f"{x:g}"),
            ("bytes sent per device and step", self.bytes, amount),
            ("bytes held per device by each kind of buffer, and in all", self.buffers, amount),
            ("operations in the text of each function", self.operations, lambda x: f"{x:g}"),
        )
        lines: list[str] = []
        for title, changes, shown in parts:
            if changes:
                lines.append(f"{title}:")
                told = changes if changes is not self.operations else changes[:TOLD]
                lines += [line for c in told for line in _lines(c, shown)]
                more = len(changes) - len(told)
                lines += [f"    and {more} more"] if more else []
        return "\n".join(lines) if lines else "no differences"


def _lines(c: Difference, shown: Callable[[Any], str]) -> list[str]:
    before, after = (None if x is None else shown(x) for x in (c.before, c.after))
    if "\n" in f"{before}{after}":
        rows = [(sign, line) for sign, text in (("-", before), ("+", after)) for line in (text or "").splitlines()]
        return [f"  {c.what}:", *(f"  {sign} {line}" for sign, line in rows)]
    if before is None:
        return [f"  + {c.what}: {after}"]
    return [f"  - {c.what}: {before}"] if after is None else [f"    {c.what}: {before} -> {after}"]


def amount(n: float) -> str:
    """Bytes to read: `1,536 B`, `1.50 MiB`."""
    if n < 10 * 1024:
        return f"{n:,.0f} B"
    units = ("KiB", "MiB", "GiB", "TiB")
    for unit in units:
        n /= 1024
        if n < 1024 or unit == units[-1]:
            break
    return f"{n:,.2f} {unit}"


def diff(a: Program, b: Program) -> ProgramDiff:
    """What changes from `a` to `b`."""
    before, after = collectives(a), collectives(b)
    return ProgramDiff(
        _changes(_frame(a), _frame(b)),
        _changes(_layouts(a), _layouts(b)),
        _changes(_busiest(before, lambda c: c.count), _busiest(after, lambda c: c.count)),
        _changes(_busiest(before, lambda c: c.bytes), _busiest(after, lambda c: c.bytes)),
        _changes(_fullest(a), _fullest(b)),
        _changes(operations(a), operations(b)),
    )


def _changes(before: Mapping[str, T], after: Mapping[str, T]) -> tuple[Difference, ...]:
    keys = dict.fromkeys((*before, *after))
    return tuple(
        Difference(k, before.get(k), after.get(k))  # type: ignore[arg-type]
        for k in keys
        if before.get(k) != after.get(k)
    )


def _frame(program: Program) -> dict[str, str]:
    axes = {f"axis {a.name}": f"{a.size}" + ("" if a.kind == "mesh" else f" {a.kind}") for a in program.axes}
    frame = {**axes, "stages": show_homes(program)}
    frame |= {"seed": str(program.seed)} if program.seed else {}
    frame |= {f"input {i.name}": show_input(i).partition(": ")[2] for i in program.inputs}
    frame |= {f"entry {e.name}": show_entry(e).partition(" ")[2] for e in program.entries}
    for cls in program.classes:
        frame[f"schedule of stage {_groups(cls.groups)}"] = show_schedule(cls.schedule)
        for state in cls.states:
            if state.init is not None:
                args = ", ".join(map(show_number, state.init.args))
                frame[f"{_title(state)} at first"] = f"{state.init.kind}({args})" if args else state.init.kind
    return frame


def _layouts(program: Program) -> dict[str, str]:
    """`weight block.w1` -> its type, and where, if not everywhere alike."""
    held: dict[str, dict[str, list[int]]] = {}
    for cls in program.classes:
        for s in cls.states:
            text = show_type(s.type, s.layout, program.sizes) + ("" if s.memory == FIRST else f" in {s.memory}")
            text += show_within(s.within)
            text += " frozen" if s.frozen else ""
            held.setdefault(_title(s), {}).setdefault(text, []).extend(cls.groups)
    everywhere = program.groups
    return {
        title: "; ".join(
            text if len(groups) == everywhere else f"{text} on stage {_groups(sorted(groups))}"
            for text, groups in texts.items()
        )
        for title, texts in held.items()
    }


def _title(s: StateDecl) -> str:
    return f"{s.role} {s.name}"


def _groups(groups: tuple[int, ...] | list[int]) -> str:
    return ", ".join(show_run(*r) for r in runs(groups))


def _busiest(rows: tuple[CollectiveCalls, ...], measure: Callable[[CollectiveCalls], float]) -> dict[str, float]:
    """Per function and kind of call, of the class of devices that has most; chunks added up."""
    totals: dict[str, dict[tuple[int, ...], float]] = {}
    for c in rows:
        over = f" over {'/'.join(c.axes)}" if c.axes else ""
        title = f"{c.phase} {c.op}{f' {c.dim}' if c.dim else ''}{over}"
        per_class = totals.setdefault(title, {})
        per_class[c.groups] = per_class.get(c.groups, 0.0) + measure(c)
    return {title: max(found.values()) for title, found in sorted(totals.items())}


def _fullest(program: Program) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in buffers(program):
        title = row.role if row.memory == FIRST else f"{row.role} in {row.memory}"
        found[title] = max(found.get(title, 0.0), float(row.bytes))
    for memory, n in most(program).items():  # not their sum: saved values are gone, and others there, at that moment
        found["in all at the peak" if memory == FIRST else f"in all in {memory} at the peak"] = float(n)
    return found
