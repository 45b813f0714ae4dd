"""Malformed requests against a service: each is answered as it must be, and nothing of them is kept.

    python -m tests.serving.malformed --count 100000 --seed 1 --record
    python -m tests.serving.malformed --seed 1 --only 4711      # shows one, and what is answered

Two services have them, of texts and of vectors, each with two processes. None is answered with 500, those of 429 and
503 say when to come again, what has a head of HTTP is answered in JSON, with a message where something is wrong, an
answer that begins has its end, and nobody waits for longer than the service lets him. Behind all of them each service
has no text that runs or waits, no file open that it had not at first, no more memory than after the first quarter (but
for what it says that it keeps), and answers rightly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsl.data import dataclass
from tests.fuzz.campaign import record
from tests.serving.conftest import Server, serving
from tests.serving.load import resident
from tests.serving.malformed_requests import WRITES, Malformed, drawn, head
from tests.serving.sample import TEXT, written

FINE = frozenset((200, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 417, 426, 429, 431, 503, 505))
UNKNOWN_CODING = 501
"""What h11 answers to a `Transfer-Encoding` that is none of `chunked`, as RFC 9112 has it."""
PATIENCE = 3.0
"""Seconds in which a request must be there."""
LONGEST = 120.0
"""Seconds after which nobody waits for an answer, also on a loaded machine; for texts of some tokens."""
KEPT = 24 * 2**20
"""Bytes by which the front process may be larger at the end than after the first quarter."""
CHAT = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@dataclass(frozen=True, slots=True)
class Answer:
    """status: 0 where none came, and the connection was closed."""

    status: int
    headers: dict[str, str]
    content: bytes


class Judged:
    """What came out, by number."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.faults: list[tuple[int, str]] = []
        self.longest = 0.0

    def judge(self, number: int, request: Malformed, answer: Answer, seconds: float) -> None:
        """Count it, and keep what is wrong with the answer."""
        self.statuses[answer.status] += 1
        self.kinds[request.kind] += 1
        self.longest = max(self.longest, seconds)
        if said := wrong(request, answer):
            self.faults.append((number, f"{request.kind}: {answer.status}: {said}: {answer.content[:200]!r}"))

    def __str__(self) -> str:
        done, kinds = sum(self.kinds.values()), ", ".join(f"{n:,} {kind}" for kind, n in self.kinds.most_common())
        statuses = dict(sorted(self.statuses.items()))
        return (
            f"{done:,} requests ({kinds})\n"
            f"answers by status, 0: closed: {statuses}; the longest took {self.longest:.1f} s"
        )


def wrong(request: Malformed, answer: Answer) -> str:
    """What is wrong with the answer; nothing: empty."""
    status = answer.status
    if status == 0:
        return "no answer" if request.whole else ""
    if status not in FINE and not (status == UNKNOWN_CODING and b"Transfer-Encoding" in request.sent):
        return "no such status"
    if status in (429, 503) and not answer.headers.get("retry-after", "").isdigit():
        return "no Retry-After"
    kind = answer.headers.get("content-type", "")
    if status != 200:
        if kind != "application/json":
            return "no JSON" if request.whole else ""
        error = json.loads(answer.content)["error"] if answer.content else {"message": "of HEAD"}
        return "" if isinstance(error["message"], str) and error["message"] else "no message"
    if kind.startswith("text/event-stream"):
        pieces = answer.content.split(b"\n\n")
        if any(b'"error"' in p for p in pieces) or pieces[-2:] != [b"data: [DONE]", b""]:
            return "a stream without end"
    elif request.whole:
        found = json.loads(answer.content)
        return "" if found.get("choices") or found.get("data") else "an empty answer"
    return ""


async def read(reader: asyncio.StreamReader) -> Answer:
    """The next answer of a connection; of status 0 where it is closed."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    if 100 <= status < 200 and status != 101:
        return await read(reader)
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
    content = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            content += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif "content-length" not in headers:  # HTTP/1.0
        content = await reader.read()
    else:
        content = await reader.readexactly(int(headers["content-length"]))
    return Answer(status, headers, content)


class Client:
    """Sends one after the other, over a connection that lasts as long as both sides keep it."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = ports
        self.kept: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def ask(self, request: Malformed) -> tuple[Answer, float]:
        """The first answer, and how many seconds it took."""
        port = self.ports[request.vectors]
        again = port in self.kept and request.keeps
        opened = time.monotonic()
        reader, writer = self.kept.pop(port) if again else await asyncio.open_connection("127.0.0.1", port)
        begun = time.monotonic()
        answer = Answer(0, {}, b"")
        try:
            writer.write(request.sent)
            if not request.whole and len(request.sent) % 3 == 0:  # some say that nothing more comes
                writer.write_eof()
            async with asyncio.timeout(LONGEST):
                answer = await read(reader)
                if request.keeps and answer.headers.get("connection") != "close":
                    self.kept[port] = reader, writer
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass  # closed, or an answer to HEAD, which has a length and no content, or to HTTP/2
        except TimeoutError:
            answer = Answer(599, {}, b"still open")
        finally:
            if self.kept.get(port, (None, None))[1] is not writer:
                writer.close()
        if answer.status == 0 and (again or begun - opened > PATIENCE / 2):
            return await self.ask(request)  # the service has let go of who said nothing for too long: nobody's fault
        return answer, time.monotonic() - begun

    def close(self) -> None:
        """Let go of what is kept."""
        for _, writer in self.kept.values():
            writer.close()


