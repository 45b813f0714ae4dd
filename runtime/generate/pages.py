"""Who has which pages of the pools in which a job that decodes keeps positions (`compiler.incremental.paged`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from compiler.incremental.paged import PAGES, Paging, paging
from compiler.model import Decoding, Model
from compiler.program import Program
from runtime.inputs import Array

_NAMES = re.compile(re.escape(PAGES) + r"(_\d+)?")


class PageTable:
    """The table of a batch: by sequence (row of the batch), its pages in order. Each part of the batch has a pool.

    name: of the program's input.
    """

    def __init__(self, name: str, paging: Paging) -> None:
        self.name, self.paging = name, paging
        self.table = np.full((paging.count, paging.each), -1, np.int32)
        self._free = [list(range(paging.pages))[::-1] for _ in range(paging.pieces)]
        self._has = [0] * paging.count

    @staticmethod
    def of(program: Program, model: Model, decoding: Decoding) -> PageTable:
        """Of a program whose caches lie in pages. model: as `infer` runs it."""
        assert decoding.pages is not None
        name = next(i.name for i in program.inputs if _NAMES.fullmatch(i.name))
        return PageTable(name, paging(model, decoding.pages, decoding.dim, decoding.rows))

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

    def reach(self, row: int, positions: int) -> bool:
        """Give a row pages up to so many positions; False, and nothing is given, where its pool has not enough."""
        free, missing = self._free[self.piece(row)], self.needed(positions) - self._has[row]
        if missing > len(free):
            return False
        for _ in range(missing):
            self.table[row, self._has[row]] = free.pop()
            self._has[row] += 1
        return True

    def release(self, row: int) -> None:
        """Take a row's pages back."""
        count = self._has[row]
        self._free[self.piece(row)] += [int(p) for p in self.table[row, :count]][::-1]
        self.table[row], self._has[row] = -1, 0

    def rounds(self, positions: int, seed: int = 0) -> Sequence[tuple[Sequence[int], Array]]:
        """Every row once, as many at a time as have so many positions together, with tables of pages that are drawn."""
        by, need = self.paging, self.needed(positions)
        beside, at_once = by.count // by.pieces, by.pages // need
        found = []
        for first in range(0, beside, at_once):
            rows = [k * beside + i for k in range(by.pieces) for i in range(first, min(beside, first + at_once))]
            table, left = np.full_like(self.table, -1), {k: [*self._drawn(seed, k)] for k in range(by.pieces)}
            for row in rows:
                table[row, :need] = [left[self.piece(row)].pop() for _ in range(need)]
            found.append((rows, table))
        return found

    def _drawn(self, seed: int, piece: int) -> list[int]:
        return [int(p) for p in np.random.default_rng([seed, piece]).permutation(self.paging.pages)]
