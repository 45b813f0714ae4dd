"""`split s on cp zigzag`: which orders there are, and of what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from compiler.evaluate.session import listed
from compiler.evaluate.values import AxisRef
from compiler.model import Decoding
from compiler.strategy import SplitRule
from dsl import ast
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span

if TYPE_CHECKING:
    from compiler.implement.replacing import Implementation

ORDERS = ("zigzag",)


def in_zigzag(
    statement: ast.Split,
    dims: Sequence[str],
    classes: Sequence[str],
    axis: AxisRef,
    by_hand: Iterable[Implementation],
) -> bool:
    """Whether a split has the order. Raises E0437 where it cannot be."""
    order = statement.order
    if order is None:
        return False
    if order.id not in ORDERS:
        help = did_you_mean(order.id, ORDERS) or f"there is {listed(ORDERS)}; without a word pieces are in order"
        raise fail("E0437", f"there is no order `{order.id}`", order.span, help=help)
    if len(dims) != 1:
        message = f"an order is of one dim, not of {listed(dims)}"
        help = "split the others by rules of their own: the first rule of an axis whose dim a tensor has counts"
        raise fail("E0437", message, order.span, help=help)
    if statement.pad:
        help = "leave out `pad`, and choose a size that divides by twice the devices"
        raise fail("E0437", "pieces in zig-zag order are even", order.span, help=help)
    if "activations" not in classes:
        message = f"{listed(classes)} lie in their own order"
        help = "an order is one of activations: what is stored is put into it where it is used"
        raise fail("E0437", message, order.span, help=help)
    late = next((i for i in by_hand if any(d.axis == axis.name for d in i.devices)), None)
    if late is not None:
        message = f"the pieces of `{late.scope}` along `{axis.name}` were taken to be in order"
        notes = [("this comes first", late.span)]
        raise fail("E0437", message, order.span, notes=notes, help="write the order before `implement`")
    return True


def check_microbatch_order(dim: str, splits: Iterable[SplitRule], span: Span) -> None:
    """Micro-batches are cut off in order. Raises E0437."""
    rule = next((r for r in splits if r.zigzag and dim in r.dims), None)
    if rule is not None:
        message = f"micro-batches are parts of `{dim}` in its own order"
        help = "cut another dim, or split this one without an order"
        raise fail("E0437", message, span, notes=[("its order is said here", rule.span)], help=help)


def check_decoded(decoding: Decoding | None, splits: Iterable[SplitRule]) -> None:
    """New positions come in order. Raises E0437."""
    rule = next((r for r in splits if decoding is not None and decoding.dim in r.dims), None)
    if rule is not None and decoding is not None:
        notes = [("its order is said here", rule.span)]
        message = f"new positions of `{decoding.dim}` come one by one, in its own order"
        raise fail("E0437", message, decoding.span, notes=notes, help="split it without an order where it is decoded")
