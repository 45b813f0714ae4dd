"""`parc sweep`: what a job takes and needs for many values of its parameters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import click

from parc import api
from parc.cli.common import Command, Output, color, file_argument, job_options, read_source
from parc.cli.tables import amount, seconds, table

if TYPE_CHECKING:
    from parc.sweeping import SweptCase


@click.command("sweep", cls=Command)
@file_argument
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, with a row of names.")
@job_options
def command(
    out: Output,
    file: str,
    as_csv: bool,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Price FILE's job for all combinations of values: -D name=1,2,4 or -D name=0..4 (4 not included).

    A combination that cannot be says why by its error's code. Nothing is run.

    \b
    parc sweep job.par -D tp=1,2,4 -D zero=0..4 --csv
    """
    from parc.sweeping import COLUMNS, MOST, best, values_of

    if as_csv and out.json:
        raise click.UsageError("`--csv` and `--json` are two forms: one can be printed")
    try:
        axes = {name: values_of(text) for name, text in params}
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'-D'") from None
    if (count := prod(map(len, axes.values()))) > MOST:
        raise click.UsageError(f"{count:,} combinations are more than the {MOST:,} that are tried: give fewer values")
    source = read_source(out, file)
    cases = api.sweep(source, axes, job=job, strategy=strategy)
    found = best(cases)
    out.result = {
        "columns": [*axes, *COLUMNS],
        "rows": [{"params": dict(c.params), **dict(zip(COLUMNS, c.row(), strict=True))} for c in cases],
        "best": found,
    }
    out.data(_csv([*axes, *COLUMNS], cases) if as_csv else _shown(list(axes), cases), newline=not as_csv)
    if count > 1:
        told = "none fits" if found is None else f"least time of a device for a sample: {_named(cases[found])}"
        out.say(f"{count:,} combinations; {told}")


def _named(case: SweptCase) -> str:
    return ", ".join(f"{name}={value}" for name, value in case.params)


def _csv(head: Sequence[str], cases: Sequence[SweptCase]) -> str:
    """Numbers as Python writes them, truth as true and false, nothing for what is not known."""
    import csv
    import io

    def text(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)

    made = io.StringIO()
    rows = csv.writer(made, lineterminator="\n")
    rows.writerow(head)
    rows.writerows([*(v for _, v in c.params), *map(text, c.row())] for c in cases)
    return made.getvalue()


def _shown(names: Sequence[str], cases: Sequence[SweptCase]) -> str:
    head = [*names, "devices", "step", "tokens/s", "device memory", ""]
    rows = []
    for case in cases:
        devices = "" if case.devices is None else f"{case.devices:,}"
        values = [v for _, v in case.params]
        if case.price is None:
            assert case.error is not None
            rows.append([*values, devices, "", "", "", f"{case.error.code}: {case.error.message}"])
            continue
        p = case.price
        rate = f"{p.tokens / p.seconds:,.0f}" if p.seconds else ""
        rows.append([*values, devices, seconds(p.seconds), rate, amount(p.needed), "" if p.fits else "does not fit"])
    return table(head, rows, color(sys.stdout), words={len(head) - 1})
