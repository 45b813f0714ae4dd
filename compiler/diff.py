"""What a program communicates and holds, as tables, and what differs between two programs.

    collectives   per class, function, op, axes and dim: calls and bytes of one device in a step
    buffers       bytes of one device by role and memory
    diff          what changes in layouts, collectives and buffers between two programs

Bytes of a collective are what a device sends with ring algorithms. With n devices and S bytes on each before the op:
all_reduce 2(n-1)/n S, all_gather (n-1) S, reduce_scatter and all_to_all (n-1)/n S, send S, halo its borders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from compiler.layout import local_type
from compiler.ops.comm import Halo, HaloAdd
from compiler.ops.effects import Send, StageReduce
from compiler.program import Body, DeviceClass, For, Instr, LocalRepeat, Program, Run, StateDecl, Var
from compiler.relayout import step_bytes
from compiler.text.attrs import runs, show_run
from compiler.text.printer import show_schedule, show_type

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Collective:
    """What one device of the groups does in a step: `count` calls, in which it sends `bytes` in all.

    `function`: F, B, W or U (with its chunk: `F.1`); `dim`: what is gathered or scattered ("" where nothing is).
    Messages between stages have no axes.
    """

    groups: tuple[int, ...]
    function: str
    op: str
    axes: tuple[str, ...]
    dim: str
    count: int
    bytes: float


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes of one device of the groups for the buffers of one role in one memory.

    Saved values count for as many micro-batches as are in flight at most.
    """

    groups: tuple[int, ...]
    role: str
    memory: str
    bytes: int


def collectives(program: Program) -> tuple[Collective, ...]:
    """All communication of a step, by class and function; loops and micro-batches multiplied out."""
    sizes, m = program.sizes, program.microbatches
    found: dict[tuple[tuple[int, ...], str, str, tuple[str, ...], str], tuple[int, float]] = {}
    for cls in program.classes:
        for f in cls.functions:
            name = f"{f.name}.{f.chunk}" if f.chunk else f.name
            for instr, source, times in _walk(f.body, {}, 1 if f.name == "U" else m):
                sent = _sent(instr, source, sizes)
                if sent is not None:
                    op = instr.op
                    dim = str(getattr(op, "scatter", "") or getattr(op, "dim", ""))
                    key = (cls.groups, name, op.mnemonic, getattr(op, "axes", ()), dim)
                    count, total = found.get(key, (0, 0.0))
                    found[key] = (count + times, total + sent * times)
    return tuple(Collective(*key, *value) for key, value in found.items())


def _walk(body: Body, outer: Mapping[str, Var], times: int) -> Iterator[tuple[Instr, Var, int]]:
    """Instructions with operands: (instruction, first operand, number of runs), loops entered."""
    known = {**outer, **{p.name: p for p in body.params}}
    for instr in body.instrs:
        if isinstance(instr.op, LocalRepeat):
            yield from _walk(instr.op.body, known, times * instr.op.count)
        elif instr.inputs:
            yield instr, known[instr.inputs[0]], times
        known.update((v.name, v) for v in instr.outputs)


def _sent(instr: Instr, source: Var, sizes: Mapping[str, int]) -> float | None:
    """Bytes that a device sends for one call; None for what does not communicate."""
    op = instr.op
    if isinstance(op, (Send, StageReduce, Halo, HaloAdd)):
        local = local_type(source.type, source.layout, sizes)
        if isinstance(op, Send):
            return float(local.bytes)
        if isinstance(op, StageReduce):
            n = len(op.groups)
            return 2 * (n - 1) / n * local.bytes
        return local.bytes / local.size(op.dim) * (op.left + op.right)
    if op.mnemonic not in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        return None
    return step_bytes(op, source.type, source.layout, instr.outputs[0].layout, sizes)


# --- buffers -------------------------------------------------------------------------------------


