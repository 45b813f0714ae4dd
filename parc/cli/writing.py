"""Files that a command writes: whole or not at all, and never over what it reads."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import click

import dsl
from dsl import ast
from dsl.diagnostics import ParcError
from dsl.files import load_use, project_root
from dsl.parser import parse
from dsl.source import Source
from parc.cli.streams import UNWRITABLE

_NO_END = {
    *("SIGCHLD", "SIGCONT", "SIGINFO", "SIGURG", "SIGWINCH"),  # nothing happens
    *("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"),  # the process stops for a while
    "SIGKILL",  # nobody can handle it
    *("SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV"),  # faults: what returns from a handler meets them again
}
"""Signals that end no process, or that a handler in Python cannot be for. All others are handled while a file is
written: batch systems send SIGUSR1, SIGUSR2 and SIGXCPU, a terminal SIGQUIT, timers SIGALRM."""
_MOST_LINKS = 40


class Unwritable(click.ClickException):
    """A file cannot be written: nothing that parc could mend."""

    exit_code = UNWRITABLE

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(f"cannot write `{path}`: {error.strerror or error}")


# --- what must not be written over ---------------------------------------------------------------------


def check_output(output: str | None, source: Source, values: Iterable[str] = ()) -> None:
    """Refuse an output that cannot be written, or that is what the command reads: `source`, what it uses, its data.

    Files are told apart by what they are, not by name: links of either kind are seen through. values: what `-D` sets.
    Raises Unwritable, or click.UsageError.
    """
    if output is None:
        return
    try:
        there = os.stat(output)
    except FileNotFoundError as error:
        if not os.path.isdir(os.path.dirname(os.path.realpath(output))):
            raise Unwritable(output, error) from None
        return
    except OSError as error:
        raise Unwritable(output, error) from None
    if stat.S_ISDIR(there.st_mode):
        raise Unwritable(output, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if not stat.S_ISREG(there.st_mode):
        return
    for what, found in _inputs(source, values):
        if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
            raise click.UsageError(f"`{output}` is {what}: it would be lost. Write to another file")


def _inputs(source: Source, values: Iterable[str]) -> Iterator[tuple[str, os.stat_result]]:
    """All ordinary files that may be read for a file, with what to call them: itself, what it uses, and whatever one
    of its strings names, which is more than its data.

    What is wrong with the files is passed over: whoever evaluates them says it.
    """
    from compiler.evaluate.limits import MAX_FILES

    if source.path is None:
        with suppress(OSError, ValueError):
            yield "standard input", os.fstat(sys.stdin.fileno())
    root = project_root(source.path) if source.path else "."
    seen: set[str] = set()
    waiting = [(source, "the file to read")]
    while waiting and len(seen) < MAX_FILES:
        file, what = waiting.pop()
        path = file.path or _std(file)
        if path in seen:
            continue
        seen.add(path)
        with suppress(OSError, ValueError):
            yield what, os.stat(path)
        try:
            tree = parse(file.text, file.name)
        except ParcError:
            continue
        folder = os.path.dirname(path)
        others = tuple(item for item in tree.items if not isinstance(item, ast.Use))
        for text in (*values, *(s.value for s in _strings(others))):
            with suppress(OSError, ValueError):
                yield f"data that {file.name} names", os.stat(os.path.join(folder, text))
        for item in tree.items:
            if isinstance(item, ast.Use):
                with suppress(ParcError):
                    waiting.append((load_use(item, file, root), f"used by {file.name}"))


def _std(source: Source) -> str:
    """Where a file of the standard library lies; of standard input a name in the folder that its paths start from."""
    return os.path.join(dsl.__path__[0], "std", source.name.removeprefix("<std>/"))


def _strings(node: object) -> Iterator[ast.String]:
    if isinstance(node, ast.String):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _strings(part)
    elif isinstance(node, ast.Syntax) and is_dataclass(node):
        for f in fields(node):
            yield from _strings(getattr(node, f.name))


# --- writing -------------------------------------------------------------------------------------------


def write_file(path: str, text: str | Iterable[str], zipped: bool = False) -> None:
    """Write the whole file (a text, or its parts) or nothing: to a temporary one beside it, which is renamed once its
    bytes are on the disk. Whatever ends the command, short of SIGKILL and a fault (SIGSEGV), leaves no temporary file.

    Keeps the mode of what was there; a link stays, and what it leads to is replaced. Pipes, devices and open
    descriptors (`/dev/stdout`) are written to as they are. zipped: gzip, of the same bytes for the same text.
    """
    parts = (text,) if isinstance(text, str) else text
    try:
        number = _descriptor(path)
        target = Path(os.path.realpath(path))
        if number is not None:
            sys.stdout.flush()
            with os.fdopen(os.dup(number), "wb") as file:
                _fill(file, parts, zipped)
        elif target.exists() and not target.is_file():
            with target.open("wb") as file:
                _fill(file, parts, zipped)
        elif target.is_symlink():  # links in a circle
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        else:
            _replace(target, parts, zipped)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(path, error) from None


def write_output(path: str, text: str | Iterable[str]) -> None:
    """What `-o` asks for: as `write_file`, compressed where the name ends in `.gz`."""
    write_file(path, text, path.endswith(".gz"))


def _replace(target: Path, parts: Iterable[str], zipped: bool) -> None:
    temporary = target.with_name(f".parc-{os.urandom(8).hex()}.tmp")
    before = target.stat() if target.exists() else None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with _gone_at_the_end(temporary):
        with os.fdopen(os.open(temporary, flags, 0o600 if before else 0o666), "wb") as file:
            _fill(file, parts, zipped)
            if before:
                _like(temporary, before)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    with suppress(OSError):  # not every system can sync a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _fill(file: BinaryIO, parts: Iterable[str], zipped: bool) -> None:
    """Writes all parts; the file stays open."""
    if not zipped:
        _encode(file, parts)
        return
    from gzip import GzipFile

    with GzipFile("", "wb", 6, file, mtime=0) as packed:
        _encode(packed, parts)


def _encode(file: Any, parts: Iterable[str]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
    try:
        text.writelines(parts)
        text.flush()
    finally:
        with suppress(OSError, ValueError):
            text.detach()


def _like(path: Path, before: os.stat_result) -> None:
    """Mode and, where one may, owner of what is replaced."""
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(path, before.st_uid, before.st_gid)
    os.chmod(path, stat.S_IMODE(before.st_mode))


@contextmanager
def _gone_at_the_end(path: Path) -> Iterator[None]:
    """No file stays at `path`, whether the block ends, fails, or a signal ends the process.

    The file must be made inside the block: the handlers stand by then.
    """
    before: dict[int, Any] = {}
    interrupts: list[BaseException] = []

    def end(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.unlink(path)
        if callable(before[number]):
            try:
                before[number](number, frame)
            except BaseException as error:
                interrupts.append(error)
                raise
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():  # signals are the main thread's
        others = {getattr(signal, name) for name in _NO_END if hasattr(signal, name)}
        for ending in sorted(signal.valid_signals() - others):
            was = signal.getsignal(ending)
            if was not in (None, signal.SIG_IGN):  # `nohup` wants SIGHUP to be ignored
                before[ending] = was
                signal.signal(ending, end)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)
        for number, was in before.items():
            signal.signal(number, was)
        if interrupts:  # what is raised while something is cleaned up is lost, or a file that is gone told of instead
            raise interrupts[0]


_OWN = re.compile(r"/proc/(\d+)/fd")


def _descriptor(path: str) -> int | None:
    """The number of the open descriptor that a path stands for (`/dev/stdout`, `/dev/fd/3`), if it does."""
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(os.path.abspath(path))
        folder = os.path.realpath(folder)
        own = _OWN.fullmatch(folder)
        if own and int(own[1]) == os.getpid() and name.isdecimal():
            return int(name)
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None
