"""Of how many layers and micro-batches a stage holds something at its fullest moments, as its schedule goes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from compiler.passes.cuts import divided
from compiler.schedules.actions import FORWARD, Turn, interleaved_action, interleaved_ahead
from compiler.strategy import PipelineRule
from parc.planning.layer_work import KeptHalves, LoopRoom


@lru_cache(4096)
def held_layers(layers: int, stages: int, chunks: int, m: int, schedule: str) -> tuple[tuple[int, int], ...]:
    """Of the first two stages, which hold most: their layers; and those of all micro-batches that have gone forward
    before one first goes back. (What does not come out even goes to stages between the ends first.)"""
    counts = divided(PipelineRule(("",), ""), {"": layers}, stages * chunks)[""]
    found = []
    for k in range(min(2, stages)):
        own = counts[k::stages]
        if schedule == "interleaved":
            turn = Turn(stages, chunks, m)
            forward = min(m * chunks, 1 + interleaved_ahead(turn, stages - 1 - k))
            alive = sum(own[interleaved_action(FORWARD, i, turn).chunk] for i in range(forward))
        else:
            alive = sum(own) * (m if schedule == "gpipe" else min(m, stages - k))
        found.append((sum(own), alive))
    return tuple(found)


def held_moments(
    layers: int, stages: int, chunks: int, m: int, schedule: str, each: float, room: LoopRoom
) -> Iterator[tuple[int, float]]:
    """Of stages that may hold most: their layers, and bytes in the first iteration of a loop of the backward pass.
    each: what a layer keeps of a micro-batch."""
    if schedule != "zero_bubble":
        every = held_layers(layers, stages, chunks, m, schedule)
        yield from ((own, alive * each + room.backward) for own, alive in every)
        return
    counts = divided(PipelineRule(("",), ""), {"": layers}, stages)[""]
    for k in sorted({0, 1, stages - 2, stages - 1}):  # between these neither rises nor falls otherwise
        own = counts[k]
        for ahead, behind in split_turns(stages, m, k):
            yield own, own * (ahead * each + behind * room.between + room.stacks) + room.backward
            if behind == k:  # whose turn it is then
                yield own, own * ((ahead - 1) * each + (behind + 1) * room.between) + room.weights


def held_halves(layers: int, stages: int, m: int, each: float, kept: KeptHalves) -> Iterator[tuple[int, float]]:
    """Of the stages of a zero-bubble schedule that may hold most: their layers, and bytes that micro-batches hold as
    one goes back, without what it needs for that. each: what a layer keeps of a micro-batch until it goes back."""
    counts = divided(PipelineRule(("",), ""), {"": layers}, stages)[""]
    for k in sorted({0, 1, stages - 2, stages - 1}):
        own = counts[k]
        more = kept.behind if k == stages - 1 else 0.0
        for ahead, behind in split_turns(stages, m, k):
            yield own, own * (ahead * each + behind * kept.layer) + behind * more
            if behind == k:  # whose turn it is then
                yield own, own * ((ahead - 1) * each + (behind + 1) * kept.layer) + (behind + 1) * more


@lru_cache(4096)
def split_turns(stages: int, m: int, k: int) -> tuple[tuple[int, int], ...]:
    """When a stage's zero-bubble schedule begins a backward pass: micro-batches that have not gone back yet, and those
    of which the weights' gradients are still to be found. The most of the first, and of the second; between them one
    goes up as the other comes down."""
    ahead = min(m, stages - 1 - k)
    last = min(ahead + k, m - 1 + ahead)
    turns = {max(ahead, min(m - 1, last)), last}
    return tuple([(min(i + 1, m) - (i - ahead), min(i - ahead, k)) for i in sorted(turns)])
