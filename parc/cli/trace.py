"""`parc trace`: the timeline of a step for the viewers of Chrome's trace format (Perfetto, chrome://tracing)."""

from __future__ import annotations

import json
from typing import Any

import click

from parc import api
from parc.cli.common import Command, Output, choice, file_argument, job_options, read_source, write_file
from parc.cli.tables import plural


@click.command("trace", cls=Command)
@file_argument
@click.option("-o", "--output", metavar="OUT", help="Write here instead of to standard output.")
@job_options
def command(
    out: Output,
    file: str,
    output: str | None,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Write what runs when in a step of FILE's job: Chrome trace events, a process per class of devices.

    Open it in https://ui.perfetto.dev or chrome://tracing. Nothing is run.
    """
    from compiler.cost.simulate import simulate
    from parc.report.trace import trace

    compiled = api.compile(read_source(out, file), **choice(params, job, strategy))
    timeline = simulate(compiled)
    found = trace(timeline, compiled.job.name)
    result: dict[str, Any] = {
        "output": output,
        "step_seconds": timeline.step_seconds,
        "classes": len(timeline.classes),
        "events": len(timeline.events),
    }
    if output is None:
        if not out.json:
            out.data(json.dumps(found, allow_nan=False))
        out.result = {**result, "trace": found}
        return
    write_file(output, json.dumps(found, allow_nan=False) + "\n")
    out.result = result
    classes = (
        plural(len(timeline.classes), "class") if len(timeline.classes) == 1 else f"{len(timeline.classes)} classes"
    )
    out.say(f"{output}: {plural(len(timeline.events), 'event')} of {classes} of devices")
