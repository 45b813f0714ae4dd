"""Cases in processes of their own, forked from this one, which has loaded everything: they cannot hang, take all memory
or end the whole run.

Each process may have `MEMORY` bytes of address space more than it begins with, and each command in it `SECONDS` of CPU
time (not of the clock: other people work on the machine, too). What it prints lies in memory, where both sides see it.
A few cases share a process, for a fork costs as much as most of them; one that fails there fails only if it does so
alone, too.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NoReturn

MEMORY = 512 * 2**20
SECONDS = 5.0
WALL = 300.0
"""Seconds of the clock after which a case that uses no CPU is ended."""

SHARE = 100
"""Cases in a process."""

UNTOLD = "this takes more memory than there is"
"""What is said where memory was missing that no estimate had foreseen."""

_OUTPUT = 64 * 2**20
_FRAME = re.compile(r'File "[^"]*?((?:dsl|compiler|runtime|parc)/[\w/]+\.py)", line (\d+)(?:,)? in (\S+)')
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal would act upon, but for ends of lines and tabs."""

CODE = re.compile(r'error\[(E\d{4})\]|"code": "(E\d{4})"')


@dataclass(frozen=True)
class Finding:
    """What went wrong. `kind` and `where` (a function of ours, a command) tell one from another."""

    kind: str
    where: str
    detail: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.where

    def __str__(self) -> str:
        return f"{self.kind} at {self.where}"


@dataclass
class Ended:
    """How a case ended: how far it came, what was wrong, its CPU time (seconds), of each stage too, and largest memory
    (bytes)."""

    stage: str = ""
    finding: Finding | None = None
    cpu: float = 0.0
    peak: int = 0
    notes: list[str] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    begun: float = 0.0

    def at(self, cpu: float, stage: str | None = None) -> None:
        """So much CPU time was used when the next stage began, or (None) the case ended."""
        self.spent[self.stage] = self.spent.get(self.stage, 0.0) + cpu - self.begun
        self.begun = cpu
        self.stage = self.stage if stage is None else stage


class Cell:
    """What a case has, in its own process: commands, and a way to say how far it is and what is wrong."""

    def __init__(self, pipe: int, output: int) -> None:
        self._pipe, self._output = pipe, output
        self.took = 0.0
        """CPU seconds of the last command."""

    def tell(self, **what: Any) -> None:
        """Send a line to the process that forked this one."""
        os.write(self._pipe, (json.dumps(what) + "\n").encode())

    def stage(self, name: str) -> None:
        """Say how far the case is, and give it its seconds once more."""
        used = time.process_time()
        self.tell(stage=name, at=used)
        faulthandler.unregister(signal.SIGPROF)  # commands that write handle signals themselves meanwhile
        faulthandler.register(signal.SIGPROF, file=2, all_threads=False)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + SECONDS) + 2, resource.RLIM_INFINITY))

    def wrong(self, kind: str, where: str, detail: str = "") -> NoReturn:
        """Something is wrong: the case ends here."""
        self.tell(kind=kind, where=where, detail=detail[-6000:])
        raise _Over

    def note(self, text: str) -> None:
        """Something worth counting."""
        self.tell(note=text)

    def command(self, *args: str) -> tuple[int, str]:
        """Run `parc ARGS` in this process: its exit code and all that it printed.

        Reports a bug of ours (3), misuse (2), an error without a code, what a terminal would act upon, and what
        takes too long.
        """
        from parc.cli import cli

        self.stage(args[0])
        os.ftruncate(self._output, 0)
        begun = time.process_time()
        code = 0
        try:
            cli.main(["--debug", *args], "parc")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        self.took = time.process_time() - begun
        sys.stdout.flush()
        sys.stderr.flush()
        text = os.pread(self._output, os.fstat(self._output).st_size, 0).decode(errors="replace")
        if code == 3 or "internal error" in text or "Traceback (most recent" in text:
            self.wrong("bug", place(text, args[0]), text)
        if code not in (0, 1, 4):
            self.wrong(f"exit {code}", args[0], text)
        if code == 4 and UNTOLD in text:
            self.note("memory that was not told before")
        if code and not CODE.search(text) and not (code == 1 and args[0] == "verify"):  # not equal
            self.wrong("no code", args[0], text)
        raw = None if args[0] == "generate" else _RAW.search(text)  # texts that people ask for go as they are to files
        if raw is not None:
            self.wrong("raw", args[0], f"{raw[0]!r} in {text!r}")
        if self.took > SECONDS:
            self.wrong("seconds", place(text, args[0]), f"{self.took:.1f} s\n{text}")
        return code, text


Case = tuple[int, Callable[[Cell], None]]
"""Its number, and what it does."""


