"""`parc compile`: the lowered program, or an earlier stage, as text."""

from __future__ import annotations

import click

from parc import api
from parc.cli.common import Command, Output, choice, file_argument, job_options, output_option, read_source
from parc.cli.writing import check_output, write_output


@click.command("compile", cls=Command)
@file_argument
@output_option
@click.option("--emit", type=click.Choice(api.STAGES), default="program", show_default=True, help="Stop after a stage.")
@click.option(
    "--entry",
    "entries",
    type=click.Choice(api.ENTRIES),
    multiple=True,
    help="What the program can be asked to do, `train_step` if left out; may be given several times.",
)
@job_options
def command(
    out: Output,
    file: str,
    output: str | None,
    emit: api.Stage,
    entries: tuple[api.Entry, ...],
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Lower FILE to one program per class of devices and print it (`parc run` takes it, as a `.npu` file)."""
    source = read_source(out, file)
    check_output(output, source, dict(params).values())
    text = api.emit(source, emit, entries=tuple(dict.fromkeys(entries)), **choice(out, params, job, strategy))
    if output:
        write_output(output, text)
    else:
        out.data(text, newline=False)
    out.result = {"emit": emit, "output": output, "text": text}
