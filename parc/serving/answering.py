"""A request for completions on its way: its sequences, their texts as they grow, and what is told of them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from dsl.diagnostics import ParcError
from parc.serving.asking import Prompt, TextsAsked
from parc.serving.counting import Counted
from parc.serving.crew import Sequence
from parc.serving.faults import Fault
from parc.serving.forms import CHAT, COMPLETION, AnswerForm, Fresh
from parc.serving.office import Office
from parc.serving.templates import ChatTemplate
from parc.serving.texts import GrowingText
from runtime.generate.encoding import EncoderPorts, VectorMade
from runtime.generate.loop import Ports
from runtime.generate.rows import Made, SequenceAsked
from runtime.generate.sampling import Sampling
from runtime.generate.tokenizers import Tokenizer

USUAL_TOKENS = 16
"""How many tokens a text gets where the request does not say."""


class TextChoice:
    """One of the texts: its sequence, what was made of it, and why it ended (`stop`, `length`, or "")."""

    def __init__(self, index: int, known: Tokenizer, asked: TextsAsked, before: str, end: int | None) -> None:
        self.index, self.known, self.end = index, known, end
        self.text = GrowingText(known, asked.stops)
        self.scores = asked.likely is not None
        self.ended = ""
        self.sequence: Sequence | None = None
        self.before, self.at = before, len(before)
        self.since: float | None = None
        """When the last token came."""
        self.fresh: list[Fresh] = []
        """Tokens that were not told yet, with the place of each in the text."""

    def over(self) -> bool:
        """Whether nothing follows."""
        return self.ended != ""

    def take(self, made: Made) -> str:
        """A token more; the text that became sure."""
        self.fresh.append((made, self.at + len(self.text.text)))
        if made.token == self.end:
            self.ended = "stop"
            return self.text.rest()
        new = self.text.add(made.token)
        if self.text.stopped:
            self.ended = "stop"
        elif made.ended:
            self.ended = "length"
            new += self.text.rest()
        return new

    def likelihoods(self, form: AnswerForm) -> dict[str, Any] | None:
        """What is told of the tokens since the last time."""
        fresh, self.fresh = self.fresh, []
        return form.likelihoods(fresh, self.known) if self.scores else None


class TextMaker:
    """What makes texts: an office, how its model takes tokens, what texts they are; and, if there are any, what makes a
    prompt of a chat, and the token by which a text ends."""

    def __init__(
        self, office: Office, ports: Ports, known: Tokenizer, chat: ChatTemplate | None = None, end: int | None = None
    ) -> None:
        self.office, self.ports, self.known, self.chat, self.end = office, ports, known, chat, end


class Completion:
    """The whole request. Use `async with`: at the end, however it comes, its rows are free."""

    def __init__(self, asked: TextsAsked, writer: TextMaker, counted: Counted, about: dict[str, Any]) -> None:
        """about: is told of what is used. Raises Fault for prompts that cannot be read, or do not fit."""
        self.counted, self.about = counted, about
        ports, known = writer.ports, writer.known
        self.asked, self.office, self.form = asked, writer.office, CHAT if asked.chat else COMPLETION
        self.id, self.created = f"{self.form.prefix}-{secrets.token_hex(12)}", int(time.time())
        texts = asked.prompts
        if asked.chat:
            if writer.chat is None:
                help = "it has no chat template (`parc serve --chat-template`): `/v1/completions` takes texts"
                raise Fault(400, f"the model `{asked.model}` does not chat: {help}", "messages", "no_chat_template")
            texts = (writer.chat.prompt(asked.chat),)
        where = "messages" if asked.chat else "prompt"
        prompts = [tokens_of(p, ports, known, where) for p in texts]
        self.prompt_tokens = sum(map(len, prompts))
        self.wanted: list[SequenceAsked] = []
        self.choices: list[TextChoice] = []
        for p, tokens in zip(texts, prompts):
            before = (p if isinstance(p, str) else known.decode(p)) if asked.echo else ""
            for i in range(asked.n):
                sampling = Sampling(asked.temperature, asked.top_k, asked.top_p, asked.seed)
                self.wanted.append(
                    SequenceAsked(tokens, steps_of(asked, len(tokens), ports), sampling, 0, i, asked.likely)
                )
                self.choices.append(TextChoice(len(self.choices), known, asked, before, writer.end))
        self._heard: asyncio.Queue[tuple[TextChoice, Made | Fault]] = asyncio.Queue()

    async def __aenter__(self) -> Completion:
        """Accept it. Raises Fault where that cannot be."""
        self.office.check(len(self.wanted))
        self.counted.prompt_tokens += self.prompt_tokens
        self.begun = time.monotonic()
        for choice, asked in zip(self.choices, self.wanted):
            choice.sequence = self.office.accept(asked, partial(self._hear, choice))
        return self

    def _hear(self, choice: TextChoice, found: Made | VectorMade | Fault) -> None:
        assert not isinstance(found, VectorMade)
        self._heard.put_nowait((choice, found))

    async def __aexit__(self, *_: object) -> None:
        for choice in self.choices:
            if choice.sequence is not None:
                self.office.drop(choice.sequence)
        self.about |= self.usage()

    async def pieces(self) -> AsyncIterator[tuple[TextChoice, str]]:
        """The texts as they grow: which one, and what is new of it. Raises Fault where one cannot go on."""
        left = len(self.choices)
        while left:
            choice, found = await self._heard.get()
            if isinstance(found, Fault):
                raise found
            if choice.over():
                continue  # a token behind a stop
            now = time.monotonic()
            if choice.since is None:
                self.about.setdefault("first_token_seconds", round(now - self.begun, 6))
                self.counted.first.see(now - self.begun)
            else:
                self.counted.each.see(now - choice.since)
            choice.since = now
            try:
                new = choice.take(found)
            except ParcError as error:  # its tokenizer makes no text of these tokens
                raise Fault(500, error.diagnostics[0].message) from None
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
        form = self.form
        choices = [
            {"index": c.index}
            | form.choice(c.text, c.before)
            | {"logprobs": c.likelihoods(form), "finish_reason": c.ended}
            for c in self.choices
        ]
        return self.head(form.whole) | {"choices": choices, "usage": self.usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces. Raises as `pieces`."""
        begun: set[int] = set()
        async for c, new in self.pieces():
            if not new and not c.ended:
                continue
            first = c.index not in begun
            begun.add(c.index)
            part = self.form.part(c.before + new if first else new, first)
            told = {"logprobs": c.likelihoods(self.form), "finish_reason": c.ended or None}
            yield self._chunk([{"index": c.index} | part | told])
        if self.asked.usage:
            yield self._chunk([]) | {"usage": self.usage()}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self.asked.usage else {}
        return self.head(self.form.piece) | {"choices": choices} | usage


