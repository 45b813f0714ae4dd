"""Workers with the same weights, one after the other: when one dies, another takes its place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from dsl.diagnostics import ParcError, fail
from parc.serving.faults import Fault
from parc.serving.wire import (
    DROP,
    MADE,
    MOST_LINE,
    READY,
    REFUSED,
    VECTORS,
    WorkerSpec,
    begin,
    line,
    made_of,
    refused,
    vector_of,
)
from runtime.generate.encoding import TextAsked, VectorMade
from runtime.generate.rows import Made, SequenceAsked

Heard = Callable[[Made | VectorMade | Fault], None]

TRIES = 3
"""So many workers that die without a token of it end a sequence: it may be the reason. So many that die at first end
all."""

_GRACE = 5.0
"""Seconds that a worker has to end by itself."""

_ENDING = 1.0
"""Seconds between the last that is heard of a worker that dies, and its end."""

_LONGEST_PAUSE = 10.0
"""Seconds, between the deaths of a worker and the next one."""


class Sequence:
    """One that was accepted. tries: how many workers have died since it had a token. crew: who computes it."""

    def __init__(self, key: int, asked: SequenceAsked | TextAsked, heard: Heard) -> None:
        self.key, self.asked, self.heard = key, asked, heard
        self.tokens: list[int] = []
        self.tries = 0
        self.crew: Crew | None = None

    def again(self) -> SequenceAsked | TextAsked:
        """What is asked of a worker: the rest."""
        asked = self.asked
        if isinstance(asked, TextAsked):
            return asked
        return replace(asked, tokens=(*asked.tokens, *self.tokens), made=len(self.tokens))


class CrewHead(Protocol):
    """Whom a crew tells."""

    def changed(self) -> None:
        """There may be more rows, or fewer."""
        ...

    def hear(self, crew: Crew, made: Made | VectorMade) -> None:
        """A token, or a vector."""
        ...

    def mourn(self, crew: Crew) -> None:
        """The worker has died; what ran is in `running` still."""
        ...


class Crew:
    """A worker that is always there again. running: by their keys, the sequences that it computes. deaths: of workers,
    since there was a token. interrupted: how often a sequence has given its pages to an earlier one. retired: it takes
    no more sequences, and ends with its last one."""

    def __init__(self, spec: WorkerSpec, head: CrewHead, patience: float, told: Callable[..., None]) -> None:
        """patience: seconds in which a worker with something to do tells something, or is ended."""
        self.spec, self.head, self.patience, self.told = spec, head, patience, told
        self.running: dict[int, Sequence] = {}
        self.ready = self.retired = False
        self.begun = asyncio.Event()
        """Set when the first worker was ready."""
        self.deaths = self.interrupted = 0
        self.pages: list[int] | None = None
        """Those that sequences have, that are kept and that are free, and how many sequences wait for some."""
        self._unsent: list[bytes] = []
        self._process: asyncio.subprocess.Process | None = None

    def start(self, s: Sequence) -> None:
        """Compute the sequence, or the rest of it."""
        self.running[s.key], s.crew = s, self
        self._tell(begin(s.key, s.again()))

    def drop(self, s: Sequence) -> None:
        """Compute it no more."""
        del self.running[s.key]
        self._tell({"do": DROP, "key": s.key})
        self.leave()

    def leave(self) -> None:
        """End the worker, if nothing is left for it to do."""
        if self.retired and not self.running and self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def keep(self) -> None:
        """Have a worker, until this is cancelled or retired. Raises ParcError if none gets ready at first: why, if it
        says so, or E0751."""
        try:
            while not (self.retired and not self.running):
                await self._work()
                if self.retired and not self.running:
                    return
                self.deaths += 1
                self.head.mourn(self)
                if self.deaths >= TRIES and not self.begun.is_set():
                    raise _nobody(self.deaths)
                if self.deaths > 1:
                    await asyncio.sleep(min(_LONGEST_PAUSE, 0.1 * 2**self.deaths))
        finally:
            self.ready = False
            await self._end()

    async def _end(self) -> None:
        """Let the worker end, which lets go of what it has started; at once, where it has something to do."""
        p = self._process
        if p is None or p.returncode is not None:
            return
        if not self.running and p.stdin is not None:
            p.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await p.wait()
        if p.returncode is None:
            p.kill()
            await p.wait()

    async def _work(self) -> None:
        """One worker, from its beginning to its end."""
        here = str(Path(__file__).parents[2])
        path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "parc.serving.worker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path}, start_new_session=True, limit=MOST_LINE,
        )  # fmt: skip
        assert process.stdout is not None and process.stdin is not None
        self._unsent = []
        process.stdin.write(self.spec.line())
        while text := await self._line(process.stdout):
            if not text.endswith(b"\n"):
                break  # it died while it wrote
            message: dict[str, Any] = json.loads(text)
            self._note(message.get("pages"))
            if message["do"] == READY:
                self.ready = True
                self.begun.set()
                self.told("worker_ready", pid=process.pid)
                for s in self.running.values():  # of a worker before
                    self._tell(begin(s.key, s.again()))
            elif message["do"] == MADE:
                for found in message["tokens"]:
                    self.head.hear(self, made_of(found))
                self.leave()
            elif message["do"] == VECTORS:
                for found in message["made"]:
                    self.head.hear(self, vector_of(found))
                self.leave()
            elif message["do"] == REFUSED:
                error = refused(message)
                self.told("worker_refused", why=error.diagnostics[0].message)
                if not self.begun.is_set():
                    raise error
                break
            else:
                break
            self.head.changed()
        self.ready, self.pages = False, None
        if process.stdout.at_eof():  # it has ended, or is about to: who kills it now takes its code from who waits
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENDING):
                    await process.wait()
        if process.returncode is None and not (self.retired and not self.running):
            process.kill()
        self.told("worker_ended", pid=process.pid, code=await process.wait(), running=len(self.running))

    async def _line(self, stream: asyncio.StreamReader) -> bytes:
        """The next line; nothing at the end, or where something is to be done and nothing was told for too long."""
        while True:
            before = set(self.running) if self.ready else set[int]()
            try:
                async with asyncio.timeout(self.patience):
                    return await stream.readline()
            except TimeoutError:
                if not before.isdisjoint(self.running):
                    self.told("worker_stuck", seconds=self.patience)
                    return b""

    def _note(self, pages: list[int] | None) -> None:
        if pages is not None:
            *self.pages, back = pages
            self.interrupted += back

    def _tell(self, message: dict[str, Any]) -> None:
        if self.ready:
            if not self._unsent:  # what is told at one time goes together, so that it is computed so
                asyncio.get_running_loop().call_soon(self._send)
            self._unsent.append(line(message))

    def _send(self) -> None:
        text, self._unsent = b"".join(self._unsent), []
        if text and self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(text)


def _nobody(deaths: int) -> ParcError:
    help = "what it wrote to standard error says why"
    return fail("E0751", f"no worker gets ready: {deaths} have ended before", help=help)
