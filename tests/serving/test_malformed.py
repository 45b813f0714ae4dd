"""Malformed requests, of today's seed: `python -m tests.serving.malformed` sends more of them."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.fuzz.test_fuzz import SEED
from tests.serving.conftest import Server
from tests.serving.malformed import Answer, Judged, had, remains, send, text_of, wrong
from tests.serving.malformed_requests import PREFACE, Malformed, drawn

pytest.importorskip("hypercorn")


def test_each_is_answered_as_it_must_be(server: Server) -> None:
    right, judged = text_of(server), Judged()
    before = had(server)
    ports = (server.port, server.port)
    asyncio.run(send(ports, SEED, range(150), 12, judged, time.monotonic() + 60))
    assert judged.faults == [] and sum(judged.kinds.values()) == 150 and judged.statuses[400] > 30, f"{judged}"
    assert remains(server, before) == "" and text_of(server) == right


def test_a_connection_of_http_2_is_told_so_and_ends(server: Server) -> None:
    async def told(content: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(content)
        async with asyncio.timeout(20):
            found = await reader.read()
        writer.close()
        return found

    assert asyncio.run(told(PREFACE)).startswith(b"HTTP/1.1 505 ")
    upgrade = b"GET /health HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\r\n"
    assert asyncio.run(told(upgrade)).startswith(b"HTTP/1.1 200 ")


def test_what_is_wrong_is_seen() -> None:
    """The judge itself: a request has its answer, in JSON, and none says 500."""
    request = next(r for r in (drawn(0, i) for i in range(100)) if r.kind == "other fields")
    json = {"content-type": "application/json"}
    fine = Answer(400, json, b'{"error": {"message": "a"}}')
    stream = Answer(200, {"content-type": "text/event-stream"}, b"data: {}\n\ndata: [DONE]\n\n")
    assert wrong(request, fine) == wrong(request, stream) == ""
    bad = [
        Answer(0, {}, b""), Answer(500, json, fine.content), Answer(307, json, b""), Answer(429, json, fine.content),
        Answer(400, {}, b""), Answer(400, json, b'{"error": {"message": ""}}'), Answer(200, json, b"{}"),
        Answer(200, stream.headers, b"data: {}\n\n"), Answer(501, json, fine.content),
    ]  # fmt: skip
    assert all(wrong(request, answer) for answer in bad)
    assert wrong(Malformed("", b"Transfer-Encoding: gzip", False, False), Answer(501, {}, b"")) == ""
