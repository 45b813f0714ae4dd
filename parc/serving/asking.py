"""Requests for completions: from the bytes of a body to what is asked for, or the fault that it has."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from dsl.data import dataclass
from parc.serving.faults import Fault
from parc.serving.limits import Limits

Prompt = str | tuple[int, ...]
"""A text, or its tokens."""

Message = Mapping[str, str]
"""Of a chat: its `role` and `content`, and maybe a `name`."""

MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TextsAsked:
    """A request for texts. prompts: of each `n` are made; most: how many tokens each gets; None: what is usual. chat:
    the messages that a template makes the prompt of; none of a completion.
    """

    model: str
    prompts: tuple[Prompt, ...]
    chat: tuple[Message, ...]
    most: int | None
    temperature: float
    top_p: float
    top_k: int | None
    n: int
    seed: int
    stops: tuple[str, ...]
    likely: int | None
    echo: bool
    stream: bool
    usage: bool


def body_of(content: bytes) -> Mapping[str, Any]:
    """The object that a body is. Raises Fault."""
    try:
        found = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise Fault(400, "the body is no UTF-8 text") from None
    except RecursionError:
        raise Fault(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Fault(400, f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Fault(400, "the body is no JSON object")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


_REFUSED: Mapping[str, Callable[[Any], bool]] = {
    "suffix": lambda x: x is None,
    "presence_penalty": lambda x: x in (None, 0),
    "frequency_penalty": lambda x: x in (None, 0),
    "logit_bias": lambda x: x in (None, {}),
}
"""What is taken only where it asks for nothing."""

_COMMON = (
    "model", "max_tokens", "temperature", "top_p", "top_k", "n", "seed", "stop", "logprobs", "stream",
    "stream_options", "user",
)  # fmt: skip

_NO_TOOLS: Mapping[str, Callable[[Any], bool]] = {
    name: _REFUSED[name] for name in ("presence_penalty", "frequency_penalty", "logit_bias")
} | {
    "tools": lambda x: x in (None, []),
    "tool_choice": lambda x: x in (None, "none", "auto"),
    "response_format": lambda x: x in (None, {"type": "text"}),
    "modalities": lambda x: x in (None, ["text"]),
    "store": lambda x: x in (None, False),
}


def chat_of(body: Mapping[str, Any], limits: Limits) -> TextsAsked:
    """What a request for the next message asks for. Raises Fault (400) by the parameter that is wrong."""
    read = Fields(
        body, (*_COMMON, "messages", "max_completion_tokens", "top_logprobs", "metadata", *_NO_TOOLS), _NO_TOOLS
    )
    likely = read.whole("top_logprobs", None, 0, limits.likely)
    if read.flag("logprobs"):
        likely = likely or 0
    elif likely is not None:
        raise Fault(400, "`top_logprobs` goes with `logprobs`", "top_logprobs")
    most = read.whole("max_completion_tokens", read.whole("max_tokens", None, 1, MOST_TOKENS), 1, MOST_TOKENS)
    return _texts(read, limits, (), read.messages(), most, likely, False)


def completion_of(body: Mapping[str, Any], limits: Limits) -> TextsAsked:
    """What it asks for. Raises Fault (400) by the parameter that is wrong."""
    read = Fields(body, (*_COMMON, "prompt", "best_of", "echo", *_REFUSED), _REFUSED)
    n = read.whole("n", 1, 1, limits.sequences)
    if read.whole("best_of", n, 1, limits.sequences) != n:
        raise Fault(400, "`best_of` must be `n`: all texts that are made are given", "best_of")
    prompts = read.prompts()
    if len(prompts) * n > limits.sequences:
        message = f"{len(prompts)} prompts with `n` = {n}: at most {limits.sequences} texts are made for a request"
        raise Fault(400, message, "n" if n > 1 else "prompt")
    likely = read.whole("logprobs", None, 0, limits.likely)
    echo = read.flag("echo")
    if echo and likely is not None:
        raise Fault(400, "`echo` with `logprobs` is not there: the prompt's tokens are not scored", "echo")
    return _texts(read, limits, prompts, (), read.whole("max_tokens", None, 1, MOST_TOKENS), likely, echo)


def _texts(
    read: Fields,
    limits: Limits,
    prompts: tuple[Prompt, ...],
    chat: tuple[Message, ...],
    most: int | None,
    likely: int | None,
    echo: bool,
) -> TextsAsked:
    """With what both kinds of requests say alike."""
    return TextsAsked(
        read.text("model"),
        prompts,
        chat,
        most,
        read.number("temperature", 1.0, 0.0, 2.0),
        read.share("top_p"),
        read.whole("top_k", None, 1, MOST_TOKENS),
        read.whole("n", 1, 1, limits.sequences),
        read.seed(),
        read.stops(limits),
        likely,
        echo,
        read.flag("stream"),
        read.usage(),
    )


class Fields:
    """Reads parameters by name; each may be null, which is as if it were not there."""

    def __init__(
        self, body: Mapping[str, Any], known: Sequence[str], refused: Mapping[str, Callable[[Any], bool]]
    ) -> None:
        """Raises Fault for a parameter that is not known, or that asks for what is not there."""
        self.body = body
        for name, value in body.items():
            if name not in known:
                raise Fault(400, f"there is no parameter `{name[:64]}`", name[:64], "unknown_parameter")
            if name in refused and not refused[name](value):
                raise Fault(400, f"`{name}` is not supported", name, "unsupported_parameter")

    def get(self, name: str) -> Any:
        return self.body.get(name)

    def wrong(self, name: str, expected: str) -> Fault:
        """The fault of a value that is none of what is expected."""
        return Fault(400, f"`{name}` must be {expected}", name, "invalid_value")

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return bool(value)

    def whole(self, name: str, usual: Any, low: int, high: int) -> Any:
        value = self.get(name)
        if value is None:
            return usual
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, usual: float, low: float, high: float) -> float:
        value = self.get(name)
        if value is None:
            return usual
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not plain or not low <= value <= high or not isfinite(value):
            raise self.wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def share(self, name: str) -> float:
        value = self.number(name, 1.0, 0.0, 1.0)
        if value == 0.0:
            raise self.wrong(name, "a number above 0, up to 1")
        return value

    def seed(self) -> int:
        """The seed; one that nobody knows, if none is said."""
        found = self.whole("seed", None, -(2**63), 2**64 - 1)
        return secrets.randbits(63) if found is None else int(found) % 2**64

    def stops(self, limits: Limits) -> tuple[str, ...]:
        value = self.get("stop")
        found = [] if value is None else [value] if isinstance(value, str) else value
        few = isinstance(found, list) and len(found) <= limits.stops
        if not few or not all(isinstance(s, str) and 0 < len(s) <= limits.stop for s in found):
            raise self.wrong("stop", f"a text, or up to {limits.stops}, of 1 to {limits.stop} characters each")
        return tuple(found)

    def usage(self) -> bool:
        """Whether a stream ends with what was used."""
        value = self.get("stream_options")
        if value is None:
            return False
        if not self.flag("stream"):
            raise Fault(400, "`stream_options` is for `stream` only", "stream_options")
        if not isinstance(value, dict) or not value.keys() <= {"include_usage", "include_obfuscation"}:
            raise self.wrong("stream_options", "an object with `include_usage`")
        return Fields(value, tuple(value), {}).flag("include_usage")

    def messages(self) -> tuple[Message, ...]:
        """What was said so far: texts, or parts that are texts."""
        value = self.get("messages")
        if not isinstance(value, list) or not value:
            raise self.wrong("messages", "a list of messages, one at least")
        return tuple(self._message(m, f"messages[{i}]") for i, m in enumerate(value))

    def _message(self, value: Any, where: str) -> Message:
        if not isinstance(value, dict) or not isinstance(value.get("role"), str):
            raise self.wrong(where, "an object with a `role` and a `content`")
        content = value.get("content")
        if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
            parts = [p.get("text") for p in content]
            content = "".join(parts) if all(isinstance(p, str) for p in parts) else None
        if not isinstance(content, str):
            raise self.wrong(f"{where}.content", "a text, or parts of the type `text`")
        if not isinstance(value.get("name", ""), str):
            raise self.wrong(f"{where}.name", "a text")
        named = {"name": value["name"]} if "name" in value else {}
        return {"role": value["role"], "content": content} | named

    def prompts(self, name: str = "prompt") -> tuple[Prompt, ...]:
        """Texts, or tokens: one, or several."""
        value = self.get(name)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and value:
            if all(isinstance(x, str) for x in value):
                return tuple(value)
            if _tokens(value):
                return (tuple(value),)
            if all(_tokens(x) for x in value):
                return tuple(tuple(x) for x in value)
        raise self.wrong(name, "a text, a list of texts, a list of tokens, or a list of such lists")


def _tokens(value: Any) -> bool:
    whole = isinstance(value, list) and bool(value)
    return whole and all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x <= MOST_TOKENS for x in value)
