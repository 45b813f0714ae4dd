"""Which whole numbers the attributes of ops may be: a table, which graphs and lowered programs are held to alike.

What goes with the operands (a slice within its dim) is a matter of `Op.infer`. Here stand the bounds of the numbers
themselves: below them all arithmetic on places and bytes is that of 64 bits, and nothing is gone through forever.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ops.base import Op, OpError
from compiler.ops.create import Iota
from compiler.ops.effects import Recv, Send, StageReduce
from compiler.ops.move import Move
from compiler.ops.neighbours import Halo, HaloAdd, ShiftAcross
from compiler.ops.repeat import Repeat
from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from compiler.ops.shape import Pad, Shift, Slice
from compiler.ops.window import Fold, Window
from compiler.ops.zigzag import ZigZag, ZigZagAcross
from dsl.limits import MAX_DIM, MAX_PREFETCH, MAX_STAGES

Bounds = tuple[int, int]
"""The least and the most."""

_SOME: Bounds = (1, MAX_DIM)
_MANY: Bounds = (0, MAX_DIM)
_EITHER: Bounds = (-MAX_DIM, MAX_DIM)
_STAGES: Bounds = (-MAX_STAGES, MAX_STAGES)
_WINDOWS: Mapping[str, Bounds] = {"stride": _SOME, "pad": _MANY, "dilation": _SOME}
_BORDERS: Mapping[str, Bounds] = {"left": _MANY, "right": _MANY}

BOUNDS: Mapping[type[Op], Mapping[str, Bounds]] = {
    Window: _WINDOWS,
    Fold: _WINDOWS,
    Slice: {"start": _MANY, "stop": _MANY, "step": _SOME},
    Pad: {"low": _MANY, "high": _MANY},
    Shift: {"by": _EITHER},
    ShiftAcross: {"by": _EITHER},
    ZigZag: {"parts": _SOME},
    ZigZagAcross: {"parts": _SOME},
    Iota: {"zigzag": _MANY},
    Halo: _BORDERS,
    HaloAdd: _BORDERS,
    UniqueRows: {"parts": _SOME},
    ReadRows: {"parts": _SOME, "pieces": _SOME},
    WriteRows: {"pieces": _SOME},
    Repeat: {"count": _SOME, "carries": _MANY, "stacks": _MANY},
    Move: {"ahead": (0, MAX_PREFETCH)},
    Send: {"to": _STAGES},
    Recv: {"source": _STAGES},
    StageReduce: {"groups": (0, MAX_STAGES)},
}
"""By op: the fields that hold whole numbers, or lists of them."""


def expect_numbers(op: Op) -> None:
    """Raise OpError (E0206) where an attribute is beyond its bounds."""
    bounds = BOUNDS.get(type(op))
    if bounds is None:
        return
    for field, (low, high) in bounds.items():
        found = getattr(op, field)
        for number in found if isinstance(found, tuple) else (found,):
            if not low <= number <= high:
                word = next((w for w, f in op.spelling if f == field), "") or field
                shown = str(number) if abs(number) < 10**40 else f"{'-' * (number < 0)}10^{len(str(abs(number))) - 1}"
                raise OpError("E0206", f"{op.mnemonic}: `{word}` is {shown}", f"it can be {low} to {high}")