def buffers(program: Program) -> tuple[Buffers, ...]:
    """Bytes that a device holds for weights, gradients, states and saved values (of its fullest group)."""
    found: list[Buffers] = []
    for cls in program.classes:
        chunks = max(1, len({f.chunk for f in cls.functions}))
        flying = max((in_flight(cls, g) for g in cls.groups), default=0)
        totals: dict[tuple[str, str], int] = {}
        for s in cls.states:
            # In flight are (chunk, micro-batch) pairs, spread over the chunks.
            copies = -(-flying // chunks) if s.role == "saved" else 1
            key = (s.role, s.memory)
            totals[key] = totals.get(key, 0) + copies * local_type(s.type, s.layout, program.sizes).bytes
        found += [Buffers(cls.groups, role, memory, n) for (role, memory), n in totals.items()]
    return tuple(found)


def in_flight(cls: DeviceClass, group: int) -> int:
    """Most (chunk, micro-batch) pairs whose forward has run and whose last backward action has not."""
    kinds = {f.name for f in cls.functions}
    last = "W" if "W" in kinds else "B"
    if last not in kinds:
        return 0
    held = most = 0

    def step(kind: str, times: int = 1) -> None:
        nonlocal held, most
        held += times if kind == "F" else -times if kind == last else 0
        most = max(most, held)

    for e in cls.schedule:
        if isinstance(e, Run):
            step(e.action, e.high.at(group) - e.low.at(group))
        elif isinstance(e, For):
            count = e.count.at(group)
            net = sum(1 if kind == "F" else -1 if kind == last else 0 for kind, _, _ in e.steps)
            # The first iteration or, if each leaves more behind than it found, the last one is the fullest.
            held += net * (count - 1) if net > 0 and count > 0 else 0
            for kind, _, _ in e.steps if count > 0 else ():
                step(kind)
            held += net * (count - 1) if net <= 0 and count > 0 else 0
    return most


# --- differences ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """`what` was `before` and is `after`; None where there is nothing."""

    what: str
    before: str | float | None
    after: str | float | None


@dataclass(frozen=True, slots=True)
class ProgramDiff:
    """What differs, by kind; for collectives and buffers of the device that sends or holds most."""

    frame: tuple[Change, ...]
    layouts: tuple[Change, ...]
    calls: tuple[Change, ...]
    bytes: tuple[Change, ...]
    buffers: tuple[Change, ...]

    def __bool__(self) -> bool:
        return any((self.frame, self.layouts, self.calls, self.bytes, self.buffers))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        parts = (
            ("the whole", self.frame, str),
            ("layouts", self.layouts, str),
            ("calls per step", self.calls, lambda x: f"{x:g}"),
            ("bytes sent per device and step", self.bytes, amount),
            ("bytes held per device", self.buffers, amount),
        )
        lines: list[str] = []
        for title, changes, shown in parts:
            if changes:
                lines.append(f"{title}:")
                lines += [line for c in changes for line in _lines(c, shown)]
        return "\n".join(lines) if lines else "no differences"


def _lines(c: Change, shown: Callable[[Any], str]) -> list[str]:
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
    )


def _changes(before: Mapping[str, T], after: Mapping[str, T]) -> tuple[Change, ...]:
    keys = dict.fromkeys((*before, *after))
    return tuple(
        Change(k, before.get(k), after.get(k))  # type: ignore[arg-type]
        for k in keys
        if before.get(k) != after.get(k)
    )


def _frame(program: Program) -> dict[str, str]:
    axes = {f"axis {a.name}": f"{a.size}" + ("" if a.kind == "mesh" else f" {a.kind}") for a in program.axes}
    frame = {**axes, "stages": str(program.stages)}
    for cls in program.classes:
        frame[f"schedule of stage {_groups(cls.groups)}"] = show_schedule(cls.schedule)
    return frame


def _layouts(program: Program) -> dict[str, str]:
    """`weight block.w1` -> its type, and where, if not everywhere alike."""
    held: dict[str, dict[str, list[int]]] = {}
    for cls in program.classes:
        for s in cls.states:
            text = show_type(s.type, s.layout, program.sizes) + ("" if s.memory == "hbm" else f" in {s.memory}")
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


def _busiest(rows: tuple[Collective, ...], measure: Callable[[Collective], float]) -> dict[str, float]:
    """Per function and kind of call, of the class of devices that has most; chunks added up."""
    totals: dict[str, dict[tuple[int, ...], float]] = {}
    for c in rows:
        over = f" over {'/'.join(c.axes)}" if c.axes else ""
        title = f"{c.function.split('.')[0]} {c.op}{f' {c.dim}' if c.dim else ''}{over}"
        per_class = totals.setdefault(title, {})
        per_class[c.groups] = per_class.get(c.groups, 0.0) + measure(c)
    return {title: max(found.values()) for title, found in sorted(totals.items())}


def _fullest(program: Program) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in buffers(program):
        title = row.role if row.memory == "hbm" else f"{row.role} in {row.memory}"
        found[title] = max(found.get(title, 0.0), float(row.bytes))
    return found
