"""`parc serve` as its clients see it: the package `openai`, raw sockets, and signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dsl.source import Source
from parc import api
from parc.keeping import Keeping
from runtime.checkpoints.saving import Saving
from tests.serving.conftest import KEY, PATIENCE, Server, serving
from tests.serving.sample import TRAINED, alone, written

openai = pytest.importorskip("openai")
PROMPTS = ["To be, or not to be, that is", "I", "What is a man", "ab", "Thou art a scholar; speak to it, Horatio."]


def client_of(server: Server, key: str = KEY) -> Any:
    return openai.OpenAI(api_key=key, base_url=f"http://127.0.0.1:{server.port}/v1", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with client_of(server) as found:
        yield found


def made(client: Any, prompt: Any, steps: int, **more: Any) -> Any:
    more = {"temperature": 0.0} | more
    return client.completions.create(model="write", prompt=prompt, max_tokens=steps, **more)


def at_once(count: int, ask: Callable[[int], None]) -> None:
    """Call it with 0, 1, … side by side, and wait for all."""
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def post(
    server: Server, body: bytes, headers: dict[str, str] | None = None, path: str = "/v1/completions"
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and what the body says."""
    usual = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", path, body, usual | (headers or {}))
        found = connection.getresponse()
        return found.status, {k.lower(): v for k, v in found.getheaders()}, json.loads(found.read())
    finally:
        connection.close()


