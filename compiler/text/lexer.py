"""Splits `.npu` text into tokens."""

from __future__ import annotations

import json
import re
from sys import intern
from typing import NamedTuple

from dsl.diagnostics import fail
from dsl.limits import MAX_LOWERED
from dsl.source import Span

MAX_DIGITS = 100
"""Digits of a number, as in `.par`; sizes and counts have 64 bits (`Cursor.natural`)."""

MAX_NAME = 32_768
"""Characters of a name: parts of a model have names of their own within one another."""

_TOKEN = re.compile(
    r"""
    [ \t\r]* (?:
      (?P<word> [A-Za-z_]\w*(?:\.\w+)*(?:\#\d+)? )
    | (?P<float> \d+\.\d+(?:[eE][+-]?\d+)? | \d+[eE][+-]?\d+ )
    | (?P<int> \d+ )
    | (?P<string> "(?:[^"\\\n]|\\.)*" )
    | (?P<mark> \.\. | -> | [-+*/%=:,.()\[\]{}] )
    | (?P<newline> (?:\#[^\n]*)? \n )
    | (?P<rest> (?:\#[^\n]*)? \Z )
    )
    """,
    re.VERBOSE | re.ASCII,
)


class Lexeme(NamedTuple):
    """kind: `word`, `int`, `float`, `string`, `newline`, `end`, or the mark itself. `text`: strings unquoted."""

    kind: str
    text: str
    start: int
    end: int

    def __str__(self) -> str:
        return {"newline": "the end of the line", "end": "the end of the text"}.get(self.kind, f"`{self.text[:40]}`")


def tokens(text: str, name: str) -> list[Lexeme]:
    """All tokens but space and comments. Line ends inside ( ) and [ ] do not count."""
    if len(text) > MAX_LOWERED:
        raise fail("E0608", f"a text of {len(text)} characters", Span(name, 0, 0), help=f"at most {MAX_LOWERED}")
    found: list[Lexeme] = []
    position, open_brackets, end = 0, 0, len(text)
    match = _TOKEN.match
    while position < end:
        m = match(text, position)
        if m is None:
            while text[position] in " \t\r":
                position += 1
            what = "a string without its end" if text[position] == '"' else f"a stray {text[position]!r}"
            raise fail("E0602", what, Span(name, position, position + 1), help=_MEND)
        kind = m.lastgroup or ""
        start, position = m.span(kind)
        if kind == "rest":
            break
        if kind == "newline":
            if not open_brackets and found and found[-1].kind != "newline":
                found.append(Lexeme("newline", "\n", start, position))
            continue
        word = intern(m.group(kind))
        if kind == "mark":
            kind = word
            if word in "([":
                open_brackets += 1
            elif word in ")]":
                open_brackets = max(0, open_brackets - 1)
            elif word in "{}":
                open_brackets = 0
        elif kind == "string":
            word = _unquote(word, Span(name, start, position))
        if kind in ("int", "float", "word", "string"):
            what, most = ("number", MAX_DIGITS) if kind in ("int", "float") else ("name", MAX_NAME)
            if len(word) > most:
                message = f"a {what} of {len(word):,} characters"
                raise fail("E0608", message, Span(name, start, position), help=f"at most {most:,}")
        found.append(Lexeme(kind, word, start, position))
    if found and found[-1].kind != "newline":
        found.append(Lexeme("newline", "\n", end, end))
    found.append(Lexeme("end", "", end, end))
    return found


_MEND = 'names that are not plain words stand in double quotes, with JSON\'s escapes: "odd name"'


def _unquote(literal: str, span: Span) -> str:
    try:
        value = json.loads(literal)
    except ValueError as error:
        raise fail("E0602", "a malformed string", span, help=_MEND) from error
    assert isinstance(value, str)
    return value
