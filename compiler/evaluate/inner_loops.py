"""Pipelines of a loop that stands in another: the loop around it is taken apart, so that each of its iterations stands
by itself at the top of the model, with an inner loop of its own. What is cut is the row of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from compiler.evaluate import limits
from compiler.evaluate.index import ModelIndex
from compiler.evaluate.layers import LoopCuts
from compiler.evaluate.pipelines import part_named
from compiler.evaluate.values import AxisRef
from compiler.loop_pieces import by_path, whole_path
from compiler.model import LoopPiece, Model
from compiler.origin import scopes
from compiler.strategy import MeshAxis, PipelineRule, PlaceRule
from dsl import ast
from dsl.diagnostics import fail, plural
from dsl.source import Span


def loops_around(named: Sequence[tuple[str, ast.Path]], axis: AxisRef, index: ModelIndex) -> dict[str, int]:
    """The loops to take apart so that those which are cut stand at the top, by path, and how many iterations they have.

    named: the parts of a row, by path or label, and where they stand. Raises ParcError: E0553 where that cannot be.
    """
    found: dict[str, int] = {}
    paths = {label: path for path, label in index.paths_of_loops.items()}
    for part, of in named:
        path = paths.get(part_named(part, of, axis, index), "")
        around = [s for s in scopes(path) if s in index.paths_of_loops]
        if around:
            found[around[0]] = _count(path, around, of.span, axis, index)
    return found


def beside_places(
    rows: Sequence[tuple[Sequence[tuple[str, ast.Path]], AxisRef, Span]],
    places: Iterable[PlaceRule | PipelineRule],
    axes: Sequence[MeshAxis],
    index: ModelIndex,
    cuts: dict[str, LoopCuts],
) -> None:
    """Note of rows on an axis of one place what is to be taken apart: nothing, unless other axes have places, between
    which the parts of a row stand."""
    sizes = {a.name: a.size for a in axes}
    if any(sizes[p.axis] > 1 for p in places):
        for named, axis, span in rows:
            take_apart(loops_around(named, axis, index), cuts, span)


def take_apart(loops: Mapping[str, int], cuts: dict[str, LoopCuts], span: Span) -> bool:
    """Note that loops are to be taken apart, and where that is said; whether there are any."""
    for loop, count in loops.items():
        cut = cuts.setdefault(loop, LoopCuts(span))
        cut.edges.update(range(count + 1))
        cut.apart = True
    return bool(loops)


def by_iteration(named: Sequence[tuple[str, ast.Path]], pieces: Sequence[LoopPiece]) -> list[tuple[str, ast.Path]]:
    """Parts of a row, of which neighbours that are in one loop which is apart stand iteration by iteration."""
    apart = {p.path: p for p in pieces if p.apart}
    around = [next((apart[s] for s in scopes(part) if s in apart), None) for part, _ in named]
    found: list[tuple[str, ast.Path]] = []
    for of, parts in groupby(zip(around, named, strict=True), lambda x: x[0] and x[0].of_path):
        mine = list(parts)
        found += [x for _, x in (sorted(mine, key=lambda x: x[0].first if x[0] else 0) if of else mine)]
    return found


def _count(path: str, around: Sequence[str], span: Span, axis: AxisRef, index: ModelIndex) -> int:
    """How many iterations the one loop around another has."""
    loop, label = around[0], index.paths_of_loops[around[0]]
    message = f"`{path}` cannot be cut: "
    help = f"cut the loop around it: `pipeline {loop} on {axis.name}`"
    if len(around) > 1:
        loop = min(around, key=len)
        within = max(around, key=len)
        message += f"it stands in `{within}`, which stands in another loop"
        help = f"cut `{loop}`, or a loop directly in it"
        raise fail("E0553", message, span, help=help)
    if label in index.scans:
        message += f"it stands in the `scan` `{loop}`, whose positions share their layers"
        raise fail("E0553", message, span, help="cut a `repeat` of layers around the `scan`")
    count = index.loops[label]
    if count > limits.MAX_APART:
        message += f"`{loop}` around it has {plural(count, 'iteration')}, each of which would be a loop of its own"
        raise fail("E0553", message, span, help=f"the most is {limits.MAX_APART}: {help}")
    return count


def trained_as(cut: Model, written: Model) -> Model:
    """The model of which loops are cut or taken apart, with the weights trained that are so as it is written: of pieces
    that the loss does not need, gradients are zeros, as they are in a loop of which it needs the last iterations."""
    trained, pieces = {w.name for w in written.trained}, by_path(cut.pieces)
    weights = (replace(w, trained=whole_path(w.name, pieces) in trained) for w in cut.weights)
    return replace(cut, weights=tuple(weights))
