"""Beam search: of each prompt so many texts go on side by side, those that are likeliest together.

As transformers have it (`generate(num_beams = N, do_sample = False)`, `early_stopping = False`): of all continuations
of the texts by one token the likeliest 2 N are looked at; those among the first N that end here may be what comes out,
by the logarithm of how likely they are over their length to the power of the length penalty; the first N that do not
end go on. It ends when N have ended and the best that goes on, as long as it is, is worse than all of these.

A text lies in the row of the one that it goes on from; where several go on from one, the others take rows of texts that
do not go on, and only these are copied. In pages they are not: several have the pages of their common beginning, and
one that writes into a page of several gets a copy of that one. Each part of the batch has a pool of pages; where the
texts of a prompt are in several, one that goes on in another pool has copies of all of its pages there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compiler.model import DECODE
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.generate.loop import POOL, Continuation, Generated, check_prompts, why_ended
from runtime.generate.reader import RowReader
from runtime.inputs import Array


@dataclass(frozen=True, slots=True)
class _Beam:
    """A text that goes on: its tokens, the prompt's too, the logarithm of how likely those behind are, its row."""

    tokens: tuple[int, ...]
    score: float
    row: int


class _Search:
    """The texts of one prompt, in rows of their own. ended: the best that have ended, by their scores."""

    def __init__(
        self,
        prompt: Sequence[int],
        rows: range,
        steps: int,
        places: int,
        penalty: float,
        stops: Callable[[Sequence[int]], bool],
        part: Callable[[int], int] = lambda row: 0,
    ) -> None:
        """part: of the batch, in which a row is: one of the same is taken where there is any."""
        self.part = part
        self.prompt, self.count, self.steps, self.places = len(prompt), len(rows), steps, places
        self.penalty, self.stops = penalty, stops
        self.rows, self.free = rows, list(rows[1:])
        self.running = [_Beam(tuple(prompt), 0.0, rows[0])]
        self.ended: list[Continuation] = []

    def go_on(self, scores: Array) -> list[tuple[int, int]]:
        """One token more; scores: `[rows, tokens]`, of all rows. What is to be copied: (source, target)."""
        rows = [b.row for b in self.running]
        total = np.array([b.score for b in self.running])[:, None] + _logarithms(scores[rows])
        flat = total.reshape(-1)
        order = np.argsort(-flat, kind="stable")[: 2 * self.count]
        going: list[tuple[_Beam, int, float]] = []
        for rank, at in enumerate(order):
            parent, token = divmod(int(at), total.shape[1])
            beam, score = self.running[parent], float(flat[at])
            made = (*beam.tokens[self.prompt :], token)
            why = why_ended(self.prompt, made, self.steps, self.places, self.stops)
            if why and rank < self.count and np.isfinite(score):
                self.ended.append(Continuation(made, why, score / len(made) ** self.penalty))
            elif not why and len(going) < self.count and np.isfinite(score):
                going.append((beam, token, score))
        self.ended = sorted(self.ended, key=_score, reverse=True)[: self.count]
        return self._placed(going)

    def _placed(self, going: Sequence[tuple[_Beam, int, float]]) -> list[tuple[int, int]]:
        """Give a row to each text that goes on."""
        parents = {beam.row for beam, _, _ in going}
        free = [*(b.row for b in self.running if b.row not in parents), *self.free]
        copies: list[tuple[int, int]] = []
        found, taken = [], set()
        for beam, token, score in going:
            row = beam.row
            if row in taken:
                row = next((r for r in free if self.part(r) == self.part(beam.row)), free[0])
                free.remove(row)
                copies.append((beam.row, row))
            taken.add(row)
            found.append(_Beam((*beam.tokens, token), score, row))
        self.running, self.free = found, free
        if found and len(self.ended) == self.count:
            length = len(found[0].tokens) - self.prompt
            if found[0].score / length**self.penalty <= _score(self.ended[-1]):
                self.running, copies = [], []
        return copies

    def end(self, why: str) -> None:
        """Here, with what goes on as it is."""
        for beam in self.running:
            made = beam.tokens[self.prompt :]
            self.ended.append(Continuation(made, why, beam.score / len(made) ** self.penalty))
        self.ended = sorted(self.ended, key=_score, reverse=True)[: self.count]
        self.running = []

    def idle(self) -> list[int]:
        """The rows in which nothing goes on."""
        going = {b.row for b in self.running}
        return [r for r in self.rows if r not in going]


