"""`parc check`: everything but running."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dsl.diagnostics import Diagnostic
from dsl.printable import printable
from parc import api
from parc.cli.common import Command, Output, check_program, choice, color, file_argument, job_options, read_source
from parc.cli.tables import line_width, plural

if TYPE_CHECKING:
    from compiler.evaluate import CheckResult


@click.command("check", cls=Command)
@file_argument
@click.option("--certificate", metavar="FILE", help="Hold the certificate of a plan to the plan's file.")
@job_options
def command(
    out: Output,
    file: str,
    certificate: str | None,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> bool | None:
    """Check FILE: every job is evaluated, differentiated, placed, lowered and verified; nothing is run.

    The file's checks are listed with the values found. A lowered `.npu` is read and verified.
    """
    if check_program(out, file, certificate=certificate, params=params, job=job, strategy=strategy):
        program = api.load_program(read_source(out, file, program=True))
        out.result = {"jobs": [], "program": program.name, "devices": program.devices}
        out.say(f"{program.name or file}: {plural(program.devices, 'device')}: fine")
        return None
    if certificate is not None:
        if params or strategy:
            raise click.UsageError("a certificate is of a file as it is: without `-D` and `--strategy`")
        out.result = {"jobs": [], "checks": []}
        return _certificate(out, file, certificate, job)
    held: list[CheckResult] = []
    out.result = {"jobs": [], "checks": []}
    try:
        found = api.check(read_source(out, file), told=held.append, **choice(out, params, job, strategy))
    finally:
        out.result["checks"] = [{"check": h.text, "found": h.found, "holds": h.holds} for h in held]
        if held:
            out.data(_shown(held, color(sys.stdout)))
    out.warn(found.warnings)
    out.result["jobs"] = [
        {
            "job": c.job.name,
            "model": c.job.model.name,
            "strategy": c.job.strategy.name,
            "devices": c.program.devices,
        }
        for c in found.jobs
    ]
    if found.by_hand:
        out.result["by_hand"] = [{"job": t.job, "scope": t.scope, "equal": t.equal} for t in found.by_hand]
    for c in found.jobs:
        out.say(
            f"{c.job.name}: {c.job.model.name} with {c.job.strategy.name}, {plural(c.program.devices, 'device')}: fine"
        )
    for t in found.by_hand:
        out.say(str(t))
    if not found.jobs:
        out.say("fine; the file has no job")
    return None


def _certificate(out: Output, file: str, path: str, job: str | None) -> bool:
    from parc.certifying.stated import MALFORMED, Unfounded

    source = read_source(out, file)
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise ValueError("it is no ordinary file")
        with open(path, encoding="utf-8") as opened:
            text = opened.read(MOST_READ + 1)
        if len(text) > MOST_READ:
            raise ValueError("it is too long")
        value = json.loads(text)
    except OSError as error:
        out.warn([Diagnostic(MALFORMED, printable(f"cannot read `{path}`: {error.strerror or error}", line=True))])
        return False
    except (ValueError, RecursionError) as error:
        out.warn([Diagnostic(MALFORMED, printable(f"`{path}` is no certificate: {error}", line=True))])
        return False
    try:
        found = api.certify(source, value, job=job)
    except Unfounded as error:
        out.warn([Diagnostic(error.code, printable(f"the certificate does not hold: {error}", line=True))])
        return False
    out.result["certificate"] = {
        "strategies": found.strategies,
        "priced": found.priced,
        "gap": found.gap,
        "space": found.space,
    }
    proved = "no other is better" if not found.gap else f"another can be better by {found.gap:.1%} at most"
    size = f"{found.strategies:,} strategies, of which {found.priced:,} were priced again"
    out.say(f"the certificate holds: of {size}, {proved}")
    out.say(printable(f"its space: {found.space}", line=True))
    return True


MOST_READ = 1 << 26
"""Characters of a certificate."""


def _shown(held: Sequence[CheckResult], style: bool) -> str:
    """A line per check: whether it holds, what it says, and the values found where those are not the text itself."""
    width = max((len(h.text) for h in held if h.found != h.text), default=0)
    lines = []
    for h in held:
        mark = "✓" if h.holds else "✗"
        paint = "32" if h.holds else "31"
        mark = f"\x1b[{paint}m{mark}\x1b[0m" if style else mark
        if h.found == h.text:
            lines.append(f"{mark} {h.text}")
        elif 2 + width + 2 + len(h.found) <= line_width():
            lines.append(f"{mark} {h.text:{width}}  {h.found}")
        else:
            lines.append(f"{mark} {h.text}\n      {h.found}")
    return "\n".join(lines)
