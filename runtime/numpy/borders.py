"""Elements before and behind those along an axis, where windows along other axes stay views of one memory.

A convolution looks through windows along one dim, then along the next. What the second sees beyond the ends is laid
around the memory that the first looks into, not around each of its windows.
"""

from __future__ import annotations

from typing import Any

from numpy.lib.stride_tricks import as_strided

from runtime.numpy.base import Array, CallContext, inverse


def with_borders(ctx: CallContext, x: Array, axis: int, low: int, high: int, fill: Any) -> Array:
    """So many elements `fill` before and behind those along the axis. Read-only where elements are shared."""
    base = _base(x, axis)
    if base is None:
        shape = [n + low + high if i == axis else n for i, n in enumerate(x.shape)]
        order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))  # as x lies in memory
        out = ctx.empty(tuple(shape[i] for i in order), x.dtype).transpose(inverse(order))
        _filled(out, x, axis, low, fill)
        return out
    groups, at, memory = base
    shape = [n + low + high if i == at else n for i, n in enumerate(memory.shape)]
    out = ctx.empty(tuple(shape), x.dtype)
    _filled(out, memory, at, low, fill)
    steps = [0] * x.ndim
    for step, group in zip(out.strides, groups):
        for i, times in group:
            steps[i] = step * times
    sizes = [n + low + high if i == axis else n for i, n in enumerate(x.shape)]
    return as_strided(out, sizes, steps, writeable=False)


def _filled(out: Array, x: Array, axis: int, low: int, fill: Any) -> None:
    before = (slice(None),) * axis
    out[(*before, slice(0, low))] = fill
    out[(*before, slice(low + x.shape[axis], None))] = fill
    out[(*before, slice(low, low + x.shape[axis]))] = x


Groups = list[list[tuple[int, int]]]
"""Of each axis of a memory: the axes that walk along it, each with its step in elements."""


def _base(x: Array, axis: int) -> tuple[Groups, int, Array] | None:
    """The memory that the axes walk along, as an array in which each element stands once, its axes outermost first; and
    which of these is `axis`. None where nothing is shared, or `axis` itself walks along what others do."""
    groups: Groups = []
    steps: list[int] = []
    lengths: list[int] = []
    shared = False
    for i in sorted(range(x.ndim), key=lambda i: (x.strides[i], -i)):
        n, step = x.shape[i], x.strides[i]
        if n == 1 and i != axis:
            continue
        if step <= 0:
            return None
        if steps and step < steps[-1] * lengths[-1] and n > 1:
            if i == axis or any(j == axis for j, _ in groups[-1]) or step % steps[-1]:
                return None
            shared = True
            times = step // steps[-1]
            groups[-1].append((i, times))
            lengths[-1] += (n - 1) * times
        else:
            groups.append([(i, 1)])
            steps.append(step)
            lengths.append(n)
    if not shared:
        return None
    at = next(k for k, group in enumerate(groups) if group[0][0] == axis)
    order = range(len(groups) - 1, -1, -1)
    memory = as_strided(x, [lengths[k] for k in order], [steps[k] for k in order], writeable=False)
    return [groups[k] for k in order], len(groups) - 1 - at, memory
