"""What the front process and its worker tell each other: a line of JSON each, through the worker's standard streams."""

from __future__ import annotations

import json
from typing import Any

from dsl.data import dataclass
from runtime.generate.rows import Made, SequenceAsked
from runtime.generate.sampling import Sampling

READY, MADE, STALE = "ready", "made", "stale"
"""What a worker tells: it can begin; tokens of a step; what it keeps is no good any more, and it ends."""

BEGIN, DROP = "begin", "drop"
"""What it is told: of a sequence, and that nobody wants one any more."""

MOST_LINE = 2**24
"""Bytes of a line."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker computes: a file's name, text and path, and how it is compiled; the checkpoint of its weights;
    reuse: as `RowBatch` has it."""

    name: str
    text: str
    path: str | None
    params: dict[str, str]
    job: str | None
    strategy: str | None
    checkpoint: str | None
    tokenizer: str | None
    backend: str
    threads: int
    reuse: bool

    def line(self) -> bytes:
        """The first line that a worker reads."""
        return line({name: getattr(self, name) for name in self.__slots__})


def line(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def begin(key: int, asked: SequenceAsked) -> dict[str, Any]:
    """The message that asks for a sequence."""
    s = asked.sampling
    return {
        "do": BEGIN,
        "key": key,
        "tokens": asked.tokens,
        "steps": asked.steps,
        "sampling": [s.temperature, s.top_k, s.top_p, s.seed],
        "made": asked.made,
        "choice": asked.choice,
        "likely": asked.likely,
    }


def asked_of(message: dict[str, Any]) -> SequenceAsked:
    """What `begin` made a message of."""
    return SequenceAsked(
        tuple(message["tokens"]), message["steps"], Sampling(*message["sampling"]), message["made"], message["choice"],
        message["likely"],
    )  # fmt: skip


def made_of(found: list[Any]) -> Made:
    """A token, as `plain` has it."""
    key, token, ended, share, likeliest, reused = found
    return Made(key, token, ended, share, tuple((t, x) for t, x in likeliest), reused)


def plain(made: Made) -> list[Any]:
    """A token in plain values."""
    return [made.key, made.token, made.ended, made.share, made.likeliest, made.reused]
