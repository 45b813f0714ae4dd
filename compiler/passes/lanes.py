"""Places on several axes of a mesh: the groups of devices that a scope may be on, and where each pipeline lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from compiler.graph import Graph
from compiler.ops.repeat import Repeat
from compiler.origin import scopes
from compiler.passes.cuts import CutLoop, cut_parts, trained_first
from compiler.passes.place.place import Placed
from compiler.strategy import PipelineRule, PlaceRule, Strategy
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, Diagnostics, ParcError


@dataclass(frozen=True, slots=True)
class Lanes:
    """Of several axes of places, one of which a pipeline may go along.

    rules: one of each scope that is placed, with the first of its groups for a coordinate; groups: all that it may be
    on, since it is somewhere along the pipeline; of: of each pipeline its lane, by the lanes' numbers; ways: of each
    lane its groups, in the order of its stages.
    """

    rules: tuple[PlaceRule, ...]
    groups: Mapping[str, tuple[int, ...]]
    of: tuple[int, ...]
    ways: tuple[tuple[int, ...], ...]


def lanes(strategy: Strategy, axes: Sequence[str], graph: Graph, ahead: Sequence[Graph] = ()) -> Lanes:
    """axes: those whose coordinate is a place, in the order of the mesh; graph: what the strategy is for; ahead: what
    is made of whole batches before it, where loops may be that it no longer has.

    A scope has on each axis the place that a rule gives it, or a scope around it, and a pipeline that of what it cuts.
    Raises ParcError (E0552) for what has none on an axis that no pipeline goes along, (E0415) for two on one.
    """
    along = strategy.pipelines[0].axis if strategy.pipelines else None
    if len(axes) < 2:
        way = tuple(range(prod(a.size for a in strategy.mesh if a.name in axes)))
        of: dict[str, tuple[int, ...]] = {p.scope: () if p.index is None else (p.index,) for p in strategy.places}
        return Lanes(strategy.places, of, (0,) * len(strategy.pipelines), (way,) if along else ())
    sizes = [next(a.size for a in strategy.mesh if a.name == axis) for axis in axes]
    given: dict[tuple[str, str], PlaceRule] = {}
    wrong = Diagnostics()
    for p in strategy.places:
        if given.setdefault((p.scope, p.axis), p) is not p:
            notes = [("the first is here", given[p.scope, p.axis].span)]
            wrong.error("E0415", f"`{p.scope}` is placed twice", p.span, notes=notes)
    wrong.raise_if_any()

    def groups(path: str, rule: PlaceRule | PipelineRule) -> tuple[int, ...]:
        """All groups on which a scope, or what is cut, may be."""
        free: list[Sequence[int]] = []
        for axis, size in zip(axes, sizes, strict=True):
            found = next((given[s, axis] for s in (path, *scopes(path)) if (s, axis) in given), None)
            if axis == along and (found is None or isinstance(rule, PipelineRule)):
                free.append(range(size))
            elif found is None or found.index is None:
                message = f"`{path}` has a place on {along or rule.axis}, but none on {axis}"
                help = f"say where on each axis: `place {path} on {axis}[0]`"
                raise ParcError(Diagnostic("E0552", message, rule.span, help=help))
            else:
                free.append((found.index,))
        return tuple(_flat(where, sizes) for where in product(*free))

    loops = [n.op for g in (*ahead, graph) for n in g.nodes if isinstance(n.op, Repeat)]
    paths = {loop.label: loop.body.name for loop in loops}
    cut = {part for rule in strategy.pipelines for part in (*rule.parts, *(paths.get(p, p) for p in rule.parts))}
    first: dict[str, PlaceRule] = {}
    for p in strategy.places:
        if p.scope not in cut:
            first.setdefault(p.scope, p)
    each = {scope: rule.index is None for scope, rule in first.items()}
    of = {scope: () if each[scope] else groups(scope, rule) for scope, rule in first.items()}
    rules = tuple(replace(r, index=None if each[s] else of[s][0]) for s, r in first.items())
    ways: dict[tuple[int, ...], int] = {}
    lane: list[tuple[int, ...]] = []
    for pipeline in strategy.pipelines:
        found = {groups(paths.get(part, part), pipeline) for part in pipeline.parts}
        if len(found) > 1:
            message = f"the parts of the row {', '.join(pipeline.parts)} have different places"
            raise ParcError(Diagnostic("E0552", message, pipeline.span, help="each pipeline lies in one place"))
        lane += found
    order = {loop.label: i for i, loop in reversed([*enumerate(loops)])}  # of one that stands twice where it is first
    for _, way in sorted((min((order.get(p, 0) for p in r.parts)), w) for r, w in zip(strategy.pipelines, lane)):
        ways.setdefault(way, len(ways))
    return Lanes(rules, of, tuple(ways[way] for way in lane), tuple(ways))


def cut_lanes(
    placed: Placed, found: Lanes, chunks: int
) -> tuple[tuple[CutLoop, ...], tuple[PlaceRule, ...], tuple[int, ...]]:
    """The loops that are cut, those with trained weights first; where the scopes in their rows are; the group of each
    stage. The stages of one lane stand behind those of the lanes before."""
    cuts: list[CutLoop] = []
    rows: list[PlaceRule] = []
    given = next((r.homes for r in placed.training.job.strategy.pipelines if r.homes), ())
    homes = tuple(way[g] for way in found.ways for g in given or [*range(len(way))] * chunks)
    begin = 0
    for number, way in enumerate(found.ways):
        mine = [r for r, at in zip(placed.training.job.strategy.pipelines, found.of, strict=True) if at == number]
        count = len(way) * chunks
        parts, between = cut_parts(placed, mine, count)
        cuts += (c.moved(len(homes), range(begin, begin + count)) for c in parts)
        rows += (replace(r, index=begin + (r.index or 0)) for r in between)
        begin += count
    return tuple(trained_first(placed, cuts)), tuple(rows), homes


def _flat(where: Sequence[int], sizes: Sequence[int]) -> int:
    """The number of the group at these coordinates."""
    found = 0
    for at, size in zip(where, sizes, strict=True):
        found = found * size + at
    return found
