"""What the processes of a run write into its store: signs of life, why they gave up; who is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

STARVED = 4.0
"""How many times longer a process of a crowded host may be silent that has something to do."""


class Register:
    """The store of a run, as process `rank` of `size` reads and writes it.

    silence: seconds without a sign of life after which a process counts as gone, as far as this one has looked.
    """

    def __init__(self, store: Any, rank: int, size: int, silence: float) -> None:
        self.store, self.rank, self.size, self.silence = store, rank, size, silence
        self._head = f"{os.getpid()} on {os.uname().nodename}"
        self._seen: dict[int, tuple[str, float]] = {}
        self._turns = 0
        self._found: dict[int, int] | None = None

    def clone(self) -> Register:
        """The same by a connection of its own, for another thread."""
        return Register(self.store.clone(), self.rank, self.size, self.silence)

    # --- what this process writes

    def come(self) -> None:
        """Say that this process is there, and where; what it may write later is empty."""
        for what in ("why", "told"):
            self.store.set(f"{what}/{self.rank}", "")
        self.store.set(f"place/{self.rank}", f"{os.getpid()} {_here()}")
        self.show(0)

    def show(self, number: int) -> None:
        """Give a sign of life; returns where who keeps the store still answers."""
        self.store.set(f"beat/{self.rank}", f"{number} {self._head}")
        self.store.check([f"beat/{self.rank}"])

    def gave_up(self, why: str) -> None:
        """Write down why this process ends, for those who will miss it; nothing, if it is another one's fault."""
        self._say("why", why)

    def excuse(self) -> None:
        """Write down that this process was told to end, so that nobody thinks it failed."""
        self._say("told", "1")

    def judge(self, verdict: str) -> str:
        """What is at fault, for all: the first one to say so is believed."""
        try:
            self.store.compare_set("verdict", "", verdict)
        except RuntimeError:
            return verdict
        return self.verdict() or verdict

    def _say(self, what: str, text: str) -> None:
        try:
            self.store.set(f"{what}/{self.rank}", text)
        except RuntimeError:  # the store has gone with its process
            return

    # --- what it reads

    def absent(self) -> list[int]:
        """Those who have not come yet."""
        return [r for r in range(self.size) if not self.store.check([f"beat/{r}"])]

    def signs(self) -> dict[int, str] | None:
        """Who every process is, as its last sign of life says; None where the store has gone with its process."""
        found = self._look(range(self.size))
        if found is None:
            return None
        return {r: found.get(r, " nobody knows").partition(" ")[2] for r in range(self.size)}

    def misses_next(self, turn: float) -> bool:
        """Whether the process of the next number has given no sign of life for long; asked once a turn, of so many
        seconds. As everybody looks at the next one, each is looked at by one, however many there are."""
        after = (self.rank + 1) % self.size
        before = self._seen.get(after)
        self._look([after])
        # Turns are counted, too: a clock goes on while all processes are stopped together.
        self._turns = self._turns + 1 if before == self._seen.get(after) else 0
        return self._turns * turn > self.silence and bool(self._silent([after]))

    def noticed(self, ended: Collection[int] = ()) -> bool:
        """Whether somebody has been found at fault, or is known to have ended; it asks little of the store."""
        return bool(ended or self.verdict() or self.ended())

    def _look(self, ranks: Collection[int]) -> dict[int, str] | None:
        """The last signs of life of some; None where the store has gone with its process."""
        found = self._read("beat", ranks)
        now = time.monotonic()
        for r, sign in (found or {}).items():
            if self._seen.get(r, ("", 0.0))[0] != sign:
                self._seen[r] = sign, now
        return found

    def _silent(self, ranks: Collection[int]) -> set[int]:
        """Those of some who have given no sign of life for long, as far as this process has looked."""
        late = {r: time.monotonic() - self._seen[r][1] for r in ranks if r != self.rank and r in self._seen}
        return {
            r for r, s in late.items() if s > self.silence and (s > STARVED * self.silence or not self._wants_to_run(r))
        }

    def ended(self) -> set[int]:
        """Those of this host who have ended, without having been told to."""
        ended = {r for r, pid in self._neighbours().items() if not _states(pid) - {"Z", "X"}}
        return {r for r, told in (self._read("told", ended) or {}).items() if not told} if ended else ended

    def _wants_to_run(self, rank: int) -> bool:
        """Whether it is a process of this host that waits for nothing but a processor."""
        pid = self._neighbours().get(rank)
        return pid is not None and "R" in _states(pid)

    def _neighbours(self) -> dict[int, int]:
        """The numbers of the processes of this host, by rank."""
        if self._found is not None:
            return self._found
        told = {r: text.partition(" ") for r, text in (self._read("place", range(self.size)) or {}).items()}
        here = _here()
        found = {r: int(pid) for r, (pid, _, where) in told.items() if where and where == here}
        if len(told) == self.size:
            self._found = found
        return found

    def verdict(self) -> str:
        """What is at fault, if somebody has found out."""
        try:
            return str(self.store.get("verdict").decode()) if self.store.check(["verdict"]) else ""
        except RuntimeError:
            return ""

    def reasons(self) -> dict[int, str]:
        """Why those have given up who have failed themselves."""
        return {r: why for r, why in (self._read("why", range(self.size)) or {}).items() if why}

    def at_fault(self, ended: Collection[int] = ()) -> str:
        """Who is at fault, by all that can be known now; empty if nobody is. ended: those who are known to have."""
        if verdict := self.verdict():
            return verdict
        signs = self.signs()
        if signs is None:
            return ""
        if reasons := self.reasons():
            r, why = min(reasons.items())
            return self.judge(f"process {r} ({signs[r]}) failed: {why}")
        gone = {*ended, *self.ended()}
        if missing := gone | self._silent(range(self.size)):
            who = " and ".join(f"process {r} ({signs[r]})" for r in sorted(missing))
            have, answer = ("has", "answers") if len(missing) == 1 else ("have", "answer")
            return self.judge(f"{who} {have} ended" + ("" if missing == gone else f", or no longer {answer}"))
        return ""

    def _read(self, what: str, ranks: Collection[int]) -> dict[int, str] | None:
        """What some processes have written under this name; None where the store has gone with its process."""
        keys = {r: f"{what}/{r}" for r in ranks}
        try:
            if not self.store.check([*keys.values()]):  # not all have come
                keys = {r: key for r, key in keys.items() if self.store.check([key])}
            return {r: text.decode() for r, text in zip(keys, self.store.multi_get([*keys.values()]), strict=True)}
        except RuntimeError:
            return None


def _here() -> str:
    """What tells this host, whose numbers of processes are known here, from others; empty where nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _states(pid: int) -> set[str]:
    """The states of a process' threads: R where one runs or would like to, Z where nobody has asked how it ended."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError, IndexError):
            found.add(thread.read_text().rpartition(")")[2].split()[0])
    return found
