"""The order of groups of which values come by more than once: 1F1B over stages that are a graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise

from compiler.homes import Homes
from compiler.program import Affine, For, FunctionPhase, Run, Schedule, Update
from compiler.schedules.actions import BACKWARD, FORWARD, WEIGHTS, kinds

Edges = Collection[tuple[int, int]]
"""Who hands values to whom, stages by their numbers. There is no circle."""


Moment = tuple[int, FunctionPhase, int]
"""When the first micro-batch has a pass of a chunk."""


def visits(
    homes: Homes, groups: int, microbatches: int, ahead: Edges, back: Edges | None, name: str = "one_f_one_b"
) -> list[Schedule]:
    """The schedule of each group. ahead, back: messages of the forward and the backward pass (None: there is none);
    name: in the manner of which schedule.

    Each pass of a stage has a moment, micro-batches come in the same distance of each other, and groups take their
    passes in the order of the moments. All that a pass waits for has an earlier one, so that nobody waits forever.
    In that distance a group has time for each of its passes once (a forward pass takes one moment, a backward pass two,
    or one and one more for the gradients of weights), and no two of them at once: so the group with most to do always
    computes, but at the beginning and the end. Forward passes are as late as may be, backward passes as early.
    With one stage per group in a row this is 1F1B. `gpipe` has all forward passes first; `zero_bubble` has gradients of
    weights where there is time, and a moment between the passes of two stages: so nobody waits where a backward pass
    takes longer than the gradients of weights, and a group holds about as much as at 1F1B.
    """
    tails = _longest({(to, source) for source, to in ahead}, len(homes))  # of each stage: how many come behind it
    passes = () if back is None else kinds(name)[1:]
    late = WEIGHTS in passes
    length, between = (1, 1) if late else (2, 0)
    every = homes.chunks * (1 if back is None else 3)
    busy = [_Busy(every, 0 if late or back is None else len(homes.of(g))) for g in range(groups)]
    starts: dict[int, int] = {}
    after: dict[int, list[int]] = {}
    for source, to in ahead:
        after.setdefault(source, []).append(to)
    for s in sorted(range(len(homes)), key=lambda s: (tails[s], -s)):
        latest = min((starts[to] for to in after.get(s, ())), default=0) - 1 - between
        starts[s] = busy[homes.group(s)].take(latest, 1, -1)
    ends: dict[int, int] = {}
    heads = _longest(set(back), len(homes)) if back is not None else []
    before: dict[int, list[int]] = {}
    for source, to in back or ():
        before.setdefault(to, []).append(source)
    for s in sorted(range(len(homes)), key=lambda s: (heads[s], -s)) if back is not None else ():
        earliest = max((ends[source] + length + between for source in before.get(s, ())), default=0)
        ends[s] = busy[homes.group(s)].take(max(earliest, starts[s] + 1), length, 1)
    first = min(starts.values())
    found: list[Schedule] = []
    for g in range(groups):
        moments: list[Moment] = [(starts[s] - first, FORWARD, c) for c, s in enumerate(homes.of(g))]
        parts = [moments]
        if ends:
            backward: list[Moment] = [(ends[s] - first, BACKWARD, c) for c, s in enumerate(homes.of(g))]
            for c, s in enumerate(homes.of(g) if late else ()):
                backward.append((busy[g].take(ends[s] + 1, 1, 1) - first, WEIGHTS, c))
            parts = [moments, backward] if name == "gpipe" else [moments + backward]
        update = (Update(),) if ends else ()
        found.append((*(e for part in parts for e in _rolled(part, every, microbatches)), *update))
    return found


class _Busy:
    """Which moments of a group are taken, of each micro-batch alike. pairs: how many times two in a row are still to be
    taken."""

    def __init__(self, every: int, pairs: int) -> None:
        self.free = set(range(every))
        self.every, self.pairs = every, pairs

    def take(self, at: int, length: int, step: int) -> int:
        """The first moment from `at` on, going by `step`, at which so many are free, and pairs remain that are."""
        self.pairs -= length == 2
        for moment in range(at, at + step * self.every, step):
            wanted = {(moment + k) % self.every for k in range(length)}
            if wanted <= self.free and self._pairs(self.free - wanted) >= self.pairs:
                self.free -= wanted
                return moment
        raise AssertionError("a group has time for each of its passes")

    def _pairs(self, free: set[int]) -> int:
        """How many pairs there are room for."""
        if len(free) == self.every:
            return self.every // 2
        firsts = [k for k in free if (k - 1) % self.every not in free]
        return sum(next(n for n in range(self.every) if (k + n) % self.every not in free) // 2 for k in firsts)


def _rolled(moments: Iterable[Moment], every: int, microbatches: int) -> Iterable[Run | For]:
    """Passes at their moments, those of the next micro-batch `every` later: a loop for each time in which the same
    passes take part."""
    order = sorted((at % every, at // every, kind, chunk) for at, kind, chunk in moments)
    edges = sorted({e for _, late, _, _ in order for e in (late, late + microbatches)})
    for low, high in pairwise(edges):
        now = [(kind, chunk, late) for _, late, kind, chunk in order if late <= low and high <= late + microbatches]
        if len(now) == 1:
            kind, chunk, late = now[0]
            yield Run(kind, chunk, Affine(low - late), Affine(high - late))
        elif now:
            yield For(Affine(high - low), 1, tuple((kind, chunk, Affine(low - late)) for kind, chunk, late in now))


def _longest(edges: Edges, stages: int) -> list[int]:
    """Of each stage the longest way that leads to it."""
    before: dict[int, list[int]] = {}
    for source, to in edges:
        before.setdefault(to, []).append(source)
    found: dict[int, int] = {}
    stack: list[int] = list(range(stages))
    while stack:
        stage = stack[-1]
        missing = [s for s in before.get(stage, ()) if s not in found]
        if missing:
            assert len(stack) <= stages + len(edges), "values go round a circle of stages"
            stack += missing
            continue
        found[stack.pop()] = max((1 + found[s] for s in before.get(stage, ())), default=0)
    return [found[s] for s in range(stages)]
