"""Speculative decoding: a second model, the draft, guesses some tokens, the first reads them all at once, and takes
those that it would have drawn, up to the first that it would not.

A guess that the draft drew with share q, and that the first model gives p, is taken with probability min(1, p / q), and
where it is not, a token is drawn of max(0, p - q): so each is as likely as the first model alone has it (Leviathan,
Kalman and Matias, arXiv 2211.17192; Chen and others, arXiv 2302.01318). Without a temperature all shares are 0 or 1:
the tokens are those of the first model.

Random bits are a hash of seed, row, position and what is drawn (a guess, whether it is taken, the next token). What was
drawn at a position of which nothing was taken has changed nothing before that position, so it may be drawn there again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from zlib import crc32

import numpy as np

from compiler.model import AHEAD, DECODE
from dsl.data import dataclass
from runtime.generate.loop import POOL, Continuation, Generated, Guesses, check_prompts, why_ended
from runtime.generate.reader import RowReader
from runtime.generate.sampling import NEXT_TOKEN, Sampling, picked
from runtime.inputs import Array

GUESS, TAKE = crc32(b"guessed token"), crc32(b"take the guess")


class Chance(Protocol):
    """What decides: one of so many, as likely as their shares `[n]` say, for a stream, a row and a position."""

    def __call__(self, shares: Array, stream: int, row: int, place: int) -> int: ...


@dataclass(frozen=True, slots=True)
class SeededChance:
    """By hashed bits."""

    seed: int

    def __call__(self, shares: Array, stream: int, row: int, place: int) -> int:
        return int(picked(shares[None], stream, self.seed, place, row)[0])


@dataclass(slots=True)
class _Text:
    """A sequence: the prompt's tokens and those that were made, how many the prompt has, why it ended."""

    tokens: list[int]
    prompt: int
    ended: str = ""


def speculate(
    target: RowReader,
    draft: RowReader,
    prompts: Sequence[Sequence[int]],
    steps: int,
    sampling: Sampling,
    ahead: int,
    stops: Callable[[Sequence[int]], bool] = lambda tokens: False,
    told: Callable[[int, Sequence[int]], None] = lambda row, tokens: None,
    chance: Chance | None = None,
) -> Generated:
    """Go on from each prompt for at most so many tokens, as `generate` does; what becomes of a row hangs on no other.

    Args:
        target: whose texts they are, with the entries `prefill`, `decode`, and `ahead` of one position more than are
            guessed. Both begin with nothing read, and can go back to any position.
        draft: what guesses, with `prefill` and `decode`.
        ahead: how many tokens are guessed at a time.
        chance: what decides instead of hashed bits of the seed.
        others: as of `generate`.

    Where caches lie in pages, a text ends that finds none for its next position; for guesses there need be none.

    Raises ParcError: E0784 for prompts that do not fit, E0786 where scores are no numbers, E0788 where the prompts have
    no pages.
    """
    check_prompts(target.ports, prompts)
    chance = chance or SeededChance(sampling.seed)
    texts = [_Text(list(p), len(p)) for p in prompts]
    target.begin(dict(enumerate(prompts)))
    draft.begin(dict(enumerate(prompts)), " of the draft")
    begun = time.perf_counter()
    whole = target.read_up_to({r: t.tokens[:-1] for r, t in enumerate(texts)}, chunks_only=True)
    draft.read_up_to({r: t.tokens[:-1] for r, t in enumerate(texts)}, chunks_only=True)
    since, calls, guessed, taken = time.perf_counter(), 0, 0, 0
    target.read_up_to({r: t.tokens[:-1] for r, t in enumerate(texts)})
    while running := _running(texts, target, draft):
        most = min(target.ports.places, draft.ports.places + 1) - ahead
        rows = [r for r in running if len(t := texts[r].tokens) <= most and _reserved(target, draft, r, len(t), ahead)]
        new: dict[int, list[int]] = {}
        if rows:
            guesses = _guessed(draft, {r: texts[r].tokens for r in rows}, ahead, sampling, chance)
            given = {r: [texts[r].tokens[-1], *(token for token, _ in guesses[r])] for r in rows}
            scores = target.call(AHEAD, given)
            calls += 1
            for r in rows:
                at = len(texts[r].tokens)
                new[r] = _taken(scores[r], guesses[r], sampling, chance, r, at)
                guessed, taken = guessed + ahead, taken + len(new[r]) - 1
                target.back(r, at + len(new[r]) - 1)
                draft.back(r, target.read[r])
        if alone := [r for r in running if r not in rows]:
            scores = target.call(DECODE, {r: texts[r].tokens[-1:] for r in alone})
            calls += 1
            for r in alone:
                new[r] = [chance(sampling.shares(scores[r])[-1], NEXT_TOKEN, r, len(texts[r].tokens))]
        for r in running:
            _go_on(texts[r], new[r], steps, target.ports.places, stops, lambda made, r=r: told(r, made))  # type: ignore[misc]
            if texts[r].ended:
                target.drop(r)
                draft.drop(r)
    seconds = (time.perf_counter() - since) / max(1, calls)
    found = tuple(Continuation(tuple(t.tokens[t.prompt :]), t.ended) for t in texts)
    pages = target.taken(len(prompts))
    return Generated(found, since - begun, seconds, whole * target.prefill, calls, Guesses(guessed, taken), pages)


