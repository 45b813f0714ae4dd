"""`/v1/embeddings` as its clients see it: the package `openai`, and raw bodies."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.origin import Role
from dsl.diagnostics import ParcError
from dsl.files import load
from parc import api
from parc.generating import weights_given, weights_told
from parc.keeping import Keeping
from parc.serving.batching import encoder_of
from runtime.checkpoints.saving import Saving
from runtime.generate.encoding import TextAsked
from runtime.stacked import Emulator
from tests.importing.encoder import TEXTS, folder_of, reference
from tests.serving import sample
from tests.serving.conftest import Server, serving
from tests.serving.test_service import at_once, client_of, get, metrics, post

openai = pytest.importorskip("openai")


def written(folder: Path) -> Path:
    """The files of an encoder, and its job."""
    path = folder_of(folder) / "job.par"
    path.write_text(api.init(load(folder / "config.json")).text)
    return path


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(job: Path) -> Iterator[Server]:
    pytest.importorskip("hypercorn")
    options = [
        "-D",
        "batch=4",
        "-D",
        "dp=2",
        "-D",
        "tp=2",
        "--also",
        "seq=8",
        "--queue",
        "4",
        "--body",
        "20000",
        "--log",
    ]
    with serving(job, "--from", str(job.parent), *options) as found:
        yield found
        assert found.end() == 0


@pytest.fixture(scope="module")
def client(encoder: Server) -> Iterator[Any]:
    with client_of(encoder) as found:
        yield found


def wanted(job: Path, text: str) -> Any:
    return reference(job.parent, list(text.encode()))


def vectors(client: Any, given: Any, **more: Any) -> list[Any]:
    return [d.embedding for d in client.embeddings.create(model="embed", input=given, **more).data]


def test_vectors_of_texts(job: Path, encoder: Server, client: Any) -> None:
    """More than there are rows, in order, whichever way numbers are written; on four devices, short ones by a
    program of their own."""
    texts = [*TEXTS, "more", *TEXTS]
    found = client.embeddings.create(model="embed", input=texts)
    assert [d.index for d in found.data] == list(range(9)) and found.object == "list" and found.model == "embed"
    for d, text in zip(found.data, texts):
        np.testing.assert_allclose(d.embedding, wanted(job, text), rtol=0, atol=1e-5)
    used = sum(len(t.encode()) for t in texts)
    assert found.usage.prompt_tokens == found.usage.total_tokens == used
    (one,) = vectors(client, TEXTS[0], encoding_format="float", dimensions=32, user="me")
    np.testing.assert_array_equal(np.float32(one), np.float32(found.data[0].embedding))
    tokens = [list(text.encode()) for text in TEXTS[:2]]
    np.testing.assert_array_equal(vectors(client, tokens), [d.embedding for d in found.data[:2]])
    assert vectors(client, tokens[0]) == vectors(client, TEXTS[0])
    status, _, said = post(encoder, json.dumps({"model": "embed", "input": "I", "encoding_format": "base64"}).encode(),
                           path="/v1/embeddings")  # fmt: skip
    packed = np.frombuffer(base64.b64decode(said["data"][0]["embedding"]), "<f4")
    assert status == 200 and packed.tolist() == vectors(client, "I", encoding_format="float")[0]


def test_many_clients_at_once(job: Path, encoder: Server, client: Any) -> None:
    """Each has its own vectors, and texts of several requests are computed together."""
    before, found = metrics(encoder), dict[int, Any]()

    def ask(i: int) -> None:
        found[i] = vectors(client, TEXTS[i % 4])[0]

    at_once(8, ask)
    for i in range(8):
        np.testing.assert_allclose(found[i], wanted(job, TEXTS[i % 4]), rtol=0, atol=1e-5)
    after = metrics(encoder)
    assert after["parc_vectors_total"] - before["parc_vectors_total"] == 8
    more = sum(len(TEXTS[i % 4]) for i in range(8))
    assert after["parc_prompt_tokens_total"] - before["parc_prompt_tokens_total"] == more
    name = 'parc_requests_total{path="/v1/embeddings",status="200"}'
    assert after[name] - before.get(name, 0) == 8 and after["parc_running"] == after["parc_waiting"] == 0


BODIES: list[tuple[dict[str, Any], int, str]] = [
    ({"input": ""}, 400, "input"), ({"input": []}, 400, "input"), ({"input": [["a"]]}, 400, "input"),
    ({}, 400, "input"), ({"input": "a" * 25}, 400, "input"), ({"input": [300]}, 400, "input"),
    ({"input": "\ud800"}, 400, "input"), ({"input": [1] * 25}, 400, "input"), ({"input": ["a"] * 2049}, 400, "input"),
    ({"input": "a", "dimensions": 16}, 400, "dimensions"), ({"input": "a", "dimensions": 0}, 400, "dimensions"),
    ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"), ({"input": "a", "n": 2}, 400, "n"),
    ({"input": "a", "model": "other"}, 404, "model"), ({"input": "a", "model": 3}, 400, "model"),
    ({"input": "a" * 20001}, 413, ""),
]  # fmt: skip


def test_what_cannot_be_answered_is_told_why(encoder: Server, client: Any) -> None:
    for body, want, param in BODIES:
        status, _, said = post(encoder, json.dumps({"model": "embed"} | body).encode(), path="/v1/embeddings")
        assert (status, said["error"]["param"] or "") == (want, param), (body, said)
    for path in ("/v1/completions", "/v1/chat/completions"):
        asked = {"model": "embed", "prompt": "a"} if path == "/v1/completions" else {
            "model": "embed", "messages": [{"role": "user", "content": "a"}]}  # fmt: skip
        status, _, said = post(encoder, json.dumps(asked).encode(), path=path)
        assert (status, said["error"]["code"]) == (400, "no_texts")
    assert get(encoder, "/") == 404 and get(encoder, "/ready") == 200
    with pytest.raises(openai.BadRequestError, match="24 positions") as caught:
        vectors(client, ["a", "b" * 30])
    assert caught.value.code == "context_length_exceeded"


def test_a_request_outlives_its_worker_and_others_wait_their_turn(job: Path, encoder: Server, client: Any) -> None:
    """A request of more texts than the queue has places is taken whole; the next is refused until there is room. When
    the worker dies, another one makes what is missing."""
    found: list[Any] = []
    worker = encoder.worker()
    os.kill(worker, signal.SIGSTOP)
    thread = threading.Thread(target=lambda: found.append(vectors(client, list(TEXTS) * 5)))
    thread.start()
    until = time.monotonic() + 60
    while (now := metrics(encoder))["parc_running"] + now["parc_waiting"] < 20:
        assert time.monotonic() < until
    with pytest.raises(openai.RateLimitError) as caught:
        vectors(client, "a")
    assert int(caught.value.response.headers["retry-after"]) > 0
    os.kill(worker, signal.SIGKILL)
    thread.join()
    for vector, text in zip(found[0], list(TEXTS) * 5, strict=True):
        np.testing.assert_allclose(vector, wanted(job, text), rtol=0, atol=1e-5)


def test_weights_in_fewer_bits(job: Path) -> None:
    """Vectors are nearly those of the whole weights."""
    text = job.read_text()
    assert "  if pp > 1 {\n    pipeline" in text
    small = job.with_name("small.par")
    small.write_text(text.replace("  if pp > 1 {\n", "  store weights as int8\n  if pp > 1 {\n"))
    with serving(small, "--from", str(job.parent)) as server, client_of(server) as client:
        for vector, of in zip(vectors(client, list(TEXTS)), TEXTS, strict=True):
            want = wanted(job, of)
            assert float(np.dot(vector, want)) > 0.999 and np.abs(vector - want).max() > 1e-5
        client.close()
        assert server.end() == 0


def test_short_texts_have_a_program_of_their_own(job: Path) -> None:
    """On the same weights, in memory once; a vector hangs on nothing but its text, not in one bit."""
    source = load(job)
    long, short = (api.compile(source, params={"batch": 2, "seq": n}) for n in (24, 8))
    batch = encoder_of(long, "byte", str(job.parent), Emulator, [short])
    (few, _), (many, _) = batch.runs
    assert few.program.inputs != many.program.inputs and isinstance(few, Emulator) and isinstance(many, Emulator)
    for g, cls in few.classes.items():
        for decl in (s for s in cls.states if s.role is Role.WEIGHT):
            mine, there = few.held(g, decl), many.held(g, decl)
            assert mine is not None and there is not None and np.shares_memory(mine, there), decl.name
    texts = ["To be, or not to be", "I", "That is the question.", "ab", "more"]
    for key, text in enumerate(texts):
        batch.admit(key, TextAsked(tuple(text.encode())))
    batch.drop(3)
    found = [batch.step(), batch.step()]
    assert [[v.key for v in made] for made in found] == [[0, 2], [1, 4]] and not batch.busy
    for made in (v for step in found for v in step):
        vector = np.frombuffer(made.numbers, "<f4")
        np.testing.assert_allclose(vector, wanted(job, texts[made.key]), rtol=0, atol=1e-5)
        batch.admit(9, TextAsked(tuple(texts[made.key].encode())))
        assert batch.step()[0].numbers == made.numbers
    with pytest.raises(ParcError, match="other vectors") as error:
        encoder_of(long, "byte", None, Emulator, [api.compile(source, params={"hidden": 64})])
    assert error.value.diagnostics[0].code == "E0783"


def test_the_front_process_reads_no_weights(tmp_path: Path) -> None:
    """A byte of them that is wrong is found by the worker, which says so before anything is served."""
    path = sample.written(tmp_path, sample.TRAINED)
    source = load(path)
    api.run(source, 1, job="fit", keeping=Keeping(Saving(tmp_path / "saved", 0, 0)))
    (shard,) = (tmp_path / "saved").rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    compiled = api.compile(source, job="write")
    program, model = compiled.program, compiled.training.model
    assert weights_told(str(tmp_path / "saved"), program, model) == str(shard.parent)
    with pytest.raises(ParcError, match="damaged") as error:
        weights_given(str(tmp_path / "saved"), program, model)
    (found,) = error.value.diagnostics
    with pytest.raises(AssertionError, match=found.code) as told:
        Server(path, "--job", "write", "--from", str(tmp_path / "saved"))
    assert str(told.value).startswith("1: ") and "Traceback" not in str(told.value)
    assert found.message in str(told.value)
