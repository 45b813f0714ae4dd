"""Text of which some lines stand only in some files."""

from __future__ import annotations

import re
from collections.abc import Collection

_CONDITION = re.compile(r"^(no )?([a-z]+)\| ?")


def chosen(text: str, facts: Collection[str], **texts: str) -> str:
    """The lines that such a file has: of one that begins with `staged| ` only where that is a fact, of one with
    `no staged| ` only where it is none; all that stand before it hold. `<name>` is replaced by the text of that name,
    together with the end of its line where it ends one."""
    lines = []
    for line in text.splitlines():
        holds = True
        while holds and (found := _CONDITION.match(line)) is not None:
            holds, line = (found[2] in facts) != bool(found[1]), line[found.end() :]
        if holds:
            lines.append(line)
    made = "\n".join(lines) + "\n"
    for name, given in texts.items():
        made = made.replace(f"<{name}>\n", given).replace(f"<{name}>", given)
    return made
