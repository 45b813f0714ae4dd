"""Whatever clients send, and however they go: nothing of them is left in the front process; who stays is answered."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("hypercorn")

from parc.serving import connections  # noqa: E402
from parc.serving.connections import OpenConnections  # noqa: E402
from parc.serving.limits import Limits  # noqa: E402

PIECES = 20
SECONDS = 0.3
REQUEST = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n"
GET = REQUEST % (b"/", b"")
CHUNKED = REQUEST % (b"/refused", b"Transfer-Encoding: chunked\r\n")
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"

SENT = {
    "nothing": (b"", b""),
    "half a head": (GET[:9], b""),
    "one": (GET, b"200"),
    "one that is refused before its many pieces are read": (CHUNKED + b"1\r\n{\r\n" * 40, b"413"),
    "the same, to its end": (CHUNKED + b"1\r\n{\r\n" * 40 + b"0\r\n\r\n", b"413"),
    "much that is refused": (REQUEST % (b"/refused", b"Content-Length: 9000000\r\n") + b"x" * 300_000, b"413"),
    "half a body": (REQUEST % (b"/read", b"Content-Length: 9\r\n") + b"x", b"408"),
    "broken pieces": (CHUNKED.replace(b"refused", b"read") + b"zz\r\n", b"400"),
    "a WebSocket without its key": (REQUEST % (b"/", UPGRADE), b"200"),
    "a WebSocket": (REQUEST % (b"/", UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"), b"200"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
    "an upgrade": (REQUEST % (b"/", b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"), b"200"),
    "three": (GET * 3, b"200"),
    "junk behind one": (GET + b"\0\1\2" * 9, b"200"),
    "no head": (b"\0\1\r\n\r\n", b"400"),
    "an answer that is not taken": (REQUEST % (b"/large", b""), b"200"),
}
"""What a client sends, and the status that it is answered with if it stays."""


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Asked:
    """An application. left: how many have left while they were waited for."""

    left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, content = 200, b"x" * 1000
        if scope["path"] == "/wait":
            await _gone(receive)
            self.left += 1
            return
        if scope["path"] == "/refused":
            status = 413
        elif scope["path"] == "/read":
            try:
                async with asyncio.timeout(SECONDS):
                    await _gone(receive)
                return
            except TimeoutError:
                status = 408
        elif scope["path"] == "/large":
            content = b"x" * 10_000_000
        length = [(b"content-length", b"%d" % (len(content) if content[1000:] else PIECES * len(content)))]
        try:
            async with asyncio.timeout(2 * SECONDS):
                await send({"type": "http.response.start", "status": status, "headers": length})
                for _ in range(1 if content[1000:] else PIECES):
                    await send({"type": "http.response.body", "body": content, "more_body": True})
                    await asyncio.sleep(0)
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            pass


async def _served(monkeypatch: pytest.MonkeyPatch, act: Callable[[int, Asked], Awaitable[Any]]) -> Any:
    """What `act` gives, against a service at the port that it is told of."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    monkeypatch.setattr(connections, "LINGER", SECONDS)
    opened = OpenConnections(Limits(sending=SECONDS, seconds=2 * SECONDS, reading=2 * SECONDS))
    opened.serve()
    config, end, app = Config(), asyncio.Event(), Asked()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    config.bind, config.loglevel = [f"fd://{os.dup(listening.fileno())}"], "CRITICAL"
    serving = asyncio.ensure_future(serve(app, config, shutdown_trigger=end.wait))
    before = len(asyncio.all_tasks()) + 2  # the service's own
    try:
        found = await act(port, app)
        for _ in range(100):
            if not opened and len(asyncio.all_tasks()) <= before:
                break
            await asyncio.sleep(0.05)
        assert not opened and len(asyncio.all_tasks()) <= before, asyncio.all_tasks()
        return found
    finally:
        opened.end()
        end.set()
        await asyncio.wait([serving], timeout=5)
        listening.close()


async def _stays(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The service ends it."""


async def _says_no_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write_eof()


async def _closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _trickles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(20):
        writer.write(b"x")
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("goes", [_stays, _says_no_more, _closes, _breaks_off, _trickles])
def test_nothing_is_left(goes: Callable[..., Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """All clients side by side: each sends, and goes."""

    async def one(port: int, sent: bytes, status: bytes) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**14)
        try:
            writer.write(sent)
            await asyncio.sleep(0.05)
            await goes(reader, writer)
            if goes is not _stays:
                return None
            async with asyncio.timeout(8):
                answer = await reader.read(200)
                if b"/large" not in sent:
                    while await reader.read(2**14):
                        pass
                else:
                    await asyncio.sleep(3 * SECONDS)
            return answer.split(b" ")[1:2] == [status] if status else answer == b""
        finally:
            writer.close()

    async def act(port: int, app: Asked) -> list[Any]:
        return await asyncio.gather(*(one(port, *s) for s in SENT.values()), return_exceptions=goes is not _stays)

    found = asyncio.run(_served(monkeypatch, act))
    if goes is _stays:
        assert dict.fromkeys(SENT, True) == dict(zip(SENT, found, strict=True))


def test_who_goes_while_more_has_come_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that waits ends with its client, also if bytes stand behind it, which are read when it is answered."""

    async def act(port: int, app: Asked) -> tuple[int, float]:
        for more in (b"", b"\r\n", GET * 3):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST % (b"/wait", b"") + more)
            await asyncio.sleep(0.05)
            writer.close()
        begun = asyncio.get_running_loop().time()
        while app.left < 3 and asyncio.get_running_loop().time() < begun + 1:
            await asyncio.sleep(0.01)
        return app.left, asyncio.get_running_loop().time() - begun

    left, seconds = asyncio.run(_served(monkeypatch, act))
    assert left == 3 and seconds < SECONDS


def test_requests_behind_another_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(port: int, app: Asked) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * 2 + REQUEST % (b"/", b"Connection: close\r\n"))
        found = (await reader.read()).count(b"HTTP/1.1 200")
        writer.close()
        return found

    assert asyncio.run(_served(monkeypatch, act)) == 3
