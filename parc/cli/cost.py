"""`parc cost`: how long a step takes, where the time goes, and what would help."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from parc import api
from parc.cli.common import Command, Output, choice, color, job_options, read_source
from parc.cli.tables import amount, seconds, table
from parc.cli.waterfall import waterfall

if TYPE_CHECKING:
    from compiler.cost.variation import Variation
    from parc.estimate import Estimate

_MOST_SHOWN = 8


class Factor(click.ParamType[tuple[str, float]]):
    """`3=1.2`, `pod=2`: what, and how many times slower."""

    name = "what=factor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        what, _, text = str(value).partition("=")
        try:
            factor = float(text)
        except ValueError:
            factor = 0.0
        if not what.strip() or not 0 < factor < 1e6:
            self.fail(f"`{value}` is not of the form what=factor, with a factor above 0", param, ctx)
        return what.strip(), factor


@click.command("cost", cls=Command)
@click.argument("files", type=click.Path(allow_dash=True), nargs=-1, required=True)
@click.option("--slow", multiple=True, type=Factor(), help="RANK=FACTOR: a device whose kernels take longer.")
@click.option("--slow-link", multiple=True, type=Factor(), help="LEVEL=FACTOR: slower links of a level of the cluster.")
@job_options
def command(
    out: Output,
    files: tuple[str, ...],
    slow: tuple[tuple[str, float], ...],
    slow_link: tuple[tuple[str, float], ...],
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Say what a step of FILE's job costs on its cluster: time, utilisation, communication, memory.

    With two files they are compared. Nothing is run.
    """
    if len(files) > 2:
        raise click.UsageError("one file, or two to compare")
    found = []
    for file in files:
        options = choice(params, job, strategy)
        source = read_source(out, file)
        compiled = api.compile(source, **options)
        found.append(api.estimate(compiled, _variation(compiled, slow, slow_link)))
    style = color(sys.stdout)
    if len(found) == 1:
        out.result = found[0].as_json()
        out.data(_shown(found[0], style))
    else:
        out.result = {"jobs": [f.as_json() for f in found]}
        out.data(_compared(files, found, style))


def _variation(
    compiled: Any, slow: tuple[tuple[str, float], ...], slow_link: tuple[tuple[str, float], ...]
) -> Variation | None:
    if not slow and not slow_link:
        return None
    from compiler.cost.variation import Variation

    devices = compiled.program.devices
    for rank, _ in slow:
        if not rank.isdecimal() or int(rank) >= devices:
            raise click.BadParameter(f"there is no device {rank}: they are 0 to {devices - 1}", param_hint="--slow")
    cluster = compiled.job.cluster
    levels = [level.name for level in cluster.levels] if cluster else []
    for level, _ in slow_link:
        if level not in levels:
            raise click.BadParameter(
                f"there is no level `{level}`; one of: {', '.join(levels)}", param_hint="--slow-link"
            )
    return Variation({int(r): f for r, f in slow}, dict(slow_link))


_FIGURES: tuple[tuple[str, Callable[[Estimate], str]], ...] = (
    ("step", lambda e: seconds(e.timeline.step_seconds)),
    ("tokens per second", lambda e: f"{e.timeline.tokens_per_second:,.0f}"),
    ("… per device", lambda e: f"{e.timeline.tokens_per_second / e.timeline.devices:,.1f}"),
    ("MFU", lambda e: f"{e.timeline.mfu:.1%}"),
    ("HFU", lambda e: f"{e.timeline.hfu:.1%}"),
    ("bubble", lambda e: f"{e.timeline.bubble:.1%}"),
    ("update", lambda e: seconds(e.timeline.update_seconds)),
    ("exposed communication", lambda e: seconds(e.timeline.exposed)),
    ("device memory", lambda e: amount(e.peak)),
    ("… that there is", lambda e: amount(e.capacity)),
)


def _shown(e: Estimate, style: bool) -> str:
    t, job = e.timeline, e.compiled.job
    assert job.cluster is not None
    where = f"{t.devices:,} {job.cluster.device.name} of {job.cluster.name}"
    parts = [f"{job.name}: {job.model.name} with {job.strategy.name} on {where}"]
    parts.append(table(["of a step", ""], [[name, show(e)] for name, show in _FIGURES], style))
    exposed = {a: s for a, s in t.exposed_by_axis.items() if s > 0}
    axes = list(dict.fromkeys([*exposed, *t.traffic]))
    if axes:
        rows = [[a, seconds(exposed.get(a, 0.0)), amount(t.traffic.get(a, 0.0))] for a in axes]
        parts.append(table(["communication over", "exposed", "sent per device"], rows, style))
    rows = [[c.name, c.kind, f"{c.calls:,}", seconds(c.seconds)] for c in t.top[:_MOST_SHOWN]]
    parts.append(table(["takes longest", "kind", "calls", "time"], rows, style, left=2))
    parts += [waterfall(f, e.capacity if f.moment.memory == "hbm" else None, style) for f in e.fullest]
    if e.helps:
        rows = [[h.what, seconds(h.seconds), f"{h.seconds / t.step_seconds - 1:+.0%}"] for h in e.helps[:4]]
        parts.append(table(["what would help", "step", ""], rows, style))
    parts.append(t.bottleneck)
    if e.peak > e.capacity:
        parts.append(f"It does not fit: {amount(e.peak - e.capacity)} of device memory too much.")
    return "\n\n".join(parts)


def _compared(files: tuple[str, ...], found: list[Estimate], style: bool) -> str:
    rows = [[name, *(show(e) for e in found)] for name, show in _FIGURES]
    axes = list(dict.fromkeys(a for e in found for a in e.timeline.exposed_by_axis))
    rows += [[f"exposed over {a}", *(seconds(e.timeline.exposed_by_axis.get(a, 0.0)) for e in found)] for a in axes]
    before, after = (e.timeline.step_seconds for e in found)
    verdict = f"{files[1]} takes {after / before - 1:+.1%} of {files[0]}'s time per step" if before else ""
    return "\n\n".join([table(["of a step", *files], rows, style), verdict])
