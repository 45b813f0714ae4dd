"""Chat templates: what was said so far, as the text that a model goes on from; kept as Hugging Face's tokenizers do."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from parc.serving.asking import Message
from parc.serving.faults import Fault

_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_MOST = 2**22
"""Bytes of a file, and characters that a template makes."""


@dataclass(frozen=True, slots=True)
class ChatConfig:
    """What stands beside a tokenizer. template: Jinja, if there is any; tokens: by name (`eos_token`), as texts."""

    template: str | None
    tokens: dict[str, str]


def chat_config(tokenizer: str | None, template: str | None) -> ChatConfig:
    """Of the folder of a `tokenizer.json`, or, if one is named, of the template's file.

    Raises ParcError: E0785 for a file that is not there, or is none.
    """
    found = ChatConfig(None, {})
    path = None if tokenizer is None else Path(tokenizer)
    if path is not None and os.path.isfile(path):
        beside = path.parent / "tokenizer_config.json"
        if os.path.isfile(beside):
            found = _config(_read(beside), beside)
        if os.path.isfile(path.parent / "chat_template.jinja"):
            found = ChatConfig(_read(path.parent / "chat_template.jinja"), found.tokens)
    return found if template is None else ChatConfig(_read(Path(template)), found.tokens)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
        if len(content) > _MOST:
            raise fail("E0785", f"`{path}` has more than {_MOST:,} bytes", help="a file of a tokenizer")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise fail("E0785", f"cannot read `{path}`: {error}", help="a template, or the folder of a tokenizer") from None


def _config(text: str, path: Path) -> ChatConfig:
    try:
        found = json.loads(text)
        template = found.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = next((t["template"] for t in template if t["name"] == "default"), None)
        tokens = {name: found.get(name) for name in _TOKENS}
        texts = {name: t["content"] if isinstance(t, dict) else t for name, t in tokens.items() if t is not None}
        if not all(isinstance(t, str) for t in (*texts.values(), *([] if template is None else [template]))):
            raise ValueError("a token or a template is no text")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise fail(
            "E0785", f"`{path}` is no configuration of a tokenizer: {error}", help="as transformers has it"
        ) from None
    return ChatConfig(template, texts)


class ChatTemplate:
    """A template, ready: it can reach nothing but what it is given."""

    def __init__(self, config: ChatConfig) -> None:
        """Raises ParcError: E0751 without the package `jinja2`, E0785 for what is no template."""
        assert config.template is not None
        try:
            from jinja2 import TemplateError

            from parc.serving.bounded import BoundedTemplates
        except ImportError:
            help = "`pip install 'parc-lang[serve]'`"
            raise fail("E0751", "a chat template needs the package `jinja2`, which is not there", help=help) from None
        self._tokens = config.tokens
        try:
            self._template: Any = BoundedTemplates().from_string(config.template)
        except (TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise fail(
                "E0785", f"the chat template cannot be read: {error}"[:500], help="Jinja, as transformers has it"
            ) from None

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that the next message goes on from. Raises Fault (400) for messages that it does not take."""
        from jinja2 import TemplateError

        from parc.serving.bounded import TemplateBounds

        given = [dict(m) for m in messages]
        try:
            with TemplateBounds():
                found = self._template.render(messages=given, add_generation_prompt=True, **self._tokens)
        except (
            TemplateError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as error:
            raise Fault(400, f"the chat template does not take these messages: {error}"[:500], "messages") from None
        if len(found) > _MOST:
            raise Fault(400, "the messages are too long", "messages", "context_length_exceeded")
        return str(found)


def end_of(config: ChatConfig, encode: Any) -> int | None:
    """The token by which a text ends, if the tokenizer has one."""
    text = config.tokens.get("eos_token")
    try:
        found = [] if text is None else encode(text)
    except ParcError:
        return None
    return found[0] if len(found) == 1 else None
