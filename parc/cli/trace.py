"""`parc trace`: the timeline of a step for the viewers of Chrome's trace format (Perfetto, chrome://tracing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from parc import api
from parc.cli.common import (
    Command,
    Output,
    choice,
    file_argument,
    job_options,
    output_option,
    read_source,
    smaller_named,
)
from parc.cli.tables import plural
from parc.cli.variation import Factors, variation, variation_options
from parc.cli.writing import check_output, write_output

if TYPE_CHECKING:
    from parc.report.trace import Detail


@click.command("trace", cls=Command)
@file_argument
@output_option
@click.option(
    "--detail",
    type=click.Choice(["all", "some", "none"]),
    default="some",
    show_default=True,
    help="Show what lies inside activations: in all; in first and last micro-batches, if all are over 20,000; in none.",
)
@variation_options
@job_options
def command(
    out: Output,
    file: str,
    output: str | None,
    detail: Detail,
    slow: Factors,
    slow_link: Factors,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Write what runs when in a step of FILE's job: Chrome trace events, a process per class of devices.

    Open it in https://ui.perfetto.dev or chrome://tracing. Nothing is run.
    """
    source = read_source(out, file)
    check_output(output, source, dict(params).values())
    options = choice(out, params, job, strategy)
    compiled = api.compile(source, **options)
    with smaller_named(source, options):
        found = api.trace(compiled, detail, variation(compiled, slow, slow_link))
    classes = len(found.timeline.classes)
    result: dict[str, Any] = {
        "output": output,
        "step_seconds": found.timeline.step_seconds,
        "classes": classes,
        "events": found.count,
    }
    if output is None:
        if out.json:
            result["trace"] = found.as_json()
        for part in found.text() if not out.json else ():
            out.data(part, newline=False)
    else:
        write_output(output, found.text())
        of = plural(classes, "class") if classes == 1 else f"{classes:,} classes"
        out.say(f"{output}: {plural(found.count, 'event')} of {of} of devices")
    out.result = result
