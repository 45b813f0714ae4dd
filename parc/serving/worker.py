"""The worker: a process that computes tokens of the sequences that it is told of, until its standard input ends."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.generate.encoding import EncoderBatch
    from runtime.generate.rows import RowBatch

_AT_ONCE = 2**16
"""Bytes."""


def main() -> int:
    """Read what is to be computed, then sequences, and tell of tokens as they are made. The exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front process ends us
    told = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever prints does not disturb
    mail = _Mail(0)
    spec: dict[str, Any] = mail.first()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(spec["threads"])  # before numpy is imported
    from dsl.diagnostics import ParcError
    from parc.serving.wire import READY, line, refusal

    ready = False
    try:
        with _engine(spec) as executor:
            batch = _batch(spec, executor)
            told.write(line({"do": READY} | _pages(batch)))
            ready = True
            _work(batch, mail, told)
    except ParcError as error:
        if ready:
            sys.stderr.write(f"{error}\n")
        else:
            told.write(line(refusal(error)))
        return 1
    return 0


@contextmanager
def _engine(spec: dict[str, Any]) -> Iterator[Any]:
    """What runs programs: the emulator, or the engine, whose processes end with the block."""
    from parc.api.running import emulator

    if spec["engine"] == "emulator":
        yield emulator(spec["backend"])
        return
    from runtime.torch.engine import Engine

    with Engine(spec["device"]) as engine:
        yield engine.executor


def _batch(spec: dict[str, Any], executor: Any) -> RowBatch | EncoderBatch:
    """What computes sequences, or vectors of texts. Raises ParcError."""
    from dsl.source import Source
    from parc import api
    from parc.serving.batching import batch_of, encoder_of, ports_of

    source = Source(spec["name"], spec["text"], spec["path"])
    compiled = api.compile(source, params=spec["params"], job=spec["job"], strategy=spec["strategy"])
    if not compiled.decodes:
        others = [
            api.compile(source, params=spec["params"] | more, job=spec["job"], strategy=spec["strategy"])
            for more in spec["also"]
        ]
        return encoder_of(compiled, spec["tokenizer"], spec["checkpoint"], executor, others)
    ports, _ = ports_of(compiled, spec["tokenizer"])
    return batch_of(compiled, ports, spec["checkpoint"], executor, spec["reuse"])


def _work(batch: RowBatch | EncoderBatch, mail: _Mail, told: FileIO) -> None:
    """Until nothing more is asked for, or what is kept is no good."""
    from parc.serving.wire import DROP, MADE, STALE, VECTORS, asked_of, line, plain, plain_vector
    from runtime.generate.rows import BROKEN, Made

    while True:
        messages = mail.read(wait=not batch.busy)
        if messages is None:
            return
        for message in messages:
            if message["do"] == DROP:
                batch.drop(message["key"])
            else:
                batch.admit(message["key"], asked_of(message))
        if not batch.busy:
            if messages and (pages := _pages(batch)):
                told.write(line({"do": MADE, "tokens": []} | pages))
            continue
        found = batch.step()
        made = [m for m in found if isinstance(m, Made)]
        vectors = [m for m in found if not isinstance(m, Made)]
        if made:
            told.write(line({"do": MADE, "tokens": [plain(m) for m in made]} | _pages(batch)))
        if vectors:
            told.write(line({"do": VECTORS, "made": [plain_vector(v) for v in vectors]}))
        if any(m.ended == BROKEN for m in made):  # what is kept may be no numbers: nobody else is to read that
            told.write(line({"do": STALE}))
            return


def _pages(batch: RowBatch | EncoderBatch) -> dict[str, Any]:
    """What there is to tell of pages: those that sequences have, that are kept, and that are free, how many sequences
    wait for some, and how many have given theirs back since that was told."""
    from runtime.generate.rows import RowBatch

    if not isinstance(batch, RowBatch) or batch.pages is None:
        return {}
    back, batch.interrupted = batch.interrupted, 0
    return {"pages": [*batch.pages.counts, len(batch.waiting), back]}


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
        sys.exit(main())
    except BrokenPipeError:
        sys.exit(1)
