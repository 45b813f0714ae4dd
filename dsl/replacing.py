"""Files and folders that are there whole or not at all, whatever ends the process meanwhile."""

from __future__ import annotations

import os
import platform
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO
from zlib import crc32

_NO_END = {
    *("SIGCHLD", "SIGCONT", "SIGINFO", "SIGURG", "SIGWINCH"),  # nothing happens
    *("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"),  # the process stops for a while
    "SIGKILL",  # nobody can handle it
    *("SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV"),  # faults: what returns from a handler meets them again
}
"""Signals that end no process, or that a handler in Python cannot be for. All others are handled while a file is
written: batch systems send SIGUSR1, SIGUSR2 and SIGXCPU, a terminal SIGQUIT, timers SIGALRM."""

_NAME = re.compile(r"\.parc-([0-9a-f]{8})-(\d{1,9})-([0-9a-f]{1,40})-[0-9a-f]{16}\.tmp")
"""Of temporary files: machine, process, its start, and chance."""
_UNKNOWN = "0"


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file, which takes the place of `target` when the block has ended and its bytes are on the disk.

    It lies beside the target, with its mode if it is there, and is gone if the block fails or a signal ends the
    process. SIGKILL and a fault (SIGSEGV) leave it there: its name says of which process it is, and whoever writes to
    the folder next removes those of dead ones. Raises OSError.
    """
    _remove_left_over(target.parent)
    temporary = _temporary(target.parent)
    before = target.stat() if target.exists() else None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with _gone_at_the_end(temporary):
        with os.fdopen(os.open(temporary, flags, 0o600 if before else 0o666), "wb") as file:
            yield file
            if before:
                _like(temporary, before)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    _sync(target.parent)


@contextmanager
def new_folder(target: Path, watch: Callable[[str], None] = lambda where: None) -> Iterator[Path]:
    """A new folder, which is called `target` when the block has ended; its files, which it syncs, are on the disk then.

    Until then it lies beside that, and goes as the file of `replacing` does. watch: hears before it gets its name, and
    behind that. Raises OSError, also where `target` is there and holds something.
    """
    _remove_left_over(target.parent)
    temporary = _temporary(target.parent)
    with _gone_at_the_end(temporary):
        temporary.mkdir()
        yield temporary
        _sync(temporary)
        watch("rename")
        os.rename(temporary, target)
    _sync(target.parent)
    watch("renamed")


def remove_folder(folder: Path, watch: Callable[[str], None] = lambda where: None) -> None:
    """Remove a folder at once: a part of it is never there under its name. Raises OSError."""
    temporary = _temporary(folder.parent)
    watch("remove")
    os.rename(folder, temporary)
    watch("removing")
    _discard(temporary)


def _temporary(folder: Path) -> Path:
    """A name in the folder that says whose it is."""
    return folder / f".parc-{_machine()}-{os.getpid()}-{_start(os.getpid())}-{os.urandom(8).hex()}.tmp"


def _sync(folder: Path) -> None:
    with suppress(OSError):  # not every system can sync a folder
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _discard(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            from shutil import rmtree

            rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


# --- what is left over ---------------------------------------------------------------------------------


def _remove_left_over(folder: Path) -> None:
    """Remove temporary files and folders of processes of this machine that have ended."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name is None or entry.is_symlink():
                continue
            if name[1] == _machine() and _ended(int(name[2]), name[3]):
                _discard(Path(entry.path))


@cache
def _machine() -> str:
    """What the numbers of processes belong to: a folder may be shared with other machines, or with containers."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{crc32(f'{platform.node()} {space}'.encode()):08x}"


def _ended(pid: int, start: str) -> bool:
    """Whether the process that began then is no more; False where the system does not tell."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is somebody else's
    return _start(pid) not in (start, _UNKNOWN)


def _start(pid: int) -> str:
    """When a process began: the boot of the machine and clock ticks since then; empty for one that only waits to be
    asked how it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return _UNKNOWN
    return "" if fields[0] in "ZX" else f"{_boot()}{int(fields[19]):x}"


@cache
def _boot() -> str:
    """Sixteen digits that no other boot of the machine has."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:16]
    except OSError:
        return "0" * 16


# --- how it is made ------------------------------------------------------------------------------------


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
        _discard(path)
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
        _discard(path)
        for number, was in before.items():
            signal.signal(number, was)
        if interrupts:  # what is raised while something is cleaned up is lost, or a file that is gone told of instead
            raise interrupts[0]
