"""Continuous batching: sequences come and go in the rows of one batch, each at a position of its own.

What becomes of a sequence hangs on its own tokens and its own seed, not on who shares the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from compiler.model import DECODE, PREFILL
from dsl.data import dataclass
from runtime.executor import Executor
from runtime.generate.loop import CONTEXT, LENGTH, Ports
from runtime.generate.pages import PageTable
from runtime.generate.sampling import Sampling
from runtime.generate.turns import next_turn
from runtime.inputs import Array

BROKEN = "broken"
"""Why a sequence ends, besides: its scores are no numbers. What is kept of it may be none either."""


@dataclass(frozen=True, slots=True)
class SequenceAsked:
    """A sequence that is asked for.

    tokens: the prompt, one at least, and what was made of it already. made: how many of these were. steps: how many
    are made at most, those among them. choice: which of several of one prompt: each has random bits of its own.
    likely: of how many of the likeliest tokens the shares are told, besides that of the one that is taken; None: none.
    """

    tokens: tuple[int, ...]
    steps: int
    sampling: Sampling = Sampling()
    made: int = 0
    choice: int = 0
    likely: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A token of a sequence: `key` as it was admitted, the number of the token, and why nothing follows, or "".

    share: the logarithm of how likely the model holds it; likeliest: the same of the likeliest tokens. reused: of its
    first token, how many before it were not read, since the row had them.
    """

    key: int
    token: int
    ended: str = ""
    share: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
    reused: int = 0


class _Row:
    """A sequence in its row: tokens, how many of them were read, and how many of these the row had already. number: how
    many were admitted before."""

    def __init__(self, number: int, key: int, asked: SequenceAsked, reused: int) -> None:
        self.number, self.key, self.asked, self.reused = number, key, asked, reused
        self.tokens = list(asked.tokens)
        self.read = reused

    @property
    def prompt(self) -> int:
        return len(self.asked.tokens) - self.asked.made

    def again(self) -> SequenceAsked:
        """What is asked for of it still: the rest."""
        new = len(self.tokens) - len(self.asked.tokens)
        return replace(self.asked, tokens=tuple(self.tokens), made=self.asked.made + new)

    def ended(self, places: int) -> str:
        """Why nothing follows the tokens that there are."""
        if len(self.tokens) - self.prompt >= self.asked.steps:
            return LENGTH
        return CONTEXT if len(self.tokens) > places else ""


