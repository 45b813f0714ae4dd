"""Why there is no incremental program: the op that looks ahead, by its name and its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compiler.graph import Node, Value
from compiler.model import Model
from compiler.ops.base import Op
from compiler.ops.common import listed
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Map
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Concat, Merge, Pad, Shift, Split
from compiler.ops.window import Window
from compiler.origin import outer
from compiler.strategy import ImplementRule
from dsl.diagnostics import ParcError, fail
from dsl.source import NOWHERE, Span

if TYPE_CHECKING:
    from compiler.incremental.positions import Positions


def no_dim(model: Model, dim: str, span: Span, length: int | None = None) -> ParcError:
    """E0781: no data of the model has the dim, or it has fewer positions than are to come at a time."""
    sizes = {d.name: d.size for i in model.inputs for d in i.value.type.dims}
    if length is None:
        help = f"its data has {listed(sizes)}"
        return fail("E0781", f"no data of the model `{model.name}` has a dim `{dim}`", span, help=help)
    message = f"{length} positions at a time along `{dim}` of the model `{model.name}`, which has {sizes[dim]}"
    return fail("E0781", message, span, help=f"choose 1 to {sizes[dim]}")


def too_many(model: Model, dim: str, size: int, most: int, span: Span) -> ParcError:
    """E0781: more positions than the state that counts them can."""
    message = f"the model `{model.name}` has {size:,} positions along `{dim}`, more than `int32` counts"
    return fail("E0781", message, span, help=f"a position is of `int32`: choose a `{dim}` of {most:,} at most")


def name_of(op: Op) -> str:
    """What people call the op."""
    if isinstance(op, Contract):
        return "@"
    if isinstance(op, Reduce):
        return op.fn
    if isinstance(op, Repeat):
        return "scan" if op.scan else "repeat"
    if isinstance(op, Map):
        return op.fn
    return op.builtin or op.mnemonic


_MASK = "mask later positions (`softmax(x, over t, keep = iota(s) >= iota(t))`), or take it over another dim"
_WINDOW = (
    "decoded is a window that ends at its position: `window(x, s -> (so, k), pad = k - 1)`, with as many `so` as `s`"
)
_APART = "later positions are not there yet: take it over another dim, and keep all positions in a dim of their own"
_SHIFT = "what looks back is `shift(x, s, by = 1)`, and a window that is padded before its start; " + _APART
_MOVES = (Pad, Concat, Split, Merge)
"""What does not look ahead by itself, but puts positions where others cannot be told from later ones."""
_HELP: Mapping[type[Op], str] = {
    Window: _WINDOW,
    **dict.fromkeys((Pad, Concat), _SHIFT),
    Shift: "later positions are not there yet: with `by` above 0, and not `around`, it looks back",
    **dict.fromkeys((Contract, Reduce, Map), _MASK),
}
"""By the op that looks ahead: what to do instead. Only where it sums over positions a mask helps."""


def by_hand(error: ParcError, rules: Sequence[ImplementRule], dim: str) -> ParcError:
    """Why a model with implementations of a strategy cannot be decoded, of which the model as it is written can."""
    first = error.diagnostics[0]
    if not rules or first.code not in ("E0780", "E0782"):
        return error
    rule = next((r for r in rules if f"`{r.scope}`" in first.message or f"`{r.scope}." in first.message), rules[0])
    message = f"`{rule.scope}` is implemented by hand in a way that cannot be decoded along `{dim}`"
    help = "its own function is decoded: leave `implement` out of the strategy of the job that decodes"
    notes = [(first.message, first.span)] if first.span is not None else []
    return fail("E0782", message, rule.span, notes=notes, help=help)


def looks_ahead(node: Node, dim: str, positions: Positions, output: str, span: Span) -> ParcError:
    """E0780: what an output needs at a position hangs on later ones, by this op."""
    found = node.outputs[0]
    operands = [*dict.fromkeys(n for v in node.inputs for n in positions.of(v))]
    over = [n for n in operands if not found.type.has(n)] or operands or [dim]
    where = outer(found.origin.path) or found.origin.path
    place = f" in `{where}`" if where else ""
    does = "moves positions" if isinstance(node.op, _MOVES) else "looks ahead"
    message = f"`{name_of(node.op)}` over `{over[0]}`{place} {does}: `{output}` cannot be decoded along `{dim}`"
    notes = [("decoding is asked for here", span)] if span != NOWHERE and node.span != NOWHERE else []
    help = _HELP.get(type(node.op), _APART)
    return fail("E0780", message, node.span if node.span != NOWHERE else span, notes=notes, help=help)


def pairs(v: Value, output: str, span: Span) -> ParcError:
    """E0780: an output is one of pairs of positions, of which later ones count, too."""
    message = f"the output `{output}` is one of pairs of positions: none of them is the last that it looks at"
    return fail("E0780", message, v.span if v.span != NOWHERE else span, help="mask the pairs with a later position")


def no_form(v: Value, node: Node | None, positions: Positions) -> ParcError:
    """E0782: an op that would need all of what it is given at once, or that moves positions."""
    what = f"`{name_of(node.op)}`" if node is not None else f"`{v.name}`"
    span = node.span if node is not None else v.span
    message = f"{what} has no incremental form along `{positions.dim}`: it takes earlier positions and new ones at once"
    return fail("E0782", message, span, help="keep the positions in a dim of their own")


def renewed(state: Value, dim: str) -> ParcError:
    """E0782: a state of the model itself."""
    message = f"the state `{state.name}` is renewed in every pass, however many positions of `{dim}` come in it"
    return fail("E0782", message, state.span, help="what earlier positions leave is kept without being said")


def mixes_rows(node: Node, rows: str, span: Span) -> ParcError:
    """E0782: one sequence would hang on which others are computed beside it."""
    where = outer(node.outputs[0].origin.path) or node.outputs[0].origin.path
    place = f" in `{where}`" if where else ""
    message = f"`{name_of(node.op)}`{place} does not keep the rows of `{rows}` apart: sequences cannot come and go"
    notes = [("decoding is asked for here", span)] if span != NOWHERE and node.span != NOWHERE else []
    help = f"a sequence that is served by itself hangs on no other: keep `{rows}` a dim of its own"
    return fail("E0782", message, node.span if node.span != NOWHERE else span, notes=notes, help=help)


def no_rows(state: Value, rows: str, span: Span) -> ParcError:
    """E0782: what is kept of earlier positions is not kept for each sequence."""
    message = f"`{state.name}` is kept for all rows of `{rows}` together: sequences cannot come and go"
    return fail("E0782", message, state.span if state.span != NOWHERE else span, help=f"give it the dim `{rows}`")
