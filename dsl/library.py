"""The standard library, read as far as it is used: a definition is parsed when somebody first asks for it.

A file uses a handful of its hundred definitions. Only of our own files can it be taken for granted that each item
begins at the beginning of a line and all else is indented or closes a bracket, as `parc fmt` writes them (a test sees
to it).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial

from dsl import ast
from dsl.data import dataclass
from dsl.parser import parse
from dsl.source import Source, Span

_ITEM = re.compile(r"^([a-z]+)(?: (\w+))?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outlined:
    """An item that begins with `keyword`, and its name, if it is a definition. read: parses it, once."""

    keyword: str
    name: ast.Name
    read: Callable[[], ast.Item]


@cache
def outline(source: Source) -> tuple[Outlined, ...]:
    """The items of a file of the standard library, in their order."""
    found = [*_ITEM.finditer(source.text)]
    ends = [*(m.start() for m in found[1:]), len(source.text)]
    return tuple(
        Outlined(
            m.group(1),
            ast.Name(m.group(2) or "", span=Span(source.name, *m.span(2))),
            partial(_item, source, m.start(), end),
        )
        for m, end in zip(found, ends, strict=True)
    )


@cache
def _item(source: Source, start: int, end: int) -> ast.Item:
    """Spaces in the place of all before it: so it stands where it does in the file."""
    (item,) = parse(" " * start + source.text[start:end], source.name).items
    return item
