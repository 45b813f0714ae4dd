"""What devices send each other: counted from types and layouts, of a function, a program, or one change of layout.

Bytes are what one device sends with ring algorithms. With n devices and S bytes on each before the op: all_reduce
2(n-1)/n S, all_gather (n-1) S, reduce_scatter and all_to_all (n-1)/n S, send S, halo its borders.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from compiler.graph import Graph, Type
from compiler.layout import Layout, local_type
from compiler.ops.base import Op
from compiler.ops.comm import Comm
from compiler.ops.effects import Send, StageReduce
from compiler.program import FunctionPhase, Program
from compiler.walk import walk
from dsl.data import dataclass

Key = tuple[str, tuple[str, ...]]
"""(mnemonic, axes); messages between stages have no axes."""


@dataclass(frozen=True, slots=True)
class Message:
    """A call of a collective, or a message to another stage: `times` in a run of the function, `bytes` in each.

    `dim`: what is gathered or scattered, or where borders are exchanged ("" where nothing is).
    """

    op: str
    axes: tuple[str, ...]
    dim: str
    times: int
    bytes: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one device: number of calls, and the bytes that it sends in them."""

    calls: int = 0
    bytes: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.calls + other.calls, self.bytes + other.bytes)

    def times(self, n: int) -> Traffic:
        return Traffic(self.calls * n, self.bytes * n)


Volumes = dict[Key, Traffic]


@dataclass(frozen=True, slots=True)
class CollectiveCalls:
    """What one device of the groups does in a step: `count` calls, in which it sends `bytes` in all.

    `dim` as in `Message`.
    """

    groups: tuple[int, ...]
    phase: FunctionPhase
    chunk: int
    op: str
    axes: tuple[str, ...]
    dim: str
    count: int
    bytes: float

    @property
    def function(self) -> str:
        """What texts call the function: `F.1` is that of chunk 1."""
        return f"{self.phase}.{self.chunk}" if self.chunk else self.phase


def sent_bytes(op: Op, type: Type, before: Layout, sizes: Mapping[str, int]) -> float | None:
    """Bytes that a device sends for one call on an operand of the (logical) type; None for what stays local."""
    if isinstance(op, Comm):
        return op.sent(local_type(type, before, sizes), sizes) if op.message else None
    if isinstance(op, (Send, StageReduce)):
        bytes = local_type(type, before, sizes).bytes
        return 2 * (len(op.groups) - 1) / len(op.groups) * bytes if isinstance(op, StageReduce) else float(bytes)
    return None


def in_mesh_order(axes: Iterable[str], mesh: Iterable[str]) -> tuple[str, ...]:
    """Gives axes in the order of the mesh: their devices are the same, in whichever order pieces lie along them.

    mesh: the names of all axes, major to minor.
    """
    wanted = set(axes)
    return tuple(a for a in mesh if a in wanted)


def messages(body: Graph, sizes: Mapping[str, int], near: Collection[int] = ()) -> Iterator[Message]:
    """All communication of one run of a function, in its order; what is in a loop counts for all iterations. near:
    stages on the same devices, by how far off they are, to which values go without a message."""
    for instr, times in walk(body):
        op, source = instr.op, next(iter(instr.inputs), None)
        if isinstance(op, Send) and op.to in near:
            continue
        sent = sent_bytes(op, source.type, source.layout, sizes) if source is not None else None
        if sent is not None:
            axes, dim = (op.over(), op.along()) if isinstance(op, Comm) else ((), "")
            yield Message(op.mnemonic, in_mesh_order(axes, sizes), dim, times, sent)


def volumes(body: Graph, sizes: Mapping[str, int]) -> Volumes:
    """What one run of a function sends, by op and axes."""
    found: Volumes = {}
    for m in messages(body, sizes):
        key = (m.op, m.axes)
        found[key] = found.get(key, Traffic()) + Traffic(1, m.bytes).times(m.times)
    return found


def add_volumes(total: Volumes, more: Volumes, times: int = 1) -> None:
    """`total += times * more`, in place."""
    for key, t in more.items():
        total[key] = total.get(key, Traffic()) + t.times(times)


def collectives(program: Program) -> tuple[CollectiveCalls, ...]:
    """All communication of a step, by class and function; loops and micro-batches multiplied out."""
    found: dict[tuple[tuple[int, ...], FunctionPhase, int, str, tuple[str, ...], str], Traffic] = {}
    for cls in program.classes:
        for f in cls.functions:
            runs = program.runs(f)
            stages = program.homes.of(cls.groups[0])
            chunk = f.phase.at(f.chunk)
            near = [s - stages[chunk] for s in stages] if chunk < len(stages) else []
            for m in messages(f.body, program.sizes, near):
                key = (cls.groups, f.phase, f.chunk, m.op, m.axes, m.dim)
                found[key] = found.get(key, Traffic()) + Traffic(1, m.bytes).times(m.times * runs)
    return tuple(CollectiveCalls(*key, t.calls, t.bytes) for key, t in found.items())
