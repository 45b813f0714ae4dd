"""`parc compile`: the lowered program, or an earlier stage, as text."""

from __future__ import annotations

import click

from parc import api
from parc.cli.common import Command, Output, choice, file_argument, job_options, read_source, write_file


@click.command("compile", cls=Command)
@file_argument
@click.option("-o", "--output", metavar="OUT", type=click.Path(), help="Write to this file instead of standard output.")
@click.option("--emit", type=click.Choice(api.STAGES), default="program", show_default=True, help="Stop after a stage.")
@job_options
def command(
    out: Output,
    file: str,
    output: str | None,
    emit: api.Stage,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Lower FILE to one program per class of devices and print it (`parc run` takes it, as a `.npu` file)."""
    text = api.emit(read_source(out, file), emit, **choice(out, params, job, strategy))
    if output:
        write_file(output, text)
    else:
        out.data(text, newline=False)
    out.result = {"emit": emit, "output": output, "text": text}
