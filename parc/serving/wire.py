"""What the front process and its worker tell each other: a line of JSON each, through the worker's standard streams."""

from __future__ import annotations

import base64
import json
from typing import Any

from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError
from runtime.generate.encoding import TextAsked, VectorMade
from runtime.generate.rows import Made, SequenceAsked
from runtime.generate.sampling import Sampling

READY, MADE, VECTORS, STALE, REFUSED = "ready", "made", "vectors", "stale", "refused"
"""What a worker tells: it can begin; tokens of a step; vectors of one; what it keeps is no good any more, and it ends;
why it cannot begin, which is a user's error."""

BEGIN, EMBED, DROP = "begin", "embed", "drop"
"""What it is told: of a sequence, of a text, and that nobody wants one any more."""

MOST_LINE = 2**24
"""Bytes of a line."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker computes: a file's name, text and path, and how it is compiled; the checkpoint of its weights;
    reuse: as `RowBatch` has it; engine: `emulator`, or `torch` on such a device; also: parameters
    with which the job computes shorter texts."""

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
    engine: str = "emulator"
    device: str = "cpu"
    also: tuple[dict[str, str], ...] = ()

    def line(self) -> bytes:
        """The first line that a worker reads."""
        return line({name: getattr(self, name) for name in self.__slots__})


def line(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def begin(key: int, asked: SequenceAsked | TextAsked) -> dict[str, Any]:
    """The message that asks for a sequence, or for the vector of a text."""
    if isinstance(asked, TextAsked):
        return {"do": EMBED, "key": key, "tokens": asked.tokens}
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


def asked_of(message: dict[str, Any]) -> Any:
    """What `begin` made a message of."""
    if message["do"] == EMBED:
        return TextAsked(tuple(message["tokens"]))
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


def vector_of(found: list[Any]) -> VectorMade:
    """A vector, as `plain_vector` has it."""
    key, numbers, ended = found
    return VectorMade(key, base64.b64decode(numbers), ended)


def plain_vector(made: VectorMade) -> list[Any]:
    """A vector in plain values."""
    return [made.key, base64.b64encode(made.numbers).decode(), made.ended]


def refusal(error: ParcError) -> dict[str, Any]:
    """The message of a worker that cannot begin."""
    return {"do": REFUSED, "errors": [[d.code, d.message, d.help] for d in error.diagnostics]}


def refused(message: dict[str, Any]) -> ParcError:
    """The error that `refusal` made a message of; its places are not told."""
    return ParcError(*(Diagnostic(code, text, help=help) for code, text, help in message["errors"]))