def tokens_of(prompt: Prompt, ports: Ports | EncoderPorts, known: Tokenizer, where: str) -> tuple[int, ...]:
    """The tokens of a prompt. Raises Fault (400) for what cannot be read, and for more than there are positions; where:
    the parameter that has it."""
    if isinstance(prompt, str):
        try:
            prompt.encode()
            found = tuple(known.encode(prompt, bare=where == "messages"))
        except ParcError as error:
            raise Fault(400, error.diagnostics[0].message, where, "invalid_value") from None
        except UnicodeEncodeError:
            raise Fault(400, f"`{where}` has half a character (a surrogate)", where, "invalid_value") from None
    else:
        found = prompt
        if max(found) >= known.size:
            message = f"`{where}` has the token {max(found)}, there are {known.size}"
            raise Fault(400, message, where, "invalid_value")
    if not found:
        raise Fault(400, f"`{where}` is empty: it has one token at least", where, "invalid_value")
    if len(found) > ports.places:
        raise Fault(400, _too_long(len(found), None, ports.places), where, "context_length_exceeded")
    return found


def steps_of(asked: TextsAsked, prompt: int, ports: Ports) -> int:
    """How many tokens are made at most. Raises Fault (400) for more than there is place for."""
    room = ports.places - prompt + 1  # the last one is read by nobody
    if asked.most is not None and asked.most > room:
        raise Fault(400, _too_long(prompt, asked.most, ports.places), "max_tokens", "context_length_exceeded")
    return min(room, asked.most or USUAL_TOKENS)


def _too_long(prompt: int, most: int | None, places: int) -> str:
    more = f" and `max_tokens` of {most}" if most is not None else ""
    return f"the model has {places} positions, the prompt has {prompt} tokens{more}: make it shorter"
