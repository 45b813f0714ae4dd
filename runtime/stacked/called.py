"""What the text of a function calls besides kernels: sums of micro-batches, stacks of loops, rows that are renewed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runtime.backend import Renewing
from runtime.distribute import Array
from runtime.numpy import STORAGE, CallContext, LocalValue, rounded
from runtime.numpy.base import inverse, laid
from runtime.numpy.disk import DiskArray
from runtime.stacked.files import held


def whole_list(lead: int, parts: Sequence[Array]) -> Array:
    """The parts of all micro-batches along a dim of their own, behind the lead axes."""
    return np.stack(np.broadcast_arrays(*parts), axis=lead)


def renewing(slot: int, kernel: Any) -> Callable[..., Array]:
    """Renews rows of a buffer in its own memory, once this group has made that: the first time it makes a copy."""

    def renewed(ctx: CallContext, g: Any, table: Array, rows: Array, numbers: Array) -> Array:
        if g.made[slot] is table:
            kernel.renew(ctx, table, rows, numbers)
        else:
            g.made[slot] = kernel(ctx, table, rows, numbers)
        renewed: Array = g.made[slot]
        return renewed

    return renewed


def owned(g: Any, slot: int) -> Array:
    """The contents of a state of the model, in memory that this group has made and nobody else holds: at first, or
    where somebody has put others there, a copy."""
    found: Array = g.states[slot]
    if g.made[slot] is not found:
        found = g.states[slot] = g.made[slot] = found.copy(order="C" if 0 in found.strides else "K")
    return found


def in_place(kernel: Renewing, lead: int) -> Callable[..., Array]:
    """Renews the first operand in its own memory, unless others differ along lead axes along which it does not."""

    def renewed(ctx: CallContext, x: Array, *others: Array) -> Array:
        for y in others if lead else ():
            if any(n not in (1, m) for n, m in zip(y.shape[:lead], x.shape)):
                made: Array = kernel(ctx, x, *others)
                return made
        kernel.renew(ctx, x, *others)
        return x

    return renewed


def there(lead: int) -> Callable[[Any, int, Any, Any], Any]:
    """Puts a slice into a stack, unless it is the one that is there already, renewed."""
    return lambda stack, i, value, old: stack if value is old else fill_stack(stack, lead, i, value)


def accumulator(slot: int, dtype: str, fn: str) -> Callable[[Any, Array], None]:
    """Adds to an accumulated buffer. A step's first value is only kept; what is added to in place was made here."""
    combine = np.maximum if fn == "max" else np.add
    narrow = dtype in ("bf16", "f16") and fn == "sum"

    def accumulate(g: Any, x: Array) -> None:
        old = g.states[slot]
        if old is None:
            g.states[slot] = x
        elif isinstance(old, DiskArray):
            new = np.asarray(combine(old.read(), held(x)))
            g.states[slot] = DiskArray.of(rounded(new, dtype) if narrow else new)
        elif g.owned[slot] and old.shape == x.shape and not narrow:
            combine(old, x, out=old)
        else:
            new = np.asarray(combine(old, x))
            g.states[slot] = rounded(new, dtype) if narrow else new
            g.owned[slot] = True

    return accumulate


def adder(slot: int, lead: int, dtype: str, fn: str) -> Callable[[Any, int, Array], None]:
    """Adds a value to a slice of an accumulated stack: the same sums as `accumulator` of the whole stack."""
    combine = np.maximum if fn == "max" else np.add
    narrow = dtype in ("bf16", "f16") and fn == "sum"

    def add(g: Any, i: int, x: Array) -> None:
        if not g.owned[slot]:
            g.states[slot], g.owned[slot] = g.states[slot].copy(order="K"), True
        stack = g.states[slot] = widened(g.states[slot], lead, x)
        # The dots: of a list of numbers, too, this is a part that can be written to.
        at = stack[(slice(None),) * lead + (i, ...)]
        if narrow:
            at[...] = rounded(combine(at, x), dtype)
        else:
            combine(at, x, out=at)

    return add


def stack_of(stack: LocalValue) -> Callable[[CallContext], Array]:
    """Makes an empty stack: each slice lies in one piece."""
    lead = len(stack.lead)
    order = (lead, *(i for i in laid(stack) if i != lead))
    there, back, storage = tuple(stack.shape[i] for i in order), inverse(order), STORAGE[stack.type.dtype]
    return lambda ctx: ctx.empty(there, storage).transpose(back)


def fill_stack(stack: Any, lead: int, i: int, value: Any) -> Any:
    """Put a slice into the stack. (One in a file is as large as it was declared.)"""
    stack = stack if isinstance(stack, DiskArray) else widened(stack, lead, value)
    stack[(slice(None),) * lead + (i,)] = value
    return stack


def widened(stack: Array, lead: int, value: Array) -> Array:
    """The stack, which grows along lead axes if a value differs there although it should not."""
    if value.shape[:lead] != stack.shape[:lead]:
        wide = np.broadcast_shapes(value.shape[:lead], stack.shape[:lead])
        if wide != stack.shape[:lead]:
            return np.broadcast_to(stack, wide + stack.shape[lead:]).copy()
    return stack
