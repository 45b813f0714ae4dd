"""Files that a command writes: whole or not at all, and never over what it reads."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click

import dsl
from dsl import ast
from dsl.diagnostics import ParcError
from dsl.files import load_use, project_root
from dsl.parser import parse
from dsl.replacing import replacing
from dsl.source import Source
from parc.cli.streams import UNWRITABLE

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


def check_apart(**outputs: str | None) -> None:
    """Refuse two outputs that are one file: the second would take the place of the first. By the names of options.

    Raises click.UsageError.
    """
    known: dict[str, str] = {}
    for option, path in outputs.items():
        real = "" if path is None else os.path.realpath(path)
        if path is None or (os.path.exists(real) and not os.path.isfile(real)):  # a device takes both
            continue
        if real in known:
            raise click.UsageError(f"`--{known[real]}` and `--{option}` are one file, `{path}`: name two")
        known[real] = option


def out_of_reach(path: str, source: Source) -> str | None:
    """What a file names by a path that leads there from its own folder, and from where it is written to does not."""
    if source.path is None or _descriptor(path) is not None:
        return None
    here, there = os.path.dirname(source.path), os.path.dirname(os.path.realpath(path))
    names = (s.value for s in _strings(parse(source.text, source.name).items))
    with suppress(OSError, ValueError):
        return next((n for n in names if _leads(here, n) and not _leads(there, n)), None)
    return None


def _leads(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


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
    """Write the whole file (a text, or its parts) or nothing, as `replacing` does.

    A link stays, and what it leads to is replaced. Pipes, devices and open descriptors (`/dev/stdout`) are written to
    as they are. zipped: gzip, of the same bytes for the same text.
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
            with replacing(target) as file:
                _fill(file, parts, zipped)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(path, error) from None


def write_output(path: str, text: str | Iterable[str]) -> None:
    """What `-o` asks for: as `write_file`, compressed where the name ends in `.gz`."""
    write_file(path, text, path.endswith(".gz"))


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
