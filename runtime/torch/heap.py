"""Memory that is freed stays with the process: the next step needs as much again.

glibc gives large pieces back to the system at once, and gets fresh ones, which the system fills with zeros when they
are first touched: a tenth of a step on processors.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_GIB = 1 << 30


def keep_memory() -> None:
    """Tell the C library, if it is glibc and nobody else has told it something (`MALLOC_…`)."""
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_")):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    # Pieces of a GiB are the system's as before.
    for option, value in ((_MMAP_THRESHOLD, _GIB), (_TRIM_THRESHOLD, 2 * _GIB - 1), (_TOP_PAD, 64 << 20)):
        mallopt(option, value)
