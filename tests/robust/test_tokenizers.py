"""Tokenizers of others: what they say of lengths is of other uses, and what is wrong with them has a code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dsl.diagnostics import ParcError
from runtime.generate.tokenizers import HuggingFace, tokenizer_of


class PanicException(BaseException):
    """As the package calls what ends its own code."""


class Package:
    """What of `tokenizers.Tokenizer` is used, as small as it can be."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said, self.length = said, said.get("length")

    @staticmethod
    def from_str(text: str) -> Package:
        return Package(json.loads(text))

    def no_truncation(self) -> None:
        self.length = None

    def no_padding(self) -> None:
        self.said["fill"] = []

    def get_vocab(self) -> dict[str, int]:
        return dict(self.said["vocab"])

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        if text == "panic":
            raise PanicException("retry-limit-in-match over")
        ids = [self.said["vocab"].get(w, self.said.get("unknown")) for w in text.split()]
        if None in ids:
            raise Exception("Missing [UNK] token from the vocabulary")
        return SimpleNamespace(ids=ids[: self.length] + self.said.get("fill", [0, 0]))

    def decode(self, tokens: list[int]) -> str:
        raise PanicException("no such token")


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tokenizer that a text stands for."""
    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=Package))

    def made(**said: Any) -> HuggingFace:
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps({"vocab": {"to": 0, "be": 1}} | said))
        return HuggingFace(str(path))

    return made


def test_a_prompt_is_read_whole_and_as_it_is(known: Any) -> None:
    assert known(length=1, fill=[0, 0, 0]).encode("to be to") == [0, 1, 0]


def test_tokens_are_counted_by_the_largest(known: Any) -> None:
    assert known(vocab={"to": 0, "be": 500}).size == 501
    with pytest.raises(ParcError, match="E0785.*501 tokens, the model knows 80"):
        tokenizer_of(known(vocab={"to": 0, "be": 500}).path, None, 80)


@pytest.mark.parametrize(("said", "prompt", "told"), [
    ({}, "who", "E0784.*Missing .UNK. token"), ({}, "panic", "E0784.*retry-limit-in-match"),
    ({"unknown": 7}, "to who", "E0785.*gives the token 7, which is not among the 2 that it lists"),
])  # fmt: skip
def test_prompts_that_are_not_read(known: Any, said: dict[str, Any], prompt: str, told: str) -> None:
    with pytest.raises(ParcError, match=told):
        known(**said).encode(prompt)


def test_tokens_that_make_no_text(known: Any) -> None:
    with pytest.raises(ParcError, match="E0785.*makes no text: no such token"):
        known().decode([0])


def test_a_file_that_is_too_large(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.generate.tokenizers._LARGEST", 9)
    with pytest.raises(ParcError, match="E0785.*is no tokenizer: it has more than"):
        known()


def test_the_package_itself(tmp_path: Path) -> None:
    """Where it is installed: a prompt is neither cut off nor filled up; halves of characters have a code."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"to": 0, "be": 1}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_truncation(1)
    made.enable_padding(length=5)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    read = HuggingFace(str(path))
    assert read.encode("to be to") == [0, 1, 0]
    for prompt in ("who", "\udcff"):
        with pytest.raises(ParcError, match="E0784"):
            read.encode(prompt)
