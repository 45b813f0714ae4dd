"""What parc needs of other packages, and whether an error comes of one that is absent, broken or old."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from shlex import quote
from types import TracebackType

from dsl.data import dataclass

DISTRIBUTION = "parc-lang"
OURS = ("dsl", "compiler", "runtime", "parc")


@dataclass(frozen=True, slots=True)
class MissingPackage:
    """A package that is needed and is not as it must be: `what` is wrong, and the `command` that mends it."""

    what: str
    command: str


def stated() -> dict[str, str]:
    """Requirements by the name that is imported, `{"numpy": "numpy>=1.26"}`; of a checkout those that it states."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    try:
        said = tomllib.loads(project.read_text("utf-8"))["project"]
        lines = said["dependencies"] if said["name"] == DISTRIBUTION else None
    except (OSError, ValueError, KeyError):
        lines = None
    if lines is None:
        try:
            lines = metadata.requires(DISTRIBUTION) or []
        except metadata.PackageNotFoundError:
            lines = []
    plain = [line for line in lines if "extra ==" not in line]
    return {_split(line)[0].replace("-", "_"): line.partition(";")[0].strip() for line in plain}


def unmet(error: BaseException) -> MissingPackage | None:
    """The package whose absence or defect the error comes of; None for what is no fault of a package.

    A package is at fault where it cannot be imported, whatever it raises while it is.
    """
    known = stated()
    if isinstance(error, ModuleNotFoundError) and _top(error.name) in known:
        name = _top(error.name)
        return MissingPackage(
            f"parc needs the package `{name}`, which {sys.executable} does not have", _install(known[name])
        )
    name = _loading(error) or (_top(error.name) if isinstance(error, ImportError) else "")
    if name not in known:
        return None
    what = f"the package `{name}`{_of(name)} cannot be loaded: {type(error).__name__}: {_first(error)}"
    return MissingPackage(what, _install(known[name], *(() if _old(name, known[name]) else ("--force-reinstall",))))


def outdated() -> Iterator[MissingPackage]:
    """Packages that are older than what is stated."""
    for name, requirement in stated().items():
        if _old(name, requirement):
            yield MissingPackage(
                f"`{name}`{_of(name)} is older than what parc needs ({requirement})", _install(requirement)
            )


def _loading(error: BaseException) -> str:
    """The package whose modules were being imported when the error was raised: by name, or nothing."""
    modules: list[tuple[str, str]] = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if not name.startswith(("importlib", "_frozen_importlib")):
            modules.append((_top(name), trace.tb_frame.f_code.co_name))
        trace = trace.tb_next
    ours = [i for i, (name, _) in enumerate(modules) if name in OURS]
    behind = modules[ours[-1] + 1 :] if ours else modules
    return behind[0][0] if behind and behind[0][1] == "<module>" else ""


def _top(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"


def _split(requirement: str) -> tuple[str, str]:
    """Name and least version of `numpy>=1.26`."""
    found = re.match(r"\s*([\w.-]+)\s*(?:\(?>=\s*([\w.]+))?", requirement)
    assert found is not None, requirement
    return found[1], found[2] or "0"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _of(name: str) -> str:
    found = _version(name)
    return f" {found}" if found else ""


def _old(name: str, requirement: str) -> bool:
    found = _version(name)
    return found is not None and _numbers(found) < _numbers(_split(requirement)[1])


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end: `8.10.0rc1` is (8, 10)."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(n) for n in release[0].split(".")] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _install(requirement: str, *options: str) -> str:
    return " ".join([quote(sys.executable), "-m pip install", *options, quote(requirement)])
