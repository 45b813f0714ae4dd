"""Breaks long lines at brackets: the only place where the language lets a statement go on in the next line.

A document is a list of strings and `Bracket`s. It is printed on one line if it fits; else its longest bracket is
opened, its items one a line, each laid out by the same rule. So the result depends on nothing but the document.
"""

from __future__ import annotations

from dsl.data import dataclass

WIDTH = 100
INDENT = "  "


@dataclass(frozen=True, slots=True)
class Bracket:
    """`open item, item close`."""

    open: str
    items: tuple[Doc, ...]
    close: str


Doc = list["str | Bracket"]


def flat(doc: Doc) -> str:
    """The document on one line."""
    return "".join(
        part if isinstance(part, str) else part.open + ", ".join(flat(i) for i in part.items) + part.close
        for part in doc
    )


def lay_out(doc: Doc, indent: str = "") -> list[str]:
    """The document's lines."""
    line = indent + flat(doc)
    if len(line) <= WIDTH:
        return [line]
    sizes = [0 if isinstance(p, str) or not p.items else len(flat([p])) for p in doc]
    longest = max(sizes, default=0)
    if not longest:
        return [line]
    at = sizes.index(longest)
    bracket = doc[at]
    assert isinstance(bracket, Bracket)
    lines = [indent + flat(doc[:at]) + bracket.open]
    for i, item in enumerate(bracket.items):
        inner: Doc = [*item, "," if i < len(bracket.items) - 1 else ""]
        lines += lay_out(inner, indent + INDENT)
    lines.append(indent + bracket.close + flat(doc[at + 1 :]))
    return lines
