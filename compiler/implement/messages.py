"""What is wrong with the pieces of an implementation, in its author's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compiler.graph import Node, Value
from compiler.implement.pieces import Owner, Pieces, Split
from compiler.implement.written import WrittenClaim, WrittenMessage
from compiler.ops.base import Loop, Op
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Map
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.origin import last
from dsl.diagnostics import Note, ParcError, fail
from dsl.source import Span

if TYPE_CHECKING:
    from compiler.implement.check import OwnBecause


def name_of(value: Value) -> str:
    """What the author calls a value, in backquotes."""
    return f"`{last(value.origin.path)}`"


def _op(op: Op) -> str:
    """What an op is called."""
    if isinstance(op, Contract):
        return "`@`"
    return f"`{op.fn if isinstance(op, Map | Reduce) else op.builtin or op.mnemonic}`"


def _notes(why: OwnBecause | None) -> list[Note]:
    return [(why.text, why.span)] if why is not None else []


# --- pending sums -------------------------------------------------------------------------------------------


def needs_sum(node: Node, x: Value, axis: str, pieces: Pieces, other: Value | None = None) -> ParcError:
    """A sum is read before it is taken."""
    with_other = f" with {name_of(other)}, which differs along it too" if other is not None else ""
    message = f"{_op(node.op)} needs {name_of(x)} as a whole, which is {pieces.said(axis)}{with_other}"
    call = "all_reduce(x, {})" if pieces.pending[axis] == "sum" else 'all_reduce(x, {}, "max")'
    help = f"`{call.format(axis)}` first, or `reduce_scatter(x, {axis}, over …)` for a piece of it"
    return fail("E0424", message, node.span, notes=[("it is made here", x.span)], help=help)


def added_often(node: Node, other: Value, x: Value, axis: str, devices: int) -> ParcError:
    """What is whole is added to a sum that is pending."""
    message = f"{name_of(other)} is added to {name_of(x)} on every device of `{axis}`, whose sum is still pending"
    help = f"it would count {devices} times: add it behind `all_reduce(…, {axis})`"
    return fail("E0424", message, node.span, notes=[("the sum is pending from here", x.span)], help=help)


def pending_result(value: Value, axis: str, pieces: Pieces, span: Span) -> ParcError:
    """A sum is returned that was never taken."""
    message = f"{name_of(value)} is returned while it is {pieces.said(axis)}"
    fn = "" if pieces.pending[axis] == "sum" else ', "max"'
    return fail("E0424", message, span, notes=[("it is made here", value.span)], help=f"`all_reduce(…, {axis}{fn})`")


# --- pieces that do not match -------------------------------------------------------------------------------


def do_not_match(node: Node, loop: Loop, one: tuple[int, Split], other: tuple[int, Split]) -> ParcError:
    """Two operands meet along a dim of which they have other pieces."""
    a, b = node.inputs[one[0]], node.inputs[other[0]]
    dim = loop.ins[one[0]]
    axes = [[x for x, _ in of] for _, of in (one, other)]
    if axes[0] != axes[1]:
        shown = [f"split over `{'/'.join(x)}`" if x else "whole" for x in axes]
        message = (
            f"{_op(node.op)} meets {name_of(a)} and {name_of(b)} along `{dim}`, {shown[0]} there and {shown[1]} here"
        )
        more, fewer = sorted(axes, key=len, reverse=True)
        if more[: len(fewer)] == fewer:
            help = one_is_whole(a if axes[0] == more else b, str(dim), more[len(fewer) :])
        else:
            help = f"the first axis cuts the whole, each next one those pieces: `{'/'.join((str(dim), *axes[0]))}` is "
            help += f"another piece than `{'/'.join((str(dim), *axes[1]))}`; write both in one order, or gather both"
        return fail("E0422", message, node.span, notes=_made(a, b), help=help)
    axis, owners = next((x, (p, q)) for (x, p), (_, q) in zip(one[1], other[1]) if p != q)
    if owners[0].zigzag != owners[1].zigzag:
        lies = [f"{name_of(v)} lies {_lies(o)}" for v, o in zip((a, b), owners)]
        message = f"{_op(node.op)} meets pieces of `{dim}` along `{axis}` in two orders: {lies[0]}, {lies[1]}"
        help = f"`all_gather(…, {axis}, over …)` puts pieces together, in order; `shard` takes them as their dim lies"
        return fail("E0438", message, node.span, notes=_made(a, b), help=help)
    message = f"{_op(node.op)} meets pieces of different devices of `{axis}` along `{dim}`: "
    message += f"{name_of(a)} has that of {owners[0]}, {name_of(b)} that of {owners[1]}"
    return fail("E0423", message, node.span, notes=_made(a, b), help=f"`shift` both along `{axis}` by the same")


def one_is_whole(split: Value, dim: str, axes: Sequence[str]) -> str:
    """What makes a piece fit something that is whole along `axes`, major first."""
    gathered, cut = last(split.origin.path), "…"
    for axis in reversed(axes):
        gathered = f"all_gather({gathered}, {axis}, over {dim})"
    for axis in axes:
        cut = f"shard({cut}, {axis}, over {dim})"
    of = f"{name_of(split)} is a piece of `{dim}` along {' and '.join(f'`{a}`' for a in axes)}"
    return f"{of}: `{gathered}` makes it whole; `{cut}` takes the same piece of the other"


def _lies(owner: Owner) -> str:
    return "in zig-zag order" if owner.zigzag else "in its own order"


def in_another_order(node: Node, op: WrittenMessage, x: Value, owner: Owner) -> ParcError:
    """Pieces are gathered as if they lay in another order."""
    taken = f"`{op.word}` takes `{getattr(op, 'dim', '')}` to be in the other order"
    message = f"{taken}, but {name_of(x)} lies {_lies(owner)}"
    help = "gather it along the dim of which they are pieces, before it is split, merged or called otherwise"
    return fail("E0438", message, node.span, notes=_made(x), help=help)


def order_inside(node: Node, op: WrittenMessage, x: Value, dim: str) -> ParcError:
    """Pieces of pieces cannot lie in zig-zag order of the whole."""
    message = f"`{dim}` lies in zig-zag order along `{op.axis}`, but of {name_of(x)} there are pieces along it already"
    return fail("E0438", message, node.span, notes=_made(x), help="the axis of the order comes first")


def of_odd(dim: str, axis: str) -> str:
    """Why pieces in zig-zag order become each device's own."""
    return (
        f"pieces along `{axis}` in zig-zag order are two blocks, but of `{dim}` a piece has an odd number of elements"
    )