def beam_search(
    reader: RowReader,
    prompts: Sequence[Sequence[int]],
    steps: int,
    beams: int,
    penalty: float = 1.0,
    stops: Callable[[Sequence[int]], bool] = lambda tokens: False,
) -> Generated:
    """Of each prompt the best continuation of at most so many tokens, by so many beams.

    Args:
        reader: with `prefill` and `decode`; nothing is read yet. It has `beams` rows for each prompt.
        penalty: above 0 long texts are preferred, below short ones.
        others: as of `generate`.

    Where caches lie in pages, the search of a prompt ends when its texts find none for their next position.

    Raises ParcError: E0784 for prompts that do not fit, E0786 where scores are no numbers, E0788 where the prompts have
    no pages.
    """
    check_prompts(reader.ports, prompts)
    if len(prompts) * beams > reader.ports.rows:
        what = f"{len(prompts)} prompts of {beams} beams each for a batch of {reader.ports.rows}"
        raise fail("E0784", what, help="the batch is a size of the job's model")
    rows = _rows(reader, len(prompts), beams)
    places, part = reader.ports.places, reader.pages.piece if reader.pages is not None else lambda row: 0
    searches = [_Search(p, r, steps, places, penalty, stops, part) for p, r in zip(prompts, rows, strict=True)]
    reader.begin({s.running[0].row: s.running[0].tokens for s in searches})
    begun = time.perf_counter()
    first = {s.running[0].row: s.running[0].tokens[:-1] for s in searches}
    whole = reader.read_up_to(first, chunks_only=True)
    since, calls = time.perf_counter(), 0
    reader.read_up_to(first)
    while given := _given(searches, reader):
        scores = reader.call(DECODE, given)[:, -1]
        calls += 1
        without = reader.copy([pair for s in searches if s.running for pair in s.go_on(scores)])
        for s in searches:
            if any(b.row in without for b in s.running):
                s.end(POOL)
        for row in (r for s in searches for r in s.idle()):
            reader.drop(row)
    seconds = (time.perf_counter() - since) / max(1, calls)
    best = tuple(s.ended[0] for s in searches)
    taken = reader.taken(len(prompts) * beams)
    return Generated(best, since - begun, seconds, whole * reader.prefill, calls, pages=taken)


def _rows(reader: RowReader, prompts: int, beams: int) -> list[range]:
    """The rows of each prompt's texts: where caches lie in pages, those of one pool as far as that goes for all."""
    if reader.pages is not None:
        by = reader.pages.paging
        beside = by.count // by.pieces
        within = [
            range(k * beside + i * beams, k * beside + (i + 1) * beams)
            for k in range(by.pieces)
            for i in range(beside // beams)
        ]
        if len(within) >= prompts:
            return within[:prompts]
    return [range(i * beams, (i + 1) * beams) for i in range(prompts)]


def _given(searches: Sequence[_Search], reader: RowReader) -> Mapping[int, Sequence[int]]:
    """What each row reads next: the last token of its text. A search that has no pages for that ends."""
    found: dict[int, Sequence[int]] = {}
    for s in searches:
        if all(reader.reserve(b.row, 1) for b in s.running):
            found |= {b.row: b.tokens[-1:] for b in s.running}
            continue
        s.end(POOL)
        for row in s.rows:
            reader.drop(row)
    return found


def _score(text: Continuation) -> float:
    assert text.score is not None
    return text.score


def _logarithms(scores: Array) -> Array:
    """Of how likely each token is, of scores `[rows, tokens]`."""
    x = np.asarray(scores, np.float64)
    x = x - x.max(1, keepdims=True)
    found: Array = x - np.log(np.exp(x).sum(1, keepdims=True))
    return found
