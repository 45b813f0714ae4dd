"""Prompts are read, in chunks as far as all of them go; then each sequence goes on token by token, all side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from compiler.graph import Type
from compiler.model import DECODE, PREFILL, Decoding, Model
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from dsl.source import Span
from runtime.executor import Executor
from runtime.generate.pages import PagesTaken, PageTable
from runtime.generate.sampling import Sampling
from runtime.inputs import Array

LENGTH, STOP, CONTEXT, POOL = "length", "stop", "context", "pages"
"""Why a sequence ends: it has as many tokens as were asked for, its text has a stop in it, no place is left, or no page
of a pool that sequences share."""


@dataclass(frozen=True, slots=True)
class Ports:
    """How a model that decodes takes tokens, and what it makes of them.

    name, type: of its data, of all positions; high: of how many tokens the scores count; scores: the name of
    the output that has one dim more, and its dims in order: (rows, positions, tokens) by their places.
    """

    name: str
    type: Type
    dim: str
    high: int | None
    scores: str
    order: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many sequences there are."""
        return self.type.elements // self.type.size(self.dim)

    @property
    def places(self) -> int:
        """How many positions there can be."""
        return self.type.size(self.dim)

    @staticmethod
    def of(model: Model, decoding: Decoding, span: Span) -> Ports:
        """Of a model as `infer` runs it. Raises ParcError (E0783) where it is no model of tokens."""
        dim = decoding.dim
        (first, *others) = model.inputs
        t = first.value.type
        if others or t.dtype != "int32" or not t.has(dim) or len(t.dims) > 2:
            found = ", ".join(f"`{i.value.name}`: {i.value.type}" for i in model.inputs)
            help = f"one input of whole numbers, `int32[b, {dim}]`"
            raise fail(
                "E0783", f"text is made of one input of tokens, the model `{model.name}` has {found}", span, help=help
            )
        for name, v in zip(model.outputs, model.of_outputs):
            more = [n for n in v.type.names if not t.has(n)]
            if len(more) == 1 and len(v.type.dims) == len(t.dims) + 1 and v.type.is_float:
                order = [n for n in t.names if n != dim] + [dim, more[0]]
                return Ports(first.value.name, t, dim, first.high, name, tuple(v.type.index(n) for n in order))
        help = f"`output logits`, of {', '.join(t.names)} and one dim more"
        raise fail("E0783", f"the model `{model.name}` puts out no scores of tokens", span, help=help)

    def given(self, tokens: Array) -> Array:
        """Tokens `[rows, positions]` as the model's data."""
        found = tokens if len(self.type.dims) == 2 else tokens[0]
        return found.T if len(self.type.dims) == 2 and self.type.names[0] == self.dim else found

    def every(self, outputs: Array) -> Array:
        """The scores `[rows, positions, tokens]`, of a model with a dim of sequences."""
        found = np.transpose(outputs, self.order)
        return found[..., : self.high] if self.high is not None else found

    def require_numbers(self, scores: Array, position: int) -> None:
        """Raise ParcError (E0786) where scores at a position are no numbers."""
        if np.isnan(scores).any():
            help = "a mask by a number is too weak for these weights, or they are no numbers"
            raise fail("E0786", f"the output `{self.scores}` is not a number at position {position}", help=help)

    def last(self, outputs: Array) -> Array:
        """The scores `[rows, tokens]` at the last of the positions that were given."""
        found = np.transpose(outputs, self.order)
        found = found[:, -1] if found.ndim == 3 else found[None, -1]
        return found[:, : self.high] if self.high is not None else found


@dataclass(frozen=True, slots=True)
class Continuation:
    """What was made of one prompt: its tokens without the prompt's, and why it ended. score: of the best of beams."""

    tokens: tuple[int, ...]
    ended: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Guesses:
    """How many tokens a second model guessed, and how many of them were taken."""

    made: int
    taken: int


@dataclass(frozen=True, slots=True)
class Generated:
    """All of them. prefill_seconds: of reading `chunks` positions at once, as far as all prompts go; token_seconds: of
    each position after that, on the average of `singles`. guesses: of a second model. pages: where caches lie in some.
    """

    sequences: tuple[Continuation, ...]
    prefill_seconds: float
    token_seconds: float
    chunks: int
    singles: int
    guesses: Guesses | None = None
    pages: PagesTaken | None = None