def _made(*values: Value) -> list[Note]:
    return [(f"{name_of(v)} is made here", v.span) for v in values]


def stated_otherwise(node: Node, x: Value, dim: str, said: tuple[str, ...], found: Pieces) -> ParcError:
    """A type that is written does not hold."""
    there = "/".join((dim, *found.split(dim)))
    message = f"{name_of(x)} has the pieces `{there}` of `{dim}`, not `{'/'.join((dim, *said))}`"
    help = f"write how they lie, `{there}`, or send them"
    if sorted(said) == sorted(found.split(dim)):
        help = f"write `{there}`: the first axis cuts the whole, each next one those pieces"
    return fail("E0422", message, node.span, notes=_made(x), help=help)


def others_result(value: Value, dim: str, axis: str, owner: Owner, span: Span) -> ParcError:
    """Another device's pieces are returned."""
    message = (
        f"{name_of(value)} is returned with the pieces of {owner} of `{dim}` along `{axis}`, not with the device's own"
    )
    return fail("E0423", message, span, notes=_made(value), help=f"`shift(…, {axis}, …)` brings them home")


# --- messages -----------------------------------------------------------------------------------------------


def nothing_pending(node: Node, op: WrittenMessage, x: Value, found: Pieces) -> ParcError:
    """A reduction of what is no sum."""
    fn = getattr(op, "fn", "sum")
    what = "sum" if fn == "sum" else "maximum"
    message = f"`{op.word}` takes a {what} over `{op.axis}`, but {name_of(x)} is {found.said(op.axis)}"
    if op.axis not in found.axes:
        help = f"leave it out: it would be {op.devices} times as large" if fn == "sum" else "leave it out"
    elif op.axis in found.pending:
        help = (
            f'`all_reduce(x, {op.axis}, "max")`' if found.pending[op.axis] == "max" else f"`all_reduce(x, {op.axis})`"
        )
    else:
        help = f"`all_gather(x, {op.axis}, over {found.dims_of(op.axis)[0]})` puts pieces together"
    return fail("E0425", message, node.span, notes=_made(x), help=help)


def not_split(node: Node, op: WrittenMessage, x: Value, found: Pieces) -> ParcError:
    """A gather of what has no pieces."""
    message = f"`{op.word}` puts pieces of `{getattr(op, 'dim', '')}` along `{op.axis}` together, but "
    message += f"{name_of(x)} is {found.said(op.axis)}"
    dims = found.dims_of(op.axis)
    if dims:
        help = f"`{op.word}(x, {op.axis}, over {dims[0]}{' -> …' if op.word == 'all_to_all' else ''})`"
    elif op.axis in found.pending:
        help = f"`all_reduce(x, {op.axis})`"
    else:
        there = sorted(found.axes)
        help = f"its pieces lie along {', '.join(f'`{a}`' for a in there)}" if there else "leave it out"
    return fail("E0425", message, node.span, notes=_made(x), help=help)


def not_minor(node: Node, op: WrittenMessage, x: Value, axes: Sequence[str]) -> ParcError:
    """A gather along a major axis."""
    split = f"`{getattr(op, 'dim', '')}` of {name_of(x)} is split over `{'/'.join(axes)}`"
    message = f"{split}: `{op.axis}` is not the last of them"
    return fail("E0425", message, node.span, notes=_made(x), help=f"`{op.word}` along `{axes[-1]}` first")


