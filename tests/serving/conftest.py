"""A service in processes of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.sample import ROOT, written

KEY = "a-key"
PATIENCE = 2.0


class Server:
    """`parc serve`, at a port of its own. lines: what it has told."""

    def __init__(self, path: Path, *options: str) -> None:
        env = os.environ | {"PARC_API_KEY": KEY, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "parc", "serve", str(path), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=env, text=True)
        self.lines: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.match(r"serving at http://127\.0\.0\.1:(\d+)$", line):
                self.port = int(found[1])
                self._reading = threading.Thread(target=self._read, daemon=True)
                self._reading.start()
                return
        self.process.stderr.close()
        raise AssertionError(f"{self.process.wait(30)}: {''.join(self.lines)}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError):
            self.lines.extend(self.process.stderr)

    def worker(self) -> int:
        """The process that computes."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def helpers(self) -> list[int]:
        """The processes that the worker has started: those of an engine."""
        pid = self.worker()
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill_worker(self) -> None:
        os.kill(self.worker(), signal.SIGKILL)

    def end(self) -> int:
        """Its exit code, behind SIGTERM."""
        self.process.terminate()
        code = self.process.wait(30)
        self._reading.join(30)
        return code


@contextlib.contextmanager
def serving(path: Path, *options: str) -> Iterator[Server]:
    """One that ends with the block, whatever happens; then nothing of it is left."""
    server = Server(path, *options)
    worker = server.worker()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        server._reading.join(30)
        if server.process.stderr is not None:
            server.process.stderr.close()
        for _ in range(100):
            if not Path(f"/proc/{worker}").exists() or "zombie" in Path(f"/proc/{worker}/status").read_text():
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the worker lives on")


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="session")
def server(writer: Path) -> Iterator[Server]:
    for name in ("starlette", "hypercorn", "openai"):
        pytest.importorskip(name)
    template = writer.parent / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    options = [
        "--queue",
        "4",
        "--patience",
        str(PATIENCE),
        "--body",
        "20000",
        "--chat-template",
        str(template),
        "--log",
    ]
    with serving(writer, *options) as found:
        yield found
        assert found.end() == 0
