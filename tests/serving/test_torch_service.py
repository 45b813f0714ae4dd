"""`parc serve --engine torch`: workers whose program runs on PyTorch, in a process for each device."""

from __future__ import annotations

import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.serving.conftest import serving
from tests.serving.sample import alone, written
from tests.serving.test_service import client_of, made, metrics, raw

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "zombie" in status.read_text()


@pytest.mark.parametrize("killed", ["helper", pytest.param("worker", marks=pytest.mark.nightly)])
def test_workers_on_pytorch(killed: str, tmp_path: Path) -> None:
    """Texts are those of the emulator. A stream goes on when a process of the engine is killed, and none of its others
    is left; who is gone leaves his row; what was accepted ends behind SIGTERM."""
    pytest.importorskip("hypercorn")
    path = written(tmp_path)
    want = alone(path, "To be", 60)[0]  # fewer tokens than a prefill reads
    with serving(path, "--engine", "torch", "--log") as server, client_of(server) as client:
        stream = made(client, "To be", 60, stream=True)
        before, texts = [server.worker(), *server.helpers()], []
        assert len(before) == 2
        for number, piece in enumerate(stream):
            texts.append(piece.choices[0].text)
            if number == 5:
                os.kill(before[killed == "helper"], signal.SIGKILL)
        assert "".join(texts) == want and server.worker() != before[0]
        until = time.monotonic() + 60
        while not all(map(gone, before)):
            assert time.monotonic() < until
            time.sleep(0.05)
        with raw(server, {"prompt": "I", "max_tokens": 250, "n": 4, "stream": True}) as s:
            assert s.recv(10)
        while metrics(server)["parc_running"]:
            assert time.monotonic() < until
        last = made(client, "I", 30, stream=True)
        first, helpers = next(iter(last)).choices[0].text, server.helpers()
        server.process.send_signal(signal.SIGTERM)
        assert first + "".join(p.choices[0].text for p in last) == alone(path, "I", 30)[0]
        client.close()
        told = len(server.lines)
        assert server.process.wait(60) == 0
        while not all(map(gone, helpers)):
            assert time.monotonic() < until
            time.sleep(0.05)
        server.end()
        assert not any("E0709" in line for line in server.lines[told:]), server.lines[told:]