class RowBatch:
    """The rows of a batch, over an executor whose program takes each row's position (`incremental(…, rows = …)`).

    run: with the entries `prefill` and `decode`. prefill: how many positions the former reads. positions: by entry, the
    name of the data that are the rows' positions. reuse: a sequence takes the free row that has most of its first
    tokens, and does not read them again. rewinds: a row can go back to any position, not only on from its last one.
    pages: who has which, where caches lie in pages. A sequence waits for a row whose pool has pages for its tokens;
    where none is left for one more, the one that came last gives its pages back, waits, and is read anew.
    """

    def __init__(
        self,
        run: Executor,
        ports: Ports,
        prefill: int,
        positions: Mapping[str, str],
        reuse: bool = True,
        rewinds: bool = False,
        pages: PageTable | None = None,
    ) -> None:
        self.run, self.ports, self.prefill, self.positions = run, ports, prefill, positions
        self.reuse, self.rewinds, self.pages = reuse, rewinds, pages
        self.waiting: list[tuple[int, int, SequenceAsked]] = []  # numbers, keys
        self.interrupted = 0
        """How often a sequence has given its pages to an earlier one."""
        self._admitted = 0
        self.rows: list[_Row | None] = [None] * ports.rows
        self._has: list[list[int]] = [[] for _ in self.rows]  # the tokens that each free row has read
        self._freed = list(range(ports.rows))  # free rows, the one that is free for longest first
        self._chunk_last = False

    @property
    def free(self) -> int:
        """How many rows nobody has, or waits for."""
        return sum(row is None for row in self.rows) - len(self.waiting)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self.free < len(self.rows)

    def admit(self, key: int, asked: SequenceAsked) -> None:
        """Give the sequence a row, now or when there are pages; ValueError if there is none, or if its tokens do not
        fit."""
        if not 1 <= len(asked.tokens) <= self.ports.places:
            raise ValueError(f"{len(asked.tokens)} tokens, there are {self.ports.places} positions")
        if self.free <= 0:
            raise ValueError("no row is free")
        self._admitted += 1
        self.waiting.append((self._admitted, key, asked))
        self._begin()

    def _begin(self) -> None:
        """Give rows to those that wait, as they came: none goes before another."""
        while self.waiting and (place := self._place(self.waiting[0][2].tokens)) is not None:
            i, reused = place
            self._freed.remove(i)
            self.rows[i] = _Row(*self.waiting.pop(0), reused)

    def _place(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """A row for these tokens, and how many of them it need not read."""
        if self.pages is None:
            common = {i: self._usable(self._has[i], tokens) for i in self._freed}
            best = max(self._freed, key=lambda i: common[i])  # of equal ones the first
            return best, common[best]
        pages = self.pages
        rows = {pages.piece(i): i for i in reversed(self._freed)}
        for i in sorted(rows.values(), key=lambda i: (-len(pages.shared(i, tokens)), -pages.room(i))):
            if (reused := pages.begin(i, tokens)) is not None:
                return i, reused
        return None

    def _grow(self) -> None:
        """Give rows pages for all of their tokens, those that came first before others."""
        pages = self.pages
        for row in sorted((r for r in self.rows if r is not None), key=lambda r: r.number):
            while pages is not None and row in self.rows:
                i = self.rows.index(row)
                if pages.reach(i, len(row.tokens)):
                    break
                others = [(r.number, k) for k, r in enumerate(self.rows) if r and pages.piece(k) == pages.piece(i)]
                self._interrupt(max(others)[1])

    def _interrupt(self, i: int) -> None:
        row = self.rows[i]
        assert row is not None
        self._free(i, row)
        self.waiting.append((row.number, row.key, row.again()))
        self.waiting.sort(key=lambda w: w[0])
        self.interrupted += 1

    def drop(self, key: int) -> None:
        """Let its row be free; nothing if it has none any more."""
        self.waiting = [w for w in self.waiting if w[1] != key]
        for i, row in enumerate(self.rows):
            if row is not None and row.key == key:
                self._free(i, row)

    def _free(self, i: int, row: _Row) -> None:
        self.rows[i] = None
        self._has[i] = row.tokens[: row.read]
        self._freed.append(i)
        if self.pages is not None:
            self.pages.release(i)

    def _usable(self, has: Sequence[int], tokens: Sequence[int]) -> int:
        """How many of a sequence's first tokens need not be read where a row has these: all but the last, at most."""
        if not self.reuse:
            return 0
        common = next((k for k, (a, b) in enumerate(zip(has, tokens)) if a != b), min(len(has), len(tokens)))
        if not self.rewinds:
            return common if common == len(has) < len(tokens) else 0
        return min(common, len(tokens) - 1)

    def step(self) -> list[Made]:
        """Read a chunk of those that have one to read, or a position of every row (`next_turn`); what came of it."""
        if self.pages is not None:
            self._begin()
            self._grow()
        left = [len(row.tokens) - row.read if row is not None else 0 for row in self.rows]
        turn = next_turn(left, self.prefill, self._chunk_last)
        self._chunk_last = turn.chunk
        if turn.chunk:
            return self._read(turn.rows, PREFILL, "first", self.prefill)
        return self._read(turn.rows, DECODE, "next", 1)

    def _read(self, at: Sequence[int], entry: str, last: str, length: int) -> list[Made]:
        ports = self.ports
        tokens = np.zeros((len(self.rows), length), np.int32)
        places = np.full(len(self.rows), -1, np.int32)
        for i in at:
            row = self.rows[i]
            assert row is not None
            tokens[i] = row.tokens[row.read : row.read + length]
            places[i] = row.read
            row.read += length
        given = {f"{ports.name}.{last}": ports.given(tokens), self.positions[entry]: places}
        done = self.run.call(entry, given | (self.pages.given if self.pages is not None else {}))
        scores = ports.last(done.outputs[ports.scores])
        found = []
        for i in at:
            row = self.rows[i]
            assert row is not None
            if self.pages is not None:
                self.pages.read(i, row.tokens, row.read)
            if row.read < len(row.tokens):
                continue
            made = _next(row, scores[i], ports.places)
            if made.ended:
                self._free(i, row)
            found.append(made)
        return found


def _next(row: _Row, scores: Array, places: int) -> Made:
    """Draw the row's next token, of scores `[tokens]`."""
    asked = row.asked
    if np.isnan(scores).any():
        return Made(row.key, 0, BROKEN)
    token = int(asked.sampling.draw(scores[None], len(row.tokens), asked.choice)[0])
    row.tokens.append(token)
    share: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
    if asked.likely is not None:
        logs = _logarithms(scores)
        order = np.argsort(-logs, kind="stable")[: asked.likely]
        share, likeliest = float(logs[token]), tuple((int(t), float(logs[t])) for t in order)
    reused, row.reused = row.reused, 0
    return Made(row.key, token, row.ended(places), share, likeliest, reused)


def _logarithms(scores: Array) -> Array:
    """Of how likely the model holds each token."""
    x = np.asarray(scores, np.float64)
    x = x - x.max()
    found: Array = x - np.log(np.exp(x).sum())
    return found
