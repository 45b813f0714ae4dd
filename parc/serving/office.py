"""The front process's side of workers: sequences that wait and that run, and whoever computes them.

Sequences are kept here, with the tokens that were told of already. When a worker dies, the next one is told of those
that ran, and goes on behind their last token: random bits hang on seed and position alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from dsl.diagnostics import ParcError
from parc.serving.crew import TRIES, Crew, Heard, Sequence
from parc.serving.faults import broken, busy, draining, restarting
from parc.serving.limits import Limits
from parc.serving.wire import WorkerSpec
from runtime.generate.encoding import TextAsked, VectorMade
from runtime.generate.rows import BROKEN, Made, SequenceAsked


class Office:
    """Accepts sequences, and has a worker compute as many at a time as its batch has rows.

    crew: who takes new sequences; with other weights another one, while the one before ends those that it has.
    """

    def __init__(self, spec: WorkerSpec, rows: int, limits: Limits, told: Callable[..., None]) -> None:
        """told: hears of what becomes of workers."""
        self.spec, self.rows, self.limits, self.told = spec, rows, limits, told
        self.waiting: deque[Sequence] = deque()
        self.crew = self._crew(spec)
        self.crews = {self.crew}
        self.draining = False
        self.restarts = self.made = self.dropped = self.reused = self.reloads = self.vectors = 0
        """How many workers have died, tokens were made, texts were not wanted to the end, tokens need not be read,
        times weights were taken anew, vectors were made."""
        self.idle = asyncio.Event()
        self.idle.set()
        self.abandoned = asyncio.Event()
        """Set when what was accepted is not waited for."""
        self._next = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._reloading: asyncio.Task[None] | None = None

    def _crew(self, spec: WorkerSpec) -> Crew:
        return Crew(spec, self, self.limits.seconds, self.told)

    @property
    def ready(self) -> bool:
        """Whether sequences are accepted."""
        return self.crew.ready

    @property
    def running(self) -> int:
        """How many sequences are computed."""
        return sum(len(crew.running) for crew in self.crews)

    @property
    def pages(self) -> list[int] | None:
        """As a crew has them, of all crews; None where caches do not lie in pages, or no worker is there."""
        found = [crew.pages for crew in self.crews if crew.pages is not None]
        return [sum(counts) for counts in zip(*found, strict=True)] if found else None

    # --- sequences

    def check(self, count: int) -> None:
        """Raises Fault where so many sequences more cannot be accepted now."""
        if self.draining:
            raise draining()
        if not self.ready:
            raise restarting()
        if len(self.waiting) + count > self.limits.queue + self.rows - len(self.crew.running):
            raise busy()

    def accept(self, asked: SequenceAsked | TextAsked, heard: Heard) -> Sequence:
        """Take a sequence, of which `heard` hears until it ends or is dropped."""
        self._next += 1
        found = Sequence(self._next, asked, heard)
        self.waiting.append(found)
        self.idle.clear()
        self.changed()
        return found

    def drop(self, sequence: Sequence) -> None:
        """Nobody wants it any more: its row is free at once."""
        if sequence.crew is not None and sequence.key in sequence.crew.running:
            sequence.crew.drop(sequence)
            self.dropped += 1
        elif sequence.crew is None and sequence in self.waiting:
            self.waiting.remove(sequence)
            self.dropped += 1
        self.changed()

    def changed(self) -> None:
        """Give rows that are free to those that wait."""
        while self.ready and self.waiting and len(self.crew.running) < self.rows:
            self.crew.start(self.waiting.popleft())
        if not self.waiting and not self.running:
            self.idle.set()

    def hear(self, crew: Crew, made: Made | VectorMade) -> None:
        """A token of a sequence, or the vector of a text."""
        s = crew.running.get(made.key)
        if s is None:
            return  # it was dropped meanwhile
        crew.deaths = s.tries = 0
        if made.ended == BROKEN:
            del crew.running[s.key]
            s.heard(broken())
            return
        if isinstance(made, VectorMade):
            self.vectors += 1
        else:
            s.tokens.append(made.token)
            self.made += 1
            self.reused += made.reused
        if made.ended:
            del crew.running[s.key]
        s.heard(made)

    def mourn(self, crew: Crew) -> None:
        """Those that ran go on in the next worker; what several workers have died of ends."""
        self.restarts += 1
        for s in list(crew.running.values()):
            s.tries += 1
            if s.tries >= TRIES:
                del crew.running[s.key]
                s.heard(restarting())
        self.changed()

    # --- workers

    async def keep(self) -> None:
        """Have workers, until this is cancelled. Raises ParcError (E0751) where none gets ready at first."""
        try:
            await self._employ(self.crew)
            await asyncio.Event().wait()  # for ever: others have taken its place
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _employ(self, crew: Crew) -> asyncio.Task[None]:
        async def work() -> None:
            try:
                await crew.keep()
            finally:
                self.crews.discard(crew)

        task = asyncio.ensure_future(work())
        self._tasks.append(task)
        return task

    def reload(self, spec: Callable[[], WorkerSpec]) -> None:
        """Take weights anew, as `spec` (which may take its time) says then: those that run end with the old ones, and
        who comes when the new ones are there has these. What is no good is told, and changes nothing."""
        if not self.draining and (self._reloading is None or self._reloading.done()):
            self._reloading = asyncio.ensure_future(self._reload(spec))
            self._tasks.append(self._reloading)

    async def _reload(self, spec: Callable[[], WorkerSpec]) -> None:
        try:
            new = self._crew(await asyncio.to_thread(spec))
            task = self._employ(new)
            ready = asyncio.ensure_future(new.begun.wait())
            await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if task.done():
                await task
        except ParcError as error:
            self.told("reload_failed", why=error.diagnostics[0].message)
            return
        old, self.crew = self.crew, new
        new.interrupted += old.interrupted
        self.crews.add(new)
        old.retired = True
        old.leave()
        self.reloads += 1
        self.told("reloaded", checkpoint=new.spec.checkpoint)
        self.changed()
