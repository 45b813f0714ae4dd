"""`text(path, level = "char", stream = false)`: a text as next-token pairs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from itertools import chain
from math import ceil

import numpy as np

from compiler.model import DataSpec
from compiler.program import InputDecl
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.data.columns import Column
from runtime.data.files import MAX_LONG, TextFile
from runtime.data.reader import Reader
from runtime.inputs import Array
from runtime.numpy import STORAGE

_WORD = re.compile(r"\w+|[^\w\s]")
_CODE_POINTS = 0x110000
_WORD_BYTES = 80
"""Of the text for each different word that is counted at once. One takes about twice as many: the word, its count, and
their place in a table."""
_FEW_WORDS = 2**17
_MOST_ROUNDS = 8
"""Each goes through the whole text: one in which nearly every word is new takes more, and is refused."""


@dataclass(frozen=True)
class Text:
    """Windows at random places, or (`stream`) row by row one behind the other: each row reads a part of the text of its
    own, and goes on where it was in the step before. The second input is the first one moved by one token."""

    tokens: Column
    inputs: tuple[InputDecl, ...]
    stream: bool = False

    def batch(self, seed: int, step: int) -> dict[str, Array]:
        batch, length = self.inputs[0].type.shape
        last = self.tokens.length - length
        if self.stream:
            starts = (np.arange(batch) * self.tokens.length // batch + step * length) % last
        else:
            starts = np.random.default_rng((seed % 2**63, step)).integers(0, last, batch)
        places = starts[:, None] + np.arange(length + 1)
        windows = self.tokens.take(places.ravel()).reshape(places.shape)
        pair = (windows[:, :-1], windows[:, 1:])
        return {i.name: part.astype(STORAGE[i.type.dtype]) for i, part in zip(self.inputs, pair)}


def open_text(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Inputs: tokens and, if there is a second one, targets; integers, two dims (batch, sequence), from 0.

    level "char": token = place among the text's different characters in order. "word": words and signs, the most
    frequent first, 0 for all that the vocabulary has no room for. `limit`: bytes of text that are read, 256 MiB if left
    out.
    """
    options, span, length = dict(spec.options), spec.span, inputs[0].type.shape[1]
    high = min((i.high for i in inputs if i.high is not None), default=None)
    file = TextFile(spec)
    tokens, size = _characters(file) if options.get("level", "char") == "char" else _words(file, high)
    if high is not None and size > high:
        raise fail(
            "E0706", f"`{file.path}` has {size} different characters, the model's vocabulary has {high}", span,
            help=f"make the vocabulary at least {size}",
        )  # fmt: skip
    if tokens.length <= length:
        message = f"`{file.path}` has {tokens.length} tokens, a sequence of {length} needs {length + 1}"
        raise fail("E0707", message, span, help="take a longer text or a shorter sequence")
    return Text(tokens, inputs, bool(options.get("stream", False)))


def vocabulary(spec: DataSpec, high: int | None) -> tuple[str, ...]:
    """What the tokens of a text stand for, in their order: its characters, or the words that there is room for (from 1
    on)."""
    file = TextFile(spec)
    if dict(spec.options).get("level", "char") == "word":
        return tuple(_ranked(file, None if high is None else max(0, high - 1)))
    found: set[str] = set()
    for block in file.blocks():
        found.update(block)
    return tuple(sorted(found))


def split_words(text: str) -> list[str]:
    """The words and signs of a text."""
    return _WORD.findall(text)


def _characters(file: TextFile) -> tuple[Column, int]:
    """The tokens, and how many different ones there are."""
    tokens, number, count = Column(), np.full(_CODE_POINTS, -1, np.int32), 0
    for block in file.blocks():
        points = np.frombuffer(block.encode("utf-32-le"), np.uint32)
        found = number[points]
        if (found < 0).any():  # they are numbered as they come, and in order when all are known
            fresh = np.unique(points[found < 0])
            number[fresh] = np.arange(count, count + len(fresh))
            count += len(fresh)
            found = number[points]
        tokens.append(found)
    known = np.flatnonzero(number >= 0)
    order = np.empty(count, np.int32)
    order[number[known]] = np.arange(count)
    tokens.close().map(order)
    return tokens, count


def _words(file: TextFile, high: int | None) -> tuple[Column, int]:
    """The tokens, and the size of the vocabulary: of `high` at most."""
    ranked = _ranked(file, None if high is None else max(0, high - 1))
    number = {word: i for i, word in enumerate(ranked, 1)}
    tokens = Column()
    for words in _split(file):
        tokens.append(np.fromiter((number.get(w, 0) for w in words), np.int64, len(words)))
    return tokens.close(), len(ranked) + 1


def _ranked(file: TextFile, room: int | None) -> list[str]:
    """The most frequent words, as many as there is room for; of those that are as frequent the first in order.

    What is counted at once takes about twice the memory of the text: where that has more different words, they are
    counted in rounds, each of those with another remainder of a hash.
    """
    most, rounds = max(_FEW_WORDS, file.size // _WORD_BYTES), 1
    while rounds <= _MOST_ROUNDS:
        best: list[tuple[int, str]] = []
        for which in range(rounds):
            counts = _counted(file, which, rounds, most)
            if len(counts) > most:
                break
            found = chain(best, ((-n, word) for word, n in counts.items()))
            best = sorted(found) if room is None else nsmallest(room, found)
        else:
            return [word for _, word in best]
        if room is None:
            break
        enough = ceil(rounds * 1.2 * file.size / file.read) + 1  # with as many new ones to the end
        rounds = enough if rounds == _MOST_ROUNDS else min(enough, _MOST_ROUNDS)
    help = "declare the input's range, which says how many words are kept: `in 0..50000`"
    if room is not None:
        help = 'nearly each word of it is a new one: take a shorter text, or `level = "char"`'
    raise file.too_much(f"it has more than {most * (1 if room is None else _MOST_ROUNDS):,} different words", help)


def _counted(file: TextFile, which: int, rounds: int, most: int) -> Counter[str]:
    """How often each word of a round comes, as far as there are no more than `most` different ones."""
    counts: Counter[str] = Counter()
    for words in _split(file):
        counts.update(words if rounds == 1 else [w for w in words if hash(w) % rounds == which])
        if len(counts) > most:
            break
    return counts


def _split(file: TextFile) -> Iterator[list[str]]:
    """Words and signs, some at a time."""
    held = ""
    for block in file.blocks():
        text = held + block
        end = len(text)
        while end and (text[end - 1].isalnum() or text[end - 1] == "_"):  # what `\w` matches: it may go on
            end -= 1
        held = text[end:]
        if len(held) > MAX_LONG:
            raise file.too_long("word")
        yield _WORD.findall(text[:end])
    yield _WORD.findall(held)
