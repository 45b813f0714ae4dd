"""A request for completions on its way: its sequences, their texts as they grow, and what is told of them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from dsl.diagnostics import ParcError
from parc.serving.asking import CompletionAsked, Prompt
from parc.serving.faults import Fault
from parc.serving.office import Office, Sequence
from parc.serving.texts import GrowingText
from runtime.generate.loop import Ports
from runtime.generate.rows import Made, SequenceAsked
from runtime.generate.sampling import Sampling
from runtime.generate.tokenizers import Tokenizer

USUAL_TOKENS = 16
"""How many tokens a text gets where the request does not say."""


class TextChoice:
    """One of the texts: its sequence, what was made of it, and why it ended (`stop`, `length`, or "")."""

    def __init__(self, index: int, known: Tokenizer, asked: CompletionAsked, before: str) -> None:
        self.index, self.known = index, known
        self.text = GrowingText(known, asked.stops)
        self.scores = asked.likely is not None
        self.ended = ""
        self.sequence: Sequence | None = None
        self.before, self.at = before, len(before)
        self.fresh: list[tuple[Made, int]] = []
        """Tokens that were not told yet, with the place of each in the text."""

    def over(self) -> bool:
        """Whether nothing follows."""
        return self.ended != ""

    def take(self, made: Made) -> str:
        """A token more; the text that became sure."""
        self.fresh.append((made, self.at + len(self.text.text)))
        new = self.text.add(made.token)
        if self.text.stopped:
            self.ended = "stop"
        elif made.ended:
            self.ended = "length"
            new += self.text.rest()
        return new

    def likelihoods(self) -> dict[str, Any] | None:
        """What is told of the tokens since the last time."""
        fresh, self.fresh = self.fresh, []
        if not self.scores:
            return None
        name = self.known.decode
        return {
            "tokens": [name([m.token]) for m, _ in fresh],
            "token_logprobs": [m.share for m, _ in fresh],
            "top_logprobs": [{name([t]): x for t, x in reversed(m.likeliest)} for m, _ in fresh],
            "text_offset": [at for _, at in fresh],
        }


class Completion:
    """The whole request. Use `async with`: at the end, however it comes, its rows are free."""

    def __init__(self, asked: CompletionAsked, office: Office, ports: Ports, known: Tokenizer) -> None:
        """Raises Fault for prompts that cannot be read, or do not fit."""
        self.asked, self.office = asked, office
        self.id, self.created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        prompts = [tokens_of(p, ports, known) for p in asked.prompts]
        self.prompt_tokens = sum(map(len, prompts))
        self.wanted: list[SequenceAsked] = []
        self.choices: list[TextChoice] = []
        for p, tokens in zip(asked.prompts, prompts):
            before = (p if isinstance(p, str) else known.decode(p)) if asked.echo else ""
            for i in range(asked.n):
                sampling = Sampling(asked.temperature, asked.top_k, asked.top_p, asked.seed)
                self.wanted.append(
                    SequenceAsked(tokens, steps_of(asked, len(tokens), ports), sampling, 0, i, asked.likely)
                )
                self.choices.append(TextChoice(len(self.choices), known, asked, before))
        self._heard: asyncio.Queue[tuple[TextChoice, Made | Fault]] = asyncio.Queue()

    async def __aenter__(self) -> Completion:
        """Accept it. Raises Fault where that cannot be."""
        self.office.check(len(self.wanted))
        for choice, asked in zip(self.choices, self.wanted):
            choice.sequence = self.office.accept(asked, partial(self._hear, choice))
        return self

    def _hear(self, choice: TextChoice, found: Made | Fault) -> None:
        self._heard.put_nowait((choice, found))

    async def __aexit__(self, *_: object) -> None:
        for choice in self.choices:
            if choice.sequence is not None:
                self.office.drop(choice.sequence)

    async def pieces(self) -> AsyncIterator[tuple[TextChoice, str]]:
        """The texts as they grow: which one, and what is new of it. Raises Fault where one cannot go on."""
        left = len(self.choices)
        while left:
            choice, found = await self._heard.get()
            if isinstance(found, Fault):
                raise found
            if choice.over():
                continue  # a token behind a stop
            new = choice.take(found)
            if choice.over():
                left -= 1
                assert choice.sequence is not None
                self.office.drop(choice.sequence)
            yield choice, new

    def usage(self) -> dict[str, int]:
        """Tokens, so far."""
        made = sum(len(c.text.tokens) for c in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }

    def head(self, object: str) -> dict[str, Any]:
        """What every answer and every piece of one begins with."""
        return {"id": self.id, "object": object, "created": self.created, "model": self.asked.model}

    def whole(self) -> dict[str, Any]:
        """The answer, once all texts have ended."""
        choices = [
            {
                "index": c.index,
                "text": c.before + c.text.text,
                "logprobs": c.likelihoods(),
                "finish_reason": c.ended,
            }
            for c in self.choices
        ]
        return self.head("text_completion") | {"choices": choices, "usage": self.usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces. Raises as `pieces`."""
        begun: set[int] = set()
        async for c, new in self.pieces():
            if not new and not c.ended:
                continue
            if c.index not in begun:
                begun.add(c.index)
                new = c.before + new
            yield self._chunk(
                [{"index": c.index, "text": new, "logprobs": c.likelihoods(), "finish_reason": c.ended or None}]
            )
        if self.asked.usage:
            yield self._chunk([]) | {"usage": self.usage()}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self.asked.usage else {}
        return self.head("text_completion") | {"choices": choices} | usage


def tokens_of(prompt: Prompt, ports: Ports, known: Tokenizer) -> tuple[int, ...]:
    """The tokens of a prompt. Raises Fault (400) for what cannot be read, and for more than there are positions."""
    if isinstance(prompt, str):
        try:
            prompt.encode()
            found = tuple(known.encode(prompt))
        except ParcError as error:
            raise Fault(400, error.diagnostics[0].message, "prompt", "invalid_value") from None
        except UnicodeEncodeError:
            raise Fault(400, "`prompt` has half a character (a surrogate)", "prompt", "invalid_value") from None
    else:
        found = prompt
        if max(found) >= known.size:
            message = f"`prompt` has the token {max(found)}, there are {known.size}"
            raise Fault(400, message, "prompt", "invalid_value")
    if not found:
        raise Fault(400, "`prompt` is empty: it has one token at least", "prompt", "invalid_value")
    if len(found) > ports.places:
        raise Fault(400, _too_long(len(found), None, ports.places), "prompt", "context_length_exceeded")
    return found


def steps_of(asked: CompletionAsked, prompt: int, ports: Ports) -> int:
    """How many tokens are made at most. Raises Fault (400) for more than there is place for."""
    room = ports.places - prompt + 1  # the last one is read by nobody
    if asked.most is not None and asked.most > room:
        raise Fault(400, _too_long(prompt, asked.most, ports.places), "max_tokens", "context_length_exceeded")
    return min(room, asked.most or USUAL_TOKENS)


def _too_long(prompt: int, most: int | None, places: int) -> str:
    more = f" and `max_tokens` of {most}" if most is not None else ""
    return f"the model has {places} positions, the prompt has {prompt} tokens{more}: make it shorter"
