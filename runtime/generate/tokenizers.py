"""Texts as tokens, and back: bytes, the characters or words of a job's data, or another system's tokenizer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from compiler.model import DataSpec
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from runtime.data.text import split_words, vocabulary

BYTE = "byte"
"""What `--tokenizer` calls the bytes of UTF-8."""

_LARGEST = 256 * 2**20
"""Bytes of a `tokenizer.json` that are read: one of 256,000 tokens has some 33 MB."""

_CLOSING = re.compile(r"[.,;:!?)\]}%'’”]")


class Tokenizer(Protocol):
    """size: how many tokens there are."""

    @property
    def size(self) -> int: ...

    def encode(self, text: str, bare: bool = False) -> list[int]:
        """The tokens of a text; bare: without those that are put around one.

        Raises ParcError (E0784) for what there is no token for.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...


@dataclass(frozen=True, slots=True)
class ByteTokens:
    """The bytes of the text as UTF-8."""

    size: int = 256

    def encode(self, text: str, bare: bool = False) -> list[int]:
        return list(text.encode("utf-8", "surrogateescape"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(t for t in tokens if t < 256).decode("utf-8", "replace")


class CharacterTokens:
    """As `data text(…, level = "char")` numbers them."""

    def __init__(self, known: Sequence[str], source: str) -> None:
        self.known, self.source, self.size = known, source, len(known)
        self._number = {c: i for i, c in enumerate(known)}

    def encode(self, text: str, bare: bool = False) -> list[int]:
        for c in text:
            if c not in self._number:
                help = "the model has read no other characters"
                raise fail("E0784", f"the prompt has the character `{c}`, which `{self.source}` has not", help=help)
        return [self._number[c] for c in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.known[t] if t < self.size else "�" for t in tokens)


class WordTokens:
    """As `data text(…, level = "word")` numbers them: 0 is all that there is no room for."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known, self.size = known, len(known) + 1
        self._number = {word: i for i, word in enumerate(known, 1)}

    def encode(self, text: str, bare: bool = False) -> list[int]:
        return [self._number.get(word, 0) for word in split_words(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        found = ""
        for t in tokens:
            word = self.known[t - 1] if 0 < t < self.size else "…"
            found += word if not found or _CLOSING.fullmatch(word) else f" {word}"
        return found


class HuggingFace:
    """A `tokenizer.json`, read by the package `tokenizers`. What it says of lengths (truncation, padding) is of other
    uses: a prompt is read as it is, and whole."""

    def __init__(self, path: str) -> None:
        """Raises ParcError (E0785) where the package or the file is not there, or is none."""
        try:
            from tokenizers import Tokenizer as Package
        except ImportError:
            help = "`pip install tokenizers`"
            raise fail("E0785", f"`{path}` needs the package `tokenizers`, which is not there", help=help) from None
        self.path = path

        def read() -> tuple[Any, int]:
            package = Package.from_str(_content(path).decode("utf-8"))
            package.no_padding()  # files of encoders fill all texts up to one length, and cut longer ones
            package.no_truncation()
            return package, max(package.get_vocab().values(), default=-1) + 1

        self._package, self.size = _answer(read, "E0785", f"`{path}` is no tokenizer", "a file `tokenizer.json`")

    def encode(self, text: str, bare: bool = False) -> list[int]:
        def read() -> list[int]:
            return list(self._package.encode(text, add_special_tokens=not bare).ids)

        help = "UTF-8, in words that the tokenizer has tokens for"
        found: list[int] = _answer(read, "E0784", f"`{self.path}` does not read the prompt", help)
        strange = next((t for t in found if t >= self.size), None)
        if strange is not None:
            message = f"`{self.path}` gives the token {strange:,}, which is not among the {self.size:,} that it lists"
            raise fail("E0785", message, help="the ids of its special tokens are those of its vocabulary")
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        help = "see to the decoder in `tokenizer.json`"
        return str(_answer(lambda: self._package.decode(list(tokens)), "E0785", f"`{self.path}` makes no text", help))


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        found = file.read(_LARGEST + 1)
    if len(found) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST // 2**20} MiB")
    return found


def _answer(ask: Callable[[], Any], code: str, what: str, help: str) -> Any:
    """What the package answers. It raises plain `Exception`s, and others where it gives up (`PanicException`)."""
    try:
        return ask()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise fail(code, f"{what}: {str(error)[:300]}", help=help) from None


def tokenizer_of(named: str | None, data: DataSpec | None, high: int | None) -> Tokenizer:
    """The one that is named: `byte`, or the path of a `tokenizer.json`; else that of the job's data; else bytes.

    high: how many tokens the model knows. Raises ParcError: E0785 for none that there is, or one with more tokens.
    """
    found: Tokenizer
    if named == BYTE:
        found = ByteTokens()
    elif named is not None:
        if not os.path.isfile(named):
            raise fail("E0785", f"there is no tokenizer `{named}`", help="`byte`, or the path of a `tokenizer.json`")
        found = HuggingFace(named)
    elif data is not None and data.reader == "text":
        words = dict(data.options).get("level", "char") == "word"
        known = vocabulary(data, high)
        found = WordTokens(known) if words else CharacterTokens(known, str(data.path))
    else:
        found = ByteTokens()
    if high is not None and found.size > high:
        raise _too_many(found.size, high, data)
    return found


def _too_many(size: int, high: int, data: DataSpec | None) -> ParcError:
    help = "`--tokenizer` names another, or `data text(…)` in the job says what it was trained on"
    return fail("E0785", f"the tokenizer has {size:,} tokens, the model knows {high:,}", help=help)
