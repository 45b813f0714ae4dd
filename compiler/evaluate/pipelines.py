"""`pipeline` and `microbatches`: the loop that is cut, the schedule, the cuts, and how many parts of the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from compiler.evaluate import limits, static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.index import ModelIndex
from compiler.evaluate.orders import homes_of
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.evaluate.values import AxisRef
from compiler.origin import last, within
from compiler.schedules import legal_microbatches
from compiler.strategy import MeshAxis, PipelineRule, SplitRule
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import did_you_mean, fail, plural
from dsl.source import Span

SCHEDULES: dict[str, tuple[str, ...]] = {
    "gpipe": ("microbatches", "over", "pad"),
    "one_f_one_b": ("microbatches", "over", "pad"),
    "interleaved": ("microbatches", "chunks", "over", "pad"),
    "zero_bubble": ("microbatches", "over", "pad"),
    "by_hand": ("microbatches", "over", "pad"),
}
"""Schedules and their parameters."""


@dataclass(frozen=True, slots=True)
class Microbatches:
    """How many, of which dim (None: the first of the first input), and whether the last may be smaller."""

    count: int
    dim: str | None
    pad: bool
    span: Span


def pipeline_rule(
    statement: ast.Pipeline,
    named: Sequence[tuple[str, ast.Path]],
    axis: AxisRef,
    scope: Scope,
    index: ModelIndex | None,
    span: Span,
    others: Sequence[PipelineRule] = (),
) -> PipelineRule:
    """The rule, its numbers checked against what is cut. named: parts, by path or label, and where they are named;
    others: the rules of what is cut together with this, of which the first says axis and schedule."""
    schedule, chunks, ways = "gpipe", 1, tuple[tuple[int, ...], ...]()
    first = next(iter(others), None)
    if first is not None:
        notes = [("the first is here", first.span)]
        if axis.name != first.axis:
            message = f"one loop is cut on `{first.axis}`, this one on `{axis.name}`"
            raise fail("E0415", message, span, notes=notes, help="loops that are cut together have the same stages")
        if statement.schedule is not None:
            message = "the schedule is given twice"
            raise fail("E0415", message, statement.schedule.span, notes=notes, help="it is that of the first pipeline")
        schedule, chunks, ways = first.schedule, first.chunks, (first.homes, *first.copies)
    if statement.schedule is not None:
        schedule = _schedule(statement.schedule)
        chunks = _chunks(statement.schedule, schedule, scope)
    if statement.chunks is not None:
        ways = homes_of(statement.chunks, axis, scope)
        chunks = len(ways[0]) // axis.size
        if len(ways) > 1 and schedule != "by_hand":
            help = "`schedule by_hand(microbatches = …)`, and an `order` for each place"
            raise fail("E0446", f"`{schedule}` knows one way through the model", statement.chunks.span, help=help)
    stages = axis.size * chunks
    cuts = _cuts(statement.cuts, scope) if statement.cuts is not None else None
    parts = tuple(path for path, _ in named)
    if index is not None:
        parts = tuple(part_named(path, of, axis, index) for path, of in named)
        _check_twice(parts, [of.span for _, of in named], others, index)
        count = sum(index.loops.get(p, 1) for p in parts)
        if cuts is not None:
            _check_cuts(cuts, statement, stages, count, [p in index.loops for p in parts])
        elif stages > count:
            parted = f"{axis.size} stages" + (f" of {chunks} chunks" if chunks > 1 else "")
            what = f"`{parts[0]}` has" if len(parts) == 1 else f"{listed(parts)} have"
            of = "iteration" if all(p in index.loops for p in parts) else "part"
            message = f"{what} {plural(count, of)}, too few for {parted}"
            raise fail("E0408", message, span, help=_fewer(axis, chunks, count))
    if stages > limits.MAX_STAGES:
        raise limits.beyond(f"the pipeline has {stages} stages, the most is {limits.MAX_STAGES:,}", span)
    homes, copies = (ways[0], ways[1:]) if ways else ((), ())
    return PipelineRule(parts, axis.name, schedule, chunks, cuts, span, homes, copies=copies)


def part_named(path: str, named: ast.Path, axis: AxisRef, index: ModelIndex) -> str:
    """The label of a loop, or the path of a scope, by path or label. named: where that stands."""
    label = index.paths_of_loops.get(path, path)
    if label in index.loops:
        alike = [p for p in index.paths_of_loops if last(p) == path and p != path]
        if path not in index.paths_of_loops and len(alike) > 1:
            message = f"`{index.model.name}` has several loops `{path}`: {listed(alike)}"
            raise fail("E0408", message, named.span, help=f"say which: `pipeline {alike[0]} on {axis.name}`")
        return label
    if path in index.scopes and label not in index.scans:
        return path
    known = dict.fromkeys((*index.loops, *index.paths_of_loops, *index.scopes))
    help = did_you_mean(path, known) or (
        f"there is {listed(index.loops)}" if index.loops else "a pipeline cuts a `repeat … as name`, or a row of scopes"
    )
    message = f"`{index.model.name}` has no `repeat` and no scope called `{path}`"
    if label in index.scans:
        message = f"`{path}` is a `scan`, whose positions wait for one another: it has no stages"
        help = f"cut a `repeat` of layers around it: {listed(index.loops)}" if index.loops else help
    raise fail("E0408", message, named.span, help=help)


def _check_twice(
    parts: Sequence[str], spans: Sequence[Span], others: Sequence[PipelineRule], index: ModelIndex
) -> None:
    """Whether each part stands in one pipeline, once. spans: of the parts."""
    paths = {label: path for path, label in index.paths_of_loops.items()}
    before = [(paths.get(p, p), r.span) for r in others for p in r.parts]
    for part, span in zip(parts, spans, strict=True):
        path = paths.get(part, part)
        twice = next((there for other, there in before if within(path, other) or within(other, path)), None)
        if twice is not None:
            help = "each loop and each scope stands in one pipeline, once"
            raise fail("E0415", f"`{part}` is cut twice", span, notes=[("the first is here", twice)], help=help)
        before.append((path, span))


def _fewer(axis: AxisRef, chunks: int, count: int) -> str:
    """How many devices, or chunks of a device, `count` iterations are enough for."""
    ways = []
    most = count // chunks
    if most:
        ways.append(f"axis `{axis.name}` can have at most {plural(most, 'device')}")
    if chunks > 1 and axis.size <= count:
        most = count // axis.size
        if most == 1:
            ways.append("there can be `one_f_one_b`, without `chunks`")
        else:
            ways.append(f"`chunks` can be at most {most}")
    return " or ".join(ways) or f"axis `{axis.name}` can have at most {plural(count, 'device')}, without `chunks`"


def _schedule(call: ast.Call) -> str:
    name = call.function.id
    if name not in SCHEDULES:
        help = " ".join(filter(None, (did_you_mean(name, SCHEDULES), f"there are {listed(SCHEDULES)}")))
        raise fail("E0412", f"there is no schedule `{name}`", call.function.span, help=help)
    return name


def _given(call: ast.Call) -> dict[str, ast.Expr]:
    """Arguments by name."""
    names = SCHEDULES[_schedule(call)]
    given: dict[str, ast.Expr] = {}
    positional = iter(n for n in names if n != "over")
    for argument in call.arguments:
        value = argument.value
        name = argument.name.id if argument.name else "over" if isinstance(value, ast.Over) else next(positional, "")
        if not name:
            help = f"it takes {listed(names)}"
            raise fail("E0111", f"one argument too many for `{call.function.id}`", argument.span, help=help)
        if name not in names:
            help = did_you_mean(name, names) or f"it takes {listed(names)}"
            raise fail("E0109", f"`{call.function.id}` has no parameter `{name}`", argument.span, help=help)
        if name in given:
            raise fail("E0111", f"`{name}` is given twice", argument.span)
        given[name] = value
    return given


def _chunks(call: ast.Call, schedule: str, scope: Scope) -> int:
    if schedule != "interleaved":
        return 1
    expr = _given(call).get("chunks")
    return 2 if expr is None else static.integer(evaluate(expr, scope), "`chunks`", expr.span, 1, limits.MAX_CHUNKS)


def schedule_microbatches(call: ast.Call, scope: Scope) -> tuple[int, ast.Name | None, bool] | None:
    """How many micro-batches, of which dim, and whether the last may be smaller, if the schedule's arguments say it."""
    given = _given(call)
    over = given.get("over")
    dim: ast.Name | None = None
    if isinstance(over, ast.Over) and len(over.dims) == 1 and not over.after:
        dim = over.dims[0]
    elif isinstance(over, ast.Name):
        dim = over
    elif over is not None:
        raise fail("E0402", "micro-batches are cut along one dim", over.span, help="`over = b`")
    expr = given.get("microbatches")
    if expr is None:
        beside = next((name for name in ("over", "pad") if name in given), None)
        if beside is not None:
            raise fail("E0110", f"`{call.function.id}` needs `microbatches` beside `{beside}`", call.span)
        return None
    pad = "pad" in given and static.boolean(evaluate(given["pad"], scope), "`pad`", given["pad"].span)
    return static.integer(evaluate(expr, scope), "`microbatches`", expr.span, 1), dim, pad


