"""`python -m parc`."""

from __future__ import annotations

from parc.cli import main

main()
