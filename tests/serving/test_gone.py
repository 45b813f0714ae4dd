"""Clients that are gone leave nothing in the front process, whatever they had asked before they went."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

pytest.importorskip("hypercorn")

from parc.serving.listening import close_behind_clients, speak_http_1  # noqa: E402

GONE, PIECES = 5, 20


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    """Pieces of a text, until the client is gone."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    gone = asyncio.ensure_future(_gone(receive))
    for _ in range(PIECES):
        await asyncio.sleep(0.01)
        if gone.done():
            return
        await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
    gone.cancel()
    await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _left() -> tuple[int, int]:
    """How many answers a client got who sent three requests at once, and how many tasks are left of those who did and
    went before the first answer's end."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    close_behind_clients()
    speak_http_1()
    config, end = Config(), asyncio.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    config.bind, config.loglevel = [f"fd://{os.dup(listening.fileno())}"], "CRITICAL"
    serving = asyncio.ensure_future(serve(_answer, config, shutdown_trigger=end.wait))
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request * 2 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    answers = (await reader.read()).count(b"HTTP/1.1 200")
    writer.close()
    await asyncio.sleep(0.2)
    before = len(asyncio.all_tasks())
    for _ in range(GONE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request * 3)
        await reader.readuntil(b"x")
        writer.transport.abort()
    for _ in range(100):
        await asyncio.sleep(0.05)
        if len(asyncio.all_tasks()) <= before:
            break
    left = len(asyncio.all_tasks()) - before
    end.set()
    await asyncio.wait([serving], timeout=5)
    listening.close()
    return answers, left


@pytest.mark.filterwarnings("ignore")
def test_requests_behind_another_are_answered_and_leave_nothing() -> None:
    answers, left = asyncio.run(_left())
    assert answers == 3
    assert left <= 0
