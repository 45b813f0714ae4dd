"""Which device groups run the same code, and in which order each runs its micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from compiler.homes import Homes
from compiler.layout import TIME
from compiler.passes.messages import Ways
from compiler.passes.place.place import Placed
from compiler.passes.stage import ALL, Staged
from compiler.program import Affine, For, Run, Schedule
from compiler.schedules import check_schedule, families, rolled, visits
from compiler.schedules.by_hand import written
from dsl.diagnostics import Diagnostic, ParcError


def classes(staged: Staged, ways: Sequence[Ways]) -> list[tuple[int, ...]]:
    """Groups with the same nodes, equally many iterations of each cut loop, and the same messages, neighbours joined.

    ways: what stages send each other, in each pass."""
    groups = staged.groups
    if not staged.cuts or staged.everywhere.ways > 1:  # where each group has a partner of its own
        return [(g,) for g in range(groups)]
    own = {s for where in (staged.forward, staged.backward) for s in where.values() if s not in (None, ALL)}
    own |= {
        0,
        staged.stages - 1,
        *(s for cut in staged.cuts for s in (cut.begin, cut.end)),
        *(s for s in staged.anchors.values() if s not in (None, ALL)),
    }
    homes, handed = staged.homes, _handed(staged.homes, ways)
    cuts = [(cut, cut.firsts) for cut in staged.cuts]
    found: list[list[int]] = []
    steps: tuple[int, ...] | None = None  # by how many iterations the chunks of the class' groups lie apart
    for g in range(groups):
        mine = homes.of(g)
        if found:
            theirs = homes.of(found[-1][-1])
            pairs = [(cut, firsts, a, b) for cut, firsts in cuts for a, b in zip(mine, theirs)]
            apart = tuple(firsts[a] - firsts[b] for _, firsts, a, b in pairs)
            alike = len(mine) == len(theirs) and all(cut.counts[a] == cut.counts[b] for cut, _, a, b in pairs)
            alike = alike and all(handed.get(a) == handed.get(b) for a, b in zip(mine, theirs))
            if not own & {*mine, *theirs} and alike and steps in (None, apart):
                found[-1].append(g)
                steps = apart
                continue
        found.append([g])
        steps = None
    return [tuple(f) for f in found]


def _handed(homes: Homes, ways: Sequence[Ways]) -> dict[int, set[tuple[int, str, bool, int, int]]]:
    """What each stage gets and hands on: (pass, value, whether it gets it, by how many groups further, chunk there)."""
    found: dict[int, set[tuple[int, str, bool, int, int]]] = {}
    for i, way in enumerate(ways):
        for value, sources in way.ways.items():
            for to, source in sources.items():
                apart = homes.group(to) - homes.group(source)
                found.setdefault(source, set()).add((i, value, False, apart, homes.chunk(to)))
                found.setdefault(to, set()).add((i, value, True, apart, homes.chunk(source)))
    return found


def schedules(
    placed: Placed, staged: Staged, ways: tuple[Ways, Ways], members: Sequence[tuple[int, ...]]
) -> list[list[tuple[tuple[int, ...], Schedule]]]:
    """Per class, its schedule (several where not all groups of the class can share one).

    ways: what stages send each other in the forward pass, and in the backward pass."""
    m = placed.sizes.get(TIME, 1)
    if staged.visited:
        ahead, back = (w.edges | _carried(staged, w is ways[0]) for w in ways)
        name = staged.rule.schedule if staged.rule is not None else "one_f_one_b"
        trains, orders = placed.training.trains, staged.rule.orders if staged.rule is not None else ()
        way = staged.rule.where(staged.groups).way if staged.rule is not None else 0
        if orders and staged.rule is not None and len(staged.homes) != way:
            message = "an order by hand is for the stages of one pipeline; here some places are visited besides"
            help = "leave out the `place`s that values come back to, or take a schedule that has a name"
            raise ParcError(Diagnostic("E0445", message, staged.rule.span, help=help))
        if orders and trains:
            by_group = [written(rows) for rows in orders]
            return [families([by_group[g] for g in groups], groups) for groups in members]
        homes = staged.everywhere
        ahead, back = (_of_all_ways(homes, edges) for edges in (ahead, back))
        all_groups = visits(homes, staged.groups, m // homes.ways, ahead, back if trains else None, name)
        if homes.ways > 1:
            all_groups = [_in_own_part(s, homes, g, m) for g, s in enumerate(all_groups)]
        return [families([all_groups[g] for g in groups], groups) for groups in members]
    name, depth, chunks = "sequential", None, staged.homes.chunks
    if staged.groups > 1:
        name = staged.rule.schedule if staged.rule is not None else "one_f_one_b"
        depth = None if staged.rule is not None else _depths(placed, staged)
    if not placed.training.trains:
        name, depth = "forward", None
    check_schedule(name, chunks, m)
    all_rolled = rolled(name, staged.groups, chunks, m, depth)
    return [families([all_rolled[g] for g in groups], groups) for groups in members]


def _of_all_ways(homes: Homes, edges: Iterable[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    """The edges of the first way, and those of its copies."""
    return frozenset(edge for a, b in edges for edge in zip(homes.copies(a), homes.copies(b), strict=True))


def _in_own_part(schedule: Schedule, homes: Homes, group: int, microbatches: int) -> Schedule:
    """A schedule in which the micro-batches of each way are counted from 0, with those that go it."""

    def moved(number: Affine, chunk: int) -> Affine:
        return Affine(number.base + homes.span(homes.stage(group, chunk), microbatches).start)

    return tuple(
        replace(e, low=moved(e.low, e.chunk), high=moved(e.high, e.chunk))
        if isinstance(e, Run)
        else replace(e, steps=tuple((kind, chunk, moved(at, chunk)) for kind, chunk, at in e.steps))
        if isinstance(e, For)
        else e
        for e in schedule
    )


def _carried(staged: Staged, forward: bool) -> frozenset[tuple[int, int]]:
    """Which stages hand each other what the loops carry that are cut."""
    return frozenset(edge for cut in staged.cuts for edge in pairwise(cut.way(forward)))


def _depths(placed: Placed, staged: Staged) -> tuple[int, ...]:
    """Stages after each one on the longest way of the forward pass."""
    after: dict[int, set[int]] = {g: set() for g in range(staged.groups)}
    for node in placed.forward.nodes:
        here = staged.forward.get(node.outputs[0].name)
        for v in node.inputs:
            before = staged.forward.get(v.name)
            if before is not None and here is not None and before != here:
                after[before].add(here)
    for v in placed.forward.outputs[: placed.training.results]:
        before, here = staged.forward.get(v.name), staged.counts_at(v, staged.forward)
        if before is not None and before != here:
            after[before].add(here)
    depths = [0] * staged.groups
    for g in sorted(after, key=lambda g: -staged.ranks[g]):  # the last first: values never go back
        depths[g] = max((1 + depths[b] for b in after[g]), default=0)
    return tuple(depths)
