"""What may reach a terminal: nothing that it would act upon, that it cannot show, or that nobody sees."""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks without any ink: what Unicode has as ignorable beside its control characters, and empty Braille."""


def legible(text: str) -> bool:
    """Whether all that stands there is seen as it stands there, in one line."""
    return text.isprintable() and (text.isascii() or _UNSEEN.search(text) is None)


def printable(text: str, styled: bool = False, line: bool = False) -> str:
    """The text with a replacement character for each that is not legible, but for ends of lines.

    styled: whether it may have colours of ours in it; line: whether it has to be one line.
    """
    if all(map(legible, [text] if line else text.split("\n"))):
        return text
    if styled:
        parts = _STYLE.split(text)
        return "".join(part if k % 2 else printable(part, line=line) for k, part in enumerate(parts))
    return "".join(c if legible(c) or (c == "\n" and not line) else REPLACEMENT for c in text)