def _running(texts: Sequence[_Text], target: RowReader, draft: RowReader) -> list[int]:
    """The rows that go on: those that have a page for their next position. What others might guess takes none of it."""
    found = []
    for r, t in enumerate(texts):
        if not t.ended and target.reserve(r, 1):
            found.append(r)
        elif not t.ended:
            t.ended = POOL
            target.drop(r)
            draft.drop(r)
    return found


def _reserved(target: RowReader, draft: RowReader, row: int, tokens: int, ahead: int) -> bool:
    """Have pages in which so many tokens are guessed behind these, and read; else the row goes on without guesses."""
    if not target.reserve(row, ahead + 1):
        return False
    if not draft.reserve(row, tokens + ahead - 1 - draft.read[row]):
        target.spare(row, 1)
        return False
    return True


def _guessed(
    draft: RowReader, sequences: Mapping[int, Sequence[int]], ahead: int, sampling: Sampling, chance: Chance
) -> dict[int, list[tuple[int, Array]]]:
    """What the draft guesses behind each sequence: tokens, each with the shares of all that it was drawn of."""
    draft.read_up_to({r: t[:-1] for r, t in sequences.items()}, chunks_only=True)
    tokens = {r: list(t) for r, t in sequences.items()}
    found: dict[int, list[tuple[int, Array]]] = {r: [] for r in sequences}
    while rows := [r for r, made in found.items() if len(made) < ahead]:
        scores = draft.call(DECODE, {r: [tokens[r][draft.read[r]]] for r in rows})
        for r in rows:
            if draft.read[r] == len(tokens[r]):
                shares = sampling.shares(scores[r])[-1]
                token = chance(shares, GUESS, r, len(tokens[r]))
                tokens[r].append(token)
                found[r].append((token, shares))
    return found


def _taken(
    scores: Array, guesses: Sequence[tuple[int, Array]], sampling: Sampling, chance: Chance, row: int, at: int
) -> list[int]:
    """The guesses that are taken, and one token more. scores: `[guesses + 1, tokens]`; at: the first one's position."""
    found: list[int] = []
    shares = sampling.shares(scores)
    for i, (token, q) in enumerate(guesses):
        p = shares[i]
        odds = min(1.0, p[token] / q[token])
        if not chance(np.array([1 - odds, odds]), TAKE, row, at + i):
            rest = np.maximum(p - q, 0.0)
            total = rest.sum()  # 0 only by rounding: p and q are the same, and every guess is taken
            return [*found, chance(rest / total if total > 0 else p, NEXT_TOKEN, row, at + i)]
        found.append(token)
    return [*found, chance(shares[-1], NEXT_TOKEN, row, at + len(guesses))]


def _go_on(
    text: _Text,
    new: Sequence[int],
    steps: int,
    places: int,
    stops: Callable[[Sequence[int]], bool],
    told: Callable[[Sequence[int]], None],
) -> None:
    """Put new tokens behind a sequence, up to its end."""
    for token in new:
        text.tokens.append(token)
        made = text.tokens[text.prompt :]
        told(made)
        text.ended = why_ended(text.prompt, made, steps, places, stops)
        if text.ended:
            return
