"""A table in a host's memory, or in a file, of which a device keeps rows: those of each set that were used last.

As the caches of recommenders on GPUs do it (FBGEMM's "managed caching", with sets of 32 rows and the least recently
used one replaced): rows that are asked for and not there are fetched, into the places of rows that nobody has asked for
for longest; those go back if they were renewed. A row for which a set has no place left, as all of it is asked for at
once, is read where it rests. What is renewed and not there is renewed where it rests. Values never change by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.memory.tiers import WAYS
from runtime.numpy.base import Array
from runtime.numpy.disk import DiskArray, PartsArray


class Directory:
    """Which rows stand in which places. tick: of the last use; -1: of none."""

    def __init__(self, rows: int) -> None:
        self.number = np.full(rows, -1, np.int32)
        self.used = np.full(rows, -1, np.int32)
        self.dirty = np.zeros(rows, np.bool_)
        self.sets, self.tick = rows // WAYS, 0

    def places(self, numbers: Array) -> Array:
        """Where rows stand; -1: nowhere."""
        first = numbers % self.sets * WAYS
        there = self.number.reshape(-1, WAYS)[numbers % self.sets] == numbers[:, None]
        return np.where(there.any(1), first + there.argmax(1), -1)

    def use(self, places: Array) -> None:
        """Rows in these places are asked for now."""
        self.tick += 1
        self.used[places] = self.tick

    def room(self, numbers: Array) -> Array:
        """Places for rows that are not there, of which nothing was asked for now; -1 where a set has none left.

        numbers: distinct.
        """
        sets = numbers % self.sets
        order = np.argsort(sets, kind="stable")
        own, ordered = np.unique(sets[order], return_index=True)
        rank = np.arange(len(order)) - np.repeat(ordered, np.diff([*ordered, len(order)]))
        used = self.used.reshape(-1, WAYS)[own]
        oldest = np.argsort(used, axis=1, kind="stable")
        left = (used < self.tick).sum(1)
        of = np.searchsorted(own, sets[order])
        way = oldest[of, np.minimum(rank, WAYS - 1)]
        found = np.empty(len(numbers), np.int64)
        found[order] = np.where(rank < left[of], own[of] * WAYS + way, -1)
        return found


class CachedTable(PartsArray):
    """asked: rows that were looked up; fetched, returned: read from where the table rests, and written there."""

    def __init__(self, base: Array | DiskArray, rows: int) -> None:
        """base: the table, its rows along the first axis; rows: how many are kept."""
        self.base, self.shape, self.dtype, self.ndim = base, base.shape, base.dtype, base.ndim
        self.kept = np.zeros((rows, *base.shape[1:]), base.dtype)
        self.directory = Directory(rows)
        self.asked = self.fetched = self.returned = 0

    @property
    def parts(self) -> Sequence[Array]:
        """What it takes of the device's memory: rows, and what is known of each."""
        return self.kept, self.directory.number, self.directory.used, self.directory.dirty

    def transpose(self, order: Sequence[int]) -> CachedTable:
        """Itself: rows come first."""
        assert tuple(order) == tuple(range(self.ndim)), "a cache is of rows along the first axis"
        return self

    def __getitem__(self, index: Any) -> CachedTable:
        """Itself: all of it."""
        assert index == ()
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = self.read()
        return found if dtype is None else found.astype(dtype)

    def read(self) -> Array:
        """Its contents; the cache stays as it is."""
        found = self.base.read() if isinstance(self.base, DiskArray) else self.base.copy()
        newer = np.flatnonzero(self.directory.dirty)
        found[self.directory.number[newer]] = self.kept[newer]
        return found

    def picked(self, numbers: Array, axes: int) -> Array:
        """Rows by number; what is not there is fetched, each once."""
        assert axes == 1
        each, inverse = np.unique(numbers, return_inverse=True)
        self.asked += numbers.size
        return self.to_renew(each)[inverse.reshape(numbers.shape)]

    def to_renew(self, numbers: Array) -> Array:
        """Rows of distinct numbers; what is not there is fetched."""
        places = self._brought(numbers)
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        there = places >= 0
        found[there] = self.kept[places[there]]
        found[~there] = self._fetch(numbers[~there])
        return found

    def put(self, numbers: Array, parts: Array) -> None:
        """Replace rows by number, none twice: of those that are there in the cache alone."""
        places = self.directory.places(numbers)
        there = places >= 0
        self.directory.use(places[there])
        self.kept[places[there]] = parts[there]
        self.directory.dirty[places[there]] = True
        self._return(numbers[~there], parts[~there])

    def _brought(self, numbers: Array) -> Array:
        """Where rows stand after those that were not there have been fetched; -1: there was no room."""
        d = self.directory
        places = d.places(numbers)
        there = places >= 0
        d.use(places[there])
        room = d.room(numbers[~there])
        new, at = numbers[~there][room >= 0], room[room >= 0]
        old = at[d.dirty[at]]
        self._return(d.number[old], self.kept[old])
        self.kept[at] = self._fetch(new)
        d.number[at], d.dirty[at], d.used[at] = new, False, d.tick
        places[~there] = room
        return places

    def _fetch(self, numbers: Array) -> Array:
        self.fetched += len(numbers)
        return self.base.picked(numbers, 1) if isinstance(self.base, DiskArray) else self.base[numbers]

    def _return(self, numbers: Array, rows: Array) -> None:
        self.returned += len(numbers)
        if isinstance(self.base, DiskArray):
            self.base.put(numbers, rows)
        else:
            self.base[numbers] = rows
