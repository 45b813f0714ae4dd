"""Of how many layers and micro-batches a stage holds something at its fullest moments, as its schedule goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from compiler.ops.effects import Load, Save
from compiler.ops.repeat import Repeat
from compiler.passes.cuts import divided
from compiler.program import Function, FunctionPhase
from compiler.schedules.actions import FORWARD, Turn, interleaved_action, interleaved_ahead
from compiler.strategy import PipelineRule
from parc.planning.layer_work import KeptHalves, LoopRoom
from parc.planning.stage_cuts import layer_counts


@lru_cache(4096)
def held_layers(layers: int, stages: int, chunks: int, m: int, schedule: str) -> tuple[tuple[int, int], ...]:
    """Of the first two stages, which hold most: their layers; and those of all micro-batches that have gone forward
    before one first goes back. (What does not come out even goes to stages between the ends first.)"""
    counts = layer_counts(layers, stages * chunks)
    found = []
    for k in range(min(2, stages)):
        own = counts[k::stages]
        times = _ahead(stages, chunks, m, schedule, k)
        found.append((sum(own), sum(n * times[chunk] for chunk, n in enumerate(own))))
    return tuple(found)


class HeldOfLoops(NamedTuple):
    """Of a stage: own, its layers of each loop; held, those of all micro-batches that have gone forward before one
    first goes back."""

    own: tuple[int, ...]
    held: tuple[int, ...]


@lru_cache(4096)
def held_of_loops(turns: tuple[int, ...], stages: int, chunks: int, m: int, schedule: str) -> tuple[HeldOfLoops, ...]:
    """Of several loops, of so many iterations each, in one row: the first of all stages that have the same layers in
    their chunks. What comes behind it holds less."""
    labels = tuple(str(i) for i in range(len(turns)))
    counts = divided(PipelineRule(labels, ""), dict(zip(labels, turns, strict=True)), stages * chunks)
    found: dict[tuple[tuple[int, ...], ...], HeldOfLoops] = {}
    for k in range(stages):
        own = tuple([counts[label][k::stages] for label in labels])
        if own not in found:
            times = _ahead(stages, chunks, m, schedule, k)
            held = tuple([sum(n * times[chunk] for chunk, n in enumerate(of)) for of in own])
            found[own] = HeldOfLoops(tuple(map(sum, own)), held)
    return tuple(found.values())


def _ahead(stages: int, chunks: int, m: int, schedule: str, k: int) -> Counter[int]:
    """How often a stage goes forward through each of its chunks before it first goes back."""
    if schedule != "interleaved":
        return Counter({0: m if schedule == "gpipe" else min(m, stages - k)})
    turn = Turn(stages, chunks, m)
    forward = min(m * chunks, 1 + interleaved_ahead(turn, stages - 1 - k))
    return Counter(interleaved_action(FORWARD, i, turn).chunk for i in range(forward))


def kept_by_loops(functions: Iterable[Function]) -> dict[str, str]:
    """By its name what an iteration of a loop makes and the same loop's backward pass reads: the loop's label. It is
    where the iteration is, whatever else reads it."""
    made, read = dict[str, str](), set[tuple[str, str]]()
    for function in functions:
        of = {v.name: n.op for n in function.body.nodes for v in n.outputs}
        for node in function.body.nodes:
            by = [of.get(v.name) for v in node.inputs]
            if isinstance(node.op, Save) and isinstance(by[0], Repeat):
                made[node.op.name] = by[0].label
            elif isinstance(node.op, Repeat) and function.phase is FunctionPhase.BACKWARD:
                read.update((op.name, node.op.label) for op in by if isinstance(op, Load))
    return {name: label for name, label in made.items() if (name, label) in read}


def held_moments(
    layers: int, stages: int, chunks: int, m: int, schedule: str, each: float, room: LoopRoom
) -> Iterator[tuple[int, float]]:
    """Of stages that may hold most: their layers, and bytes in the first iteration of a loop of the backward pass.
    each: what a layer keeps of a micro-batch."""
    if schedule != "zero_bubble":
        every = held_layers(layers, stages, chunks, m, schedule)
        yield from ((own, alive * each + room.backward) for own, alive in every)
        return
    counts = layer_counts(layers, stages)
    for k in sorted({0, 1, stages - 2, stages - 1}):  # between these neither rises nor falls otherwise
        own = counts[k]
        for ahead, behind in split_turns(stages, m, k):
            yield own, own * (ahead * each + behind * room.between + room.stacks) + room.backward
            if behind == k:  # whose turn it is then
                yield own, own * ((ahead - 1) * each + (behind + 1) * room.between) + room.weights


def held_halves(layers: int, stages: int, m: int, each: float, kept: KeptHalves) -> Iterator[tuple[int, float]]:
    """Of the stages of a zero-bubble schedule that may hold most: their layers, and bytes that micro-batches hold as
    one goes back, without what it needs for that. each: what a layer keeps of a micro-batch until it goes back."""
    counts = layer_counts(layers, stages)
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
