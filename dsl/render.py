"""Diagnostics for people (with the source line and a caret) and for machines (plain dicts)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from dsl.diagnostics import Diagnostic
from dsl.printable import REPLACEMENT, legible, printable
from dsl.source import Source, Span

_WIDEST = 110
_COLOURS = {"error": "31;1", "warning": "33;1", "bold": "1", "blue": "34;1", "green": "32;1"}


def render(diagnostics: Iterable[Diagnostic], sources: Mapping[str, Source], color: bool = False) -> str:
    """All diagnostics as text, a blank line between them; `sources` by the names that spans use."""
    return "\n".join(_render(d, sources, color) for d in diagnostics)


def _render(diagnostic: Diagnostic, sources: Mapping[str, Source], color: bool) -> str:
    def paint(text: str, how: str) -> str:
        return f"\x1b[{_COLOURS[how]}m{text}\x1b[0m" if color else text

    places = [diagnostic.span, *(span for _, span in diagnostic.notes)]
    lines = [_place(p, sources)[0] for p in places if p]
    margin = " " * len(str(max(lines, default=1)))
    head = paint(f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity)
    out = [head + paint(f": {_line(diagnostic.message)}", "bold")]
    out += _snippet(diagnostic.span, sources, margin, paint, diagnostic.severity)
    for message, span in diagnostic.notes:
        out.append(f"{margin} {paint('=', 'blue')} note: {_line(message)}")
        out += _snippet(span, sources, margin, paint, "blue")
    if diagnostic.help:
        out.append(f"{margin} {paint('=', 'blue')} {paint('help', 'green')}: {_line(diagnostic.help)}")
    return "\n".join(out) + "\n"


def _place(span: Span, sources: Mapping[str, Source]) -> tuple[int, int]:
    source = sources.get(span.source)
    return source.position(span.start) if source else (0, 0)


def _snippet(span: Span | None, sources: Mapping[str, Source], margin: str, paint: object, how: str) -> list[str]:
    assert callable(paint)
    if span is None or not span.source:
        return []
    source = sources.get(span.source)
    if source is None:
        return [f"{margin}{paint('-->', 'blue')} {_visible(span.source)}"]
    number, column = source.position(span.start)
    text, first, length = _window(source.line(number), column - 1, max(1, span.end - span.start))
    bar = paint("|", "blue")
    label = paint(f"{number:>{len(margin)}}", "blue")
    carets = paint("^" * length, how)
    return [
        f"{margin}{paint('-->', 'blue')} {_visible(source.name)}:{number}:{column}",
        f"{margin} {bar}",
        f"{label} {bar} {text}".rstrip(),
        f"{margin} {bar} {' ' * first}{carets}",
    ]


def _window(line: str, start: int, length: int) -> tuple[str, int, int]:
    """The part of a long line around the place; the place's column and width as displayed."""
    start = min(start, len(line))
    stop = max(start, min(len(line), start + length))
    left = 0 if start <= _WIDEST * 2 // 3 else start - _WIDEST // 3
    right = min(len(line), left + _WIDEST)
    stop = min(stop, right)
    prefix = "…" if left else ""
    before, inside, after = _visible(line[left:start]), _visible(line[start:stop]), _visible(line[stop:right])
    shown = prefix + before + inside + after + ("…" if right < len(line) else "")
    return shown, len(prefix) + _width(before), max(1, _width(inside))


def _line(text: str) -> str:
    """A message is one line, whatever names and data it quotes: they cannot pass for other messages."""
    return printable(text, line=True)


def _visible(text: str) -> str:
    """Tabs as spaces; whatever a terminal would act upon, or cannot show, as a replacement character."""
    return "".join("  " if c == "\t" else c if legible(c) else REPLACEMENT for c in text)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def to_json(diagnostics: Iterable[Diagnostic], sources: Mapping[str, Source]) -> list[dict[str, object]]:
    """The diagnostics as JSON-able dicts; places have file, line and column (from 1) and offsets (from 0)."""
    return [
        {
            "code": d.code or None,
            "severity": d.severity,
            "message": _line(d.message),
            "place": place_json(d.span, sources),
            "notes": [{"message": _line(m), "place": place_json(s, sources)} for m, s in d.notes],
            "help": _line(d.help) if d.help else d.help,
        }
        for d in diagnostics
    ]


def place_json(span: Span | None, sources: Mapping[str, Source]) -> dict[str, object] | None:
    """A place as `to_json` has it; None where there is none."""
    if span is None or not span.source:
        return None
    place: dict[str, object] = {"file": _visible(span.source), "start": span.start, "end": span.end}
    source = sources.get(span.source)
    if source:
        place["line"], place["column"] = source.position(span.start)
        place["end_line"], place["end_column"] = source.position(span.end)
    return place
