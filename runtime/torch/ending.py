"""Signals that end a process whose main thread may be waiting inside of torch, where Python hears of none."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


def heed(what: Mapping[signal.Signals, Callable[[], None]]) -> Callable[[], None]:
    """Have signals heard by a thread of their own, whatever the main thread does; what comes back ends that.

    Those that Python itself makes an exception of (an interrupt) stay that, too. Nothing is changed where this is not
    the main thread, whose signals they are.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    source, target = os.pipe()
    os.set_blocking(target, False)
    before = {number: signal.getsignal(number) for number in what}
    for number, was in before.items():
        if was == signal.SIG_DFL:
            signal.signal(number, lambda number, frame: None)
    wakeup = signal.set_wakeup_fd(target, warn_on_full_buffer=False)

    def listen() -> None:
        while heard := os.read(source, 1):
            do = what.get(signal.Signals(heard[0]))
            if do is not None:
                do()
        os.close(source)

    def undo() -> None:
        signal.set_wakeup_fd(wakeup)
        for number, was in before.items():
            signal.signal(number, was)
        os.close(target)

    threading.Thread(target=listen, daemon=True).start()
    return undo


@contextmanager
def interrupts_after() -> Iterator[None]:
    """Have an interrupt be an exception after what is done here, not within.

    An exception inside of the start of a C++ module is nobody's, and the process aborts (torch 2.13, pybind11).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        signal.raise_signal(signal.SIGINT)
