"""`parc compile`: the lowered program, or an earlier stage, as text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from parc.emitted import PassTiming


class Emit(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A stage, or `after:` and the name of a pass."""

    name = "stage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from compiler.passes.pipeline import NAMES

        known = (*api.STAGES, *(f"after:{name}" for name in NAMES))
        if value not in known:
            from dsl.diagnostics import did_you_mean

            help = did_you_mean(value, known) or f"the passes are {', '.join(NAMES)}"
            self.fail(f"`{value}` is none of {', '.join(api.STAGES)}, after:PASS; {help}", param, ctx)
        return str(value)


@click.command("compile", cls=Command)
@file_argument
@output_option
@click.option(
    "--emit",
    metavar="STAGE",
    type=Emit(),
    default="program",
    show_default=True,
    help=f"Stop after a stage ({', '.join(api.STAGES)}), or `after:PASS`.",
)
@click.option(
    "--entry",
    "entries",
    type=click.Choice(api.ENTRIES),
    multiple=True,
    help="What the program can be asked to do, `train_step` if left out; may be given several times.",
)
@click.option("--timings", is_flag=True, help="Tell time and size of what each pass makes.")
@job_options
def command(
    out: Output,
    file: str,
    output: str | None,
    emit: str,
    entries: tuple[api.Entry, ...],
    timings: bool,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Lower FILE to one program per class of devices and print it (`parc run` takes it, as a `.npu` file).

    FILE may be what was printed (`.graph`, `.training`, `.placed`, `.npu`): the passes behind it are run.
    """
    if timings and emit != "program":
        raise click.UsageError("`--timings` goes with the program, behind the last pass")
    check_program(out, file, params=params, job=job, strategy=strategy)
    source = read_source(out, file, program=True, staged=True)
    check_output(output, source, dict(params).values())
    found: list[PassTiming] = []
    try:
        asked = tuple(dict.fromkeys(entries))
        timed = found.append if timings else None
        folder = os.path.dirname(os.path.realpath(output)) if output else os.getcwd()
        text = api.emit(source, emit, timed, entries=asked, folder=folder, **choice(out, params, job, strategy))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if output:
        write_output(output, text)
    else:
        out.data(text, newline=False)
    out.result = {"emit": emit, "output": output, "text": text}
    if timings:
        out.result["timings"] = [{"pass": t.name, "seconds": t.seconds, "nodes": t.nodes} for t in found]
        _tell(out, found)


def _tell(out: Output, found: list[PassTiming]) -> None:
    from parc.cli.tables import table

    rows = [(t.name, f"{t.seconds * 1000:.1f} ms", f"{t.nodes:,}") for t in found]
    total = ("together", f"{sum(t.seconds for t in found) * 1000:.1f} ms", "")
    out.say(table(("pass", "CPU time", "nodes"), [*rows, total]))
