"""The standard streams of a command: one that is closed, one whose reader has gone, one whose device is full."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TextIO

_ANY = "parc.any"
"""How errors of encoding are handled on stdout."""

BROKEN_PIPE = 141
"""As a shell has it of a command that SIGPIPE ended."""

UNWRITABLE = 2

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What a device that is full says, one that fails, one that is closed: no bug of ours."""


def open_streams() -> None:
    """Put something in the place of each stream that was closed before we began.

    Else the next file that is opened would get its number, and our output. What is written to a closed stdout, or read
    from a closed stdin, still fails; a closed stderr swallows what it is told.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest number that is free, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def take_all_texts() -> None:
    """Have stdout take every text: what its encoding has no character for is escaped, as it is on stderr; bytes of an
    argument that were no text are written as they came."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        codecs.register_error(_ANY, _written)
        sys.stdout.reconfigure(errors=_ANY)


def _written(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    c = error.object[error.start]
    came = c.encode("utf-8", "surrogateescape") if "\udc80" <= c <= "\udcff" else c.encode("ascii", "backslashreplace")
    return came, error.start + 1


def flushed() -> None:
    """Bring out what is buffered. Raises OSError where it cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def failed(error: OSError) -> int | None:
    """The exit code of a command that could not write to one of its streams, which are quiet from then on; None if the
    error is of something else."""
    gone = isinstance(error, BrokenPipeError)
    if not gone and error.errno not in _FULL:
        return None
    _mute(sys.stdout)
    if not gone:
        with suppress(OSError):  # if it was stderr that failed, nobody hears of it
            print(f"Error: cannot write to standard output: {error.strerror}", file=sys.stderr, flush=True)
    _mute(sys.stderr)
    return BROKEN_PIPE if gone else UNWRITABLE


def _mute(stream: TextIO) -> None:
    """Where a stream still has what it cannot bring out: that gets nowhere, so that Python does not complain at the
    end."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
