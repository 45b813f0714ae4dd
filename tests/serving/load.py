"""A service under load: clients that ask, leave, read slowly or send nonsense, and workers that are killed meanwhile.

    python -m tests.serving.load --clients 200 --seconds 60 --kill 10
    python -m tests.serving.load --clients 1000 --seconds 300 --queue 100   # more than it takes: some are refused

Tells what was answered, how long first tokens, whole texts and refusals took, and the memory of both processes at the
beginning, and after each minute, or each quarter if that is shorter; fails for any answer of 500, for one of 429 or 503
that does not say when to come again, for a text that is not the one that it must be, and for a stream that was accepted
and has no end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from tests.serving.conftest import KEY, Server, serving
from tests.serving.sample import alone, written

PROMPTS = ("To be", "I", "What is a man", "ab")
STEPS = 24
NONSENSE = (
    b"{", b"[]", b"\xff\xfe", b"null", b"{}" * 50, b"[" * 5000, b'{"model": "write"}',
    b'{"model": "write", "prompt": 3}', b'{"model": "other", "prompt": "a"}',
    b'{"model": "write", "prompt": "\\ud800"}',
    b'{"model": "write", "prompt": "a", "n": 1e9}', b'{"model": "write", "prompt": "a", "stop": [[]]}',
    b'{"model": "write", "prompt": "a", "temperature": 1e400}', b'{"model": "write", "prompt": "a", "max_tokens": -1}',
)  # fmt: skip


class Tried:
    """What came out."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []
        self.first: list[float] = []
        self.last: list[float] = []
        self.refused: list[float] = []
        self.memory: list[tuple[int, int]] = []
        self.left = 0


async def request(port: int, body: bytes, size: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection over which this was asked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body) if size is None else size}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def client(port: int, rng: random.Random, until: float, wanted: dict[str, str], tried: Tried) -> None:
    """One who asks again and again, in one way or another."""
    while time.monotonic() < until:
        kind = rng.choices(("text", "leave", "nonsense", "slow"), (5, 2, 8, 1))[0]
        prompt = rng.choice(PROMPTS)
        body = json.dumps({"model": "write", "prompt": prompt, "max_tokens": STEPS, "temperature": 0, "stream": True})
        content = rng.choice(NONSENSE) if kind == "nonsense" else body.encode()
        try:
            reader, writer = await request(port, content, len(content) + 9 if kind == "slow" else None)
        except OSError:
            tried.statuses[0] += 1
            continue
        begun = time.monotonic()
        try:
            if kind == "slow":
                await asyncio.sleep(rng.random())
                continue
            status = int((await reader.readline()).split()[1])
            tried.statuses[status] += 1
            tried.refused += [time.monotonic() - begun] if status != 200 else []
            if status == 500 or (kind == "nonsense" and status not in (400, 404, 413, 503)):
                tried.faults.append(f"{status} for {content[:60]!r}")
            if status != 200:
                names = {line.split(b":")[0].lower() async for line in headers(reader)}
                if status in (429, 503) and b"retry-after" not in names:
                    tried.faults.append(f"{status} without Retry-After")
                await asyncio.sleep(1 if status in (429, 503) else 0)
                continue
            text, ended = "", False
            async for line in reader:
                if line.startswith(b"data: {"):
                    found = json.loads(line[6:])
                    if "error" in found:
                        tried.faults.append(f"accepted, then {found['error']}")
                        break
                    if not text:
                        tried.first.append(time.monotonic() - begun)
                    text += found["choices"][0]["text"]
                    if kind == "leave":
                        tried.left += 1
                        break
                ended = ended or line.startswith(b"data: [DONE]")
            if kind == "text":
                tried.last += [time.monotonic() - begun] if ended else []
                if not ended or text != wanted[prompt]:
                    tried.faults.append(f"{prompt!r}: {text!r}, {'the end' if ended else 'no end'}")
        except (ConnectionError, IndexError) as error:
            tried.faults.append(f"{kind}: {error!r} after {time.monotonic() - begun:.1f} s")
        finally:
            writer.close()


async def headers(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines before the empty one."""
    while (line := await reader.readline()).strip():
        yield line


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def both(server: Server) -> tuple[int, int]:
    """Bytes of memory of the front process and of the worker that there is."""
    while True:
        try:
            return resident(server.process.pid), resident(server.worker())
        except (IndexError, FileNotFoundError):  # between two workers
            time.sleep(0.2)


async def load(server: Server, clients: int, seconds: float, kill: float, wanted: dict[str, str], tried: Tried) -> None:
    """All of them, for so long; the worker is killed meanwhile."""
    begun = time.monotonic()
    until = begun + seconds
    tasks = [asyncio.ensure_future(client(server.port, random.Random(i), until, wanted, tried)) for i in range(clients)]
    each = min(60.0, seconds / 4)
    moments = sorted(
        [(each * i, both) for i in range(round(seconds / each) + 1)]
        + [(kill * i, Server.kill_worker) for i in range(1, int(seconds / kill) if kill else 0)],
        key=lambda m: m[0],
    )
    for at, what in moments:
        await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
        found = await asyncio.to_thread(what, server)
        tried.memory += [found] if found is not None else []
    await asyncio.gather(*tasks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--queue", type=int, help="how many texts may wait; as many as there are clients, if left out")
    parser.add_argument("--kill", type=float, default=0.0, help="seconds between the ends of workers; 0: none")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder))
        wanted = {p: alone(path, p, STEPS)[0] for p in PROMPTS}
        queue = asked.queue if asked.queue is not None else asked.clients
        with serving(path, "--queue", str(queue), "--patience", "20") as server:
            tried = Tried()
            asyncio.run(load(server, asked.clients, asked.seconds, asked.kill, wanted, tried))
            code = server.end()
    print(
        f"answers by status: {dict(sorted(tried.statuses.items()))}; whole texts: {len(tried.last)}; left: {tried.left}"
    )
    for what, times in (("first token", tried.first), ("whole text", tried.last), ("refusal", tried.refused)):
        seconds = sorted(times) or [0.0]
        print(f"{what}: p50 {seconds[len(seconds) // 2]:.3f} s, p99 {seconds[len(seconds) * 99 // 100]:.3f} s")
    for what, sizes in zip(("front process", "worker"), zip(*tried.memory)):
        told = ", ".join(f"{m / 2**20:.0f}" for m in sizes)
        print(f"{what}: {told} MiB at the beginning, and from time to time")
    print(f"ends with {code}")
    for fault in tried.faults[:20]:
        print(f"fault: {fault}")
    if tried.faults or code:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
