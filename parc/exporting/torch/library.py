"""The functions that exported files bring with them, as text: each file has those that it needs."""

from __future__ import annotations

import re
from collections.abc import Collection

from parc.exporting.torch.local import LOCAL
from parc.exporting.torch.messages import MESSAGES


def _functions(text: str) -> dict[str, str]:
    parts = re.split(r"\n\n\n(?=def )", text.strip())
    return {part[4 : part.index("(")]: part.rstrip() for part in parts}


FUNCTIONS: dict[str, str] = _functions(LOCAL + "\n\n" + MESSAGES)
"""By name, in the order in which a file has them."""


def library(wanted: Collection[str]) -> list[str]:
    """The functions of these names and all that they call."""
    found: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [w for w in set(re.findall(r"\b([a-z_]+)\(", FUNCTIONS[name])) if w in FUNCTIONS]
    return [text for name, text in FUNCTIONS.items() if name in found]