def check_microbatches(
    given: Microbatches | None,
    splits: Iterable[SplitRule],
    mesh: Sequence[MeshAxis],
    index: ModelIndex,
) -> None:
    """Whether the count divides the dim that is cut; what axes split of it is no longer there for micro-batches."""
    if given is None:
        return
    count, name, pad, span = given.count, given.dim, given.pad, given.span
    value = next((i.value for i in index.model.inputs if name is None or i.value.type.has(name)), None)
    if value is None or not value.type.dims:  # nothing to cut: told before, where somebody asks for it
        return
    of = name or value.type.names[0]
    size = value.type.size(of)
    also = {r.axis for r in splits if of in r.dims and "activations" in r.classes}  # of some tensor if not of all
    taken = [a for a in mesh if a.size > 1 and a.name in also]
    pieces = prod(a.size for a in taken)
    each = -(-size // count)
    if size % count == 0 or (pad and (count - 1) * each < size):
        return
    if pad:
        message = f"of `{of}` = {size} in micro-batches of {each} nothing is left for the last of {count}"
        raise fail("E0411", message, span, help=f"{-(-size // each)} have all of it")
    legal = legal_microbatches(size, pieces)
    help = f"legal are {', '.join(map(str, legal[:12]))}{' …' if len(legal) > 12 else ''}"
    if taken:
        names = listed(a.name for a in taken)
        help += f": {names} {'splits' if len(taken) == 1 else 'split'} it in {pieces} already"
    last = size - (count - 1) * each
    if last > 0 and each % pieces == last % pieces == 0:  # else axes cannot split them
        help += "; or let the last be smaller, with `pad`"
    message = f"{count} micro-batches do not divide `{of}` = {size}"
    raise fail("E0411", message, span, help=help if legal else None)


def _cuts(expr: ast.Expr, scope: Scope) -> tuple[int, ...]:
    values = evaluate(expr, scope)
    if not isinstance(values, tuple):
        raise fail("E0409", "cuts are a list of numbers", expr.span, help="`cuts [2, 4]`")
    return tuple(static.integer(v, "a cut", expr.span) for v in values)


def _check_cuts(cuts: tuple[int, ...], statement: ast.Pipeline, stages: int, count: int, loops: Sequence[bool]) -> None:
    """loops: of each part, whether it is one. A stage in front of a first loop, or behind a last one, has what stands
    there, and so may be without iterations."""
    assert statement.cuts is not None
    span = statement.cuts.span
    if len(cuts) != stages - 1:
        message = f"{stages} stages have {stages - 1} cut{'s' * (stages != 2)} between them, got {len(cuts)}"
        raise fail("E0409", message, span, help="a cut is the first iteration of each stage but the first")
    low, high = 0 if loops[0] else 1, count if loops[-1] else count - 1
    for i, (a, b) in enumerate(zip((0, *cuts), (*cuts, count))):
        end = (i == 0 and low == 0) or (i == len(cuts) and high == count)
        if a > b or (a == b and not end):
            message = f"the cuts {list(cuts)} leave a stage without iterations (there are {count})"
            help = f"they increase and lie in {low} to {high}"
            if (a, b) in ((0, 0), (count, count)):  # what stands before, or behind, is to be alone
                help += "; scopes that stand before or behind have stages of their own where the row names them"
            raise fail("E0409", message, span, help=help)
