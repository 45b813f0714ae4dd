"""Who has which pages of the pools in which a job that decodes keeps positions (`compiler.incremental.paged`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.incremental.paged import Paging, paging
from compiler.model import Decoding, Model
from compiler.program import Program
from compiler.strategy import is_page_table
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.inputs import Array


@dataclass(frozen=True, slots=True)
class PagesTaken:
    """How many pages of `slots` positions had something at the same time, at most, `of` so many of all pools; `whole`:
    how many as many sequences of full length would have."""

    most: int
    of: int
    slots: int
    whole: int

    def as_json(self) -> dict[str, int]:
        """Plain values."""
        return {"most": self.most, "of": self.of, "slots": self.slots, "whole": self.whole}


class PageTable:
    """The table of a batch: by sequence (row of the batch), its pages in order. Each part of the batch has a pool.

    Pages that are full may be those of several sequences which begin alike, where `shares` (all that is kept of
    positions lies in pages): they are known by the tokens up to their end. One that nobody has any more keeps what it
    has until it is given anew; those that nobody had for longest go first. Nothing is written into a page of several:
    whoever goes on in one that it has of another (`fork`) gets a copy first (`own`).

    name: of the program's input. most: how many pages had something of sequences at the same time, at most.
    """

    def __init__(self, name: str, paging: Paging, shares: bool = False) -> None:
        self.name, self.paging, self.shares = name, paging, shares
        self.table = np.full((paging.count, paging.each), -1, np.int32)
        self._pools = [_Pool(paging.pages) for _ in range(paging.pieces)]
        self._has = [0] * paging.count
        self._known: list[list[int]] = [[] for _ in range(paging.count)]  # by row, the chains of its full pages
        self.most = 0

    @staticmethod
    def of(program: Program, model: Model, decoding: Decoding, shares: bool = False) -> PageTable:
        """Of a program whose caches lie in pages. model: as `infer` runs it."""
        assert decoding.pages is not None
        return PageTable(table_of(program), paging(model, decoding.pages, decoding.dim, decoding.rows), shares)

    @property
    def given(self) -> dict[str, Array]:
        """The data of a call."""
        return {self.name: self.table}

    def needed(self, positions: int) -> int:
        """How many pages so many positions of a sequence have."""
        return -(-positions // self.paging.slots)

    def piece(self, row: int) -> int:
        """The number of the pool that a row has its pages of."""
        return row // (self.paging.count // self.paging.pieces)

    def begin_all(self, prompts: Mapping[int, int], whose: str = "") -> None:
        """Give rows pages for prompts of so many tokens. whose: the pool is, in words. Raises ParcError (E0788) where
        these do not fit."""
        by = self.paging
        for piece in range(by.pieces):
            need = sum(self.needed(n) for row, n in prompts.items() if self.piece(row) == piece)
            if need > by.pages:
                message = f"the prompts take {need:,} pages of {by.slots} positions, the pool{whose} has {by.pages:,}"
                help = (
                    "fewer prompts at a time, or a larger pool: `pages = …` in the strategy's `store caches as paged`"
                )
                raise fail("E0788", message, help=help)
        for row, count in prompts.items():
            self.reach(row, count)

    def room(self, row: int) -> int:
        """How many pages there are that a row could be given."""
        return self._pools[self.piece(row)].room

    def shared(self, row: int, tokens: Sequence[int]) -> list[int]:
        """The pages in the row's pool that have the first of these tokens: all but the last, at most."""
        pool, slots = self._pools[self.piece(row)], self.paging.slots
        found: list[int] = []
        chain = 0
        while self.shares and (len(found) + 1) * slots < len(tokens):
            at = len(found) * slots
            chain = pool.chains.get((chain, tuple(tokens[at : at + slots])), -1)
            if chain < 0:
                break
            found.append(pool.page_of[chain])
        return found

    def begin(self, row: int, tokens: Sequence[int]) -> int | None:
        """Give a row pages for all these tokens; how many of the first need not be read, since the pages have them.
        None, and nothing is given, where its pool has not enough, with one page more for each of the others that have
        some and can grow: they would soon take back what was given."""
        piece, pages = self.piece(row), self.shared(row, tokens)
        pool = self._pools[piece]
        grow = sum(0 < n < self.paging.each and self.piece(i) == piece for i, n in enumerate(self._has))
        if self.needed(len(tokens)) - len(pages) + grow > pool.room - sum(p in pool.kept for p in pages):
            return None
        for page in pages:
            pool.take(page)
        self.table[row, : len(pages)], self._has[row] = pages, len(pages)
        self._known[row] = [pool.chain_of[p] for p in pages]
        given = self.reach(row, len(tokens))
        assert given
        return len(pages) * self.paging.slots

    def reach(self, row: int, positions: int) -> bool:
        """Give a row pages up to so many positions; False, and nothing is given, where its pool has not enough."""
        pool, missing = self._pools[self.piece(row)], self.needed(positions) - self._has[row]
        if missing > pool.room:
            return False
        for _ in range(missing):
            self.table[row, self._has[row]] = pool.new()
            self._has[row] += 1
        self.most = max(self.most, self.counts[0])
        return True

    def fork(self, source: int, target: int) -> None:
        """Let a row, which has none, have the pages of another one of the same pool."""
        pool, count = self._pools[self.piece(source)], self._has[source]
        assert self.piece(source) == self.piece(target) and not self._has[target]
        self.table[target], self._has[target] = self.table[source], count
        self._known[target] = [*self._known[source]]
        for page in self.table[source, :count]:
            pool.take(int(page))

    def across(self, source: int, target: int) -> list[tuple[int, int]] | None:
        """Give a row, which has none, as many pages of its own pool as one of another pool has. Which page is to become
        which; None, and nothing is given, where its pool has not enough."""
        count = self._has[source]
        assert self.piece(source) != self.piece(target) and not self._has[target]
        if not self.reach(target, count * self.paging.slots):
            return None
        return [(int(a), int(b)) for a, b in zip(self.table[source, :count], self.table[target, :count])]

    def own(self, row: int, first: int, positions: int) -> list[tuple[int, int]] | None:
        """Give a row pages up to so many positions, of which it alone has those from `first` on. Which page is to be
        copied to which; None, and nothing is given, where its pool has not enough."""
        pool, has = self._pools[self.piece(row)], self._has[row]
        pages = range(first // self.paging.slots, min(has, self.needed(positions)))
        shared = [k for k in pages if pool.users[int(self.table[row, k])] > 1]
        if len(shared) + max(0, self.needed(positions) - has) > pool.room:
            return None
        copies: list[tuple[int, int]] = []
        for k in shared:
            old, new = int(self.table[row, k]), pool.new()
            pool.give_back(old)
            self.table[row, k] = new
            copies.append((old, new))
        given = self.reach(row, positions)
        assert given
        return copies

    def back(self, row: int, positions: int) -> None:
        """Take pages back that a row has beyond so many positions, in which it writes anew from there on."""
        assert not self.shares, "what has the tokens of a page is known by what they were"
        pool, keep = self._pools[self.piece(row)], self.needed(positions)
        for k in range(self._has[row] - 1, keep - 1, -1):
            pool.give_back(int(self.table[row, k]))
        self.table[row, keep:], self._has[row] = -1, min(self._has[row], keep)

    def read(self, row: int, tokens: Sequence[int], count: int) -> None:
        """Note that a row has read the first of its tokens, so many: its full pages may be others', too."""
        pool, known, slots = self._pools[self.piece(row)], self._known[row], self.paging.slots
        while self.shares and (len(known) + 1) * slots <= count:
            at = len(known)
            key = (known[-1] if known else 0, tuple(tokens[at * slots : (at + 1) * slots]))
            known.append(pool.note(key, int(self.table[row, at])))

    def release(self, row: int) -> None:
        """Take a row's pages back."""
        pool = self._pools[self.piece(row)]
        for page in self.table[row, : self._has[row]][::-1]:
            pool.give_back(int(page))
        self.table[row], self._has[row], self._known[row] = -1, 0, []

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many pages sequences have, are nobody's and keep what they have, and are free."""
        kept, free = sum(len(p.kept) for p in self._pools), sum(p.free for p in self._pools)
        return self.paging.pages * self.paging.pieces - kept - free, kept, free

    def taken(self, rows: int) -> PagesTaken:
        """By so many sequences, so far."""
        by = self.paging
        return PagesTaken(self.most, by.pages * by.pieces, by.slots, rows * by.each)

    def rounds(self, positions: int, seed: int = 0) -> Sequence[tuple[Sequence[int], Array]]:
        """Every row once, as many at a time as have so many positions together, with tables of pages that are drawn."""
        by, need = self.paging, self.needed(positions)
        beside, at_once = by.count // by.pieces, by.pages // need
        found = []
        for first in range(0, beside, at_once):
            rows = [k * beside + i for k in range(by.pieces) for i in range(first, min(beside, first + at_once))]
            drawn = {k: self._drawn(seed, k, need * min(beside, at_once)) for k in range(by.pieces)}
            table = np.full_like(self.table, -1)
            for row in rows:
                table[row, :need] = [drawn[self.piece(row)].pop() for _ in range(need)]
            found.append((rows, table))
        return found

    def _drawn(self, seed: int, piece: int, count: int) -> list[int]:
        """So many pages of a pool, each once: of a large one in no more memory than these take."""
        found = np.random.default_rng([seed, piece]).choice(self.paging.pages, count, replace=False)
        return [int(p) for p in found]


def table_of(program: Program) -> str:
    """What the table is called, of a program whose caches lie in pages."""
    return next(i.name for i in program.inputs if is_page_table(i.name))


class _Pool:
    """The pages of a part of the batch: what is known of each takes memory once somebody had it. users: how many rows
    have each. kept: what nobody has and is not lost yet, the longest unused first. chains: a number by that of the page
    before (0: none) and the tokens of one; page_of and chain_of: which page has them."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.kept: dict[int, None] = {}
        self.users: dict[int, int] = {}
        self.chains: dict[tuple[int, tuple[int, ...]], int] = {}
        self.page_of: dict[int, int] = {}
        self.chain_of: dict[int, int] = {}
        self._keys: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._last = 0
        self._returned: list[int] = []
        self._begun = 0  # pages from here on nobody ever had

    @property
    def free(self) -> int:
        """How many have nothing that is kept."""
        return len(self._returned) + self.pages - self._begun

    @property
    def room(self) -> int:
        return self.free + len(self.kept)

    def take(self, page: int) -> None:
        """One that is there, for one row more."""
        self.kept.pop(page, None)
        self.users[page] += 1

    def new(self) -> int:
        """A page for one row alone, whatever it had."""
        if self._returned:
            page = self._returned.pop()
        elif self._begun < self.pages:
            page, self._begun = self._begun, self._begun + 1
        else:
            page = next(iter(self.kept))
            del self.kept[page]
            chain = self.chain_of.pop(page)
            del self.page_of[chain], self.chains[self._keys.pop(page)]
        self.users[page] = 1
        return page

    def note(self, key: tuple[int, tuple[int, ...]], page: int) -> int:
        """That a page has the tokens of a key; its number, or that of another page which has them already."""
        if key in self.chains:
            return self.chains[key]
        self._last += 1
        self.chains[key] = self._last
        self.page_of[self._last], self.chain_of[page], self._keys[page] = page, self._last, key
        return self._last

    def give_back(self, page: int) -> None:
        """By one of the rows that have it."""
        self.users[page] -= 1
        if not self.users[page]:
            if page in self.chain_of:
                self.kept[page] = None
            else:
                self._returned.append(page)
