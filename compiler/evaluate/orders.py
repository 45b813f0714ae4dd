"""`order`: what the devices of each stage do, written by hand; checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from itertools import chain

from compiler.evaluate import limits, static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.scope import Scope
from compiler.evaluate.values import AxisRef
from compiler.limits import WRITTEN
from compiler.schedules.actions import Action
from compiler.schedules.by_hand import action_loops, circle, kinds_of, stuck, uncovered
from compiler.strategy import ActionRow, MeshAxis, PipelineRule
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import fail, plural
from dsl.source import Span

KINDS = ("F", "B", "W")
"""The forward pass; the backward pass (of the inputs alone, where there is a `W`); the gradients of weights."""

BOTH_WAYS = "both_ways"
"""As chunks: the second way goes through the places from the last to the first."""
DOWN_AND_UP = "down_and_up"
"""As chunks: values go through the places from the first to the last, and then back to the first."""


@dataclass(slots=True)
class Orders:
    """The orders of a strategy, by coordinate of their axis: the rows, and where the statement stands."""

    axis: str
    span: Span
    rows: dict[int, tuple[tuple[ActionRow, ...], Span]] = field(default_factory=dict)


def add_order(statement: ast.Order, axis: AxisRef, scope: Scope, known: Orders | None) -> Orders:
    """The orders that are known, and those of a statement. Raises ParcError."""
    orders = known or Orders(axis.name, statement.span)
    if orders.axis != axis.name:
        notes = [("the first is here", orders.span)]
        raise fail("E0443", f"orders on `{orders.axis}` and on `{axis.name}`", statement.axis.span, notes=notes)
    for place in _places(statement, axis, scope):
        if place in orders.rows:
            notes = [("the first is here", orders.rows[place][1])]
            raise fail("E0443", f"`{axis.name}[{place}]` has two orders", statement.span, notes=notes)
        named = {statement.name.id: place} if statement.name is not None else {}
        with_place = _with(scope, named)
        rows = tuple(row for line in statement.body for row in _line(line, with_place))
        orders.rows[place] = rows, statement.span
    return orders


def _with(scope: Scope, more: Mapping[str, int]) -> Scope:
    """The scope of the strategy, with other variables besides."""
    found = Scope(scope.module, scope.making, scope.frame, scope.path, scope.what)
    found.vars = {**scope.vars, **more}
    found.dims = scope.dims
    return found


def _places(statement: ast.Order, axis: AxisRef, scope: Scope) -> range:
    at = statement.at
    if isinstance(at, ast.Range):
        low, high = (static.integer(evaluate(e, scope), "a place", e.span) for e in (at.low, at.high))
    else:
        low = static.integer(evaluate(at, scope), "the place", at.span)
        high = low + 1
    if axis.size > limits.MAX_ORDERS:
        message = f"`{axis.name}` has {axis.size} places, the most with orders by hand is {limits.MAX_ORDERS:,}"
        raise limits.beyond(message, statement.axis.span)
    if not 0 <= low < high <= axis.size:
        told = f"{low}..{high}" if isinstance(at, ast.Range) else str(low)
        raise fail("E0410", f"`{axis.name}` has the places 0 to {axis.size - 1}, not {told}", at.span)
    return range(low, high)


def _line(line: ast.Statement, scope: Scope) -> Iterator[ActionRow]:
    assert isinstance(line, ast.OrderRow)
    for item in line.items:
        row = _loop(item, scope) if isinstance(item, ast.ActionsLoop) else _actions(item, scope)
        if row.count:
            yield row


def _key(item: ast.Actions) -> tuple[str, int]:
    """The pass and its chunk: `B1`, and `B` for `B0`."""
    name = item.pass_.id
    kind, chunk = name[:1], name[1:] or "0"
    if kind not in KINDS or not chunk.isdigit():
        help = "F is a forward pass, B a backward pass, W the gradients of weights that B has left; `F1`: of chunk 1"
        raise fail("E0443", f"there is no action `{name}`", item.pass_.span, help=help)
    return kind, int(chunk)


def _actions(item: ast.Actions, scope: Scope) -> ActionRow:
    kind, chunk = _key(item)
    if isinstance(item.at, ast.Range):
        low, high = _range(item.at, scope)
    else:
        low = static.integer(evaluate(item.at, scope), "a micro-batch", item.at.span)
        high = low + 1
    return ActionRow(((kind, chunk, low),), high - low, 1, item.span)


def _range(of: ast.Range, scope: Scope) -> tuple[int, int]:
    low, high = (static.integer(evaluate(e, scope), "a micro-batch", e.span) for e in (of.low, of.high))
    if low > high:
        raise fail("E0443", f"{low}..{high} runs backwards", of.span)
    return low, high


def _loop(loop: ast.ActionsLoop, scope: Scope) -> ActionRow:
    """All its actions go on by the same from one time to the next."""
    low, high = _range(loop.range, scope)
    steps: list[tuple[str, int, int]] = []
    by: int | None = None
    for item in loop.body if low < high else ():
        if isinstance(item.at, ast.Range):
            raise fail("E0443", "in a loop each action is on one micro-batch", item.at.span, help="`F[i]`")
        at = [static.integer(evaluate(item.at, _with(scope, {loop.name.id: i})), "a micro-batch", item.at.span)
              for i in dict.fromkeys((low, min(low + 1, high - 1), high - 1))]  # fmt: skip
        step = at[1] - at[0] if len(at) > 1 else by if by is not None else 1
        if at[-1] - at[0] != step * (high - 1 - low) or step < 1 or by not in (None, step):
            message = f"`{item.pass_.id}` does not go on by as many micro-batches as the loop's other actions"
            if step < 1 or by in (None, step):
                message = f"`{item.pass_.id}` does not go on by equally many micro-batches each time"
            help = f"such as `F[{loop.name.id} + 2]`, or in all `F[2 * {loop.name.id}]`"
            raise fail("E0443", message, item.span, help=help)
        by = step
        steps.append((*_key(item), at[0]))
    return ActionRow(tuple(steps), high - low, by or 1, loop.span)


# --- together with the pipeline ------------------------------------------------------------------------------


def with_orders(
    pipelines: Sequence[PipelineRule], orders: Orders | None, count: int, mesh: Sequence[MeshAxis]
) -> list[PipelineRule]:
    """The pipelines, the first with the orders of its stages. count: micro-batches. Raises ParcError: E0443 for what is
    missing, twice or of nothing, E0444 for who waits forever, E0931 where too many actions would be gone through."""
    by_hand = [p for p in pipelines if p.schedule == "by_hand"]
    if orders is None:
        if by_hand:
            help = f"`order {by_hand[0].axis}[0] {{ … }}`, for each of its places"
            raise fail("E0443", "a schedule by hand has orders", by_hand[0].span, help=help)
        return list(pipelines)
    if not by_hand or by_hand[0].axis != orders.axis:
        help = f"`pipeline … on {orders.axis}, schedule by_hand(microbatches = …)`"
        raise fail("E0443", f"no pipeline on `{orders.axis}` has a schedule by hand", orders.span, help=help)
    rule = by_hand[0]
    size = next(a.size for a in mesh if a.name == rule.axis)
    missing = next((g for g in range(size) if g not in orders.rows), None)
    if missing is not None:
        raise fail("E0443", f"`{rule.axis}[{missing}]` has no order", orders.span)
    rows = tuple(orders.rows[g][0] for g in range(size))
    kinds, homes = kinds_of(rows), rule.where(size)
    if count % homes.ways:
        message = f"{homes.ways} ways have equally many micro-batches, of {count} there are not"
        raise fail("E0443", message, rule.span, help=f"{count // homes.ways * homes.ways + homes.ways} of them")
    actions = sum(row.count * len(row.steps) for own in rows for row in own)
    refusal = WRITTEN.exceeded(size, count, actions, rule.span)
    for g, own in enumerate(rows):
        spans = [homes.span(stage, count) for stage in homes.of(g)]
        wrong = uncovered(own, kinds, spans, refusal)
        if wrong is not None:
            raise _uncovered(rule, g, orders.rows[g], wrong, spans)
    hang = stuck(rows, kinds, homes, refusal)
    if hang is not None:
        raise _hangs(rule, rows, hang.waiting and circle(hang))
    return [replace(p, orders=rows if p is rule else (), chunks=rule.chunks) for p in pipelines]


def told(action: Action) -> str:
    """As it is written."""
    return f"{action.kind}{action.chunk or ''}[{action.mb}]"


def _uncovered(
    rule: PipelineRule,
    g: int,
    order: tuple[tuple[ActionRow, ...], Span],
    wrong: tuple[Action, int],
    spans: Sequence[range],
) -> Exception:
    rows, span = order
    action, times = wrong
    of = zip(rows, action_loops(rows), strict=True)
    at = [r for r, loop in of if any(a[:2] == action[:2] and loop.runs(a, action.mb) for a in loop.steps)]
    name = told(action)
    message = f"`{rule.axis}[{g}]` has `{name}` {'twice' if times else 'nowhere'}"
    if times < 0:
        message = f"there is no `{name}` on `{rule.axis}[{g}]`"
    count = len(spans[0])
    parts = f"{plural(rule.chunks, 'chunk')} on {count} micro-batch{'es' * (count != 1)}"
    if rule.copies:
        parts = ", ".join(f"chunk {c} on {own.start}..{own.stop}" for c, own in enumerate(spans))
    help = f"F and B (and W, where there is one) of {parts}: each once"
    if times > 0 and len(at) > 1:
        return fail("E0443", message, at[-1].span, notes=[("here before", at[0].span)], help=help)
    return fail("E0443", message, at[-1].span if at else span, help=help)


def _hangs(
    rule: PipelineRule, orders: Sequence[Sequence[ActionRow]], waits: Sequence[tuple[int, Action, int, Action]]
) -> Exception:
    """Says who waits for whom, all the way round, and shows where."""

    def place(g: int, action: Action) -> Span:
        found = zip(orders[g], action_loops(orders[g]), strict=True)
        return next(
            r.span for r, loop in found if any(a[:2] == action[:2] and loop.runs(a, action.mb) for a in loop.steps)
        )

    axis = rule.axis
    texts = [f"waits before `{told(a)}` for `{told(b)}` of `{axis}[{n}]`" for _, a, n, b in waits]
    notes = [(f"`{axis}[{g}]` {text}", place(g, a)) for text, (g, a, _, _) in zip(texts, waits, strict=True)]
    first = waits[0]
    if len(waits) == 1:
        message = f"`{told(first[1])}` comes before `{told(first[3])}` on `{rule.axis}[{first[0]}]`"
        return fail("E0444", message, place(first[0], first[1]), help="a pass comes behind what it needs")
    help = "a forward pass waits for that of the stage before, a backward pass for that of the stage behind"
    message = f"the orders hang: `{axis}[{first[0]}]` {', which '.join(texts)}"
    return fail("E0444", message, place(first[0], first[1]), notes=notes[1:], help=help)


def homes_of(expr: ast.Expr, axis: AxisRef, scope: Scope) -> tuple[tuple[int, ...], ...]:
    """`chunks [0, 1, 1, 0]`: of each stage its place on the axis; `chunks [[0, 1], [1, 0]]`: that of each way through
    the model; `chunks both_ways`: one stage on each place, there and back; `chunks down_and_up`: two on each, from
    the first place to the last and back. Raises E0443 unless each place has equally many, and the copies of a stage are
    on different places."""
    ways: tuple[ast.Expr, ...] = (expr,)
    if isinstance(expr, ast.ListExpr) and any(isinstance(item, ast.ListExpr) for item in expr.items):
        ways = expr.items
    word = expr.id if isinstance(expr, ast.Name) and expr.id not in scope.vars else ""
    if word in (BOTH_WAYS, DOWN_AND_UP):
        there = tuple(range(axis.size))
        found: tuple[tuple[int, ...], ...] = (there, there[::-1])
        found = found if word == BOTH_WAYS else ((*there, *there[::-1]),)
    else:
        found = tuple(_places_in(way, scope) for way in ways)
    every = list(chain(*found))
    wrong = next((g for g in every if not 0 <= g < axis.size), None)
    if wrong is not None:
        raise fail("E0410", f"`{axis.name}` has the places 0 to {axis.size - 1}, not {wrong}", expr.span)
    if len({len(way) for way in found}) > 1:
        lengths = " and ".join(map(str, dict.fromkeys(map(len, found))))
        message = f"one way has other stages than another: {lengths}"
        raise fail("E0443", message, expr.span, help="all ways go through the same stages: lists of one length")
    for way in found:
        counts = {way.count(g) for g in range(axis.size)}
        if len(counts) > 1 or 0 in counts:
            few = min(range(axis.size), key=way.count)
            message = f"`{axis.name}[{few}]` has {plural(way.count(few), 'chunk')}, others have {max(counts)}"
            raise fail("E0443", message, expr.span, help="each place has equally many")
    twice = next((s for s, copies in enumerate(zip(*found, strict=True)) if len(set(copies)) < len(copies)), None)
    if twice is not None:
        message = f"stage {twice} is on `{axis.name}[{found[0][twice]}]` for two ways"
        raise fail("E0443", message, expr.span, help="the copies of a stage are on different places")
    if len(every) > limits.MAX_CHUNKS * axis.size:
        raise limits.beyond(f"{len(every) // axis.size} chunks, the most is {limits.MAX_CHUNKS}", expr.span)
    return found


def _places_in(expr: ast.Expr, scope: Scope) -> tuple[int, ...]:
    values = evaluate(expr, scope)
    if not isinstance(values, tuple) or not values:
        raise fail("E0443", "chunks are a list of places, one of each stage", expr.span, help="`chunks [0, 1, 1, 0]`")
    return tuple(static.integer(v, "a place", expr.span) for v in values)
