"""What is shown on a terminal while something takes long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from parc.cli.common import Output
from runtime.going import NOW, Going

MANY = 1000
"""Passes of a step from which on they are told: fewer are over before they are read."""


class PassesColumn(ProgressColumn):
    """How many passes of the step have been begun; nothing where they are few."""

    def __init__(self, going: Going = NOW) -> None:
        super().__init__()
        self.going = going

    def render(self, task: Task) -> Text:
        if self.going.all < MANY:
            return Text("")
        return Text(f"pass {self.going.begun:,} of {self.going.all:,}")


@contextmanager
def proving(out: Output) -> Iterator[None]:
    """That a proof goes on, since when, and how far its step is."""
    columns = (TextColumn("proving"), BarColumn(), TimeElapsedColumn(), PassesColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        out.end_bar = bar.stop
        bar.add_task("", total=None)
        yield
