"""A case in a process of its own, forked from this one, which has loaded everything: it cannot hang, take all memory or
end the whole run.

Each may have `MEMORY` bytes of address space, and each command in it `SECONDS` of CPU time (not of the clock: other
people work on the machine, too). What it prints lies in memory, where both sides see it.
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
from dataclasses import dataclass, field
from typing import Any

MEMORY = 512 * 2**20
SECONDS = 5.0
WALL = 300.0
"""Seconds of the clock after which a case that uses no CPU is ended."""

_OUTPUT = 64 * 2**20
_FRAME = re.compile(r'File "[^"]*?((?:dsl|compiler|runtime|parc)/[\w/]+\.py)", line (\d+)(?:,)? in (\S+)')
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
    """How a case ended: how far it came, what was wrong, its CPU time (seconds) and largest memory (bytes)."""

    stage: str = ""
    finding: Finding | None = None
    cpu: float = 0.0
    peak: int = 0
    notes: list[str] = field(default_factory=list)


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
        self.tell(stage=name)
        used = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + SECONDS) + 2, resource.RLIM_INFINITY))

    def wrong(self, kind: str, where: str, detail: str = "") -> None:
        """Something is wrong: the case ends here."""
        self.tell(kind=kind, where=where, detail=detail[-6000:])
        os._exit(0)

    def note(self, text: str) -> None:
        """Something worth counting."""
        self.tell(note=text)

    def command(self, *args: str) -> tuple[int, str]:
        """Run `parc ARGS` in this process: its exit code and all that it printed.

        Reports a bug of ours (3), misuse (2), an error without a code, and what takes too long.
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
        text = os.pread(self._output, _OUTPUT, 0).decode(errors="replace")
        if code == 3 or "internal error" in text or "Traceback (most recent" in text:
            self.wrong("bug", place(text, args[0]), text)
        if code not in (0, 1, 4):
            self.wrong(f"exit {code}", args[0], text)
        if code == 4 and "more memory than the machine has" in text:
            self.wrong("memory", place(text, args[0]), text)
        if code and not CODE.search(text) and not (code == 1 and args[0] == "verify"):  # not equal
            self.wrong("no code", args[0], text)
        if self.took > SECONDS:
            self.wrong("seconds", place(text, args[0]), f"{self.took:.1f} s\n{text}")
        return code, text


def place(text: str, otherwise: str) -> str:
    """The innermost function of ours in a traceback, or what a text says of itself."""
    frames = _FRAME.findall(text)
    if frames:
        first = "most recent call first" in text
        path, _, function = frames[0] if first else frames[-1]
        return f"{path}:{function}"
    found = re.search(r"error\[(E\d{4})\]: [^\n]*", text)
    return f"{otherwise}, {found[0]}" if found else otherwise


def cells(cases: Iterable[tuple[int, Callable[[Cell], None]]], jobs: int = 1) -> Iterator[tuple[int, Ended]]:
    """Run cases, `jobs` at a time, each in a cell. Yields (number, how it ended) as they end."""
    waiting = iter(cases)
    ready = selectors.DefaultSelector()
    running = 0
    more = True
    while True:
        while more and running < jobs:
            case = next(waiting, None)
            if case is None:
                more = False
                break
            one = _start(*case)
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
            yield one.number, one.ended()
        for key in list(ready.get_map().values()):
            if time.monotonic() - key.data.begun > WALL:
                os.kill(key.data.pid, signal.SIGKILL)


def cell(case: Callable[[Cell], None]) -> Ended:
    """Run one case in a cell."""
    return next(cells([(0, case)]))[1]


class _Running:
    def __init__(self, number: int, pid: int, pipe: int, output: int) -> None:
        self.number, self.pid, self.pipe, self.output = number, pid, pipe, output
        self.begun = time.monotonic()
        self.told = b""

    def read(self) -> bool:
        """Take in what the case says; False at its end."""
        found = os.read(self.pipe, 2**16)
        self.told += found
        return bool(found)

    def ended(self) -> Ended:
        os.close(self.pipe)
        _, status, used = os.wait4(self.pid, 0)
        text = os.pread(self.output, 2**20, max(0, os.fstat(self.output).st_size - 2**20)).decode(errors="replace")
        os.close(self.output)
        ended = Ended(cpu=used.ru_utime + used.ru_stime, peak=used.ru_maxrss * 1024)
        for line in self.told.decode().splitlines():
            what = json.loads(line)
            ended.stage = what.get("stage", ended.stage)
            if "note" in what:
                ended.notes.append(what["note"])
            if "kind" in what:
                ended.finding = Finding(**what)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            kind = "seconds" if number == signal.SIGXCPU else f"signal {number}"
            ended.finding = Finding(kind, place(text, ended.stage), text)
        elif os.WEXITSTATUS(status):
            ended.finding = Finding("harness", place(text, ended.stage), text)
        return ended


def _start(number: int, case: Callable[[Cell], None]) -> _Running:
    read, write = os.pipe()
    output = os.memfd_create("output")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return _Running(number, pid, read, output)
    status = 1
    try:
        os.close(read)
        _confine(output)
        case(Cell(write, output))
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
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_OUTPUT, _OUTPUT))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    faulthandler.register(signal.SIGPROF, file=2, all_threads=False)
    _trace_memory()


def _trace_memory() -> None:
    """A command that has no memory left says so without a traceback: it is wanted here."""
    from parc.cli.common import Output

    fail = Output.fail

    def failed(self: Output, message: str, help: str | None = None) -> None:
        if isinstance(sys.exc_info()[1], MemoryError):
            sys.stderr.write("memory: " + traceback.format_exc().replace("Traceback (most recent call last)", ""))
        fail(self, message, help)

    Output.fail = failed  # type: ignore[method-assign]
