"""What the front process keeps of requests that are over: nothing; and what it takes at a time."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from dsl.source import Source
from parc import api
from parc.serving.counting import Counted
from parc.serving.limits import Limits
from parc.serving.run import Served
from tests.serving.conftest import KEY
from tests.serving.load import NONSENSE, PROMPTS, request
from tests.serving.sample import written

EACH = 40
"""Requests of a round."""
CONNECTIONS = 12


async def one(port: int, number: int) -> int:
    """A request of one kind or another: whole or in pieces, left, nonsense, too long. Its status; 0: it was left."""
    asked = {"model": "write", "prompt": PROMPTS[number % len(PROMPTS)], "max_tokens": 3, "stream": number % 2 == 0}
    body = json.dumps(asked).encode()
    size = None
    if number % 4 == 3:
        body = NONSENSE[number % len(NONSENSE)]
    elif number % 8 == 4:
        size = 10**9
    reader, writer = await request(port, body, size)
    try:
        status = int((await reader.readline()).split()[1])
        if number % 8 == 2:
            return 0
        await reader.read()
        return status
    finally:
        writer.close()


async def crowd(port: int) -> list[int]:
    """The statuses of the third of three requests that are on their way, where there is memory for two, and of one when
    they are gone."""
    body = json.dumps({"model": "write", "prompt": "I", "max_tokens": 1} | {"user": "x" * 900}).encode()
    slow = [await request(port, body, len(body) + 9) for _ in range(3)]
    reader, _ = slow[-1]
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"retry-after: 1" in head.lower()
    found = [int(head.split()[1])]
    for _, writer in slow:
        writer.close()
    await asyncio.sleep(0.3)
    reader, writer = await request(port, body)
    found.append(int((await reader.readline()).split()[1]))
    writer.close()
    return found


async def many(port: int) -> list[int]:
    """The statuses of a request beside as many connections as there may be, and of one when one of them is gone."""
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.2)  # all are taken
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"retry-after: 1" in head.lower() and json.loads(await reader.read())["error"]["code"] == "overloaded"
    writer.close()
    idle.pop()[1].close()
    await asyncio.sleep(0.2)
    found = [int(head.split()[1]), await one(port, 0)]
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(0.2)
    return found


def test_nothing_is_kept_of_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: as many objects after a round of requests as before it, half of one for each at most. In the
    last round something is kept of each, and is seen."""
    pytest.importorskip("hypercorn")
    pytest.importorskip("starlette")
    path = written(tmp_path)
    found: list[int] = []
    statuses: Counter[int] = Counter()
    thresholds = gc.get_threshold()
    tasks = set[asyncio.Task[None]]()

    leak: list[object] = []

    def kept(counted: Counted, path: str, status: int, seconds: float) -> None:
        leak.append([status])

    async def ask(port: int) -> None:
        try:
            assert await crowd(port) == await many(port) == [503, 200]
            for round in range(4):
                if round == 3:
                    monkeypatch.setattr(Counted, "request", kept)
                for first in range(0, EACH, 10):  # ten at once, where six have a place
                    statuses.update(await asyncio.gather(*(one(port, first + i) for i in range(10))))
                for _ in range(200):  # the loop lets go of clocks that were stopped when there are some hundred
                    asyncio.get_running_loop().call_later(1000, print).cancel()
                await asyncio.sleep(0.3)  # who left is noticed
                gc.collect()
                found.append(len(gc.get_objects()))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def told(served: Served, address: str) -> None:
        tasks.add(asyncio.ensure_future(ask(int(address.rpartition(":")[2]))))

    limits = Limits(queue=2, body=1000, bodies=2000, connections=CONNECTIONS)
    source = Source(str(path), path.read_text(), str(path))
    api.serve(source, port=0, key=KEY, limits=limits, told=told)
    for task in tasks:
        task.result()
    assert statuses.keys() >= {0, 200, 400, 413, 429} and not statuses.keys() & {500, 503}, statuses
    assert found[2] - found[1] < EACH / 2 and found[3] - found[2] > EACH / 2, found
    assert gc.get_threshold() == thresholds and gc.get_freeze_count() == 0
