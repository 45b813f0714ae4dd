"""What is computed next of sequences that share a batch: a chunk of prompts, or a position of each."""

from __future__ import annotations

from collections.abc import Sequence

from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class BatchTurn:
    """A call: of a chunk, or of single positions; the numbers of the rows that take part."""

    chunk: bool
    rows: tuple[int, ...]


def next_turn(left: Sequence[int], chunk: int, chunk_last: bool) -> BatchTurn:
    """The next call.

    Chunks and positions take turns where both are wanted: nobody waits for a long prompt of somebody else.

    Args:
        left: by row, how many tokens are there that were not read yet; none of a row that is free.
        chunk: how many are read at once.
        chunk_last: whether the last call was of a chunk.
    """
    whole = tuple(i for i, n in enumerate(left) if n >= chunk > 1)
    others = tuple(i for i, n in enumerate(left) if n and not n >= chunk > 1)
    if whole and not (chunk_last and others):
        return BatchTurn(True, whole)
    return BatchTurn(False, others)
