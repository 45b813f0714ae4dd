"""What may reach a terminal: nothing that it would act upon, or that it cannot show."""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")


def printable(text: str, styled: bool = False) -> str:
    """The text with a replacement character for each that is not printable, but for ends of lines.

    styled: whether it may have colours of ours in it.
    """
    if all(line.isprintable() for line in text.split("\n")):
        return text
    if styled:
        parts = _STYLE.split(text)
        return "".join(part if k % 2 else printable(part) for k, part in enumerate(parts))
    return "".join(c if c.isprintable() or c == "\n" else REPLACEMENT for c in text)
