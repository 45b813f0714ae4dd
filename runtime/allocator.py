"""Keeps the memory of freed arrays in the process, instead of giving it back to the system each time."""

from __future__ import annotations

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@cache
def keep_memory() -> bool:
    """Tell glibc's malloc to take large arrays from its heap and never to shrink it; False where that is not possible.

    By default each array above 32 MiB, and many smaller ones, come from and go back to the kernel, which clears every
    page anew: a third to a half of an emulated step was spent there. Only the first call does something.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20))
    return all([mallopt(name, value) == 1 for name, value in settings])
