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
    With one stage per group in a row this is 1F1B. `gpipe` has all forward passes first; `zero_bubble` puts the
    gradients of weights off for as long as the stage then holds no more micro-batches than any stage does at 1F1B.
    """
    tails = _longest({(to, source) for source, to in ahead}, len(homes))  # of each stage: how many come behind it
    last = max(tails)
    heads = _longest(set(back), len(homes)) if back is not None else []
    every = homes.chunks * (1 if back is None else len(kinds(name)))
    starts = [last - tails[s] for s in range(len(homes))]
    ends = [last + 1 + head for head in heads]
    longest = max((b - a for a, b in zip(starts, ends)), default=0)
    found: list[Schedule] = []
    for g in range(groups):
        moments: list[Moment] = [(starts[s], FORWARD, c) for c, s in enumerate(homes.of(g))]
        parts = [moments]
        if ends:
            backward: list[Moment] = [(ends[s], BACKWARD, c) for c, s in enumerate(homes.of(g))]
            if WEIGHTS in kinds(name):
                held = [(s, (longest - ends[s] + starts[s]) // every) for s in homes.of(g)]
                backward += [(ends[s] + every * off, WEIGHTS, c) for c, (s, off) in enumerate(held)]
            parts = [moments, backward] if name == "gpipe" else [moments + backward]
        update = (Update(),) if ends else ()
        found.append((*(e for part in parts for e in _rolled(part, every, microbatches)), *update))
    return found


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
            stack += missing
            continue
        found[stack.pop()] = max((1 + found[s] for s in before.get(stage, ())), default=0)
    return [found[s] for s in range(stages)]
