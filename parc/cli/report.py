"""`parc report`: a step of a job as one page for a browser."""

from __future__ import annotations

from shlex import quote
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
from parc.cli.variation import Factors, variation, variation_options
from parc.cli.writing import check_output, write_output
from parc.units import amount

if TYPE_CHECKING:
    from dsl.source import Span


@click.command("report", cls=Command)
@file_argument
@output_option
@variation_options
@job_options
def command(
    out: Output,
    file: str,
    output: str | None,
    slow: Factors,
    slow_link: Factors,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Write what a step of FILE's job costs as one HTML page: times, timeline, memory, cluster, communication.

    It needs no network. Nothing is run.
    """
    source = read_source(out, file)
    check_output(output, source, dict(params).values())
    options = choice(out, params, job, strategy)
    compiled = api.compile(source, **options)
    estimate = api.estimate(compiled, variation(compiled, slow, slow_link))
    line = ["parc", "report", quote(file), *(f"-D {quote(f'{n}={v}')}" for n, v in params)]
    line += [f"--slow {quote(f'{rank}={factor:g}')}" for rank, factor in slow]
    line += [f"--slow-link {quote(f'{level}={factor:g}')}" for level, factor in slow_link]
    line += [f"--job {quote(job)}"] if job else []
    line += [f"--strategy {quote(strategy)}"] if strategy else []
    with smaller_named(source, options):
        text = api.report(estimate, " ".join(line), _text(out, compiled.job.strategy.span))
    result: dict[str, Any] = {
        "output": output,
        "step_seconds": estimate.timeline.step_seconds,
        "bytes": len(text.encode()),
    }
    if output is not None:
        write_output(output, text)
        out.say(f"{output}: {amount(result['bytes'])}")
    elif out.json:
        result["html"] = text
    else:
        out.data(text, newline=False)
    out.result = result


def _text(out: Output, span: Span) -> str:
    """What the file says there."""
    found = out.sources.get(span.source)
    return found.text[span.start : span.end] if found is not None else ""
