"""A vector of each text: texts that come and go in the rows of an encoder's batch, all computed in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.graph import Type
from compiler.model import INFER, Model
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from dsl.source import Span
from runtime.executor import Executor
from runtime.generate.rows import BROKEN
from runtime.inputs import Array

WHOLE = "whole"
"""Why nothing follows a vector."""


@dataclass(frozen=True, slots=True)
class EncoderPorts:
    """How a model takes texts, and what it makes of them.

    name, type: of its tokens; dim: that of their positions; high: how many tokens it knows; length: the data that say
    how many positions of each row are a text's; output: the name of the vectors; rows_last: their dim of texts is the
    last; size: of a vector.
    """

    name: str
    type: Type
    dim: str
    high: int | None
    length: str
    output: str
    rows_last: bool
    size: int

    @property
    def rows(self) -> int:
        """How many texts are computed at a time."""
        return self.type.elements // self.places

    @property
    def places(self) -> int:
        """How many positions a text can have."""
        return self.type.size(self.dim)

    @staticmethod
    def of(model: Model, span: Span) -> EncoderPorts:
        """Of a model as `infer` runs it. Raises ParcError (E0783) where it does not make a vector of each text."""
        whole = [i for i in model.inputs if i.value.type.dtype == "int32"]
        tokens = [i for i in whole if len(i.value.type.dims) == 2]
        lengths = [i for i in whole if len(i.value.type.dims) == 1]
        if len(model.inputs) != 2 or len(tokens) != 1 or len(lengths) != 1:
            raise _none(model, span)
        (text,), (length,) = tokens, lengths
        (rows,) = length.value.type.names
        others = [n for n in text.value.type.names if n != rows]
        if len(others) != 1 or length.value.type.size(rows) != text.value.type.size(rows):
            raise _none(model, span)
        for name, v in zip(model.outputs, model.of_outputs):
            t = v.type
            if t.is_float and len(t.dims) == 2 and rows in t.names and others[0] not in t.names:
                last = t.names[1] == rows
                size = t.dims[0 if last else 1].size
                return EncoderPorts(
                    text.value.name, text.value.type, others[0], text.high, length.value.name, name, last, size
                )
        raise _none(model, span)

    def given(self, texts: Sequence[Sequence[int]]) -> dict[str, Array]:
        """The tokens of up to `rows` texts as the model's data: what is behind a text, and rows without one, are 0."""
        tokens, lengths = np.zeros((self.rows, self.places), np.int32), np.ones(self.rows, np.int32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
            lengths[row] = len(text)
        return {self.name: tokens.T if self.type.names[0] == self.dim else tokens, self.length: lengths}

    def vectors(self, outputs: Mapping[str, Array]) -> Array:
        """`[rows, size]`, in float32."""
        found = np.asarray(outputs[self.output]).astype(np.float32)
        return np.ascontiguousarray(found.T if self.rows_last else found)


def _none(model: Model, span: Span) -> ParcError:
    found = ", ".join(f"`{i.value.name}`: {i.value.type}" for i in model.inputs)
    help = "`decode over s` in the job; or inputs `int32[b, s]` (tokens) and `int32[b]` (lengths), an output `[b, d]`"
    message = f"the job makes neither text nor vectors of it: the model `{model.name}` takes {found or 'nothing'}"
    return fail("E0783", message, span, help=help)


@dataclass(frozen=True, slots=True)
class TextAsked:
    """A text of which a vector is asked for, by its tokens: one at least."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VectorMade:
    """A vector, as the bytes of little-endian float32, of `key` as it was admitted; ended: `WHOLE`, or `BROKEN` where
    it is no numbers."""

    key: int
    numbers: bytes
    ended: str


class EncoderBatch:
    """The rows of an encoder's batch, over executors whose programs infer, each of texts up to a length of its own.

    A text is computed by the program of the shortest length that it fits: its vector hangs on nothing but itself.
    """

    def __init__(self, runs: Sequence[tuple[Executor, EncoderPorts]]) -> None:
        self.runs = sorted(runs, key=lambda one: one[1].places)
        self._waiting: dict[int, tuple[int, ...]] = {}

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting)

    def admit(self, key: int, asked: TextAsked) -> None:
        """Take a text; ValueError for one that does not fit."""
        places = self.runs[-1][1].places
        if not 1 <= len(asked.tokens) <= places:
            raise ValueError(f"{len(asked.tokens)} tokens, there are {places} positions")
        self._waiting[key] = asked.tokens

    def drop(self, key: int) -> None:
        """Forget it; nothing if it is not there any more."""
        self._waiting.pop(key, None)

    def step(self) -> list[VectorMade]:
        """The vectors of the text that came first and of those behind it that go with it, as many as there are rows."""
        at = self._run_of(next(iter(self._waiting.values())))
        run, ports = self.runs[at]
        keys = [key for key, text in self._waiting.items() if self._run_of(text) == at][: ports.rows]
        texts = [self._waiting.pop(key) for key in keys]
        found = ports.vectors(run.call(INFER, ports.given(texts)).outputs)
        return [
            VectorMade(key, vector.astype("<f4").tobytes(), WHOLE if np.isfinite(vector).all() else BROKEN)
            for key, vector in zip(keys, found)
        ]

    def _run_of(self, text: Sequence[int]) -> int:
        return next(i for i, (_, ports) in enumerate(self.runs) if len(text) <= ports.places)