def get(server: Server, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


# --- what is answered


def test_models(server: Server, client: Any) -> None:
    (model,) = client.models.list()
    assert (model.id, model.object) == ("write", "model") and client.models.retrieve("write") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert get(server, "/health") == get(server, "/ready") == 200 and get(server, "/v1/models") == 401


def test_a_text_is_the_one_that_generate_makes(writer: Path, client: Any) -> None:
    found = made(client, "To be", 12)
    (choice,) = found.choices
    assert choice.text == alone(writer, "To be", 12)[0] and choice.finish_reason == "length"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (5, 12, 17)
    tokens = made(client, [[1, 2, 3], [4]], 2)
    assert [c.index for c in tokens.choices] == [0, 1] and tokens.usage.prompt_tokens == 4


def test_several_of_several_prompts(writer: Path, client: Any) -> None:
    found = made(client, ["I", "To be"], 6, n=2, seed=9, temperature=1.0)
    want = [*alone(writer, "I", 6, 1.0, 9, 2), *alone(writer, "To be", 6, 1.0, 9, 2)]
    assert [c.text for c in found.choices] == want and want[0] != want[1]
    assert made(client, "I", 6, seed=9, temperature=1.0, echo=True).choices[0].text == "I" + want[0]


def test_stops_and_likelihoods(writer: Path, client: Any) -> None:
    whole = alone(writer, "I", 20, 1.0, 3)[0]
    stop = whole[9:12]
    (choice,) = made(client, "I", 20, temperature=1.0, seed=3, stop=[stop, "qqq"], logprobs=2).choices
    assert choice.text == whole[: whole.index(stop)] and choice.finish_reason == "stop"
    told = choice.logprobs
    assert "".join(told.tokens).startswith(choice.text) and told.text_offset == list(range(len(told.tokens)))
    assert all(len(top) == 2 and max(top.values()) >= x for top, x in zip(told.top_logprobs, told.token_logprobs))


def test_a_stream_is_the_same_text_in_pieces(writer: Path, client: Any) -> None:
    pieces = list(made(client, "To be", 12, stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].text for p in pieces[:-1]) == alone(writer, "To be", 12)[0]
    assert [p.choices[0].finish_reason for p in pieces[:-1]] == [None] * 11 + ["length"]
    assert pieces[-1].choices == [] and pieces[-1].usage.completion_tokens == 12
    assert len({p.id for p in pieces}) == 1


def test_a_chat(writer: Path, client: Any) -> None:
    said = [{"role": "user", "content": "To be"}]
    want = alone(writer, "To be\n", 10)[0]
    asked = {"model": "write", "messages": said, "max_tokens": 10, "temperature": 0.0}
    found = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    (choice,) = found.choices
    assert choice.message.content == want and choice.message.role == "assistant" and choice.finish_reason == "length"
    assert "".join(t.token for t in choice.logprobs.content) == want
    assert all(len(t.top_logprobs) == 2 for t in choice.logprobs.content)
    pieces = list(client.chat.completions.create(**asked, stream=True))
    assert [p.choices[0].delta.role for p in pieces] == ["assistant"] + [None] * 9
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == want and pieces[-1].object.endswith("chunk")
    assert found.usage.prompt_tokens == 6 and found.id.startswith("chatcmpl-")


def metrics(server: Server) -> dict[str, float]:
    """What Prometheus reads."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_what_is_counted_and_logged(server: Server, client: Any) -> None:
    before = metrics(server)
    made(client, "To be", 7, n=2)
    name = post(server, b"{")[1]["x-request-id"]
    after = metrics(server)
    more = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert (more["parc_generated_tokens_total"], more["parc_prompt_tokens_total"]) == (14, 5)
    assert more["parc_first_token_seconds_count"] == 2 and more["parc_token_seconds_count"] == 12
    assert more['parc_requests_total{path="/v1/completions",status="200"}'] == 1
    assert more['parc_requests_total{path="/v1/completions",status="400"}'] == 1
    assert after["parc_rows"] == 4 and after["parc_running"] == after["parc_waiting"] == 0
    assert after['parc_request_seconds_bucket{le="+Inf"}'] == after["parc_request_seconds_count"]
    until = time.monotonic() + 10
    while not any(name in line for line in list(server.lines)):  # a thread reads them
        assert time.monotonic() < until
    events = [json.loads(line) for line in server.lines if line.startswith("{")]
    found = next(e for e in events if e.get("id") == name)
    assert (found["event"], found["status"], found["path"]) == ("request", 400, "/v1/completions")
    used = next(e for e in reversed(events) if e.get("completion_tokens") == 14)
    assert used["prompt_tokens"] == 5 and 0 < used["first_token_seconds"] <= used["seconds"]
    assert not any("To be" in line or KEY in line for line in server.lines[4:])


def test_many_at_once(writer: Path, client: Any) -> None:
    """More than there are rows: each is what it is alone."""
    found: dict[int, str] = {}

    def ask(i: int) -> None:
        prompt = PROMPTS[i % len(PROMPTS)]
        found[i] = made(client, prompt, 8, temperature=(i % 2) * 0.9, seed=4).choices[0].text

    at_once(8, ask)
    for i in range(8):
        assert found[i] == alone(writer, PROMPTS[i % len(PROMPTS)], 8, (i % 2) * 0.9, 4 if i % 2 else 0)[0]


def test_who_comes_late_has_a_token_before_others_end(client: Any) -> None:
    early = made(client, "I", 200, stream=True)
    next(iter(early))
    assert next(iter(made(client, "To be", 200, stream=True))).choices[0].finish_reason is None
    rest = list(early)
    assert len(rest) > 20


# --- what is refused


def test_who_may_ask(server: Server) -> None:
    with client_of(server, "another") as wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    for headers in ({"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {"Authorization": ""}):
        assert post(server, b"{}", headers)[0] == 401
    status, _, said = post(server, b"{}", {"Host": f"pages.example:{server.port}"})
    assert (status, said["error"]["code"]) == (403, "wrong_host")


BODIES = [
    (b"{", 400), (b"[" * 9000, 400), (b"\xff", 400), (b"{}", 400), (b'{"model": "write", "prompt": ""}', 400),
    (b'{"model": "write", "prompt": "\\ud800"}', 400), ('{"model": "write", "prompt": "€"}'.encode(), 400),
    (b'{"model": "write", "prompt": [80]}', 400), (b'{"model": "gpt", "prompt": "a"}', 404),
    (b'{"model": "write", "prompt": "%s"}' % (b"a" * 257), 400),
    (b'{"model": "write", "prompt": "a", "max_tokens": 257}', 400),
    (b'{"model": "write", "prompt": "a", "n": 17}', 400), (b'{"model": "write", "prompt": "a", "n": 9}', 429),
    (b'"' + b"a" * 30000 + b'"', 413),
]  # fmt: skip


def test_what_cannot_be_answered_is_told_why(server: Server, client: Any) -> None:
    for body, want in BODIES:
        status, headers, said = post(server, body)
        assert status == want, (body[:60], said)
        assert set(said) == {"error"} and set(said["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in said["error"]["message"] and ("retry-after" in headers) == (status == 429)
    assert post(server, b"{}", {"Content-Type": "text/plain"})[0] == 415
    with pytest.raises(openai.BadRequestError, match="256 positions") as caught:
        made(client, "a" * 300, 1)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError):
        made(client, "a", 1, temperature=3)


NO_REQUESTS = [
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x00\xff",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\n\r\n",
    b"GET /ready HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
]


def test_bytes_that_are_no_requests(server: Server) -> None:
    for sent in NO_REQUESTS:
        with socket.create_connection(("127.0.0.1", server.port), 10) as s:
            s.sendall(sent)
            s.shutdown(socket.SHUT_WR)
            try:
                found = s.recv(100)
            except ConnectionError:
                found = b""
            assert not found.startswith(b"HTTP/1.1 5")
    assert get(server, "/ready") == 200


# --- clients that are slow, or gone


def raw(server: Server, body: dict[str, Any], window: int | None = None) -> socket.socket:
    """A socket over which this was asked."""
    s = socket.socket()
    if window is not None:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    s.settimeout(30)
    s.connect(("127.0.0.1", server.port))
    content = json.dumps({"model": "write", "temperature": 0.0} | body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    s.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    return s


def test_rows_of_who_is_gone_are_free_at_once(server: Server) -> None:
    """Eight texts fill the rows and the queue; when their client is gone, none of them is made any more."""
    for _ in range(10):
        before = metrics(server)
        with raw(server, {"prompt": "I", "max_tokens": 250, "n": 8, "stream": True}) as s:
            assert s.recv(10)
            full = metrics(server)
            more = json.dumps({"model": "write", "prompt": "To be", "max_tokens": 1, "n": 5}).encode()
            status, headers, _ = post(server, more)
        until = time.monotonic() + 20
        while (after := metrics(server))["parc_running"] + after["parc_waiting"]:
            assert time.monotonic() < until
        dropped = after["parc_dropped_total"] - before["parc_dropped_total"]
        if dropped == 8:
            break  # else some were whole before their client was gone, which is slow where others compute
    if dropped != 8 and os.getloadavg()[0] > (os.cpu_count() or 1) + 0.5:
        pytest.skip("others compute here: the texts are whole before the service hears that nobody wants them")
    assert dropped == 8
    assert (full["parc_running"], full["parc_waiting"]) == (4, 4)
    assert status == 429 and int(headers["retry-after"]) > 0
    assert after["parc_generated_tokens_total"] - before["parc_generated_tokens_total"] < 8 * 250 / 2


def test_who_sends_slowly_is_not_waited_for(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 30) as s:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        s.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        begun = time.monotonic()
        assert s.recv(100).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun > PATIENCE * 0.9


def test_who_reads_slowly_keeps_nobody_waiting(server: Server, client: Any) -> None:
    """He takes nothing: others go on, and he is let go before he has all."""
    body = {"prompt": "I", "max_tokens": 250, "n": 8, "stream": True, "logprobs": 5}
    begun, size, end = time.monotonic(), 0, b""
    with raw(server, body, window=2048) as s:
        while True:
            try:
                made(client, "To be", 3)
                break
            except openai.RateLimitError:
                assert time.monotonic() - begun < 60
                time.sleep(0.1)
        time.sleep(2 * PATIENCE)
        try:
            while part := s.recv(2**16):
                size, end = size + len(part), part
        except ConnectionError:
            pass
    assert 0 < size < 2**20 and b"[DONE]" not in end


# --- the worker's end, and the service's


def test_a_stream_goes_on_when_its_worker_is_killed(writer: Path, server: Server, client: Any) -> None:
    """Twice; no token is missing and none comes twice. The log tells how the worker ended, and nothing but objects."""
    before = len(server.lines)
    stream = made(client, "To be", 200, stream=True, temperature=1.0, seed=8)
    greedy = made(client, "I", 100, stream=True)
    texts = []
    for number, piece in enumerate(stream):
        texts.append(piece.choices[0].text)
        if number in (10, 60):
            server.kill_worker()
            until = time.monotonic() + 20
            while get(server, "/ready") == 200:
                assert time.monotonic() < until
            status, headers, _ = post(server, b'{"model": "write", "prompt": "a"}')
            assert (status, "retry-after" in headers) == (503, True)  # until a new one is there
    assert "".join(texts) == alone(writer, "To be", 200, 1.0, 8)[0]
    assert "".join(p.choices[0].text for p in greedy) == alone(writer, "I", 100)[0]
    logged = [json.loads(line) for line in server.lines[before:]]
    assert [event["code"] for event in logged if event["event"] == "worker_ended"] == [-signal.SIGKILL] * 2


def test_new_weights_lose_no_request(tmp_path: Path) -> None:
    """Who was accepted before ends with the weights that he began with; who comes after has the new ones. A checkpoint
    that is no good changes nothing."""
    path, saved = written(tmp_path, TRAINED), tmp_path / "saved"
    source = Source(str(path), path.read_text(), str(path))

    def by(folder: Path, steps: int) -> str:
        return api.generate(source, ["I"], steps, checkpoint=str(folder), job="write").texts[0].text

    def train(steps: int) -> Path:
        resume = str(saved) if saved.exists() else None
        api.run(source, steps, job="fit", keeping=Keeping(Saving(saved, 0, 0), resume))
        return max(saved.iterdir())

    first = train(1)
    with serving(path, "--job", "write", "--from", str(saved), "--log") as server, client_of(server) as client:
        stream = made(client, "I", 90, stream=True, n=2)
        begun, old = next(iter(stream)), server.worker()
        os.kill(old, signal.SIGSTOP)
        second = train(2)
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 60
        while (now := metrics(server))["parc_reloads_total"] == 0:
            assert time.monotonic() < until
        assert now["parc_running"] == 2 and get(server, "/ready") == 200
        want = by(second, 40)
        assert made(client, "I", 40).choices[0].text == want != by(first, 40)
        os.kill(old, signal.SIGCONT)
        texts = {i: "" for i in range(2)} | {begun.choices[0].index: begun.choices[0].text}
        for piece in stream:
            texts[piece.choices[0].index] += piece.choices[0].text
        assert set(texts.values()) == {by(first, 90)}
        (max(saved.iterdir()) / "manifest.json").write_text("{")
        server.process.send_signal(signal.SIGHUP)
        while not any('"reload_failed"' in line for line in server.lines):
            assert time.monotonic() < until + 60
            time.sleep(0.01)
        assert made(client, "I", 40).choices[0].text == want
        client.close()
        assert server.end() == 0


def test_what_was_accepted_ends_behind_sigterm(writer: Path) -> None:
    with serving(writer, "--name", "other") as server, client_of(server) as client:
        stream = client.completions.create(model="other", prompt="I", max_tokens=200, temperature=0.0, stream=True)
        texts = [next(iter(stream)).choices[0].text]
        server.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 10
        while get(server, "/ready") == 200:
            assert time.monotonic() < until
        status, headers, said = post(server, b'{"model": "other", "prompt": "a"}')
        assert (status, said["error"]["code"]) == (503, "draining") and "retry-after" in headers
        texts += [p.choices[0].text for p in stream]
        assert "".join(texts) == alone(writer, "I", 200)[0]
        client.close()
        assert server.process.wait(20) == 0
