"""Plain aligned tables and numbers for people, no wider than the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence

from dsl.diagnostics import plural
from parc.units import amount, seconds

__all__ = ["amount", "facts", "line_width", "plural", "seconds", "table"]

PIPED = 120
"""Columns where nobody watches: the same wherever a command runs."""

_NARROWEST = 40
_GAP = 2
_KEPT = 16
"""Cells up to this length are never broken: numbers with their units, short names."""

_LONGEST = 24
"""Of a word, before it is broken where no good place is."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PIECE = re.compile(r"[^./_,+=]+[./_,+=]*|[./_,+=]+")


def line_width() -> int:
    """Columns of the terminal that standard output is, or `PIPED`."""
    if not sys.stdout.isatty():
        return PIPED
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(_NARROWEST, columns or 80)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    color: bool = False,
    left: int = 1,
    words: Collection[int] = (),
    width: int | None = None,
) -> str:
    """Columns two spaces apart; the first `left` ones and `words` flush left, the others right. The head is dim.

    What is wider than `width` (the terminal's) is wrapped inside its cell; where that is not enough, columns stand
    below each other, with the first `left` ones repeated. Only what cannot be broken at all sticks out.
    """
    width = line_width() if width is None else width
    parts = _parts(head, rows, left, width)
    flush = {*range(left), *words}
    return "\n\n".join(_part(head, rows, columns, color, flush, width) for columns in parts)


def facts(pairs: Iterable[Sequence[str]]) -> str:
    """A line for each name and what it is; what is too wide goes on below itself."""
    rows = list(pairs)
    widest = max((_length(name) for name, _ in rows), default=0)
    room = max(_LONGEST, line_width() - widest - _GAP)
    lines = []
    for name, what in rows:
        first, *others = _wrapped(what, room) or [""]
        lines += [f"{name:{widest + _GAP}}{first}", *(" " * (widest + _GAP) + line for line in others)]
    return "\n".join(line.rstrip() for line in lines)


def _parts(head: Sequence[str], rows: Sequence[Sequence[str]], left: int, width: int) -> list[list[int]]:
    """The columns of each part: all together if they fit when they are as narrow as they can be."""
    narrowest = [max(map(_least, column)) for column in _columns(head, rows)]
    keys = list(range(min(left, len(head))))
    parts: list[list[int]] = [keys[:]]
    for i in range(len(keys), len(head)):
        columns = [*parts[-1], i]
        if len(columns) > len(keys) + 1 and _total([narrowest[c] for c in columns]) > width:
            parts.append([*keys, i])
        else:
            parts[-1].append(i)
    return parts


def _part(
    head: Sequence[str], rows: Sequence[Sequence[str]], columns: list[int], color: bool, flush: set[int], width: int
) -> str:
    cells = [[row[i] for i in columns] for row in (head, *rows)]
    widths = _widths(list(zip(*cells)), width)
    wrapped = [[_wrapped(cell, w) for cell, w in zip(row, widths)] for row in cells]
    widths = [max(_length(text) for lines in column for text in lines) for column in zip(*wrapped)]

    def lines(row: list[list[str]]) -> list[str]:
        found = []
        for k in range(max(map(len, row))):
            texts = [lines[k] if k < len(lines) else "" for lines in row]
            spaces = [" " * (w - _length(text)) for text, w in zip(texts, widths)]
            line = [t + s if columns[i] in flush else s + t for i, (t, s) in enumerate(zip(texts, spaces))]
            found.append((" " * _GAP).join(line).rstrip())
        return found

    first, *others = map(lines, wrapped)
    return "\n".join([*(f"\x1b[2m{line}\x1b[0m" if color else line for line in first), *sum(others, [])])


def _widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """As wide as the longest cell; where that is too much, the widest columns give way first."""
    widths = [max(map(_length, column)) for column in columns]
    least = [max(map(_least, column)) for column in columns]
    while _total(widths) > width:
        i = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i], default=None)
        if i is None:
            break
        widths[i] -= 1
    return widths


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(head, *rows))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _length(cell: str) -> int:
    """As displayed."""
    return len(_COLOUR.sub("", cell))


def _least(cell: str) -> int:
    """The narrowest that a cell can be."""
    length = _length(cell)
    if length <= _KEPT or _whole(cell):
        return length
    return min(_LONGEST, max(map(len, cell.split()), default=0))


def _whole(cell: str) -> bool:
    """Whether it can only be shown as it is: a bar, or something coloured."""
    return "\x1b" in cell or "█" in cell or "▏" in cell


def _wrapped(cell: str, width: int) -> list[str]:
    """The cell in lines of at most `width`: broken between words, a word that is longer behind one of its signs, or
    anywhere."""
    if _length(cell) <= width or _whole(cell):
        return [cell]
    lines: list[str] = []
    for word in filter(None, cell.split(" ")):  # not at spaces that do not break
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines += _broken(word, width)
    return lines


def _broken(word: str, width: int) -> list[str]:
    lines = [""]
    for piece in _PIECE.findall(word) if len(word) > width else [word]:
        while len(piece) > width:
            lines.append(piece[:width])
            piece = piece[width:]
        if len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return [line for line in lines if line]
