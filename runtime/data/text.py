"""`text(path, level = "char", stream = false)`: a text as next-token pairs."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from compiler.model import DataSpec
from compiler.program import InputDecl
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.data.files import read_text
from runtime.data.reader import Reader
from runtime.inputs import Array

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Text:
    """Windows at random places, or (`stream`) row by row one behind the other: each row reads a part of the text of its
    own, and goes on where it was in the step before. The second input is the first one moved by one token."""

    tokens: Array
    vocabulary: tuple[str, ...]
    names: tuple[str, ...]
    shape: tuple[int, int]
    stream: bool = False

    def batch(self, seed: int, step: int) -> dict[str, Array]:
        batch, length = self.shape
        last = len(self.tokens) - length
        if self.stream:
            starts = (np.arange(batch) * len(self.tokens) // batch + step * length) % last
        else:
            starts = np.random.default_rng((seed % 2**63, step)).integers(0, last, batch)
        windows = self.tokens[starts[:, None] + np.arange(length + 1)]
        pair = (windows[:, :-1], windows[:, 1:])
        return {name: np.ascontiguousarray(part) for name, part in zip(self.names, pair)}


def open_text(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Inputs: tokens and, if there is a second one, targets; int32, two dims (batch, sequence), from 0.

    level "char": token = place among the text's different characters in order. "word": words and signs, the most
    frequent first, 0 for all that the vocabulary has no room for.
    """
    path, span, options = str(spec.path), spec.span, dict(spec.options)
    level, stream = options.get("level", "char"), options.get("stream", False)
    shape = inputs[0].type.shape
    high = min((i.high for i in inputs if i.high is not None), default=None)
    text = read_text(path, spec.folder, span)
    tokens, vocabulary = _characters(text) if level == "char" else _words(text, high)
    if high is not None and len(vocabulary) > high:
        raise fail(
            "E0706", f"`{path}` has {len(vocabulary)} different characters, the model's vocabulary has {high}", span,
            help=f"make the vocabulary at least {len(vocabulary)}",
        )  # fmt: skip
    if len(tokens) <= shape[1]:
        message = f"`{path}` has {len(tokens)} tokens, a sequence of {shape[1]} needs {shape[1] + 1}"
        raise fail("E0707", message, span, help="take a longer text or a shorter sequence")
    return Text(tokens, vocabulary, tuple(i.name for i in inputs), (shape[0], shape[1]), stream)


def _characters(text: str) -> tuple[Array, tuple[str, ...]]:
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    kinds, tokens = np.unique(points, return_inverse=True)
    return tokens.astype(np.int32), tuple(map(chr, kinds))


def _words(text: str, high: int | None) -> tuple[Array, tuple[str, ...]]:
    words = _WORD.findall(text)
    room = None if high is None else max(0, high - 1)
    ranked = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))[:room]
    vocabulary = ("", *(word for word, _ in ranked))
    number = {word: i for i, word in enumerate(vocabulary)}
    return np.array([number.get(w, 0) for w in words], np.int32), vocabulary
