"""How answers look: those to completions, and those to chats, whole and in pieces."""

from __future__ import annotations

from typing import Any, Protocol

from parc.serving.texts import GrowingText
from runtime.generate.rows import Made
from runtime.generate.tokenizers import Tokenizer

Fresh = tuple[Made, int]
"""A token that was not told of yet, and its place in the text."""


class AnswerForm(Protocol):
    """prefix: of the answers' names; whole, piece: what they say that they are."""

    prefix: str
    whole: str
    piece: str

    def choice(self, text: GrowingText, before: str) -> dict[str, Any]:
        """What was made, of the whole answer."""
        ...

    def part(self, new: str, first: bool) -> dict[str, Any]:
        """What is new, of a piece."""
        ...

    def likelihoods(self, fresh: list[Fresh], known: Tokenizer) -> dict[str, Any]:
        """How likely these tokens are."""
        ...


class CompletionForm:
    """Of `/v1/completions`."""

    prefix, whole, piece = "cmpl", "text_completion", "text_completion"

    def choice(self, text: GrowingText, before: str) -> dict[str, Any]:
        return {"text": before + text.text}

    def part(self, new: str, first: bool) -> dict[str, Any]:
        return {"text": new}

    def likelihoods(self, fresh: list[Fresh], known: Tokenizer) -> dict[str, Any]:
        name = known.decode
        return {
            "tokens": [name([m.token]) for m, _ in fresh],
            "token_logprobs": [m.share for m, _ in fresh],
            "top_logprobs": [{name([t]): x for t, x in reversed(m.likeliest)} for m, _ in fresh],
            "text_offset": [at for _, at in fresh],
        }


class ChatForm:
    """Of `/v1/chat/completions`."""

    prefix, whole, piece = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, text: GrowingText, before: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text.text, "refusal": None}}

    def part(self, new: str, first: bool) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": new} if first else {"content": new} if new else {}}

    def likelihoods(self, fresh: list[Fresh], known: Tokenizer) -> dict[str, Any]:
        def told(token: int, share: float | None) -> dict[str, Any]:
            text = known.decode([token])
            return {"token": text, "logprob": share, "bytes": list(text.encode("utf-8", "replace"))}

        return {
            "content": [
                told(m.token, m.share) | {"top_logprobs": [told(t, x) for t, x in m.likeliest]} for m, _ in fresh
            ],
            "refusal": None,
        }


COMPLETION, CHAT = CompletionForm(), ChatForm()
