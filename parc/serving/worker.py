"""The worker: a process that computes tokens of the sequences that it is told of, until its standard input ends."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any

from parc.serving.wire import BEGIN, MADE, READY, STALE, asked_of, line, plain

_AT_ONCE = 2**16
"""Bytes."""


def main() -> None:
    """Read what is to be computed, then sequences, and tell of tokens as they are made."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front process ends us
    told = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever prints does not disturb
    mail = _Mail(0)
    spec: dict[str, Any] = mail.first()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(spec["threads"])  # before numpy is imported
    from dsl.source import Source
    from parc import api
    from parc.api.running import emulator
    from parc.serving.batching import batch_of, ports_of
    from runtime.generate.rows import BROKEN

    source = Source(spec["name"], spec["text"], spec["path"])
    compiled = api.compile(source, params=spec["params"], job=spec["job"], strategy=spec["strategy"])
    ports, _ = ports_of(compiled, spec["tokenizer"])
    batch = batch_of(compiled, ports, spec["checkpoint"], emulator(spec["backend"]), spec["reuse"])
    told.write(line({"do": READY}))
    while True:
        messages = mail.read(wait=not batch.busy)
        if messages is None:
            return
        for message in messages:
            if message["do"] == BEGIN:
                batch.admit(message["key"], asked_of(message))
            else:
                batch.drop(message["key"])
        if not batch.busy:
            continue
        made = batch.step()
        if made:
            told.write(line({"do": MADE, "tokens": [plain(m) for m in made]}))
        if any(m.ended == BROKEN for m in made):  # what is kept may be no numbers: nobody else is to read that
            told.write(line({"do": STALE}))
            return


class _Mail:
    """Messages, read between steps: a thread that waits for them would have to wait for the steps, too."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._rest = b""

    def first(self) -> Any:
        """The first message."""
        while b"\n" not in self._rest:
            new = os.read(self.descriptor, _AT_ONCE)
            if not new:
                sys.exit(1)
            self._rest += new
        text, _, self._rest = self._rest.partition(b"\n")
        return json.loads(text)

    def read(self, wait: bool) -> list[dict[str, Any]] | None:
        """Those that are there; waits for one, if asked to. None at the end."""
        while wait or select.select([self.descriptor], [], [], 0)[0]:
            new = os.read(self.descriptor, _AT_ONCE)
            if not new:
                return None
            self._rest += new
            if b"\n" in new:
                break
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(text) for text in lines]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
