"""`parc cost`: how long a step takes, where the time goes, and what would help."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from compiler.memory.tiers import FIRST
from parc import api
from parc.cli.common import Command, Output, choice, color, json_option, params_option, read_source
from parc.cli.load import load_of, load_options, played, refuse_load
from parc.cli.sides import sides_of, sides_options
from parc.cli.tables import amount, facts, seconds, table
from parc.cli.variation import Factors, variation, variation_options
from parc.cli.waterfall import waterfall
from parc.setup import setup
from parc.units import flops, percent

if TYPE_CHECKING:
    from parc.estimate import Estimate
    from parc.remedies import Remedies
    from parc.serving_load import RequestLoad

_MOST_SHOWN = 8


@click.command("cost", cls=Command)
@click.argument("files", type=click.Path(allow_dash=True), nargs=-1, required=True)
@variation_options
@load_options
@sides_options
@params_option
@json_option
def command(
    out: Output,
    files: tuple[str, ...],
    slow: Factors,
    slow_link: Factors,
    serve: float | None,
    prompt_tokens: tuple[int, int],
    output_tokens: tuple[int, int],
    requests: int,
    within: tuple[float | None, float | None],
    strategies: tuple[str, ...],
    jobs: tuple[str, ...],
    params: tuple[tuple[str, str], ...],
) -> None:
    """Say what a step of FILE's job costs on its cluster: time, utilisation, communication, memory. Nothing is run.

    Two files, or two jobs or strategies of one, are compared.

    \b
    parc cost gpt.par
    parc cost old.par new.par
    parc cost gpt.par --strategy data --strategy megatron
    parc cost serving.par --serve 2 --prompt-tokens 100..500 --output-tokens 200
    """
    if serve is None:
        refuse_load()
    sides = sides_of(files, jobs, strategies, 2)
    names = tuple(side.name for side in sides)
    found = []
    for side in sides:
        compiled = api.compile(read_source(out, side.file), **choice(out, params, side.job, side.strategy))
        found.append(api.estimate(compiled, variation(compiled, slow, slow_link)))
    style = color(sys.stdout)
    if serve is not None:
        if len(found) > 1:
            raise click.UsageError("`--serve` is for one job")
        _played(out, found[0], load_of(serve, prompt_tokens, output_tokens, requests, within), style)
        return
    if len(found) == 1:
        tried = None if found[0].fits else api.remedies(found[0].compiled)
        out.result = found[0].as_json() | {"remedies": tried.as_json() if tried else None}
        out.data(_shown(found[0], tried, style))
        return
    from parc.comparison import compare, verdict

    compared = compare(*found)
    says = verdict(names, compared)
    out.result = {"jobs": [f.as_json() for f in found], "comparison": compared.as_json() | {"verdict": says}}
    out.data("\n\n".join([_compared(names, found, style), says]))


def _played(out: Output, e: Estimate, load: RequestLoad, style: bool) -> None:
    """What a load makes of the job, before what a step costs."""
    found = api.serving_price(e.compiled, load)
    out.result = e.as_json() | {"remedies": None, "serving": found.as_json()}
    out.data("\n\n".join([_shown(e, None, style), played(found, style)]))


_FIGURES: tuple[tuple[str, Callable[[Estimate], str]], ...] = (
    ("step", lambda e: seconds(e.timeline.step_seconds)),
    ("tokens per second", lambda e: f"{e.timeline.tokens_per_second:,.0f}"),
    ("… per device", lambda e: f"{e.timeline.tokens_per_second / e.timeline.devices:,.1f}"),
    ("model FLOP/s per device", lambda e: flops(e.timeline.mfu * e.timeline.peak_flops)),
    ("MFU", lambda e: percent(e.timeline.mfu)),
    ("HFU", lambda e: percent(e.timeline.hfu)),
    ("bubble", lambda e: percent(e.timeline.bubble)),
    ("update", lambda e: seconds(e.timeline.update_seconds)),
    ("exposed communication", lambda e: seconds(e.timeline.exposed)),
    ("device memory", lambda e: amount(e.needed)),
    ("… allocated", lambda e: amount(e.peak)),
    ("… reserved", lambda e: amount(e.reserved)),
    ("… that there is", lambda e: amount(e.capacity)),
    ("the program's own", lambda e: amount(e.program_peak)),
)


def _shown(e: Estimate, tried: Remedies | None, style: bool) -> str:
    t, job = e.timeline, e.compiled.job
    assert job.cluster is not None
    where = f"{t.devices:,} {job.cluster.device.name} of {job.cluster.name}"
    parts = [f"{job.name}: {job.model.name} with {job.strategy.name} on {where}"]
    parts.append(facts(setup(e)))
    parts.append(table(["of a step", ""], [[name, show(e)] for name, show in _FIGURES], style))
    exposed = {a: s for a, s in t.exposed_by_axis.items() if s > 0}
    axes = list(dict.fromkeys([*exposed, *t.traffic]))
    if axes:
        rows = [[a, seconds(exposed.get(a, 0.0)), amount(t.traffic.get(a, 0.0))] for a in axes]
        parts.append(table(["communication over", "exposed", "sent per device"], rows, style))
    rows = [[c.name, c.kind, f"{c.calls:,}", seconds(c.seconds)] for c in t.top[:_MOST_SHOWN]]
    parts.append(table(["takes longest", "kind", "calls", "time"], rows, style, left=2))
    if e.decoding:
        rows = [
            [d.entry, f"{d.positions:,} of {d.context:,}", seconds(d.seconds), f"{d.tokens_per_second:,.0f}",
             amount(d.needed), amount(d.kept)]
            for d in e.decoding
        ]  # fmt: skip
        head = ["by positions", "new", "takes", "tokens per second", "device memory", "kept of earlier ones"]
        parts.append(table(head, rows, style))
    if e.caches:
        rows = [
            [c.table, f"{c.rows:,} of {c.of:,}", percent(c.hits), "stated" if c.stated else "all alike"]
            for c in e.caches
        ]
        parts.append(table(["rows kept of", "each device", "hits", "as"], rows, style))
    parts += [waterfall(f, e.capacity if f.moment.memory == FIRST else None, style) for f in e.fullest]
    if e.helps:
        rows = [[h.what, seconds(h.seconds), f"{h.seconds / t.step_seconds - 1:+.0%}"] for h in e.helps[:4]]
        parts.append(table(["what would help", "step", ""], rows, style))
    parts.append(t.bottleneck)
    if e.needed > e.capacity:
        parts.append(f"It does not fit: {amount(e.needed - e.capacity)} of device memory too much.")
    elif not e.fits:
        parts.append("It does not fit in the memory of the hosts.")
    if tried:
        parts.append(_remedies(tried, style))
    return "\n\n".join(parts)


def _remedies(tried: Remedies, style: bool) -> str:
    """A row for each, or what comes nearest."""
    if not tried.found:
        from parc.remedies import in_words

        text = in_words(tried)
        return f"{text[0].upper()}{text[1:]}."
    rows = [
        [" and ".join(r.rules), amount(r.needed), seconds(r.seconds), f"{r.seconds / tried.seconds - 1:+.0%}"]
        for r in tried.found
    ]
    return table([f"it fits with (best of {tried.tried} changes)", "device memory", "step", ""], rows, style)


def _compared(names: tuple[str, ...], found: list[Estimate], style: bool) -> str:
    """The figures of both, and by how much the second's differ."""
    from parc.comparison import called_alike, change

    measured: dict[str, Callable[[Estimate], float]] = {
        "step": lambda e: e.timeline.step_seconds,
        "tokens per second": lambda e: e.timeline.tokens_per_second,
        "… per device": lambda e: e.timeline.tokens_per_second / e.timeline.devices,
        "update": lambda e: e.timeline.update_seconds,
        "exposed communication": lambda e: e.timeline.exposed,
        "device memory": lambda e: e.needed,
        "… allocated": lambda e: e.peak,
        "… reserved": lambda e: e.reserved,
        "the program's own": lambda e: e.program_peak,
    }
    rows = [
        [name, *map(show, found), change(*map(measured[name], found)) if name in measured else ""]
        for name, show in _FIGURES
    ]
    called = called_alike(*found)
    exposed = [found[0].timeline.exposed_by_axis, {called[a]: s for a, s in found[1].timeline.exposed_by_axis.items()}]
    for axes in dict.fromkeys(a for by_axes in exposed for a in by_axes):
        values = [by_axes.get(axes, 0.0) for by_axes in exposed]
        rows.append([f"exposed over {axes}", *map(seconds, values), change(*values)])
    for role in dict.fromkeys(r for e in found for r in _fullest(e)):
        sizes = [float(_fullest(e).get(role, 0)) for e in found]
        if max(sizes) >= 0.001 * max(e.peak for e in found):
            rows.append([f"memory: {role}", *map(amount, sizes), change(*sizes)])
    both = [list(pair) for pair in zip(*map(setup, found), strict=True)]
    differ = [[a[0], a[1], b[1], ""] for a, b in both if a != b]
    alike = facts(a for a, b in both if a == b)
    return "\n\n".join([*([alike] if alike else []), table(["of a step", *names, ""], [*rows, *differ], style)])


def _fullest(e: Estimate) -> Mapping[str, int]:
    """What the memory of the fullest device is of."""
    return e.systems.fullest.peak.roles
