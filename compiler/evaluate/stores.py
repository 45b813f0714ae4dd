"""`store weights as FORMAT`: which format is meant."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from compiler.evaluate import static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.offloads import classes_of
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.graph import Value
from compiler.model import Decoding, Model
from compiler.origin import within
from compiler.strategy import PageRule, StoreRule, Strategy
from compiler.weight_format import BITS, FORMATS, GROUP, WeightFormat
from dsl import ast
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span

MAX_GROUP = 2**20

_GROUPED = ("int4", "int3")
"""Formats in which groups of inputs share a scale, if nothing else is said."""


WEIGHTS, CACHES, ACTIVATIONS = "weights", "caches", "activations"
"""What can be stored so."""

ROWS = ("int8",)
"""Formats of what is kept of positions, which have one scale for each of them (and head), and of activations, whose
rows have one each."""


PAGED = "paged"
"""How caches are stored, besides: in pages that all sequences share."""

MAX_SLOTS = 2**16


def stored_format(statement: ast.Store, scope: Scope) -> tuple[WeightFormat | PageRule, str]:
    """The format of a statement, and what it stores. Raises ParcError: E0403 for what is not stored so, E0470 for a
    format that there is not, or that has no such numbers."""
    (what,) = classes_of((statement.what,), (WEIGHTS, CACHES, ACTIVATIONS))
    if what == WEIGHTS:
        return _weight_format(statement, scope), what
    call = statement.format
    if call.function.id == PAGED and what == CACHES:
        return _pages(statement, scope), what
    if call.function.id not in ROWS or call.arguments:
        span = call.arguments[0].span if call.function.id in ROWS else call.function.span
        each, pages = ("position", f"; `{PAGED}(slots = 16)`: in pages") if what == CACHES else ("row", "")
        more = " with such numbers" if call.function.id in ROWS else ""
        help = f"`store {what} as {ROWS[0]}`: each {each} has a scale of its own{pages}"
        raise fail("E0470", f"{what} cannot be stored as `{call.function.id}`{more}", span, help=help)
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


def stored_pair(
    rules: Sequence[StoreRule], models: tuple[Model, Model | None], cut: Model, parts: dict[str, Value], like: Model
) -> tuple[Model, Model | None]:
    """Both, with what is stored of weights. cut: the model in which the rules name scopes; parts: those that others of
    the job's models have, by name; like: the first without what is written by hand."""
    from compiler.stored import stored

    if cut is not models[0]:
        rules = _of_whole_loops(rules, cut)
    model, other = models
    return stored(model, rules, parts, like), other and stored(other, rules, parts, like)


def _of_whole_loops(rules: Sequence[StoreRule], cut: Model) -> Sequence[StoreRule]:
    """The rules for the model as it is written. Raises ParcError: E0472 for some layers of a loop that is cut."""
    found: dict[tuple[StoreRule, Span], None] = {}
    for rule in rules:
        scope = rule.scope
        piece = next((p for p in cut.pieces if scope is not None and within(scope, p.path)), None)
        if piece is not None and scope is not None:
            meant = {r.scope for r in rules if r.span == rule.span}
            rest = scope[len(piece.path) :]
            if any(p.path + rest not in meant for p in cut.pieces if p.of == piece.of):
                message = f"`{cut.with_numbers(scope)}` is some layers of a loop, whose weights rest in one tensor"
                help = "name the loop without numbers: all layers alike"
                raise fail("E0472", message, rule.by or rule.span, help=help)
            rule = replace(rule, scope=cut.whole(scope))
        found[rule, rule.span] = None
    return [rule for rule, _ in found]


ModelPair = tuple[Model, Model | None]


def rounded_pairs(
    strategy: Strategy, pairs: Sequence[ModelPair | None], cut: Sequence[Model], infers: bool
) -> list[ModelPair | None]:
    """All pairs, with products of integers where the strategy says so: the first is what is lowered, others are as they
    were before anything of them was written by hand. cut: of each the model in which the rules name scopes."""
    from compiler.activations import activations_in_bits

    by_hand, mesh, found = strategy.implementations, strategy.mesh, list[ModelPair | None]()
    for pair, names_in in zip(pairs, cut, strict=True):
        if pair is None:
            found.append(None)
            continue
        rules, serial = strategy.activations, bool(found)
        in_parts = names_in if names_in is not pair[0] else None
        made = activations_in_bits(pair[0], rules, by_hand, infers, mesh, serial, in_parts)
        found.append((made, pair[1] and activations_in_bits(pair[1], rules, by_hand, infers, mesh, serial, in_parts)))
    return found


def kept_pairs(
    strategy: Strategy, pairs: Sequence[ModelPair | None], decoding: Decoding | None
) -> list[ModelPair | None]:
    """All pairs, whose values at earlier positions rest as the strategy says: the first is what is lowered, others are
    as they were before anything of them was written by hand.

    Raises ParcError: E0780 to E0782 for what cannot be decoded, E0542.
    """
    from compiler.caches import caches_in_bits
    from compiler.incremental.refusals import by_hand

    first, *others = pairs
    assert first is not None
    rest = [pair and caches_in_bits(pair, strategy.caches, decoding) for pair in others]
    try:
        return [caches_in_bits(first, strategy.caches, decoding), *rest]
    except ParcError as error:
        if decoding is None or not any(rest):
            raise
        raise by_hand(error, strategy.implementations, decoding.dim) from None