def generate(
    run: Executor,
    ports: Ports,
    decoding: Decoding,
    prompts: Sequence[Sequence[int]],
    steps: int,
    sampling: Sampling,
    stops: Callable[[Sequence[int]], bool] = lambda tokens: False,
    told: Callable[[int, Sequence[int]], None] = lambda row, tokens: None,
    pages: PageTable | None = None,
) -> Generated:
    """Go on from each prompt for at most so many tokens.

    All sequences are at one position: those with longer prompts read on where others generate already. Rows of the
    batch without a prompt repeat the first; they have no pages, nor has what has ended.

    Args:
        run: with the entries `prefill` and `decode`, at position 0.
        prompts: tokens, at least one each.
        steps: the most tokens that are made of each.
        stops: whether a sequence ends with these tokens.
        told: hears of a row's tokens so far, after each.
        pages: who has which, where caches lie in pages; nobody has any yet.

    Raises ParcError: E0784 for prompts that do not fit, E0786 where scores are no numbers.
    """
    check_prompts(ports, prompts)
    if pages is not None:
        pages.begin_all({row: len(p) for row, p in enumerate(prompts)})
    tokens = np.zeros((ports.rows, ports.places), np.int32)
    for row in range(ports.rows):
        prompt = prompts[row] if row < len(prompts) else prompts[0]
        tokens[row, : len(prompt)] = prompt
    lengths = [len(p) for p in prompts]
    made: list[list[int]] = [[] for _ in prompts]
    ended = [""] * len(prompts)
    at, chunk = 0, decoding.prefill
    begun = time.perf_counter()
    scores: Array | None = None

    def read(entry: str, last: str, length: int) -> Array:
        """Positions of all that go on; what has no page for them ends."""
        for row in range(len(prompts) if pages is not None else 0):
            assert pages is not None
            if not ended[row] and not pages.reach(row, at + length):
                ended[row] = POOL
                pages.release(row)
        given = {f"{ports.name}.{last}": ports.given(tokens[:, at : at + length])}
        done = run.call(entry, given | (pages.given if pages is not None else {}))
        return ports.last(done.outputs[ports.scores])

    while chunk > 1 and at + chunk <= min(lengths):
        scores = read(PREFILL, "first", chunk)
        at += chunk
    chunks, singles, since = at, 0, time.perf_counter()
    while True:
        fresh = [row for row, length in enumerate(lengths) if at >= length and not ended[row]]
        if fresh:
            assert scores is not None
            ports.require_numbers(scores[fresh], at - 1)
            drawn = sampling.draw(scores, at)
            for row in fresh:
                if at < ports.places:
                    tokens[row, at] = drawn[row]
                made[row].append(int(drawn[row]))
                told(row, made[row])
                ended[row] = why_ended(lengths[row], made[row], steps, ports.places, stops)
                if ended[row] and pages is not None:
                    pages.release(row)
        if all(ended):
            break
        scores = read(DECODE, "next", 1)
        at, singles = at + 1, singles + 1
    now = time.perf_counter()
    found = tuple(Continuation(tuple(t), e) for t, e in zip(made, ended))
    taken = None if pages is None else pages.taken(len(prompts))
    return Generated(found, since - begun, (now - since) / max(1, singles), chunks, singles, pages=taken)


def why_ended(prompt: int, made: Sequence[int], steps: int, places: int, stops: Callable[[Sequence[int]], bool]) -> str:
    """Why a text ends with these tokens behind a prompt of so many; "" where it goes on."""
    if stops(made):
        return STOP
    if len(made) == steps:
        return LENGTH
    return CONTEXT if prompt + len(made) > places else ""


def check_prompts(ports: Ports, prompts: Sequence[Sequence[int]]) -> None:
    """Raise ParcError (E0784) for prompts that do not fit."""
    if not prompts:
        raise _prompt("there is no prompt", "`--prompt TEXT`")
    if len(prompts) > ports.rows:
        raise _prompt(f"{len(prompts)} prompts for a batch of {ports.rows}", "the batch is a size of the job's model")
    for prompt in prompts:
        if not prompt:
            raise _prompt("a prompt is empty", "it has one token at least")
        if len(prompt) > ports.places:
            raise _prompt(
                f"a prompt has {len(prompt):,} tokens, there are {ports.places:,} positions along `{ports.dim}`",
                "take a shorter one, or a model with more",
            )


def _prompt(what: str, help: str) -> ParcError:
    return fail("E0784", what, help=help)
