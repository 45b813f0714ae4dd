"""What is parsed definition by definition is what the whole file is."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

import dsl.library
from compiler.evaluate import evaluate
from compiler.evaluate.modules import KEYWORDS, KINDS
from dsl import ast
from dsl.files import load_use, standard_modules
from dsl.library import outline
from dsl.parser import parse
from dsl.source import Source


def module(name: str) -> Source:
    return load_use(ast.Use(ast.Path((ast.Name("std"), ast.Name(name)))), Source("", ""), ".")


def told(node: Any) -> Any:
    """The tree with all its spans."""
    if isinstance(node, tuple):
        return tuple(map(told, node))
    if is_dataclass(node):
        return type(node), *(told(getattr(node, f.name)) for f in fields(node))
    return node


@pytest.mark.parametrize("name", standard_modules())
def test_the_outline_is_the_file(name: str) -> None:
    source = module(name)
    whole, found = parse(source.text, source.name).items, outline(source)
    assert len(found) == len(whole) > 3
    for item, part in zip(whole, found, strict=True):
        assert told(part.read()) == told(item)
        if isinstance(item, ast.Definition):
            assert KEYWORDS[part.keyword] == KINDS[type(item)] and told(part.name) == told(item.name)


def test_what_nobody_asks_for_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "use std.layers (linear, mse)\nuse std.optimizers (sgd)\nmodel m() {\n  dim b = 4, d = 2, f = 3\n"
        "  input x : f32[b,d]\n  y = linear(x, f)\n  loss mse(y, y)\n}\n"
        "job j {\n  train m()\n  optimizer sgd(0.1)\n}\n"
    )
    parsed = list[str]()

    def spy(text: str, name: str) -> ast.File:
        parsed.append(text.strip().partition("(")[0])
        return parse(text, name)

    monkeypatch.setattr("dsl.library.parse", spy)
    dsl.library._item.cache_clear()
    evaluate(Source("m.par", text))
    assert sorted(parsed) == ["fn linear", "fn mse", "optimizer sgd"]
