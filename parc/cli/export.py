"""`parc export`: a program written for another system."""

from __future__ import annotations

import click

from parc import api
from parc.cli.common import (
    Command,
    Output,
    check_program,
    choice,
    file_argument,
    job_options,
    output_option,
    read_source,
)
from parc.cli.writing import check_output, write_output


@click.command("export", cls=Command)
@click.argument("system", metavar="SYSTEM", type=click.Choice(api.SYSTEMS))
@file_argument
@output_option
@click.option(
    "--entry",
    "entries",
    type=click.Choice(api.ENTRIES),
    multiple=True,
    help="What the file does, `train_step` if left out; given again, what it can do besides.",
)
@job_options
def command(
    out: Output,
    system: api.System,
    file: str,
    output: str | None,
    entries: tuple[api.Entry, ...],
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Write the program of FILE (a `.par`, or a lowered `.npu`) for SYSTEM: `torch`, one file that needs PyTorch alone.

    It runs with `python` on one device, with `torchrun --nproc-per-node N` on several.
    """
    check_program(out, file, params=params, job=job, strategy=strategy)
    source = read_source(out, file, program=True)
    check_output(output, source, dict(params).values())
    chosen = choice(out, params, job, strategy)
    try:
        text = api.export(source, system, entries=entries, **chosen)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if output:
        write_output(output, text)
    else:
        out.data(text, newline=False)
    out.result = {"system": system, "output": output, "text": text}
