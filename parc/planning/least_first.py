"""What a search has left where nothing that was priced fits, in the order of what it probably needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING

from parc.planning.guess import Guess, kin
from parc.planning.layers import Layers
from parc.planning.opened import Entry, OpenBunch, OpenGroup, StillOpen
from parc.planning.space import MeshChoice, PlanChoice

if TYPE_CHECKING:
    from parc.planning.search import Search
    from parc.planning.stopping import SearchStop


def least_first(search: Search, stopped: SearchStop, until: float, clock: Callable[[], float]) -> None:
    """Price what probably needs least first, of all that a search has left, until something fits, or the clock says
    that it is time."""
    entries = (*search.likely, *search.later)
    todo = LeastFirst(search.guess, search.layers, search._leaves, search._refused, entries)
    search.likely, search.later = [], []
    while search.best == inf and not stopped.asked and clock() < until and (of := todo.next()):
        search.price(of, of.candidate)
    for left in todo.left:
        search.push(left)


class LeastFirst:
    """leaves: the candidates of a bunch; refused: whether those of a mesh are probably refused, which come last."""

    def __init__(
        self,
        guess: Guess,
        layers: Layers,
        leaves: Callable[[OpenBunch], Iterable[PlanChoice]],
        refused: Callable[[MeshChoice], bool],
        entries: Iterable[Entry],
    ) -> None:
        self.guess, self.layers, self.leaves, self.refused = guess, layers, leaves, refused
        self.heap: list[tuple[bool, float, int, StillOpen]] = []
        self.number = 0
        for *_, of in entries:
            self.put(of)

    def put(self, of: StillOpen) -> None:
        """Groups as the bunches that are in them."""
        if isinstance(of.what, OpenGroup):
            for bunch in of.what.bunches:
                self.put(StillOpen(kin(self.layers.space, bunch.mesh, bunch.rules), of.bound, bunch))
            return
        size = self.guess.size(of.kin, smallest(of.what), self.layers.best(of.kin))
        self.number += 1
        heappush(self.heap, (self.refused(of.what.mesh), size, self.number, of))

    def next(self) -> StillOpen | None:
        """The candidate that probably needs least; None where none is left."""
        while self.heap:
            of = heappop(self.heap)[-1]
            if not isinstance(of.what, OpenBunch):
                return of
            for leaf in self.leaves(of.what):
                self.put(StillOpen(of.kin, of.bound, leaf))
        return None

    @property
    def left(self) -> Iterator[StillOpen]:
        """All that was not asked for."""
        return (of for *_, of in self.heap)


def smallest(what: OpenBunch | PlanChoice) -> PlanChoice:
    """Of a bunch that which has least of the weights and states."""
    return what if isinstance(what, PlanChoice) else PlanChoice(what.mesh, replace(what.rules, zero=what.zero))
