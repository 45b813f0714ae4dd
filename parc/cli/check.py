"""`parc check`: everything but running."""

from __future__ import annotations

import click

from parc import api
from parc.cli.common import Command, Output, choice, file_argument, job_options, read_source
from parc.cli.tables import plural


@click.command("check", cls=Command)
@file_argument
@job_options
def command(out: Output, file: str, params: tuple[tuple[str, str], ...], job: str | None, strategy: str | None) -> None:
    """Check FILE: every job is evaluated, differentiated, placed, lowered and verified; nothing is run.

    A lowered `.npu` is read and verified.
    """
    if api.is_program(file):
        program = api.load_program(read_source(out, file))
        out.result = {"jobs": [], "program": program.name, "devices": program.devices}
        out.say(f"{program.name}: {plural(program.devices, 'device')}: fine")
        return
    found = api.check(read_source(out, file), **choice(params, job, strategy))
    out.warn(found.warnings)
    out.result = {
        "jobs": [
            {
                "job": c.job.name,
                "model": c.job.model.name,
                "strategy": c.job.strategy.name,
                "devices": c.program.devices,
            }
            for c in found.jobs
        ]
    }
    for c in found.jobs:
        out.say(
            f"{c.job.name}: {c.job.model.name} with {c.job.strategy.name}, {plural(c.program.devices, 'device')}: fine"
        )
    if not found.jobs:
        out.say("fine; the file has no job")
