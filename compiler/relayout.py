"""From one layout to another: the shortest sequence of collectives and local cuts, and what each of them moves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from compiler.graph import Type
from compiler.layout import Layout, in_order, local_type
from compiler.ops.comm import AllGather, AllReduce, AllToAll, Comm, OnlyFirst, ReduceScatter, Shard
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class RelayoutStep:
    """One op of a relayout and the layout after it."""

    op: Comm
    layout: Layout


def plan_relayout(type: Type, source: Layout, target: Layout, sizes: Mapping[str, int]) -> tuple[RelayoutStep, ...]:
    """Ops that bring a value of (logical) `type` from `source` to `target`.

    Only the minor-most axis of a dim can be gathered or appended, so axes are stripped down to the common prefix.
    Local cuts go first and gathers last, because cuts make what follows smaller. Neighbouring steps of one kind merge.
    Raises ValueError for what has no meaning (a different pending reduction, halos).
    """
    return _plan(type.names, source, target, tuple(sizes))


@lru_cache(1 << 12)
def _plan(names: tuple[str, ...], source: Layout, target: Layout, mesh: tuple[str, ...]) -> tuple[RelayoutStep, ...]:
    """For tensors of these names, on a mesh of these axes."""
    if source.halo or target.halo:
        raise ValueError("halos are exchanged by their own ops")
    dims = [list(d) for d in source.dims]
    want = [list(d) for d in target.dims]
    pending = dict(in_order(source.pending, mesh))
    goal = dict(in_order(target.pending, mesh))
    home = {a: i for i, axes in enumerate(want) for a in axes}
    steps: list[RelayoutStep] = []

    def extends(i: int, axis: str) -> bool:
        return dims[i] == want[i][: len(dims[i])] and len(want[i]) > len(dims[i]) and want[i][len(dims[i])] == axis

    def emit(op: Comm) -> None:
        layout = Layout(tuple(map(tuple, dims)), in_order(pending.items(), mesh))
        merged = steps[-1].op.merged(op) if steps else None
        if isinstance(merged, Comm):
            steps[-1] = RelayoutStep(merged, layout)
        else:
            steps.append(RelayoutStep(op, layout))

    def step() -> bool:
        held = {a for d in dims for a in d}
        for i, axes in enumerate(want):  # replicated -> split: free
            if len(axes) > len(dims[i]) and dims[i] == axes[: len(dims[i])]:
                axis = axes[len(dims[i])]
                if axis not in held and axis not in pending:
                    dims[i].append(axis)
                    emit(Shard(names[i], (axis,)))
                    return True
        for axis, fn in pending.items():  # pending -> split
            i = home.get(axis, -1)
            if i >= 0 and extends(i, axis):
                del pending[axis]
                dims[i].append(axis)
                emit(ReduceScatter(names[i], (axis,), fn))
                return True
        for i in range(len(dims)):  # split -> split elsewhere
            if dims[i] and dims[i] != want[i][: len(dims[i])]:
                axis = dims[i][-1]
                j = home.get(axis, -1)
                if j >= 0 and j != i and extends(j, axis):
                    dims[i].pop()
                    dims[j].append(axis)
                    emit(AllToAll(names[i], names[j], (axis,)))
                    return True
        for axis, fn in pending.items():  # pending -> replicated (or split where it cannot go directly)
            if goal.get(axis) != fn and not any(
                dims[i] != want[i][: len(dims[i])] and axis in want[i] for i in range(len(dims))
            ):
                del pending[axis]
                emit(AllReduce((axis,), fn))
                return True
        for i in range(len(dims)):  # split -> replicated
            if dims[i] and dims[i] != want[i][: len(dims[i])]:
                axis = dims[i].pop()
                emit(AllGather(names[i], (axis,)))
                return True
        for axis, fn in goal.items():  # replicated -> pending
            if axis not in pending and fn == "sum":
                pending[axis] = fn
                emit(OnlyFirst((axis,)))
                return True
        return False

    while step():
        pass
    if dims != want or pending != goal:
        raise ValueError(f"no way from {source} to {target}")
    return tuple(steps)


def relayout_bytes(type: Type, source: Layout, target: Layout, sizes: Mapping[str, int]) -> float:
    """Bytes that one device sends to get from `source` to `target`."""
    total, before = 0.0, source
    for s in plan_relayout(type, source, target, sizes):
        total += s.op.sent(local_type(type, before, sizes), sizes)
        before = s.layout
    return total
