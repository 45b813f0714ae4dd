"""`python -m parc`, and the script `parc`: says it where the command cannot even be loaded."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

_OBJECTS = 50_000
"""How many more there are before cycles among them are looked for. What a command makes stays to its end, as a rule,
and has few: looking as often as Python does by itself (700) takes a seventh of the time of all."""


def main() -> NoReturn:
    """The entry point of the command."""
    gc.set_threshold(_OBJECTS)
    try:
        from parc.cli import main as command
    except Exception as error:
        from parc.needs import outdated, unmet

        need = unmet(error) or next(outdated(), None)
        if need is None:
            raise
        sys.stderr.write(f"Error: {need.what}\n  help: `{need.command}`\n")
        sys.exit(2)
    try:
        command()
    finally:
        gc.freeze()  # all goes with the process: looking for cycles in it once more is a sixth of `parc cost`'s time


if __name__ == "__main__":
    main()
