"""Ctrl-C ends a search between two steps of it, so that all that is left is known; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dsl.data import dataclass


@dataclass(slots=True)
class SearchStop:
    """asked: whether somebody wants the search to end."""

    asked: bool = False


@contextmanager
def interruptible() -> Iterator[SearchStop]:
    """While it lasts, the first SIGINT is noted and the next one is a KeyboardInterrupt. Where SIGINT is somebody
    else's, or not ours to take (in another thread), it stays as it is."""
    stop = SearchStop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not plain or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
