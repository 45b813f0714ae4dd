"""Whether a program fits: E0701 says of the fullest device what is alive at its fullest moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from compiler.memory.fullest import Alive, Fullest, fullest, traced
from compiler.memory.peak import memory_use
from compiler.memory.servers import worst_server
from compiler.memory.tiers import Share
from compiler.model import TRAIN_STEP
from compiler.program import Program
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Span

SHOWN = 6
HELP = "split more (`shard weights on …`, a larger mesh), recompute, or use more micro-batches"


class StackNeed(Protocol):
    """Bytes of a device with the cluster's software: those that its allocator holds, and those with the driver's."""

    @property
    def reserved(self) -> int: ...

    @property
    def needed(self) -> int: ...


def check_capacity(program: Program, capacities: Mapping[str, float]) -> None:
    """Raise E0701 if emulated devices need more than there is for one of the program's entries.

    capacities: memory kind -> bytes per device; of memories that are not named there is enough. Where they are `Share`s
    the devices of a server have to do with all of it together.
    """
    for entry in program.entries if capacities else ():
        alone = program.only(entry.name)
        use = memory_use(alone)
        for memory, capacity in capacities.items():
            needs = {g: kinds[memory].bytes for g, kinds in use.items() if memory in kinds}
            if not needs:
                continue
            need, worst = worst_server(alone, needs, capacity.sharing if isinstance(capacity, Share) else 1)
            if need > capacity:
                found = fullest(traced(alone, worst), worst, memory)
                raise ParcError(out_of_memory(found, capacity, entry=entry.name, server=need))


def out_of_memory(
    found: Fullest,
    capacity: float,
    need: StackNeed | None = None,
    help: str = HELP,
    entry: str = TRAIN_STEP,
    server: int = 0,
) -> Diagnostic:
    """The error: the moment, what the memory is used for, and the largest things alive. need: of the cluster's stack;
    None: the emulator's devices hold the program's own values. entry: what they are asked to do. server: bytes that
    each device needs on the average, where those of a server have the memory together."""
    roles = ", ".join(f"{role} {show_bytes(n)}" for role, n in sorted(found.roles.items(), key=lambda x: -x[1]))
    largest = [(f"{show_bytes(a.bytes):>12}  {shown(a)}", None) for a in found.alive[:SHOWN]]
    moment = f" (in {when(found)})" if found.action is not None else ""
    who, needed = ("emulated devices", found.peak) if need is None else ("devices", need.needed)
    task = "" if entry == TRAIN_STEP else f" in `{entry}`"
    sharing = capacity.sharing if isinstance(capacity, Share) else 1
    if sharing > 1:
        needs, has = _apart(sharing * server, int(sharing * capacity))
        message = f"out of memory{task}: the {who} of a server need {needs} of {found.memory} together, it has {has}; "
        message += f"those of group {found.group} need {show_bytes(needed)} each{moment}"
    else:
        needs, has = _apart(needed, int(capacity))
        message = f"out of memory{task}: the {who} of group {found.group} need {needs} of {found.memory}, "
        message += f"they have {has}{moment}"
    notes: list[tuple[str, Span | None]] = []
    if need is not None:
        driver = f", {show_bytes(need.needed - need.reserved)} for the driver" if need.needed > need.reserved else ""
        notes.append(
            (f"allocated {show_bytes(found.peak)}, reserved for that {show_bytes(need.reserved)}{driver}", None)
        )
    return Diagnostic("E0701", message, notes=(*notes, (f"by role: {roles}", None), *largest), help=help)


def _apart(more: int, less: int) -> tuple[str, str]:
    """Two numbers of bytes, so that they can be told apart."""
    if show_bytes(more) != show_bytes(less):
        return show_bytes(more), show_bytes(less)
    return f"{more:,} B", f"{less:,} B"


def when(found: Fullest) -> str:
    """The moment: `B[3] of stage 0, block at q.grad`."""
    if found.action is None:
        return f"stage {found.group} before its first action"
    at = (f"at {found.where.at}",) if found.where else ()
    place = " ".join(("/".join(found.where.loops), *at)).strip()
    return f"{found.action} of stage {found.group}" + (f", {place}" if place else "")


def shown(a: Alive) -> str:
    """`block.mlp.w1: f16[block=4, d=2048/dp, f=8192] (weight)`, `… (saved, 3 micro-batches)`."""
    role = f"{a.role}, {a.count} micro-batches" if a.count > 1 else a.role
    return f"{a.name}{f': {a.type}' if a.type else ''} ({role})"


def show_bytes(n: float) -> str:
    """A number of bytes for people: `1.50 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1024
    return f"{n:.2f} TiB"
