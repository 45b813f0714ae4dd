"""A search on several cores. What the first prices have left is shared out by kinds of layers, for what is found out
about layers serves those of their kind; each part is searched by a process of its own, a copy of this one, and all know
the value of the best that any of them has found. So it ends with the same best, and leaves nothing out that one process
would not; which candidates were priced on the way hangs on who was faster.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from heapq import heapify
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from dsl.data import dataclass
from parc.planning.found import Counts, PricedPlan, Tried
from parc.planning.guess import SplitLayer
from parc.planning.layer_work import LayerWork, LoopRoom
from parc.planning.opened import Entry
from parc.planning.paces import PaceKey, ProgramKey

if TYPE_CHECKING:
    from parc.planning.search import Search

OFTEN = 0.1
"""Seconds after which it is looked again whether the search is to end."""


@dataclass(frozen=True, slots=True)
class SearchedPart:
    """What a process has found. counts: of its own part; left: bounds of what it left, and of how many candidates."""

    tried: tuple[Tried, ...]
    fitting: tuple[PricedPlan, ...]
    counts: Counts
    smallest: int | None
    left: tuple[tuple[float, int], ...]
    layers: Mapping[SplitLayer, Sequence[LayerWork]]
    paces: Mapping[PaceKey, Mapping[int, tuple[float, float]] | None]
    rooms: Mapping[ProgramKey, LoopRoom | None]


def search_parts(search: Search, processes: int, over: Callable[[], bool]) -> None:
    """Search all that is open in so many processes, until nothing is left or the search is over. Where a process ends
    without an answer, or systems cannot copy one, what it had is still open."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return
    context = multiprocessing.get_context("fork")
    best, stop = context.Value("d", search.best), context.Value("b", 0)
    workers: dict[Connection, tuple[Any, list[Entry]]] = {}
    entries = [*search.likely, *search.later]
    for part in shared_out(entries, processes):
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(target=_search, args=(search, part, best, stop, send), daemon=True)
        worker.start()
        send.close()
        workers[receive] = worker, part
    search.likely, search.later = [], []
    try:
        while workers:
            for ready in wait([*workers], OFTEN):
                assert isinstance(ready, Connection)
                try:
                    found = ready.recv()
                except (EOFError, OSError):  # it has ended
                    for _, _, of in workers.pop(ready)[1]:
                        search.push(of)
                    continue
                if isinstance(found, SearchedPart):
                    _take(search, found)
                    workers.pop(ready)[0].join()
                elif search.told is not None:
                    search.told(found, search.counts)
            stop.value = stop.value or over()
    finally:
        for worker, _ in workers.values():
            worker.terminate()


def shared_out(entries: Sequence[Entry], parts: int) -> list[list[Entry]]:
    """Entries in so many parts, those of layers that are split alike in one, about as many candidates in each."""
    alike: dict[SplitLayer, list[Entry]] = {}
    for entry in entries:
        alike.setdefault(replace(entry[2].kin.layer, recompute=0), []).append(entry)
    found: list[list[Entry]] = [[] for _ in range(parts)]
    sizes = [0] * parts
    for of in sorted(alike.values(), key=lambda of: -sum(e[2].count for e in of)):
        least = sizes.index(min(sizes))
        found[least] += of
        sizes[least] += sum(e[2].count for e in of)
    return [part for part in found if part]


def _search(search: Search, part: Sequence[Entry], best: Any, stop: Any, send: Connection) -> None:
    """In a process of its own: search the part, and send what was found."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that was asked says when it is to end
    kept = {id(entry) for entry in part}
    search.likely = [e for e in search.likely if id(e) in kept]
    search.later = [e for e in search.later if id(e) in kept]
    heapify(search.likely)
    heapify(search.later)
    before = replace(search.counts, refused=dict(search.counts.refused))
    tried, fitting = len(search.tried), len(search.fitting)
    with suppress(BrokenPipeError):
        search.told = lambda plan, _: send.send(plan)
        while not stop.value:
            search.below(best.value)
            if (entry := search.next()) is None:
                break
            search.take(entry)
            if search.best < best.value:
                with best.get_lock():
                    best.value = min(best.value, search.best)
        send.send(
            SearchedPart(
                tuple(search.tried[tried:]),
                tuple(search.fitting[fitting:]),
                search.counts.less(before),
                search.smallest,
                tuple(search.still_open()),
                search.layers.known,
                search.paces.known,
                search.rooms.known,
            )
        )


def _take(search: Search, part: SearchedPart) -> None:
    """What a process has found is known here, too."""
    search.tried += part.tried
    search.halves.add(part.tried)
    search.fitting += part.fitting
    search.counts.add(part.counts)
    search.left += part.left
    search.smallest = min((s for s in (search.smallest, part.smallest) if s is not None), default=None)
    search.below(min((plan.value for plan in part.fitting), default=search.best))
    for kind, works in part.layers.items():
        for work in works:
            if work not in search.layers.known.get(kind, ()):
                search.layers.learn(kind, work)
    for key, turns in part.paces.items():
        search.paces.known[key] = {**(search.paces.known.get(key) or {}), **turns} if turns is not None else None
    search.rooms.known.update(part.rooms)
