"""`python -m parc`, and the script `parc`: says it where the command cannot even be loaded."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The entry point of the command."""
    try:
        from parc.cli import cli
    except Exception as error:
        from parc.needs import outdated, unmet

        need = unmet(error) or next(outdated(), None)
        if need is None:
            raise
        sys.stderr.write(f"Error: {need.what}\n  help: `{need.command}`\n")
        sys.exit(2)
    cli.main()


if __name__ == "__main__":
    main()
