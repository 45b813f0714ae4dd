"""Where things stand: lines and columns of a text, and the spans of syntax nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl import ast
from dsl.diagnostics import ParcError
from dsl.parser import parse
from dsl.printer import format_source, print_tree
from dsl.source import Source, Span
from tests.dsl.syntax_trees import files

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*(ROOT / "examples").glob("*.par"), *(ROOT / "dsl" / "std").glob("*.par")])
texts = st.text(st.sampled_from("ab é\t\n\r"), max_size=30)


@given(texts)
def test_positions_and_lines_agree(text: str) -> None:
    source = Source("t", text)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert [source.line(i + 1) for i in range(len(lines))] == lines
    assert source.line(0) == source.line(len(lines) + 1) == ""
    for offset, character in enumerate(text):
        line, column = source.position(offset)
        assert character in "\r\n" or source.line(line)[column - 1] == character
    assert source.position(len(text))[0] == len(lines)


@given(texts, st.integers(-5, 40), st.integers(-5, 40))
def test_positions_grow_and_are_clamped(text: str, a: int, b: int) -> None:
    source = Source("t", text)
    low, high = sorted((a, b))
    assert (1, 1) <= source.position(low) <= source.position(high) <= source.position(len(text))


def test_spans_join() -> None:
    source = Source("t", "abc def")
    assert source.span(0, 3).to(source.span(4, 7)) == Span("t", 0, 7)


def _children(node: ast.Syntax) -> Iterator[ast.Syntax]:
    def parts(value: object) -> Iterator[ast.Syntax]:
        if isinstance(value, ast.Syntax):
            yield value
        elif isinstance(value, tuple):
            for part in value:
                yield from parts(part)

    for field in fields(node):
        if field.name != "span":
            yield from parts(getattr(node, field.name))


def _check_spans(node: ast.Syntax, text: str) -> int:
    """Every node spans its parts, and leaves span just what they say; how many nodes there are."""
    span = node.span
    assert span.source == "t" and 0 <= span.start <= span.end <= len(text)
    own = text[span.start : span.end]
    match node:
        case ast.Name():
            assert own == node.id
        case ast.Path():
            assert own.replace(" ", "") == str(node)
        case ast.Number():
            assert type(node.value)(own) == node.value
        case ast.Boolean():
            assert own == str(node.value).lower()
        case ast.Quantity():
            assert own.endswith(node.unit)
    count = 1
    for child in _children(node):
        assert span.start <= child.span.start and child.span.end <= span.end
        count += _check_spans(child, text)
    return count


@settings(max_examples=60)
@given(files)
def test_nodes_span_their_text(tree: ast.File) -> None:
    text = print_tree(tree)
    assert _check_spans(parse(text, "t"), text) >= 1 + len(tree.items)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_files(path: Path) -> None:
    text = path.read_text()
    assert _check_spans(parse(text, "t"), text) > 10
    assert format_source(text, "t") == text


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("param x = 3 +\n", "\n"),
        ("param x = (1 + 2\nparam y = 2\n", "("),
        ("param x = 3 GiBB\n", "GiBB"),
        ('param x = "abc\n', '"abc'),
        ("param x = 1 < 2 < 3\n", "<"),
        ("pram x = 3\n", "pram"),
        ("param x = 1\r\nparam é = 2\r\n", "é"),
        ('param x = "a\\qb"\n', "\\q"),
        ("fn f() {\n  return x }\n", "}"),
    ],
)
def test_errors_span_what_is_wrong(text: str, marked: str) -> None:
    with pytest.raises(ParcError) as caught:
        parse(text, "t")
    span = caught.value.diagnostics[0].span
    assert span is not None and span.source == "t"
    assert text[span.start : span.end] == marked
