"""Reads source files: ordinary, small UTF-8 files, of the project or `std` if they are `use`d. Finds data files."""

from __future__ import annotations

import os
import stat
from itertools import islice
from pathlib import Path

from dsl import ast, limits
from dsl.diagnostics import did_you_mean, fail
from dsl.printable import legible, printable
from dsl.source import Source, Span

ROOT_MARKS = ("pyproject.toml", ".git", "parc.toml")
SUFFIX = ".par"
STD = Path(__file__).with_name("std")
"""The folder of the standard library."""
_MOST_ENTRIES = 1000


def load(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Source:
    """The file at `path`, named as given, but for what cannot be printed. With `root`, refuses what is (after symbolic
    links) outside of it."""
    name = printable(os.fspath(path), line=True)
    return _load(os.fspath(path), name, Path(root) if root is not None else None, None)


def project_root(path: str | os.PathLike[str]) -> Path:
    """The folder that `use` may read from: the nearest one around the file that is marked as a root, or its own."""
    folder = Path(os.path.realpath(path)).parent
    for candidate in (folder, *folder.parents):
        if any(os.path.lexists(candidate / mark) for mark in ROOT_MARKS):
            return candidate
    return folder


def load_use(use: ast.Use, source: Source, root: str | os.PathLike[str]) -> Source:
    """The file that `use`, standing in `source`, names. The name of the result identifies the file."""
    if isinstance(use.module, ast.Path):
        return _load_std(use.module)
    return _load_relative(use.module, source, Path(root))


def data_file(path: str, folder: str, span: Span | None) -> Path:
    """Where the data file is that a job names by its `path` from `folder`; it is not opened.

    Raises E0704 where there is none, or where it is outside of the project.
    """
    if "\0" in path or os.path.isabs(path):
        help = "write the path from the `.par` file, with `/`"
        raise fail("E0704", f"`{path}` is not a relative path", span, help=help)
    root = project_root(Path(folder) / "_")
    real = Path(os.path.realpath(Path(folder) / path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise fail("E0704", f"the data file `{path}` is outside of the project", span, help=f"copy it below {root}")
    if not os.path.isfile(real):
        try:
            beside = sorted(os.listdir(real.parent))[:10]
            help = f"the folder has {', '.join(beside) or 'no files'}"
        except OSError:
            help = f"there is no folder `{os.path.dirname(path)}`"
        raise fail("E0704", f"there is no data file `{path}`", span, help=help)
    return real


def _load_relative(module: ast.String, source: Source, root: Path) -> Source:
    text, span = module.value, module.span
    if source.path is None:
        raise fail("E0014", f"{source.name} can only use modules of the standard library", span)
    if not legible(text) or "\\" in text or os.path.isabs(text) or ":" in text.split("/")[0]:
        help = "write the path from this file to the other, with `/`"
        raise fail("E0014", "this is not a relative path", span, help=help)
    if not text.endswith(SUFFIX):
        raise fail("E0014", f"only `{SUFFIX}` files can be used", span)
    folder, name_folder = os.path.dirname(source.path), os.path.dirname(source.name)
    name = os.path.normpath(os.path.join(name_folder, text))
    return _load(os.path.join(folder, text), name, root, span)


def _load_std(module: ast.Path) -> Source:
    parts = [p.id for p in module.parts]
    if parts[0] != "std" or len(parts) < 2:
        help = f'a file of your own is `use "{"/".join(parts)}{SUFFIX}"`' if parts[0] != "std" else None
        raise fail("E0015", f"`{module}` is no module of the standard library", module.span, help=help)
    file = STD.joinpath(*parts[1:-1], parts[-1] + SUFFIX)
    if not file.is_file():
        known = [f"std.{n}" for n in standard_modules()]
        help = did_you_mean(str(module), known) or (f"there are {', '.join(known)}" if known else None)
        raise fail("E0015", f"there is no `{module}` in the standard library", module.span, help=help)
    return Source("/".join(["<std>", *parts[1:]]) + SUFFIX, file.read_bytes().decode("utf-8"))


def standard_modules() -> list[str]:
    """What can follow `use std.`, sorted."""
    return sorted(f.name.removesuffix(SUFFIX) for f in STD.iterdir() if f.name.endswith(SUFFIX))


def _load(path: str, name: str, root: Path | None, span: Span | None) -> Source:
    try:
        real = os.path.realpath(path, strict=True)
        if root is not None and not _inside(real, os.path.realpath(root)):
            help = "only files below the project's root can be read; symbolic links must not lead out of it"
            raise fail("E0014", f"`{name}` is outside of the project", span, help=help)
        return Source(name, _decode(_read(real, name, span), name, span), real)
    except ValueError:
        raise fail("E0013", "this is not the name of a file", span) from None
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise fail("E0013", f"cannot read `{name}`: {reason}", span, help=_neighbour(path)) from None


def _inside(path: str, root: str) -> bool:
    return os.path.commonpath([path, root]) == root


def _read(path: str, name: str, span: Span | None) -> bytes:
    """The bytes of an ordinary file. Opening does not block on pipes, and devices are not read."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    most = limits.MAX_LOWERED if name.endswith(limits.LOWERED) else limits.MAX_BYTES
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not an ordinary file"
            raise fail("E0013", f"cannot read `{name}`: it is {kind}", span)
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(handle)
    if len(content) > most:
        raise fail("E0901", f"`{name}` is larger than {most // 2**20} MiB", span)
    return content


def _decode(content: bytes, name: str, span: Span | None) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise fail("E0012", f"`{name}` is not UTF-8 text (byte {error.start})", span) from None


def _neighbour(path: str) -> str | None:
    """A file beside the missing one with a similar name."""
    try:
        with os.scandir(os.path.dirname(path) or ".") as entries:
            names = [e.name for e in islice(entries, _MOST_ENTRIES) if e.name.endswith(SUFFIX)]
    except (OSError, ValueError):
        return None
    return did_you_mean(os.path.basename(path), names)
