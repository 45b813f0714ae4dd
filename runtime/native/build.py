"""From C to functions of this process: compiled once by the system's compiler, and kept in the user's cache folder.

What is kept is found by its content: the text, the compiler and its version, the flags, and the processor, for which it
is made. It is loaded as code, so it is only taken from a folder, and as a file, that this user owns and nobody else can
write to; it is put there whole or not at all, under a name that goes by the bytes of the file, too, since one that a
crash of the machine has cut short would end the process. Where there is no such folder, a temporary one serves this
process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from runtime.cache_folder import cache_folder, is_mine

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
HALF = 32
"""Digits of each of the two hashes in a name."""
SECONDS = 300.0
"""A compiler may take."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler: the command, what it says of itself, and the flags that it takes."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]

    def key(self, text: str) -> str:
        """What a text's code is found by."""
        parts = (text, *self.command, self.version, *self.flags, _processor())
        return sha256("\0".join(parts).encode()).hexdigest()

    def compiled(self, text: str, into: Path) -> bool:
        """Make a shared library of a C text; whether that went well."""
        return _run((*self.command, *self.flags, "-x", "c", "-", "-o", str(into), "-lm"), text) is not None


def toolchain() -> Toolchain:
    """The system's compiler: that of `CC`, or the first of `COMPILERS`. Raises ParcError (E0731)."""
    return _toolchain(os.environ.get("CC", "").strip())


@cache
def _toolchain(asked: str) -> Toolchain:
    for name in (asked,) if asked else COMPILERS:
        words = shlex.split(name)
        path = shutil.which(words[0])
        version = None if path is None else _run((path, *words[1:], "--version"))
        if path is None or version is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for native in ((NATIVE[0],), (NATIVE[1],), ()):
                found = Toolchain((path, *words[1:]), version, (*FLAGS, *native))
                if found.compiled("int one(void) { return 1; }\n", Path(folder) / "one.so"):
                    return found
    named = (
        f"`{asked}`, which CC names, makes no shared libraries" if asked else "none of `cc`, `gcc`, `clang` is there"
    )
    raise _no_compiler(named)


def _no_compiler(why: str) -> ParcError:
    help = "install gcc or clang, say where one is (`CC=…`), or leave out `--backend fast`: numpy computes the same"
    return fail("E0731", f"no C compiler: {why}", help=help)


def library(text: str) -> ctypes.CDLL:
    """The functions of a text. Raises ParcError (E0731) if it cannot be compiled, or loaded."""
    tools, folder = toolchain(), _cache_folder()
    key = tools.key(text)[:HALF]
    for path in sorted(folder.glob(f"{key}*.so")):
        with suppress(OSError):  # it is damaged: it is made again
            if is_mine(path) and path.name == _named(key, path):
                return ctypes.CDLL(str(path))
            path.unlink()
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        if not tools.compiled(text, Path(temporary)):
            raise _no_compiler(f"`{' '.join(tools.command)}` fails with the text of the program's chains")
        os.chmod(temporary, 0o700)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        path = folder / _named(key, Path(temporary))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    try:
        return ctypes.CDLL(str(path))
    except OSError as e:
        raise _no_compiler(f"what `{' '.join(tools.command)}` makes cannot be loaded ({e})") from e


def _named(key: str, file: Path) -> str:
    """What a library is called: by its text, and by its bytes."""
    return f"{key}{sha256(file.read_bytes()).hexdigest()[:HALF]}.so"


# --- the compiler -----------------------------------------------------------------------------------


def _run(command: Sequence[str], given: str = "") -> str | None:
    """What a command prints, given this text; None if it fails."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


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
    return cache_folder("kernels") or _temporary()


def _temporary() -> Path:
    import atexit

    folder = tempfile.mkdtemp(prefix="parc-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
