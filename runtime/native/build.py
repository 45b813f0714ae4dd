"""From C to functions of this process: compiled once by the system's compiler, and kept in the user's cache folder.

What is kept is found by its content: the text, the compiler and its version, the flags, and the processor, for which it
is made. It is loaded as code, so it is only taken from a folder, and as a file, that this user owns and nobody else can
write to; it is put there whole or not at all. Where there is no such folder, a temporary one serves this process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from dsl.data import dataclass

COMPILERS = ("cc", "gcc", "clang")
FLAGS: tuple[str, ...] = (
    "-O3",
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fwrapv",
)
NATIVE = ("-march=native", "-mcpu=native")
"""The first that the compiler takes is used."""
SECONDS = 300.0
"""A compiler may take."""


class NoCompiler(Exception):
    """There is none, or it fails."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler by its path, what it says of itself, and the flags that it takes."""

    path: str
    version: str
    flags: tuple[str, ...]

    def key(self, text: str) -> str:
        """What a text's code is found by."""
        parts = (text, self.path, self.version, *self.flags, _processor())
        return sha256("\0".join(parts).encode()).hexdigest()


@cache
def toolchain() -> Toolchain:
    """The system's compiler: that of `CC`, or the first of `COMPILERS`. Raises NoCompiler."""
    asked = os.environ.get("CC")
    for name in (asked,) if asked else COMPILERS:
        path = shutil.which(name)
        if path is None:
            continue
        found = _run([path, "--version"])
        if found is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for native in ((NATIVE[0],), (NATIVE[1],), ()):
                flags = (*FLAGS, *native)
                if _compiled(path, flags, "int one(void) { return 1; }\n", Path(folder) / "one.so"):
                    return Toolchain(path, found.splitlines()[0] if found else "", flags)
    raise NoCompiler(f"`{asked}`, as CC says, compiles no C" if asked else f"none of {', '.join(COMPILERS)} compiles C")


def library(text: str) -> ctypes.CDLL:
    """The functions of a text. Raises NoCompiler if it cannot be compiled, or loaded."""
    tools = toolchain()
    name = f"{tools.key(text)}.so"
    folder = _cache_folder()
    path = folder / name
    if not _is_mine(path):
        handle, temporary = tempfile.mkstemp(suffix=".so", dir=folder)
        os.close(handle)
        try:
            if not _compiled(tools.path, tools.flags, text, Path(temporary)):
                raise NoCompiler(f"{tools.path} does not compile what was made for it")
            os.chmod(temporary, 0o700)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    try:
        return ctypes.CDLL(str(path))
    except OSError as e:
        raise NoCompiler(f"what {tools.path} compiled cannot be loaded: {e}") from e


# --- the compiler -----------------------------------------------------------------------------------


def _run(command: Sequence[str], given: str = "") -> str | None:
    """What a command prints, given this text; None if it fails."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _compiled(path: str, flags: Sequence[str], text: str, into: Path) -> bool:
    return _run([path, *flags, "-x", "c", "-", "-o", str(into), "-lm"], text) is not None


@cache
def _processor() -> str:
    """What the processor is and can do."""
    found = [platform.machine(), platform.processor()]
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
    except OSError:
        text = ""
    named = ("model name", "flags", "features", "cpu implementer", "cpu part", "isa")
    found += [line for line in text.splitlines() if line.lower().startswith(named)]
    return "\n".join(found)


# --- where it is kept -------------------------------------------------------------------------------


@cache
def _cache_folder() -> Path:
    """A folder that is this user's alone."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
        if sys.platform == "darwin" and not base:
            root = Path.home() / "Library" / "Caches"
        folder = root / "parc" / "kernels"
        for part in (folder.parent, folder):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_mine(folder, directory=True) and _is_mine(folder.parent, directory=True) and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # no home
        pass
    return _temporary()


def _temporary() -> Path:
    import atexit

    folder = tempfile.mkdtemp(prefix="parc-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _is_mine(path: Path, directory: bool = False) -> bool:
    """Whether it is there, no link, this user's, and nobody else's to write to."""
    try:
        found = path.lstat()
    except OSError:
        return False
    right = stat.S_ISDIR(found.st_mode) if directory else stat.S_ISREG(found.st_mode)
    return right and found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
