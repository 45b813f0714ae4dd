"""The front process's side of the worker: sequences that wait and that run, and a worker that is always there again.

Sequences are kept here, with the tokens that were told of already. When a worker dies, the next one is told of those
that ran, and goes on behind their last token: random bits hang on seed and position alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsl.diagnostics import fail
from parc.serving.faults import Fault, broken, busy, draining, restarting
from parc.serving.limits import Limits
from parc.serving.wire import DROP, MADE, MOST_LINE, READY, WorkerSpec, begin, line, made_of
from runtime.generate.rows import BROKEN, Made, SequenceAsked

Heard = Callable[[Made | Fault], None]

_TRIES = 3
"""So many workers that die without a token of it end a sequence: it may be the reason."""

_LONGEST_PAUSE = 10.0
"""Seconds, between the deaths of a worker and the next one."""


class Sequence:
    """One that was accepted. tries: how many workers have died since it had a token."""

    def __init__(self, key: int, asked: SequenceAsked, heard: Heard) -> None:
        self.key, self.asked, self.heard = key, asked, heard
        self.tokens: list[int] = []
        self.tries = 0

    def again(self) -> SequenceAsked:
        """What is asked of a worker: the rest."""
        asked = self.asked
        return replace(asked, tokens=(*asked.tokens, *self.tokens), made=len(self.tokens))


class Office:
    """Accepts sequences, and lets a worker compute as many at a time as its batch has rows."""

    def __init__(
        self, spec: WorkerSpec, rows: int, limits: Limits, told: Callable[..., None] = lambda *_, **__: None
    ) -> None:
        """told: hears of what becomes of workers."""
        self.told = told
        self.spec, self.rows, self.limits = spec, rows, limits
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}
        self.ready = False
        self.draining = False
        self.restarts = self.made = self.dropped = 0
        """How many workers have ended, tokens were made, and texts were not wanted to the end."""
        self.idle = asyncio.Event()
        self.idle.set()
        self.begun = asyncio.Event()
        """Set when the first worker was ready."""
        self.abandoned = asyncio.Event()
        """Set when what was accepted is not waited for."""
        self._next = 0
        self._deaths = 0
        self._process: asyncio.subprocess.Process | None = None

    # --- sequences

    def check(self, count: int) -> None:
        """Raises Fault where so many sequences more cannot be accepted now."""
        if self.draining:
            raise draining()
        if not self.ready:
            raise restarting()
        if len(self.waiting) + count > self.limits.queue + self.rows - len(self.running):
            raise busy()

    def accept(self, asked: SequenceAsked, heard: Heard) -> Sequence:
        """Take a sequence, of which `heard` hears until it ends or is dropped."""
        self._next += 1
        found = Sequence(self._next, asked, heard)
        self.waiting.append(found)
        self.idle.clear()
        self._fill()
        return found

    def drop(self, sequence: Sequence) -> None:
        """Nobody wants it any more: its row is free at once."""
        if self.running.pop(sequence.key, None) is not None:
            self._tell({"do": DROP, "key": sequence.key})
            self.dropped += 1
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
            self.dropped += 1
        self._fill()

    def _fill(self) -> None:
        """Give rows that are free to those that wait."""
        while self.ready and self.waiting and len(self.running) < self.rows:
            s = self.waiting.popleft()
            self.running[s.key] = s
            self._tell(begin(s.key, s.again()))
        if not self.waiting and not self.running:
            self.idle.set()

    def _hear(self, made: Made) -> None:
        s = self.running.get(made.key)
        if s is None:
            return  # it was dropped meanwhile
        self._deaths = s.tries = 0
        if made.ended == BROKEN:
            del self.running[s.key]
            s.heard(broken())
            return
        s.tokens.append(made.token)
        self.made += 1
        if made.ended:
            del self.running[s.key]
        s.heard(made)

    # --- the worker

    async def keep(self) -> None:
        """Have a worker, until this is cancelled. Raises ParcError (E0751) where none gets ready at first."""
        try:
            while True:
                await self._work()
                self._mourn()
                if self._deaths >= _TRIES and not self.begun.is_set():
                    help = "what it wrote to standard error says why"
                    raise fail("E0751", f"no worker gets ready: {self._deaths} have ended before", help=help)
                if self._deaths > 1:
                    await asyncio.sleep(min(_LONGEST_PAUSE, 0.1 * 2**self._deaths))
        finally:
            self.ready = False
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def _work(self) -> None:
        """One worker, from its beginning to its end."""
        here = str(Path(__file__).parents[2])
        path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "parc.serving.worker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path}, start_new_session=True, limit=MOST_LINE,
        )  # fmt: skip
        assert process.stdout is not None and process.stdin is not None
        process.stdin.write(self.spec.line())
        while text := await process.stdout.readline():
            if not text.endswith(b"\n"):
                break  # it died while it wrote
            message: dict[str, Any] = json.loads(text)
            if message["do"] == READY:
                self.ready = True
                self.begun.set()
                self.told("worker_ready", pid=process.pid)
            elif message["do"] == MADE:
                for found in message["tokens"]:
                    self._hear(made_of(found))
            else:
                break
            self._fill()
        self.ready = False
        if process.returncode is None:
            process.kill()
        self.told("worker_ended", pid=process.pid, code=await process.wait(), running=len(self.running))

    def _mourn(self) -> None:
        """Those that ran wait first; what more than one worker has died of ends."""
        self.restarts += 1
        self._deaths += 1
        left = []
        for s in self.running.values():
            s.tries += 1
            if s.tries < _TRIES:
                left.append(s)
            else:
                s.heard(restarting())
        self.running.clear()
        self.waiting.extendleft(reversed(left))
        self._fill()

    def _tell(self, message: dict[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(line(message))