def of_others(node: Node, op: WrittenMessage, x: Value, owner: Owner) -> ParcError:
    """A gather of pieces that have moved on."""
    message = f"`{op.word}` would put pieces of {owner} of `{op.axis}` together in a wrong order"
    return fail("E0423", message, node.span, notes=_made(x), help=f"`shift(…, {op.axis}, …)` brings them home")


def not_whole(node: Node, op: WrittenMessage, x: Value, found: Pieces) -> ParcError:
    """A cut of what has been cut."""
    message = f"`shard` takes each device's piece of what all devices of `{op.axis}` have, but "
    message += f"{name_of(x)} is {found.said(op.axis)}"
    scatter = (
        f"`reduce_scatter(x, {op.axis}, over {getattr(op, 'dim', '')})`" if op.axis in found.pending else "leave it out"
    )
    return fail("E0425", message, node.span, notes=_made(x), help=scatter)


def same_everywhere(node: Node, op: WrittenMessage, x: Value) -> ParcError:
    """A shift of what is the same everywhere."""
    message = f"`shift` moves nothing: {name_of(x)} is the same on every device of `{op.axis}`"
    return fail("E0425", message, node.span, notes=_made(x), help="leave it out")


def own_sent(node: Node, op: WrittenMessage, x: Value, why: OwnBecause | None) -> ParcError:
    """A message of what nothing is known of."""
    message = f"`{op.word}` along `{op.axis}`: nothing says how {name_of(x)}, each device's own, relates to the whole"
    help = f"say it first: `as_split(x, {op.axis}, over …)`, or `as_sum(x, {op.axis})` for parts of a sum"
    return fail("E0426", message, node.span, notes=_notes(why) or _made(x), help=help)


# --- claims -------------------------------------------------------------------------------------------------


def not_claimed(value: Value, axis: str, why: OwnBecause | None, span: Span) -> ParcError:
    """A result of which nothing is known."""
    message = f"nothing says how {name_of(value)}, each device's own along `{axis}`, relates to the whole"
    help = f"say it: `as_split({last(value.origin.path)}, {axis}, over …)`; a proof will look whether it holds"
    return fail("E0426", message, span, notes=_notes(why) or _made(value), help=help)


def known_already(node: Node, op: WrittenClaim, x: Value, found: Pieces) -> ParcError:
    """A claim against what is known."""
    word = "as_split" if op.dim else "as_sum"
    message = f"`{word}` says what nothing else does, but {name_of(x)} is {found.said(op.axis)}"
    help = "leave it out"
    if op.axis in found.pending and op.dim:
        help = f"`reduce_scatter(x, {op.axis}, over {op.dim})`"
    elif op.axis not in found.axes and op.dim:
        help = f"`shard(x, {op.axis}, over {op.dim})`"
    return fail("E0426", message, node.span, notes=_made(x), help=help)


def of_block(dims: Sequence[str], axis: str) -> str:
    """Why a product of pieces is no piece."""
    return f"pieces of {' and '.join(f'`{d}`' for d in dims)} along `{axis}` meet: a block of the whole"


def of_loop(op: Op, loop: Loop, axis: str) -> str:
    """Why an op on pieces gives no pieces."""
    dim = loop.names[0]
    if loop.kind == "minor":
        return f"`{dim}`, of which devices of `{axis}` have pieces, is merged behind another dim"
    if loop.placed:
        return f"{_op(op)} counts along `{dim}` from the beginning of each device's piece"
    return f"{_op(op)} looks along `{dim}`, of which each device of `{axis}` has its own piece"


# --- loops --------------------------------------------------------------------------------------------------


def split_loop(node: Node, label: str, axis: str) -> ParcError:
    """A stack that is cut along the loop."""
    message = f"`{label}` goes along a dim of which each device of `{axis}` has only its own positions"
    help = f"`all_gather(…, {axis}, over …)` before it, or leave the dim whole"
    return fail("E0427", message, node.span, help=help)


def never_the_same(node: Node) -> ParcError:
    """A loop whose carries change with every iteration."""
    return fail("E0433", "what the iterations carry relates to the whole in another way each time", node.span)


def changes_in_loop(
    node: Node, op: Repeat, i: int, before: Pieces, after: Pieces, sizes: Mapping[str, int]
) -> ParcError:
    """A carry that leaves an iteration as something else than it enters it."""
    param = op.body.inputs[i]
    axis = next((a for a in sizes if before.said(a) != after.said(a)), "")
    message = (
        f"{name_of(param)} enters an iteration of `{op.label}` {before.said(axis)}, and leaves it {after.said(axis)}"
    )
    where = op.body.outputs[i].span
    return fail("E0433", message, where, help="each iteration must leave what the next one takes in")
