"""What commands themselves take of memory, where there is hardly any."""

from __future__ import annotations

from contextlib import suppress

COMPUTES = frozenset({"run", "evaluate", "generate", "serve", "convert", "compress", "verify"})
"""Commands that do nothing without numpy."""


def require_little(command: str) -> None:
    """Raise ParcError (E0910) where not even numpy can be loaded, for a command that does nothing without it."""
    if command in COMPUTES:
        from runtime.available import require_numpy

        require_numpy()


def let_go(error: MemoryError) -> None:
    """Of what the functions held in which it was raised: telling it takes memory, too."""
    trace = error.__traceback__
    while trace is not None:
        with suppress(RuntimeError):  # one that goes on
            trace.tb_frame.clear()
        trace = trace.tb_next
