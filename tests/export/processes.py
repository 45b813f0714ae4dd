"""Processes that run exported files: started once for all tests, since to import PyTorch takes longer than most files.

`python -m tests.export.processes RANK` is one such process. It reads a task per line, and answers each with a line.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import runpy
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

TIME_LIMIT = 900.0
LATE = 5.0
"""Seconds that the others have once one has failed."""


@dataclass(slots=True)
class Processes:
    """Those of ranks 0, 1, …: as many as were ever asked for."""

    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, count: int, argv: list[str], **env: str) -> tuple[list[str], list[str]]:
        """What each of `count` ranks wrote to stdout, and to stderr, while it ran a script with its arguments, as
        torchrun would have it done. Raises AssertionError for what one of them raised."""
        import torch.distributed as dist

        # A store that is kept here, as torchrun does it: a port that is let go may become another process's.
        store = dist.TCPStore("localhost", 0, None, True, timedelta(seconds=TIME_LIMIT), wait_for_workers=False)
        return self.call(count, argv, {**env, "WORLD_SIZE": str(count), "MASTER_PORT": str(store.port)})

    def call(self, count: int, argv: list[str], env: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """As `run`, with this environment."""
        self._start(count)
        task = json.dumps({"argv": argv, "env": dict(env)}).encode() + b"\n"
        for p in self.started[:count]:
            assert p.stdin is not None
            p.stdin.write(task)
            p.stdin.flush()
        answers = self._answers(count)
        failed = [f"process {rank}: {a['error'][-2000:]}" for rank, a in sorted(answers.items()) if a["error"]]
        if len(answers) < count:
            failed.append(f"no answer of {sorted(set(range(count)) - answers.keys())}")
        if failed:  # who waits for a message that does not come is of no use any more
            self.end()
        assert not failed, "\n".join(failed)
        return [answers[r]["out"] for r in range(count)], [answers[r]["err"] for r in range(count)]

    def _start(self, count: int) -> None:
        env = dict(os.environ, OMP_NUM_THREADS="1", MASTER_ADDR="localhost", TORCHELASTIC_USE_AGENT_STORE="True")
        for rank in range(len(self.started), count):
            line = [sys.executable, "-m", "tests.export.processes", str(rank)]
            self.started.append(subprocess.Popen(line, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def _answers(self, count: int) -> dict[int, dict[str, Any]]:
        """By rank; without those that are late or have died."""
        found: dict[int, dict[str, Any]] = {}
        until = time.monotonic() + TIME_LIMIT
        with selectors.DefaultSelector() as waiting:
            for rank, p in enumerate(self.started[:count]):
                assert p.stdout is not None
                waiting.register(p.stdout, selectors.EVENT_READ, rank)
            while waiting.get_map() and time.monotonic() < until:
                for key, _ in waiting.select(1.0):
                    waiting.unregister(key.fileobj)
                    line = self.started[key.data].stdout.readline()  # type: ignore[union-attr]
                    found[key.data] = json.loads(line) if line else {"error": "it died", "out": "", "err": ""}
                    if found[key.data]["error"]:
                        until = min(until, time.monotonic() + LATE)
        return found

    def end(self) -> None:
        """Kill them; the next task starts others."""
        for p in self.started:
            p.kill()
            p.communicate()
        self.started.clear()


PROCESSES = Processes()
"""Those of this process's tests."""

atexit.register(PROCESSES.end)


def main(rank: str) -> None:
    """One process."""
    import torch  # noqa: F401  # while others are started

    answers = os.fdopen(os.dup(1), "w")  # what libraries write to stdout is no answer
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        os.environ.update(task["env"], RANK=rank, LOCAL_RANK=rank)
        sys.argv = task["argv"]
        out, err, error = io.StringIO(), io.StringIO(), ""
        try:
            with redirect_stdout(out), redirect_stderr(err):
                runpy.run_path(task["argv"][0], run_name="__main__")
        except SystemExit as ended:
            error = "" if not ended.code else f"{err.getvalue()}\nexit {ended.code}"
        except BaseException:
            error = traceback.format_exc()
        answers.write(json.dumps({"error": error, "out": out.getvalue(), "err": err.getvalue()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