async def send(
    ports: Sequence[int], seed: int | str, numbers: range, clients: int, judged: Judged, until: float
) -> None:
    """All of them, side by side; those that are left when it is time are not sent."""
    left = iter(numbers)

    async def one() -> None:
        client = Client(ports)
        for number in left:
            if time.monotonic() > until:
                break
            request = drawn(seed, number)
            try:
                judged.judge(number, request, *await client.ask(request))
            except (OSError, KeyError, ValueError, TypeError) as error:
                judged.faults.append((number, f"{request.kind}: {error!r}"))
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))


def had(server: Server) -> tuple[int, str]:
    """How many files the front process has open, and how many workers have ended."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())), _numbers(server)["parc_worker_ends_total"]


def _numbers(server: Server) -> dict[str, str]:
    """The service's metrics."""
    told = asyncio.run(_get(server.port, "/metrics")).content.decode()
    return dict(line.rsplit(" ", 1) for line in told.splitlines() if line and line[0] != "#")


def remains(server: Server, before: tuple[int, str]) -> str:
    """What a service still has of those who are gone: runs, waits, files and ends of workers beyond those that it had
    at first (`had`); nothing: empty."""
    said = ""
    for _ in range(100):
        numbers = _numbers(server)
        busy = {n: numbers[n] for n in ("parc_running", "parc_waiting") if numbers[n] != "0"}
        files, ends = had(server)
        if ends != before[1]:
            busy["parc_worker_ends_total"] = ends
        said = f"{busy}, {files - before[0]} files" if busy or files > before[0] else ""
        if not said:
            return ""
        time.sleep(0.1)
    return said


async def _get(port: int, path: str, body: bytes = b"") -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head("POST" if body else "GET", path, len(body)) + body)
        return await read(reader)
    finally:
        writer.close()


def text_of(server: Server) -> Any:
    """What the service of texts answers to a request that is fine."""
    body = json.dumps({"model": WRITES, "prompt": "To be", "max_tokens": 8, "temperature": 0}).encode()
    answer = asyncio.run(_get(server.port, "/v1/completions", body))
    return json.loads(answer.content)["choices"] if answer.status == 200 else answer


def places(folder: Path) -> tuple[Path, Path, list[str]]:
    """The files of both models, and what both services are started with."""
    template = folder / "chat.jinja"
    template.write_text(CHAT)
    texts = written(folder, TEXT.replace("writer(4, 256)", "writer(4, 32)"))
    from tests.serving.test_embeddings import written as encoder

    (folder / "encoder").mkdir()
    vectors = encoder(folder / "encoder")
    return texts, vectors, ["--patience", str(PATIENCE), "--queue", "256", "--body", "100000"]


def main() -> int:
    """0 if nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.serving.malformed", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=24, help="connections at a time")
    parser.add_argument("--minutes", type=float, default=60.0, help="end after so many")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="show this one, and what is answered")
    parser.add_argument("--record", action="store_true", help="add the totals to tests/fuzz/totals.csv")
    asked = parser.parse_args()
    judged, grown = Judged(), 0
    with tempfile.TemporaryDirectory() as name:
        texts, vectors, options = places(Path(name))
        chat = ["--chat-template", str(Path(name) / "chat.jinja")]
        with serving(texts, *options, *chat) as one, serving(vectors, "--from", str(vectors.parent), *options) as other:
            servers = (one, other)
            ports = [s.port for s in servers]
            if asked.only is not None:
                request = drawn(asked.seed, asked.only)
                print(request, asyncio.run(Client(ports).ask(request)), sep="\n")
                return 0
            right = text_of(one)
            at_first = [had(s) for s in servers]
            until = time.monotonic() + 60 * asked.minutes
            sizes: list[list[int]] = []
            for quarter in range(4):
                numbers = range(asked.count * quarter // 4, asked.count * (quarter + 1) // 4)
                asyncio.run(send(ports, asked.seed, numbers, asked.clients, judged, until))
                sizes.append([resident(s.process.pid) for s in servers] + [resident(s.worker()) for s in servers])
                print(
                    f"{sum(judged.kinds.values()):,}: {', '.join(f'{n / 2**20:.0f}' for n in sizes[-1])} MiB",
                    flush=True,
                )
            grown = max(last - first for first, last in zip(sizes[0], sizes[-1]))
            for server, before in zip(servers, at_first, strict=True):
                if said := remains(server, before):
                    judged.faults.append((-1, said))
            if text_of(one) != right:
                judged.faults.append((-1, "another text than at first"))
            codes = [s.end() for s in servers]
            told = [line for s in servers for line in s.lines if "Traceback" in line or "Error" in line]
    print(judged)
    print(f"memory grew by {grown / 2**20:.1f} MiB at most after the first quarter; ends with {codes}")
    judged.faults += [(-1, line) for line in told[:5]]
    for number, fault in judged.faults[:20]:
        print(f"fault: {number}: {fault}")
    for said, count in Counter(fault[:60] for _, fault in judged.faults).most_common(20):
        print(f"{count:,} x {said}")
    failed = len(judged.faults) + (grown > KEPT) + any(codes)
    if asked.record:
        record(
            "requests", asked.seed, sum(judged.kinds.values()), failed, "against two services, of texts and of vectors"
        )
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
