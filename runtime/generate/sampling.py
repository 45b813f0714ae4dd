"""Which token comes next: the likeliest, or one that is drawn, by random bits that hang on seed and place alone."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from dsl.data import dataclass
from runtime.inputs import Array
from runtime.numpy.create import fractions, hashed

NEXT_TOKEN = crc32(b"next token")


def picked(shares: Array, stream: int, seed: int, place: int, first: int = 0) -> Array:
    """One of each row's tokens, as likely as its share `[rows, tokens]` (of all of the row): by random bits that are a
    hash of the seed, the stream, the place, and the row's number, counted from `first`."""
    sums = np.cumsum(shares, 1)
    key = hashed(np.array(seed % 2**64, np.uint64), stream, place)
    u = fractions(hashed(key, np.arange(first, first + len(shares), dtype=np.uint64)), "f64")[:, None]
    found = (sums <= u * sums[:, -1:]).sum(1)
    last = shares.shape[1] - 1 - (np.nan_to_num(shares)[:, ::-1] > 0).argmax(1)  # u may round to the very end
    return np.asarray(np.minimum(found, last))


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature: 0 takes the likeliest; top_k: of so many, the likeliest; top_p: of the likeliest, as many as have
    that share of all together."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def shares(self, logits: Array) -> Array:
        """How likely each token is to be taken, of logits `[rows, tokens]`; f64. NaN where logits are."""
        x = np.asarray(logits, np.float64)
        rows = np.arange(len(x))[:, None]
        if self.temperature == 0:
            likeliest = np.zeros_like(x)
            likeliest[rows[:, 0], x.argmax(1)] = 1.0
            return np.where(np.isnan(x).any(1, keepdims=True), np.nan, likeliest)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            e = np.exp((x - x.max(1, keepdims=True)) / self.temperature)
        if self.top_k is None and self.top_p == 1:
            found: Array = e / e.sum(1, keepdims=True)
            return found
        order = np.argsort(-e, 1, kind="stable")  # of equal ones the first
        ranked = e[rows, order]
        if self.top_k is not None:
            ranked[:, self.top_k :] = 0.0
        ranked /= ranked.sum(1, keepdims=True)
        before = np.cumsum(ranked, 1) - ranked
        ranked = np.where(before < self.top_p, ranked, 0.0)
        found = np.zeros_like(e)
        found[rows, order] = ranked / ranked.sum(1, keepdims=True)
        return found

    def draw(self, logits: Array, place: int, first: int = 0) -> Array:
        """A token for each row, at a position: of logits `[rows, tokens]`. first: the number of the first row."""
        if self.temperature == 0:
            x = np.asarray(logits)
            return np.where(np.isnan(x).any(1), 0, x.argmax(1))
        return picked(self.shares(logits), NEXT_TOKEN, self.seed, place, first)
