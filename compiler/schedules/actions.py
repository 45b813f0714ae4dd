"""What the schedules are: for each group of devices its actions in order, written out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from compiler.program import FunctionPhase, Program

FORWARD, BACKWARD, WEIGHTS = FunctionPhase.FORWARD, FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS

NAMES = ("gpipe", "one_f_one_b", "interleaved", "zero_bubble", "sequential", "forward")
"""`sequential`: no pipeline, each micro-batch forward and backward before the next; `forward`: inference."""

CHUNKED = ("interleaved", "forward")
"""Schedules for which a group may hold more than one chunk of the rolled loop."""


class Action(NamedTuple):
    """A pass of a chunk on one micro-batch, or the update (chunk 0, micro-batch 0)."""

    kind: FunctionPhase
    chunk: int
    mb: int

    def __str__(self) -> str:
        return self.kind if self == UPDATE else f"{self.kind}{f'.{self.chunk}' if self.chunk else ''}[{self.mb}]"


UPDATE = Action(FunctionPhase.UPDATE, 0, 0)


def kinds(name: str) -> tuple[FunctionPhase, ...]:
    """The actions on micro-batches that the schedule consists of."""
    return {"zero_bubble": (FORWARD, BACKWARD, WEIGHTS), "forward": (FORWARD,)}.get(name, (FORWARD, BACKWARD))


def chain(groups: int) -> tuple[int, ...]:
    """Depth to the end of each group where they stand in one row."""
    return tuple(range(groups - 1, -1, -1))


def legal_microbatches(size: int, pieces: int = 1) -> list[int]:
    """Numbers of micro-batches, up to 4,096, that divide a dim of `size`.

    pieces: the product of the mesh axes that split the dim as well.
    """
    return [n for n in range(1, min(size, 4096) + 1) if size % (n * pieces) == 0]


def check_schedule(name: str, chunks: int, microbatches: int) -> None:
    """Raise ValueError for what the language cannot say: other names, no micro-batch, chunks without interleaving."""
    if name not in NAMES or microbatches < 1 or chunks < 1 or (chunks > 1 and name not in CHUNKED):
        raise ValueError(f"no schedule {name} of {chunks} chunks and {microbatches} micro-batches")


def actions(
    name: str, groups: int, chunks: int, microbatches: int, group: int, depth: Sequence[int] | None = None
) -> Iterator[Action]:
    """The actions of one group. `depth`: stages after each group (default: they stand in one row).

    For legal arguments only (`check_schedule`).
    """
    depths = chain(groups) if depth is None else depth
    m, ahead = microbatches, min(microbatches, depths[group])
    if name == "forward":
        every = (interleaved_action(FORWARD, k, Turn(groups, chunks, m)) for k in range(m * chunks))
        yield from every if chunks > 1 else (Action(FORWARD, 0, i) for i in range(m))
        return
    if name == "sequential":
        for i in range(m):
            yield Action(FORWARD, 0, i)
            yield Action(BACKWARD, 0, i)
    elif name == "gpipe":
        yield from (Action(FORWARD, 0, i) for i in range(m))
        yield from (Action(BACKWARD, 0, i) for i in range(m))
    elif name == "one_f_one_b" or (name == "interleaved" and chunks == 1):
        yield from _one_f_one_b(m, ahead)
    elif name == "interleaved":
        yield from _interleaved(Turn(groups, chunks, m), depths[group])
    else:
        yield from _zero_bubble(m, ahead, max(depths) - depths[group])
    yield UPDATE


def _one_f_one_b(m: int, ahead: int) -> Iterator[Action]:
    """As many forwards ahead as there are stages after this one; then one forward, one backward (PipeDream-flush)."""
    for i in range(m + ahead):
        if i < m:
            yield Action(FORWARD, 0, i)
        if i >= ahead:
            yield Action(BACKWARD, 0, i - ahead)


class Turn(NamedTuple):
    """What the order of interleaved chunks depends on.

    Micro-batches go through the chunks in rounds of as many as there are groups, or of more where that does not come
    out even: as many rounds as have at least `groups`, the first of them one longer than the others if need be. A
    round that were shorter would leave its groups waiting (Megatron-Core refuses such a last round, torch takes rounds
    of one length only). Fewer micro-batches than groups are one round.
    """

    groups: int
    chunks: int
    microbatches: int

    @staticmethod
    def of(program: Program) -> Turn:
        """That of a program's schedules."""
        return Turn(program.groups, program.homes.chunks, program.microbatches)

    @property
    def rounds(self) -> tuple[int, int]:
        """The micro-batches of a round at least, and the number of rounds at the beginning that have one more."""
        return divmod(self.microbatches, max(1, self.microbatches // self.groups))

    @property
    def longest(self) -> int:
        """The micro-batches of the first round."""
        size, longer = self.rounds
        return size + (longer > 0)


def interleaved_ahead(turn: Turn, depth: int) -> int:
    """How many forwards a group runs before its first backward; depth: stages after it in a chunk's row."""
    return min(turn.microbatches * turn.chunks, 2 * depth + (turn.chunks - 1) * turn.longest)


def _interleaved(turn: Turn, depth: int) -> Iterator[Action]:
    """Megatron's: 1F1B over the sequence of (chunk, micro-batch), a round of micro-batches of a chunk at a time."""
    ahead, count = interleaved_ahead(turn, depth), turn.microbatches * turn.chunks
    for k in range(count + ahead):
        if k < count:
            yield interleaved_action(FORWARD, k, turn)
        if k >= ahead:
            yield interleaved_action(BACKWARD, k - ahead, turn)


def interleaved_action(kind: FunctionPhase, k: int, turn: Turn) -> Action:
    """The k-th forward (backward) of an interleaved schedule; backwards go through the chunks from the last."""
    size, longer = turn.rounds
    first = (size + 1) * longer  # micro-batches of the longer rounds
    start = first * turn.chunks
    if k < start:
        size, first, start = size + 1, 0, 0
    round, rest = divmod(k - start, size * turn.chunks)
    chunk, i = divmod(rest, size)
    return Action(kind, chunk if kind is FORWARD else turn.chunks - 1 - chunk, first + round * size + i)


def _zero_bubble(m: int, ahead: int, delay: int) -> Iterator[Action]:
    """ZB-H1: 1F1B with the weights' gradients (W) put off by as many micro-batches as the stage holds fewer
    activations than the first: no stage holds more than 1F1B's first, and the last bubble is filled with W."""
    for i in range(m + ahead):
        if i < m:
            yield Action(FORWARD, 0, i)
        if i >= ahead:
            yield Action(BACKWARD, 0, i - ahead)
            if i - ahead >= delay:
                yield Action(WEIGHTS, 0, i - ahead - delay)
    yield from (Action(WEIGHTS, 0, i) for i in range(max(m - delay, 0), m))
