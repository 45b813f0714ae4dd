"""The engine as commands use it: meets or starts the processes, gives an executor, and ends all in the end.

with Engine(device="cpu") as engine:
    run = engine.executor(program)          # an Executor; so does `prove(..., executor=engine.executor)`
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from compiler.program import Program
from dsl.diagnostics import ParcError
from runtime.distribute import Array
from runtime.torch.ending import heed, interrupts_after
from runtime.torch.launch import MEETING, Followers, Seat, require_size, require_torch

if TYPE_CHECKING:
    from runtime.torch.executor import TorchExecutor
    from runtime.torch.member import Member

PATIENCE = 60.0

_GRACE = 0.5
"""Seconds that the main thread may take until it heeds an interrupt."""

_INTERRUPTED = 128 + signal.SIGINT


class Engine:
    """Process 0 of a run. Where torchrun (or somebody else) has started the processes, they meet when this begins; else
    they are started when it is known how many.

    device: what kernels run on; patience: seconds that a device waits for another one; timed: whether executors can
    say what ran when (`TorchExecutor.measured`); command: whether an interrupt may end this process, whatever its main
    thread waits for (else it is an exception there, once that comes back from torch).
    """

    name = "torch"

    def __init__(
        self, device: str = "cpu", patience: float = PATIENCE, timed: bool = False, command: bool = False
    ) -> None:
        self.device, self.patience, self.timed, self.command = device, patience, timed, command
        self.place = Seat.given()
        self.followers: Followers | None = None
        self._leader: Member | None = None
        self._over = threading.Event()
        self._unheeded: Callable[[], None] = lambda: None

    def __enter__(self) -> Engine:
        require_torch()
        if self.place is not None:
            self._meet(self.place)
        return self

    def executor(self, program: Program, initial: Mapping[str, Array] | None = None) -> TorchExecutor:
        """A program on all processes. Raises E0708 unless there is one for each device, E0709 if one does not come."""
        if self._leader is None:
            self._start(program.devices)
        assert self._leader is not None
        require_size(program.name, program.devices, self._leader.world.size)
        return self._executor(program, initial)

    def _executor(self, program: Program, initial: Mapping[str, Array] | None) -> TorchExecutor:
        from runtime.torch.executor import TorchExecutor

        return TorchExecutor(program, initial, self._leader, timed=self.timed)

    def about(self) -> str:
        """What it is, for those who read its times: processes, device, what carries messages, threads."""
        assert self._leader is not None
        return self._leader.world.about()

    def _start(self, size: int) -> None:
        """Start the other processes, if nobody else has."""
        if self.place is None:
            self.followers = Followers(size, self.patience, self.device)
            self._meet(self.followers.place)

    def _meet(self, place: Seat) -> None:
        signals = {signal.SIGINT: self._interrupted}
        if self.followers is None:
            signals[signal.SIGTERM] = self._told_to_end
        self._unheeded = heed(signals)  # before torch is loaded, which takes long
        others = self.followers
        try:
            with interrupts_after():
                from runtime.torch.member import Member
                from runtime.torch.world import World
            if others is None:
                world = World(place, self.device, self.patience, last=(lambda: None) if self.command else None)
            else:
                last = others.stop if self.command else None
                world = World(place, self.device, self.patience, ended=others.ended, meeting=MEETING, last=last)
                others.met()
        except ParcError:
            self._unheeded()
            raise
        self._leader = Member(world)

    def _told_to_end(self) -> None:
        """Do what a process does that its launcher ends; nobody is missing before all have met."""
        if self._leader is None:
            os._exit(128 + signal.SIGTERM)
        self._leader.world.told_to_end()

    def _interrupted(self) -> None:
        """End, on a thread of its own, if the main thread does not: it may wait for a message that takes minutes."""
        if not self.command or self._over.wait(_GRACE):
            return
        if self._leader is not None:
            self._leader.world.excuse()
        if self.followers is not None:
            self.followers.stop(at_once=True)
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        os._exit(_INTERRUPTED)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell all that it is over, and why."""
        try:
            if isinstance(error, KeyboardInterrupt):
                self._over.set()
            if self._leader is not None:
                self._end(self._leader, error)
        finally:
            self._over.set()
            if self.followers is not None:
                self.followers.stop(at_once=isinstance(error, KeyboardInterrupt))
            if error is None:  # else this process ends, and what ends it meanwhile is to be heard
                self._unheeded()

    def _end(self, leader: Member, error: BaseException | None) -> None:
        from runtime.torch.member import END

        lost = isinstance(error, ParcError) and any(d.code == "E0709" for d in error.diagnostics)
        if lost or isinstance(error, KeyboardInterrupt) or leader.busy:
            interrupted = isinstance(error, KeyboardInterrupt)
            leader.world.gave_up("" if lost or interrupted else _told(error), interrupted)
            leader.world.leave()
            return
        leader.world.tell((END, _told(error)))
        leader.world.close()


class ProcessPool(Engine):
    """An engine whose processes run one program after the other, of so many devices at most."""

    def __init__(self, size: int, device: str = "cpu", patience: float = PATIENCE) -> None:
        super().__init__(device, patience)
        self.size = size

    def __enter__(self) -> ProcessPool:
        super().__enter__()
        self._start(self.size)
        return self

    def executor(self, program: Program, initial: Mapping[str, Array] | None = None) -> TorchExecutor:
        """A program on the first processes. Raises E0708 if there are fewer than it has devices."""
        return self._executor(program, initial)


def _told(error: BaseException | None) -> str:
    """An error in a line."""
    if error is None:
        return ""
    if isinstance(error, ParcError):
        return "; ".join(f"error[{d.code}]: {d.message}" for d in error.diagnostics)
    return f"{type(error).__name__}: {error}"
