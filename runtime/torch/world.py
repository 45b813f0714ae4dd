"""The processes of a run: how they find each other, tell each other what to do, and find out who is missing.

Process 0 leads: it says what is done next (`tell`), the others listen, all answer (`answers`). Devices' own messages go
by groups of their own (`group`), whose calls end after the patience. Every process shows in the store, twice a second,
that it is there, looks whether the next one does, and writes down why it gives up: so whoever misses another one can
name it (`lost`), on all processes the same. Nobody looks at all others unless something is wrong.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dsl.diagnostics import ParcError, fail
from dsl.render import render
from runtime.torch.launch import Seat, reach
from runtime.torch.missing import absent, fault, first_line
from runtime.torch.register import Register

BEAT = 0.5
"""Seconds between signs of life."""

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "npu": "hccl"}
"""What carries messages between devices of a kind."""

_INLINE = 2048
"""Bytes of what is said that go with the first message; the first 8 are its length."""

_ROUNDS = 8
"""Of questions about the clock."""

_SOON = timedelta(seconds=0.25)
_FIRST_PAUSE, _PAUSE = 0.002, 0.05
"""Seconds between looks at who has come."""

_GRACE = 2.0
"""Seconds in which the main thread may find out by itself why this process ends."""

_SEEN = 3.0
"""Seconds within which the main thread sees that somebody is missing, if it does not wait inside of torch."""

_FOR_EVER = timedelta(days=7)


class World:
    """All processes of a run.

    rank: this one's number; size: how many they are; patience: seconds that a device waits for another one; silence:
    seconds without a sign of life after which a process counts as gone; ended: the processes that are known to have
    ended, for who can know.
    """

    def __init__(
        self,
        place: Seat,
        device: str = "cpu",
        patience: float = 60.0,
        silence: float = 15.0,
        ended: Callable[[], set[int]] = set,
        meeting: float = 0.0,
        last: Callable[[], None] | None = lambda: None,
    ) -> None:
        """Meets the others at the place; E0709 if they do not come within the patience, or `meeting` if that is longer.

        last: what is done before this process ends where somebody is missing and its main thread waits inside of torch;
        None: it does not end then.

        device: cpu, cuda or npu; of several on a host each process takes that of its local number.
        """
        self.rank, self.size, self.patience, self.silence = place.rank, place.size, patience, silence
        self.backend, self.device = BACKENDS[device], torch_device(device, place.local)
        self.ended, self.last = ended, last
        self._groups: dict[tuple[int, ...], Any] = {}
        self._keeper = "the store of torchrun" if place.served else "process 0"
        self.register: Register | None = None
        self._over = threading.Event()
        self._beats: threading.Thread | None = None
        self._heard, self._deserted, self._verdict = 0, False, ""
        self._made = False
        waiting = timedelta(seconds=patience)
        ours = place.rank == 0 and not place.served
        try:
            if not ours:
                reach(place.address, place.port, patience)
            store = dist.TCPStore(
                place.address, place.port, None if place.served else place.size, ours, waiting, wait_for_workers=False,
                multi_tenant=True, master_listen_fd=place.listening,
            )  # fmt: skip
            # A store may outlive a run (torchrun's does): the addresses of an earlier one must not be read again.
            self.store = dist.PrefixStore(str(place.turn), store)
            self.register = Register(self.store, self.rank, self.size, silence)
            self.register.come()
            self._beats = threading.Thread(target=self._live, args=(self.register.clone(),), daemon=True)
            self._beats.start()
            if last is not None:
                threading.Thread(target=self._watch, daemon=True).start()
            # All are there before torch hears of it: what it begins and gives up counts in the names of later groups.
            self._gather(self.register, max(meeting, patience))
            self._made = not dist.is_initialized()
            dist.init_process_group(
                self.backend, store=dist.PrefixStore("world", self.store), rank=self.rank, world_size=self.size,
                timeout=waiting,
            )  # fmt: skip
            self._control = dist.new_group(backend="gloo", timeout=_FOR_EVER)
        except (RuntimeError, ValueError, OSError) as error:
            self.close()
            raise absent(place, error) from error
        except (KeyboardInterrupt, ParcError):
            self.leave()
            raise

    def _gather(self, register: Register, meeting: float) -> None:
        """Wait until all are there; TimeoutError if some do not come within these seconds, E0709 if one has ended."""
        last, pause = time.monotonic() + meeting, _FIRST_PAUSE
        missing = register.absent()
        while missing:
            if self.ended() or time.monotonic() > last:
                if gone := sorted(self.ended()):
                    raise fault(register.judge(f"process {gone[0]} has ended before it met the others"))
                raise TimeoutError(f"{', '.join(map(str, missing))} did not come within {meeting:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE)
            missing = [r for r in missing if not self.store.check([f"beat/{r}"])]

    def group(self, ranks: Sequence[int]) -> Any:
        """The process group of these ranks, made once: by all processes, in the same order."""
        key = tuple(sorted(ranks))
        if key not in self._groups:
            whole = len(key) == self.size
            waiting = timedelta(seconds=self.patience)
            self._groups[key] = dist.group.WORLD if whole else dist.new_group(list(key), waiting, self.backend)
        return self._groups[key]

    def about(self) -> str:
        """`4 processes on cpu (x86_64), messages by gloo, 1 thread each`."""
        if self.device.type == "cpu":
            name = os.uname().machine
        else:
            name = str(getattr(torch, self.device.type).get_device_name(self.device))
        threads = torch.get_num_threads()
        processes = "1 process" if self.size == 1 else f"{self.size} processes"
        each = f"{threads} thread{'s' if threads > 1 else ''}{' each' if self.size > 1 else ''}"
        return f"{processes} on {self.device.type} ({name}), messages by {self.backend}, {each}"

    # --- what the leader says, and what is answered

    def tell(self, command: Any = None) -> Any:
        """What the leader says, on every process; the others wait for it."""
        data = pickle.dumps(command) if self.rank == 0 else b""
        head = _packed(data) if self.rank == 0 else torch.empty(_INLINE, dtype=torch.uint8)
        self._wait(dist.broadcast(head, 0, self._control, async_op=True), "what process 0 says", (0,))
        size = _length(head)
        if size <= _INLINE - 8:
            return command if self.rank == 0 else pickle.loads(head[8 : 8 + size].numpy().tobytes())
        body = _bytes(data) if self.rank == 0 else torch.empty(size, dtype=torch.uint8)
        self._wait(dist.broadcast(body, 0, self._control, async_op=True), "what process 0 says", (0,))
        return command if self.rank == 0 else pickle.loads(body.numpy().tobytes())

    def answers(self, mine: Any) -> list[Any]:
        """Everybody's answer, on the leader; an empty list elsewhere."""
        data = pickle.dumps(mine)
        heads = [torch.empty(_INLINE, dtype=torch.uint8) for _ in range(self.size)]
        everybody = tuple(range(self.size))
        self._wait(dist.all_gather(heads, _packed(data), self._control, async_op=True), "the answers", everybody)
        if self.rank:
            if len(data) > _INLINE - 8:
                self._wait(dist.isend(_bytes(data), 0, self._control), "process 0 to take an answer", (0,), soft=False)
            return []
        found = [mine]
        for rank, head in enumerate(heads[1:], 1):
            size = _length(head)
            body = head[8 : 8 + size]
            if size > _INLINE - 8:
                body = torch.empty(size, dtype=torch.uint8)
                self._wait(dist.irecv(body, rank, self._control), "an answer", (rank,), soft=False)
            found.append(pickle.loads(body.numpy().tobytes()))
        return found

    def clock(self, size: int) -> tuple[int, int]:
        """This process' clock, and by how much process 0's is ahead (nanoseconds): called by the first `size`.

        Each asks process 0 what its clock shows, some times; the quickest answer counts, half of whose way is assumed
        to be the way back. So the error is at most half of its round trip. A difference that may be none is none:
        processes of a host have one clock.
        """
        quickest, found = None, 0
        for peer in range(1, size) if self.rank == 0 else (0,):
            for _ in range(_ROUNDS):
                told = torch.zeros(1, dtype=torch.int64)
                start = time.perf_counter_ns()
                if self.rank == 0:
                    self._wait(dist.irecv(told, peer, self._control), "clocks", (peer,), soft=False)
                    told[0] = time.perf_counter_ns()
                    self._wait(dist.isend(told, peer, self._control), "clocks", (peer,), soft=False)
                    continue
                self._wait(dist.isend(told, peer, self._control), "clocks", (peer,), soft=False)
                self._wait(dist.irecv(told, peer, self._control), "clocks", (peer,), soft=False)
                taken = time.perf_counter_ns() - start
                if quickest is None or taken < quickest:
                    quickest, found = taken, int(told[0]) - start - taken // 2
        return time.perf_counter_ns(), found if quickest and 2 * abs(found) > quickest + 1 else 0

    def _wait(self, work: Any, what: str, peers: Sequence[int], soft: bool = True) -> None:
        """Wait as long as all processes show signs of life. soft: whether the work can be waited for again after a
        time-out (messages between two cannot)."""
        looked = time.monotonic()
        while True:
            try:
                work.wait(_SOON) if soft else work.wait()
                return
            except RuntimeError as error:
                late = soft and "imed out" in str(error)
                if late and (work.is_completed() or time.monotonic() - looked < 2 * BEAT):
                    continue  # it came just now, or somebody may interrupt us
                looked = time.monotonic()
                if not late or (self._known.noticed(self.ended()) and self._known.at_fault(self.ended())):
                    raise self.lost(error, what, peers) from error

    # --- who is missing

    def lost(self, error: BaseException, what: str, peers: Sequence[int]) -> ParcError:
        """E0709: why a message did not come: the process that failed, or that has ended, or gives no sign of life."""
        start, looked, register = time.monotonic(), 0.0, self._known
        while True:
            now = time.monotonic()
            if register.noticed(self.ended()) or now - looked > 2 * BEAT:
                looked = now
                if told := register.at_fault(self.ended()):
                    return fault(told)
                if (signs := register.signs()) is None:
                    return fault(f"{self._keeper} has ended, or no longer answers: {first_line(error)}")
                if now - start > self.silence + 2 * BEAT:
                    whom = ", ".join(map(str, sorted(set(peers) - {self.rank})))
                    told = f"process {self.rank} ({signs[self.rank]}) waited {self.patience:g} s for {what}, of {whom}"
                    return fault(register.judge(f"{told}: {first_line(error)}"))
            time.sleep(BEAT / 4)

    @property
    def _known(self) -> Register:
        assert self.register is not None
        return self.register

    def gave_up(self, why: str, told_to: bool = False) -> None:
        """Write down why this process ends, for those who will miss it; nothing, if it is another one's fault.

        told_to: whether somebody wanted it to end."""
        if told_to:
            self._known.excuse()
        if why:
            self._known.gave_up(why)
            self._known.at_fault()  # so that all others find it with one look

    def told_to_end(self) -> None:
        """What a process does that its launcher ends, as torchrun does where another one has ended: it says which
        (E0709). Called on a thread of its own; the process ends here, unless its main thread ends it before."""
        register, last = self._known.clone(), time.monotonic() + _GRACE
        told = ""
        while not self._over.is_set() and not told and time.monotonic() < last:
            told = register.at_fault(self.ended())
            time.sleep(BEAT / 10)
        if self._over.wait(_GRACE if told else 0):
            time.sleep(_GRACE)
        elif told:
            self._end(told)
        register.excuse()
        os._exit(128 + signal.SIGTERM)

    def interrupted(self) -> None:
        """End this process, which somebody has interrupted, whatever its main thread waits for."""
        self.excuse()
        os._exit(128 + signal.SIGINT)

    def excuse(self) -> None:
        """Write down that somebody wanted this process to end, if who keeps the store answers soon."""

        def write() -> None:
            with suppress(RuntimeError):
                self._known.clone().excuse()

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(BEAT)

    def _end(self, told: str) -> None:
        """End this process, whatever its main thread waits for."""
        lines = render(fault(told).diagnostics, {}, False).strip().splitlines()
        who = f"process {self.rank}: " if self.rank else ""
        sys.stderr.write("".join(f"{who}{line}\n" for line in lines))
        sys.stderr.flush()
        if self.last is not None:
            self.last()
        os._exit(1)

    def _live(self, register: Register) -> None:
        """Show again and again that this process is there."""
        number = 0
        while not self._over.wait(BEAT):
            number += 1
            try:
                register.show(number)
                self._heard = number
                # They cannot write why: all others wait for no message of theirs.
                if self.ended() or (self.size > 1 and register.misses_next(BEAT)):
                    register.at_fault(self.ended())
                self._verdict = register.verdict()
            except RuntimeError:  # the store has gone with its process
                self._deserted = True
                return

    def _watch(self) -> None:
        """End this process, if its main thread does not, where somebody is missing, or who keeps the store: where he is
        stopped, calls of it never come back, in whichever thread."""
        silent, heard, known = 0, 0, 0
        while not self._over.wait(BEAT):  # turns are counted: a clock goes on while all are stopped together
            silent, heard = silent + 1 if heard == self._heard else 0, self._heard
            known += bool(self._verdict or self._deserted)
            if known * BEAT > _SEEN:
                self._end(self._verdict or f"{self._keeper} has ended, or no longer answers")
            if silent * BEAT > 2 * self.silence:
                self._end(f"{self._keeper} no longer answers")

    def leave(self) -> None:
        """Leave while others may hang: connections are not waited for."""
        self._over.set()
        if self._beats is not None:  # where Python ends while a thread is in a call of torch, the process aborts
            self._beats.join(2.0)

    def close(self) -> None:
        """Leave. Every process does before it ends: without that some abort at their exit."""
        self.leave()
        if self._made and dist.is_initialized():
            dist.destroy_process_group()


def torch_device(kind: str, number: int) -> torch.device:
    """The device of that number on this host; E0710 where torch knows of none."""
    if kind == "cpu":
        return torch.device("cpu")
    try:
        if kind == "npu":
            import_module("torch_npu")
        module = getattr(torch, kind)
        if number < module.device_count():
            module.set_device(number)
            return torch.device(kind, number)
        found = f"there are {module.device_count()} here"
    except (ImportError, AttributeError, RuntimeError) as error:
        found = first_line(error)
    help = "`--device cpu` runs on this machine's own cores"
    if kind == "npu":
        least = f"torch {torch.__version__.partition('+')[0]}"
        help = f"Ascend NPUs need the package `torch_npu` of the version for {least}, and CANN; " + help
    raise fail("E0710", f"process {number} of this host needs a device `{kind}`: {found}", help=help)


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _packed(data: bytes) -> Tensor:
    """The length, and as much of the data as there is room for if it is all of it."""
    head = len(data).to_bytes(8, "little")
    return _bytes((head + (data if len(data) <= _INLINE - 8 else b"")).ljust(_INLINE, b"\0"))


def _length(head: Tensor) -> int:
    return int.from_bytes(head[:8].numpy().tobytes(), "little")
