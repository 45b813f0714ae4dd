"""The first exact prices of a search: of all candidates that whose estimate is best is priced, and what is learned of
it is believed of those like it, until no estimate is better than the best price.

By how much a price is above its estimate is a sum of what each of a candidate's properties brings (how its layers are
split, its schedule, its stage of ZeRO, …), each of which is as likely small as large: so known ones say what is to be
expected of others with some of these (Gaussian processes, with a kernel that counts what two have in common). The same
goes for memory. Where what is tried does not fit, more room is asked for, time after time, until something does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf, log
from typing import TYPE_CHECKING

import numpy as np

from parc.planning.columns import Columns, Floats, Ints
from parc.planning.estimates import Estimates
from parc.planning.guess import kin
from parc.planning.opened import StillOpen
from parc.planning.space import PlanChoice

if TYPE_CHECKING:
    from parc.planning.search import Search

WEIGHTS = (0.5, 1.0, 0.5, 0.5, 0.5, 1.0, 0.3, 0.3, 0.5)
"""How much candidates that share a property are believed to be alike (`Estimates._what`)."""

NOISE = 0.05
"""What is no property of what is known."""

PATIENT, IN_VAIN = 10, 0.5
"""So many prices in a row that are no better, and scouting is over; or which share of the search's time they took."""

MOST = 64
"""Prices at most."""

BETTER = 1.25
"""An estimate that is worth a price is so many times the best price at most: estimates are rough."""

ROOM, CLOSER = 1.0, 0.93
"""The share of the memory that an estimate may take, and how much less after each that did not fit."""

REFUSED = 0.3
"""As if what cannot be took so much longer: a logarithm."""

AGAIN = 100
"""Looks at most before a price."""


def scout(search: Search, over: Callable[[], bool], within: float | None = None) -> None:
    """Price what is estimated to be best, until no estimate is better. over: whether the time is; within: seconds that
    the search has."""
    estimates = Estimates(search.space, search.bounds, search.layers, search.has_room)
    ahead = Scout(estimates, search.bounds.cluster.memory)
    ahead.best = search.best
    best, spent = search.best, search.spent
    for what in ahead.candidates():
        if search.best < best:
            best, spent = search.best, search.spent
        if over() or (best < inf and within is not None and search.spent - spent > IN_VAIN * within):
            break
        value = search.value(what)
        if what in search.taken or value >= search.best:
            ahead.learn(None, None)
            continue
        search.taken.add(what)
        search.price(StillOpen(kin(search.space, what.mesh, what.rules), value, what), what)
        tried = search.tried[-1]
        ahead.learn(tried.seconds, tried.needed)
    search.idle = 0


class Learned:
    """Logarithms of what was found over what was expected."""

    def __init__(self, what: Ints) -> None:
        self.what = what
        self.rows: list[int] = []
        self.found: list[float] = []

    def learn(self, row: int, found: float) -> None:
        """Of a candidate."""
        self.rows.append(row)
        self.found.append(found)

    def expected(self) -> Floats:
        """Of all."""
        total = np.zeros(len(self.what))
        if not self.rows:
            return total
        known = self.what[self.rows]
        alike = (known[:, None, :] == known[None, :, :]) @ np.array(WEIGHTS)
        weights = np.linalg.solve(alike + NOISE * np.eye(len(known)), np.array(self.found))
        for k, weight in enumerate(WEIGHTS):
            of = np.bincount(known[:, k], weights, minlength=int(self.what[:, k].max()) + 1)
            total += weight * of[self.what[:, k]]
        return total


class Scout:
    """Says what to price next, and hears what came of it."""

    def __init__(self, estimates: Estimates, memory: float) -> None:
        self.estimates, self.memory = estimates, memory
        self.best, self.idle, self.margin = inf, 0, ROOM
        self.columns = estimates.columns()
        if self.columns is not None:
            self.open = np.ones(len(self.columns.kind), bool)
            self.slower, self.larger = Learned(self.columns.what), Learned(self.columns.what)

    def candidates(self) -> Iterator[PlanChoice]:
        """Those to be priced, one after the other; `learn` is to be called in between."""
        columns = self.columns
        if columns is None:
            return
        for _ in range(MOST):
            if self.idle >= PATIENT:
                return
            row = self._next(columns)
            if row is None:
                return
            self.row = row
            self.open[row] = False
            yield self.estimates.candidate(columns, row)

    def _next(self, columns: Columns) -> int | None:
        """The row of what seems best, of layers that were looked at."""
        slower, larger = np.exp(self.slower.expected()), np.exp(self.larger.expected())
        for _ in range(AGAIN):
            seconds, bytes_ = self.estimates.estimates(columns)
            seconds, bytes_ = seconds * slower, bytes_ * larger
            fits = self.open & (bytes_ <= self.margin * self.memory)
            if not fits.any():
                if self.best < inf or not self.open.any():
                    return None
                row = int(np.argmin(np.where(self.open, bytes_, inf)))
            else:
                row = int(np.argmin(np.where(fits, seconds, inf)))
                if seconds[row] > BETTER * self.best:
                    return None
            of = self.estimates.candidate(columns, row)
            if not self.estimates.look(kin(self.estimates.space, of.mesh, of.rules).layer):
                self.expected = float(seconds[row] / slower[row]), float(bytes_[row] / larger[row])
                return row
        return row

    def learn(self, seconds: float | None, needed: int | None) -> None:
        """Of the last candidate: None for what does not fit, or cannot be."""
        if needed is not None:
            self.larger.learn(self.row, log(needed / self.expected[1]))
        if needed is None:  # so are others like it
            self.slower.learn(self.row, REFUSED)
        if seconds is None:
            self.margin *= CLOSER if needed is not None else 1.0
            self.idle += self.best < inf
            return
        self.slower.learn(self.row, log(seconds / self.expected[0]))
        self.margin = ROOM
        self.idle = 0 if seconds < self.best else self.idle + 1
        self.best = min(self.best, seconds)
