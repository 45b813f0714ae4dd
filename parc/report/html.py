"""Pieces of HTML and SVG. What comes from users goes through `esc`; everything else here is markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, log10

from dsl.printable import printable


def esc(text: object) -> str:
    """Text that cannot be anything but text, in attributes too, and that can be seen."""
    return escape(printable(str(text).expandtabs()), quote=True)


def num(x: float, digits: int = 2) -> str:
    """As short as it can be: `12`, `0.5`."""
    text = f"{x:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def share(x: float) -> str:
    """A coordinate or length as part of the picture's width: `12.5%`. So pictures stretch, and their text does not."""
    return f"{num(100 * x, 3)}%"


def tag(name: str, *children: str, **attributes: object) -> str:
    """`<name attributes>children</name>`; `class_` stands for class, `text_anchor` for text-anchor, None for none."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{num(v, 3) if isinstance(v, float) else esc(v)}"'
        for key, v in attributes.items()
        if v is not None
    )
    return f"<{name}{told}>{''.join(children)}</{name}>"


def svg(*children: str, label: str, **attributes: object) -> str:
    """A picture; `label` says for those who cannot see it what it shows."""
    return tag("svg", *children, role="img", aria_label=label, **attributes)


def section(ident: str, title: str, note: str, *children: str) -> str:
    """A part of the page. `note` is text."""
    return tag(
        "section", tag("h2", esc(title)), tag("p", esc(note), class_="note") if note else "", *children, id=ident
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, class_: str | None = None) -> str:
    """Cells are markup; the first `left` columns are flush left, the others right. It scrolls where it is too wide."""

    def cells(name: str, row: Sequence[str]) -> str:
        def kind(i: int, c: str) -> str | None:
            return "pic" if c.startswith("<svg") else "n" if i >= left else None

        return tag("tr", *(tag(name, c, class_=kind(i, c)) for i, c in enumerate(row)))

    body = "".join(cells("td", row) for row in rows)
    return tag("div", tag("table", tag("thead", cells("th", head)), tag("tbody", body), class_=class_), class_="wide")


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """(class of the colour, what it stands for)."""
    return tag(
        "p", *(tag("span", tag("i", class_=f"key {kind}"), esc(what)) for kind, what in entries), class_="legend"
    )


def ticks(start: float, end: float, most: int = 8) -> list[float]:
    """Round numbers from `start` to `end`, at most about so many."""
    if end <= start:
        return [start]
    step = 10.0 ** floor(log10((end - start) / most))
    step *= next(scale for scale in (1, 2, 5, 10) if (end - start) / (step * scale) <= most)
    first = ceil(start / step - 1e-9)
    return [i * step for i in range(first, floor(end / step + 1e-9) + 1)]
