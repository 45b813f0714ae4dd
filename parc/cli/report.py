"""`parc report`: a step of a job as one page for a browser."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from dsl.printable import printable
from parc import api
from parc.cli.common import (
    Command,
    Output,
    choice,
    json_option,
    output_option,
    params_option,
    read_source,
    smaller_named,
)
from parc.cli.sides import sides_of, sides_options
from parc.cli.variation import Factors, variation, variation_options
from parc.cli.writing import check_output, write_output
from parc.machine import require_drawn
from parc.units import amount

if TYPE_CHECKING:
    from dsl.source import Span
    from parc.estimate import Estimate


MOST = 4
"""Jobs that a page compares."""


@click.command("report", cls=Command)
@click.argument("files", type=click.Path(allow_dash=True), nargs=-1, required=True)
@output_option
@variation_options
@sides_options
@params_option
@json_option
def command(
    out: Output,
    files: tuple[str, ...],
    output: str | None,
    slow: Factors,
    slow_link: Factors,
    params: tuple[tuple[str, str], ...],
    jobs: tuple[str, ...],
    strategies: tuple[str, ...],
) -> None:
    """Write what a step of FILE's job costs as one HTML page: times, timeline, memory, cluster, communication.

    Up to four files, or jobs or strategies of one, are compared on one page. It needs no network. Nothing is run.

    \b
    parc report gpt.par -o step.html
    parc report gpt.par --strategy data --strategy megatron -o both.html
    """
    sides = sides_of(files, jobs, strategies, MOST)
    line = ["parc", "report", *map(quote, files), *(f"-D {quote(f'{n}={v}')}" for n, v in params)]
    line += [f"--slow {quote(f'{rank}={factor:g}')}" for rank, factor in slow]
    line += [f"--slow-link {quote(f'{level}={factor:g}')}" for level, factor in slow_link]
    line += [f"--job {quote(job)}" for job in jobs] + [f"--strategy {quote(s)}" for s in strategies]
    told = printable(" ".join(line), line=True)
    sources = {file: read_source(out, file) for file in files}
    for source in sources.values():
        check_output(output, source, dict(params).values())
    found: list[tuple[str, Estimate, str]] = []
    for side in sides:
        options = choice(out, params, side.job, side.strategy)
        compiled = api.compile(sources[side.file], **options)
        with smaller_named(sources[side.file], options):
            require_drawn(compiled)
        estimate = api.estimate(compiled, variation(compiled, slow, slow_link))
        found.append((side.name, estimate, _text(out, compiled.job.strategy.span)))
    result: dict[str, Any] = {"output": output}
    if len(found) == 1:
        ((_, estimate, strategy),) = found
        with smaller_named(sources[sides[0].file], options):
            text = api.report(estimate, told, strategy)
        result["step_seconds"] = estimate.timeline.step_seconds
    else:
        text = api.report_compared(found, told)
        result["sides"] = [{"name": n, "step_seconds": e.timeline.step_seconds} for n, e, _ in found]
    result["bytes"] = len(text.encode())
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
