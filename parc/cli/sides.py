"""Several jobs to be looked at side by side: of files, or jobs, strategies of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dsl.data import dataclass
from dsl.printable import printable
from parc.cli.common import Name

F = TypeVar("F", bound=Callable[..., Any])


def sides_options(function: F) -> F:
    """`--job`, `--strategy`, each once or for every side; the command calls `sides_of`."""
    for option in (
        click.option(
            "--job", "jobs", metavar="NAME", multiple=True, type=Name(),
            help="The job, if the file has several; again: of each.",
        ),
        click.option(
            "--strategy", "strategies", metavar="NAME", multiple=True, type=Name(),
            help="Instead of the job's own; again: of each.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Side:
    """One of what is compared: what to call it, its file, and its job and strategy, if they are chosen."""

    name: str
    file: str
    job: str | None
    strategy: str | None


def sides_of(files: tuple[str, ...], jobs: tuple[str, ...], strategies: tuple[str, ...], most: int) -> list[Side]:
    """What is asked for: one, or up to `most` to compare. Of files, jobs and strategies all that are several count
    alike; what is one is that of all. Raises click.UsageError."""
    given = {"files": files, "jobs": jobs, "strategies": strategies}
    several = {what: len(g) for what, g in given.items() if len(g) > 1}
    if files.count("-") > 1:
        raise click.UsageError("standard input can be read once")
    count = max(several.values(), default=1)
    if count > most:
        raise click.UsageError(f"{'two' if most == 2 else most} things can be compared, not more")
    if len(set(several.values())) > 1:
        told = ", ".join(f"{n} {what}" for what, n in several.items())
        raise click.UsageError(f"which goes with which? There are {told}: say one, or as many of each")
    found = []
    for i in range(count):
        file, job, strategy = ((g[i % len(g)] if g else None) for g in given.values())
        assert file is not None
        name = " ".join(str(given[what][i]) for what in several) or file
        found.append(Side(printable(name, line=True), file, job, strategy))
    return found
