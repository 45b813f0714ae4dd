"""The rows of a batch as something that reads tokens, each row at a position of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.graph import Type
from compiler.model import AHEAD, DECODE, MOVE, PREFILL
from dsl.diagnostics import fail
from runtime.executor import Executor
from runtime.generate.loop import Ports
from runtime.generate.pages import PagesTaken, PageTable
from runtime.inputs import Array

LAST = {PREFILL: "first", DECODE: "next", AHEAD: "ahead"}
"""By entry, the last part of the name of its data."""


class RowReader:
    """The rows of a model's batch, over a program that takes each row's position. `read`: by row, how many of the
    tokens of its sequence it has read; it may be set back where the model `rewinds`.

    prefill: how many positions that entry reads. data: by entry, the names of its data behind the tokens: the rows'
    positions; of `move`, from which row and to which.
    kept: the types of what is kept, by name; pools: which dim of it has the places of pages, where they lie in some.
    pages: who has which, where caches lie in pages; nobody has any yet. The data of `move` are the pages then, from
    which and to which, of each part of the batch, and before them the rows in it, if more is kept than lies in pages.
    """

    def __init__(
        self,
        run: Executor,
        ports: Ports,
        prefill: int,
        data: Mapping[str, tuple[str, ...]],
        kept: Mapping[str, Type] = {},  # noqa: B006
        pages: PageTable | None = None,
        pools: Mapping[str, str] = {},  # noqa: B006
    ) -> None:
        self.run, self.ports, self.prefill, self.data = run, ports, prefill, data
        self.kept, self.pages, self.pools = kept, pages, pools
        self.read = [0] * ports.rows

    def taken(self, rows: int) -> PagesTaken | None:
        """The pages that so many sequences had, where caches lie in some."""
        return None if self.pages is None else self.pages.taken(rows)

    def begin(self, prompts: Mapping[int, Sequence[int]], whose: str = "") -> None:
        """Have pages for the prompts of these rows. Raises ParcError (E0788) where they do not fit."""
        if self.pages is not None:
            self.pages.begin_all({row: len(p) for row, p in prompts.items()}, whose)

    def reserve(self, row: int, length: int) -> bool:
        """Have pages of its own for the next positions of a row; False, and it has none of them, if there are not so
        many."""
        if self.pages is None:
            return True
        copies = self.pages.own(row, self.read[row], self.read[row] + length)
        for pair in copies or ():
            self._move(self.pages.piece(row), pair)
        return copies is not None

    def back(self, row: int, read: int) -> None:
        """Let a row have read so many tokens, and no more than it has; pages of others are free."""
        self.read[row] = min(self.read[row], read)
        self.spare(row, 0)

    def spare(self, row: int, length: int) -> None:
        """Give the pages back that a row has beyond so many positions more."""
        if self.pages is not None:
            self.pages.back(row, self.read[row] + length)

    def drop(self, row: int) -> None:
        """A row of which nothing is needed any more."""
        self.read[row] = 0
        if self.pages is not None:
            self.pages.release(row)

    def call(self, entry: str, given: Mapping[int, Sequence[int]]) -> Array:
        """Have some rows read their next tokens, each as many as the entry takes; scores `[rows, positions, tokens]`,
        of a prefill perhaps at its last position alone.

        Raises ParcError (E0786) where they are no numbers.
        """
        (length,) = {len(tokens) for tokens in given.values()}
        tokens = np.zeros((self.ports.rows, length), np.int32)
        places = np.full(self.ports.rows, -1, np.int32)
        for row, new in given.items():
            if not self.reserve(row, length):
                raise fail("E0788", f"no page is left for position {self.read[row]} of row {row}")
            tokens[row], places[row] = new, self.read[row]
            self.read[row] += length
        name, (position,) = f"{self.ports.name}.{LAST[entry]}", self.data[entry]
        table = self.pages.given if self.pages is not None else {}
        done = self.run.call(entry, {name: self.ports.given(tokens), position: places, **table})
        scores = self.ports.every(done.outputs[self.ports.scores])
        self.ports.require_numbers(scores[list(given)], max(self.read[row] for row in given) - 1)
        return scores

    def copy(self, pairs: Sequence[tuple[int, int]]) -> Sequence[int]:
        """Let rows have read what others have: (source, target), no target a source. By the entry `move`, which copies
        a row and nothing else; where the program has none (sequences in micro-batches), all that is kept goes by here.
        Pages are then those of both, until one goes on in them; of another pool they are copied, by here.

        Returns the targets for which their pool has no pages, which have none then.
        """
        names = self.data.get(MOVE)
        if self.pages is not None:
            return self._fork(self.pages, pairs)
        for pair in pairs:
            if names is not None:
                self.run.call(MOVE, {name: np.array([row], np.int32) for name, row in zip(names, pair)})
            self.read[pair[1]] = self.read[pair[0]]
        if names is not None or not pairs:
            return ()
        (rows,) = [n for n in self.ports.type.names if n != self.ports.dim]
        changed = {}
        for name, x in self.run.states().items():
            dims = self.kept[name].names
            if rows in dims:
                front = np.moveaxis(x.copy(), dims.index(rows), 0)
                front[[t for _, t in pairs]] = front[[s for s, _ in pairs]]
                changed[name] = np.moveaxis(front, 0, dims.index(rows))
        self.run.put(changed)
        return ()

    def _fork(self, pages: PageTable, pairs: Sequence[tuple[int, int]]) -> list[int]:
        for _, target in pairs:
            pages.release(target)
            self.read[target] = 0
        beside = pages.paging.count // pages.paging.pieces
        far: dict[tuple[int, int], list[tuple[int, int]]] = {}
        without: list[int] = []
        for source, target in pairs:
            if pages.piece(source) != pages.piece(target):
                found = pages.across(source, target)
                if found is None:
                    without.append(target)
                    continue
                far[source, target] = found
            else:
                pages.fork(source, target)
                if len(self.data[MOVE]) > 2:
                    self._move(pages.piece(source), (source % beside, target % beside, -1, -1))
            self.read[target] = self.read[source]
        if far:
            self._across(pages, far)
        return without

    def _across(self, pages: PageTable, far: Mapping[tuple[int, int], Sequence[tuple[int, int]]]) -> None:
        """Copy pages to those of other pools, and what a row has besides: all that is kept goes by here. far: by row,
        from which and to which."""
        rows, changed = pages.paging.rows, {}
        for name, x in self.run.states().items():
            type, along = self.kept[name], self.pools.get(name)
            if not type.has(rows):
                continue
            front = np.moveaxis(x.copy(), type.index(rows), 0)
            for (source, target), copies in far.items():
                if along is None:
                    front[target] = front[source]
                    continue
                names = [n for n in type.names if n != rows]
                a, b = (np.moveaxis(front[pages.piece(r)], names.index(along), 0) for r in (source, target))
                held = len(a) // pages.paging.pages
                for old, new in copies:
                    b[new * held : (new + 1) * held] = a[old * held : (old + 1) * held]
            changed[name] = np.moveaxis(front, 0, type.index(rows))
        self.run.put(changed)

    def _move(self, piece: int, numbers: Sequence[int]) -> None:
        """Copy in a part of the batch: a page to another one (source, target), or rows and pages."""
        assert self.pages is not None
        names = self.data[MOVE]
        numbers = (*(-1 for _ in range(len(names) - len(numbers))), *numbers)
        given = {name: np.full(self.pages.paging.pieces, -1, np.int32) for name in names}
        for name, number in zip(names, numbers, strict=True):
            given[name][piece] = number
        self.run.call(MOVE, given)

    def read_up_to(self, sequences: Mapping[int, Sequence[int]], chunks_only: bool = False) -> int:
        """Read what is left of these rows' tokens, in whole prefills as far as they go; how many of these there were.
        chunks_only: and no further."""
        chunks = 0
        while self.prefill > 1:
            whole = {r: t for r, t in sequences.items() if len(t) - self.read[r] >= self.prefill}
            if not whole:
                break
            self.call(PREFILL, {r: t[self.read[r] : self.read[r] + self.prefill] for r, t in whole.items()})
            chunks += 1
        while not chunks_only:
            rest = {r: t for r, t in sequences.items() if len(t) > self.read[r]}
            if not rest:
                break
            self.call(DECODE, {r: t[self.read[r] : self.read[r] + 1] for r, t in rest.items()})
        return chunks
