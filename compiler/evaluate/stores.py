"""`store weights as FORMAT`: which format is meant."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from compiler.evaluate import static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.offloads import classes_of
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.model import Decoding, Model
from compiler.strategy import PageRule, Strategy
from compiler.weight_format import BITS, FORMATS, GROUP, WeightFormat
from dsl import ast
from dsl.diagnostics import did_you_mean, fail

MAX_GROUP = 2**20

_GROUPED = ("int4", "int3")
"""Formats in which groups of inputs share a scale, if nothing else is said."""


WEIGHTS, CACHES = "weights", "caches"
"""What can be stored so."""

OF_CACHES = ("int8",)
"""Formats of what is kept of positions, which have one scale for each of them (and head)."""


PAGED = "paged"
"""How caches are stored, besides: in pages that all sequences share."""

MAX_SLOTS = 2**16


def stored_format(statement: ast.Store, scope: Scope) -> tuple[WeightFormat | PageRule, str]:
    """The format of a statement, and what it stores. Raises ParcError: E0403 for what is not stored so, E0470 for a
    format that there is not, or that has no such numbers."""
    (what,) = classes_of((statement.what,), (WEIGHTS, CACHES))
    if what == WEIGHTS:
        return _weight_format(statement, scope), what
    call = statement.format
    if call.function.id == PAGED:
        return _pages(statement, scope), what
    if call.function.id not in OF_CACHES or call.arguments:
        span = call.arguments[0].span if call.function.id in OF_CACHES else call.function.span
        help = (
            f"`store caches as {OF_CACHES[0]}`: each position has a scale of its own; `{PAGED}(slots = 16)`: in pages"
        )
        more = " with such numbers" if call.function.id in OF_CACHES else ""
        raise fail("E0470", f"caches cannot be stored as `{call.function.id}`{more}", span, help=help)
    return WeightFormat(call.function.id), what


def _pages(statement: ast.Store, scope: Scope) -> PageRule:
    """`paged(slots = 16, pages = 4096)`."""
    call, found = statement.format, dict[str, int]()
    if statement.scope is not None:
        help = "leave the scope out: a sequence has the same pages in all layers"
        raise fail("E0470", "caches in pages are those of the whole model", statement.span, help=help)
    for name, argument in _named(call, ("slots", "pages"), f"`{PAGED}(slots = 16, pages = 4096)`"):
        value = evaluate(argument.value, scope)
        found[name] = static.integer(value, f"`{name}`", argument.span, 1)
        if name == "slots" and found[name] > MAX_SLOTS:
            message = f"`slots` says how many positions a page has: 1 to {MAX_SLOTS}, not {found[name]}"
            raise fail("E0470", message, argument.span, help="`slots = 16` is usual")
    if "slots" not in found:
        help = f"`{PAGED}(slots = 16)`: so many positions in each"
        raise fail("E0470", f"`{PAGED}` does not say how many positions a page has", call.function.span, help=help)
    return PageRule(found["slots"], found.get("pages"))


def in_pages(decoding: Decoding | None, strategy: Strategy | None, model: Model | None) -> Decoding | None:
    """How a job decodes, with what its strategy says of pages. Raises ParcError (E0542) for a job that does not."""
    rule = strategy.pages if strategy is not None else None
    if strategy is None or rule is None or model is None:
        return decoding
    if decoding is None:
        help = "`decode over s` says that a job keeps what later positions need"
        raise fail("E0542", "nothing is kept of positions that could lie in pages", rule.by or rule.span, help=help)
    pieces = strategy.pieces()
    dims = [n for i in model.inputs for n in i.value.type.names]
    if strategy.microbatches > 1 and dims:
        dim = strategy.microbatch_dim or dims[0]
        pieces[dim] = pieces.get(dim, 1) * strategy.microbatches
    return replace(decoding, pages=replace(rule, pieces=tuple(pieces.items())))


def _named(call: ast.Call, known: Collection[str], help: str) -> Iterator[tuple[str, ast.Argument]]:
    """The arguments of a format, with their names. Raises ParcError: E0470 for one that it does not have, or without a
    name, E0111 for one that is given twice."""
    seen: set[str] = set()
    for argument in call.arguments:
        name = argument.name.id if argument.name is not None else ""
        if name not in known:
            said = f"has no `{name}`" if name else "takes its numbers by name"
            raise fail("E0470", f"`{call.function.id}` {said}", argument.span, help=help)
        if name in seen:
            raise fail("E0111", f"`{name}` is given twice", argument.span)
        seen.add(name)
        yield name, argument


def _weight_format(statement: ast.Store, scope: Scope) -> WeightFormat:
    call = statement.format
    code = call.function.id
    if code not in FORMATS:
        help = did_you_mean(code, FORMATS) or f"there are {listed(FORMATS)}"
        raise fail("E0470", f"weights cannot be stored as `{code}`", call.function.span, help=help)
    known = {"int8": ("group", "zeros"), "fp8": ("group",)}.get(code, ("group", "zeros") if code in BITS else ())
    group, zeros = GROUP if code in _GROUPED else 0, False
    for name, argument in _named(call, known, f"`{code}({known[0]} = {GROUP})`" if known else f"write `{code}`"):
        value = evaluate(argument.value, scope)
        if name == "group":
            group = static.integer(value, "`group`", argument.span)
            if not 1 <= group <= MAX_GROUP:
                message = f"`group` says how many inputs share a scale: 1 to {MAX_GROUP}, not {group}"
                raise fail("E0470", message, argument.span, help=f"`group = {GROUP}` is usual")
        else:
            zeros = static.boolean(value, "`zeros`", argument.span)
    return WeightFormat(code, group, zeros)
