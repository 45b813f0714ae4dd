"""Diagnostics as people and as machines see them."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsl.diagnostics import Diagnostic
from dsl.render import render, to_json
from dsl.source import Source, Span
from parc.cli.common import color

TEXT = "param heads = 8\nfn f(x) {\n  y = x @ heads\n}\n"
SOURCES = {"a.par": Source("a.par", TEXT)}


def at(word: str) -> Span:
    start = TEXT.rindex(word)
    return Span("a.par", start, start + len(word))


def one(text: str, start: int, end: int) -> str:
    """A diagnostic at that place of a text."""
    return render([Diagnostic("E0001", "wrong", Span("t", start, end))], {"t": Source("t", text)})


def test_source_line_and_caret() -> None:
    diagnostic = Diagnostic(
        "E0210", "needs a tensor", at("heads"), (("it is declared here", Span("a.par", 6, 11)),), "write `*`"
    )
    assert render([diagnostic], SOURCES) == (
        "error[E0210]: needs a tensor\n"
        " --> a.par:3:11\n"
        "  |\n"
        "3 |   y = x @ heads\n"
        "  |           ^^^^^\n"
        "  = note: it is declared here\n"
        " --> a.par:1:7\n"
        "  |\n"
        "1 | param heads = 8\n"
        "  |       ^^^^^\n"
        "  = help: write `*`\n"
    )


def test_several_are_apart_and_warnings_are_called_so() -> None:
    warning = Diagnostic("E0001", "careful", severity="warning")
    assert render([Diagnostic("E0002", "wrong"), warning], {}) == "error[E0002]: wrong\n\nwarning[E0001]: careful\n"
    assert render([], {}) == ""


def test_without_the_text_the_file_is_named() -> None:
    assert render([Diagnostic("E0001", "wrong", Span("gone.par", 3, 5))], SOURCES) == (
        "error[E0001]: wrong\n --> gone.par\n"
    )


@pytest.mark.parametrize(
    ("text", "start", "end", "line", "carets"),
    [
        ("ab\tcd", 3, 5, "1 | ab  cd", "  |     ^^"),
        ("x = 汉字 + y", 9, 10, "1 | x = 汉字 + y", "  |            ^"),
        ("x = 汉字", 4, 6, "1 | x = 汉字", "  |     ^^^^"),
        ("e\u0301 = y", 5, 6, "1 | e\u0301 = y", "  |     ^"),
        ("a\nb", 0, 3, "1 | a", "  | ^"),
        ("ab", 2, 2, "1 | ab", "  |   ^"),
        ("a\r\nbc", 3, 5, "2 | bc", "  | ^^"),
        ("a \u202e b \x1b[31m", 4, 5, "1 | a \ufffd b \ufffd[31m", "  |     ^"),
        ("", 0, 0, "1 |", "  | ^"),
    ],
)
def test_carets_stand_below_what_they_mark(text: str, start: int, end: int, line: str, carets: str) -> None:
    assert one(text, start, end).splitlines()[3:] == [line, carets]


def test_long_lines_are_cut_around_the_place() -> None:
    text = "a" * 5000 + "XYZ" + "b" * 5000
    _, _, _, line, carets = one(text, 5000, 5003).splitlines()
    assert len(line) < 130 and line.count("…") == 2
    first = carets.index("^")
    assert line[first : first + 3] == "XYZ" and carets.count("^") == 3
    assert one("x" * 300, 0, 300).splitlines()[3].endswith("x…")


def test_margins_fit_the_largest_line_number() -> None:
    text = "x\n" * 1200
    found = render(
        [Diagnostic("E0001", "wrong", Span("t", 0, 1), (("there", Span("t", 2200, 2201)),))], {"t": Source("t", text)}
    )
    assert "   1 | x\n" in found and "1101 | x\n" in found


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=90), st.data())
def test_carets_mark_exactly_the_span(line: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(line) - 1))
    end = data.draw(st.integers(start + 1, len(line)))
    shown = one(f"first\n{line}\nlast", 6 + start, 6 + end).splitlines()
    _, _, _, text, carets = shown
    assert text == f"2 | {line}".rstrip()
    assert re.fullmatch(r"  \| ( *)(\^+)", carets)
    assert (carets.index("^") - 4, carets.count("^")) == (start, end - start)


@given(st.text(max_size=60), st.text(max_size=20), st.integers(0, 60), st.integers(0, 60))
def test_nothing_in_a_text_reaches_the_terminal_as_a_command(text: str, message: str, a: int, b: int) -> None:
    diagnostic = Diagnostic("E0001", message, Span("t", min(a, b), max(a, b)), ((message, Span("t", a, a)),), message)
    shown = render([diagnostic], {"t": Source("t", text)})
    assert all(c.isprintable() or c == "\n" for c in shown)
    shown.replace("\ud800", "").encode("utf-8")
    json.dumps(to_json([diagnostic], {"t": Source("t", text)}))


# --- colour ---------------------------------------------------------------------------------------------


def test_colour_adds_nothing_but_escapes() -> None:
    diagnostic = Diagnostic("E0210", "wrong", at("heads"), (("note", at("x")),), "help")
    plain, painted = render([diagnostic], SOURCES), render([diagnostic], SOURCES, color=True)
    assert "\x1b" not in plain and "\x1b[31;1merror[E0210]\x1b[0m" in painted
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == plain


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),  # as no-color.org says
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_when_to_colour(
    environment: dict[str, str], terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert color(_Terminal() if terminal else io.StringIO()) is expected


# --- machines -------------------------------------------------------------------------------------------


def test_json() -> None:
    diagnostic = Diagnostic("E0210", "wrong", at("heads"), (("see", None), ("there", Span("gone", 1, 2))), "help")
    assert to_json([diagnostic], SOURCES) == [
        {
            "code": "E0210",
            "severity": "error",
            "message": "wrong",
            "place": {
                "file": "a.par",
                "start": 36,
                "end": 41,
                "line": 3,
                "column": 11,
                "end_line": 3,
                "end_column": 16,
            },
            "notes": [
                {"message": "see", "place": None},
                {"message": "there", "place": {"file": "gone", "start": 1, "end": 2}},
            ],
            "help": "help",
        }
    ]


def test_json_of_something_without_a_place() -> None:
    (found,) = to_json([Diagnostic("E0106", "no\x1bwhere", severity="warning")], {})
    assert (found["place"], found["notes"], found["help"], found["severity"]) == (None, [], None, "warning")
    assert found["message"] == "no\ufffdwhere"
