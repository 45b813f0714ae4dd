"""What devices send: bytes by op and axes, counted from the program's own types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from compiler.graph import Type
from compiler.layout import local_type
from compiler.ops.comm import AllGather, AllReduce, AllToAll, Halo, HaloAdd, ReduceScatter
from compiler.ops.effects import Send, StageReduce
from compiler.program import Body
from runtime.liveness import walk

Key = tuple[str, tuple[str, ...]]
"""(mnemonic, axes); sends between stages have no axes."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one device: number of calls, and the bytes that it sends in them (ring algorithms)."""

    calls: int = 0
    bytes: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.calls + other.calls, self.bytes + other.bytes)

    def times(self, n: int) -> Traffic:
        return Traffic(self.calls * n, self.bytes * n)


Volumes = dict[Key, Traffic]


def volumes(body: Body, sizes: Mapping[str, int]) -> Volumes:
    """What one run of a function sends. With n devices on the axes and S bytes on each before the op:

    all_reduce 2(n-1)/n S, all_gather (n-1) S, reduce_scatter and all_to_all (n-1)/n S, halo: its borders, send: S.
    """
    found: Volumes = {}
    for instr, scope, times in walk(body):
        op = instr.op
        if not instr.inputs:
            continue
        var = scope[instr.inputs[0]]
        local = local_type(var.type, var.layout, sizes)
        if isinstance(op, (AllReduce, AllGather, ReduceScatter, AllToAll)):
            n = prod(sizes[a] for a in op.axes)
            share = {"all_reduce": 2 * (n - 1) / n, "all_gather": float(n - 1)}.get(op.mnemonic, (n - 1) / n)
            key: Key = (op.mnemonic, op.axes)
            sent = share * local.bytes
        elif isinstance(op, (Halo, HaloAdd)):
            key, sent = (op.mnemonic, op.axes), _row_bytes(local, op.dim) * (op.left + op.right)
        elif isinstance(op, (Send, StageReduce)):
            n = len(op.groups) if isinstance(op, StageReduce) else 0
            key, sent = (op.mnemonic, ()), local.bytes * (2 * (n - 1) / n if n else 1.0)
        else:
            continue
        found[key] = found.get(key, Traffic()) + Traffic(times, sent * times)
    return found


def add_volumes(total: Volumes, more: Volumes, times: int = 1) -> None:
    """`total += times * more`, in place."""
    for key, t in more.items():
        total[key] = total.get(key, Traffic()) + t.times(times)


def _row_bytes(local: Type, dim: str) -> float:
    return local.bytes / local.size(dim)