def place(text: str, otherwise: str) -> str:
    """The innermost function of ours in a traceback, or what a text says of itself."""
    frames = _FRAME.findall(text)
    if frames:
        first = "most recent call first" in text
        path, _, function = frames[0] if first else frames[-1]
        return f"{path}:{function}"
    found = re.search(r"error\[(E\d{4})\]: [^\n]*", text)
    return f"{otherwise}, {found[0]}" if found else otherwise


def cells(cases: Iterable[Case], jobs: int = 1, share: int = SHARE) -> Iterator[tuple[int, Ended]]:
    """Run cases, in `jobs` processes at a time, `share` of them in each. Yields (number, how it ended) as they end."""
    waiting = iter(cases)
    again: list[Case] = []
    ready = selectors.DefaultSelector()
    running = 0
    while True:
        while running < jobs:
            some, again = again[:share], again[share:]
            some += islice(waiting, share - len(some))
            if not some:
                break
            one = _start(some)
            ready.register(one.pipe, selectors.EVENT_READ, one)
            running += 1
        if not running:
            return
        for key, _ in ready.select(timeout=1.0):
            one = key.data
            if one.read():
                continue
            ready.unregister(one.pipe)
            running -= 1
            ended = one.ended()
            again += one.cases[len(ended) :]
            for case, how in zip(one.cases, ended):
                if how.finding is not None and len(one.cases) > 1:
                    how = cell(case[1])
                yield case[0], how
        for key in list(ready.get_map().values()):
            if time.monotonic() - key.data.heard > WALL:
                os.kill(key.data.pid, signal.SIGKILL)


def cell(case: Callable[[Cell], None]) -> Ended:
    """Run one case in a process of its own."""
    return next(cells([(0, case)]))[1]


class _Over(Exception):
    """A case ends."""


class _Running:
    def __init__(self, cases: list[Case], pid: int, pipe: int, output: int) -> None:
        self.cases, self.pid, self.pipe, self.output = cases, pid, pipe, output
        self.heard = time.monotonic()
        self.told = b""

    def read(self) -> bool:
        """Take in what the cases say; False at their end."""
        found = os.read(self.pipe, 2**16)
        self.heard = time.monotonic()
        self.told += found
        return bool(found)

    def ended(self) -> list[Ended]:
        """How each case ended, up to the last that was begun."""
        os.close(self.pipe)
        _, status, used = os.wait4(self.pid, 0)
        text = os.pread(self.output, 2**20, max(0, os.fstat(self.output).st_size - 2**20)).decode(errors="replace")
        os.close(self.output)
        found: list[Ended] = []
        for line in self.told.decode().splitlines():
            what = json.loads(line)
            if "begun" in what:
                found.append(Ended(begun=what["begun"]))
                continue
            ended = found[-1]
            ended.cpu = what.get("cpu", ended.cpu)
            ended.peak = what.get("peak", ended.peak)
            if "at" in what:
                ended.at(what["at"], what.get("stage"))
            if "note" in what:
                ended.notes.append(what["note"])
            if "kind" in what:
                ended.finding = Finding(**what)
        last = found[-1]
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            kind = "seconds" if number in (signal.SIGXCPU, signal.SIGPROF) else f"signal {number}"
            last.finding = Finding(kind, place(text, last.stage), text)
        elif os.WEXITSTATUS(status):
            last.finding = Finding("harness", place(text, last.stage), text)
        if not last.cpu:
            last.cpu, last.peak = used.ru_utime + used.ru_stime - sum(e.cpu for e in found), used.ru_maxrss * 1024
        return found


def _start(cases: list[Case]) -> _Running:
    read, write = os.pipe()
    output = os.memfd_create("output")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return _Running(cases, pid, read, output)
    status = 1
    try:
        os.close(read)
        _confine(output)
        cell = Cell(write, output)
        for _, case in cases:
            begun = time.process_time()
            cell.tell(begun=begun)
            with suppress(_Over):
                case(cell)
            peak, end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.process_time()
            cell.tell(cpu=end - begun, peak=peak, at=end)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _confine(output: int) -> None:
    """This process gets its limits; what it prints goes to `output`."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    sys.stdout = os.fdopen(os.open("/proc/self/fd/1", os.O_WRONLY | os.O_APPEND), "w", encoding="utf-8")
    sys.stderr = os.fdopen(
        os.open("/proc/self/fd/2", os.O_WRONLY | os.O_APPEND), "w", encoding="utf-8", errors="replace"
    )
    with open("/proc/self/statm", encoding="ascii") as sizes:  # whatever else the process it is of has loaded
        most = MEMORY + int(sizes.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_OUTPUT, _OUTPUT))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    faulthandler.register(signal.SIGPROF, file=2, all_threads=False)
