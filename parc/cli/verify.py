"""`parc verify`: the distributed run against the serial program."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from dsl.render import place_json
from parc import api
from parc.cli.common import (
    Command,
    NumberRange,
    Output,
    choice,
    color,
    entry_of,
    evaluate_option,
    file_argument,
    job_options,
    read_source,
    set_threads,
    threads_option,
)
from parc.cli.engine import backend_option, check_backend, engine_of, engine_options
from parc.cli.tables import plural, table

if TYPE_CHECKING:
    from parc.small import Shrunk, Small
    from runtime.prove import Proof
    from runtime.prove.branches import Unreached
    from runtime.prove.compare import Row
    from runtime.torch.engine import Engine

_KINDS = {
    "loss": "loss",
    "emulated": "the emulator's loss",
    "metric": "metrics",
    "output": "outputs",
    "decoded": "outputs, position by position",
    "gradient": "gradients",
    "weight": "weights",
    "state": "states",
    "report": "reports",
}
_MOST_SHOWN = 10
_WIDTH = 80


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """`nan` would fail everything, `inf` nothing."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number to compare with", ctx, param)
    return value


@click.command("verify", cls=Command)
@file_argument
@click.option("--steps", type=click.IntRange(1), default=2, show_default=True, help="Training steps, or batches.")
@click.option("--double", is_flag=True, help="In float64, whatever the job says: rounding hides and feigns nothing.")
@click.option(
    "--tolerance",
    type=NumberRange(0),
    callback=_finite,
    help="Largest relative error, instead of what rounding explains.",
)
@click.option(
    "--at-step",
    type=click.IntRange(0, 2**31 - 2**16),
    default=0,
    metavar="N",
    help="Begin as after N updates: what comes later of a schedule is proved, too.",
)
@click.option("--small", is_flag=True, help="The same strategy in the smallest sizes, in seconds.")
@click.option("--allow-vacuous", is_flag=True, help="End with 0 although the proof says nothing.")
@click.option("--exact", is_flag=True, help="Whole numbers, compared to the bit: for linear models.")
@click.option(
    "--executor",
    type=click.Choice(api.EXECUTORS),
    default="stacked",
    show_default=True,
    help="All devices as one array, or (slow) each by itself with messages between them.",
)
@evaluate_option
@engine_options
@backend_option
@threads_option
@job_options
def command(
    out: Output,
    file: str,
    steps: int,
    double: bool,
    tolerance: float | None,
    at_step: int,
    small: bool,
    allow_vacuous: bool,
    exact: bool,
    executor: api.Executor,
    evaluate: bool,
    engine: str,
    device: str,
    patience: float,
    backend: api.Backend,
    threads: int,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> bool:
    """Prove that FILE's distributed run computes what its serial program computes.

    Both train for some steps on the same batches; loss, every gradient, the weights and all states (the optimizer's,
    the model's) are compared after each, each tensor at its own scale. What could not be compared, and what the steps
    did not reach, is listed. With `--engine torch` it is the real run that is
    compared, and the emulator takes the same steps beside it. With `--evaluate` nothing is
    trained: loss, metrics and outputs are compared; of a job that says `infer`, its outputs. A proof that says nothing
    (all gradients are zero, the loss is not a number) ends with 1.
    """
    set_threads(threads)
    chosen = choice(out, params, job, strategy) | entry_of(evaluate) | {"double": double}
    check_backend(backend, engine, executor)
    chosen_engine = engine_of(engine, device, patience)
    source = read_source(out, file)
    shrunk = api.shrink(source, **chosen) if small else None
    with _proving(out):
        proof = api.verify(
            source,
            steps,
            tolerance=tolerance,
            exact=exact,
            executor=executor,
            at_step=at_step,
            small=shrunk,
            told=out.begin,
            engine=chosen_engine,
            backend=backend,
            **chosen,
        )
    out.result = proof.as_json()
    for found, unreached in zip(out.result["not_reached"], proof.unreached, strict=True):
        found["place"] = place_json(unreached.span, out.sources)
    if shrunk is not None:
        out.result["small"] = _small_json(shrunk, out)
        out.data(_smaller(shrunk, out) + "\n")
    out.data(_shown(proof, out, color(sys.stdout), chosen_engine))
    if proof.devices == 1:
        out.say("note: one device; nothing was distributed")
    if not double and not exact and (not proof.equal or any(b.rounding for b in proof.blind)):
        out.say("note: `--double` computes in float64, and tells rounding from error")
    return proof.equal if allow_vacuous else proof.ok


@contextmanager
def _proving(out: Output) -> Iterator[None]:
    """That it goes on, where somebody watches whose terminal can show a bar."""
    if out.json or not color(sys.stderr):
        yield
        return
    from parc.cli.bars import proving

    with proving(out):
        yield


def _shown(proof: Proof, out: Output, style: bool, engine: Engine | None) -> str:
    rows, what = [], "step" if proof.entry == "train_step" else "batch"
    for kind, title in _KINDS.items():
        found = [r for r in proof.rows if r.kind == kind]
        if found:
            worst = max(found, key=lambda r: (not r.ok, r.nearness, r.tolerance))
            bad = sum(not r.ok for r in found)
            numbers = [f"{len(found):,}", f"{sum(r.elements for r in found):,}", *_numbers(worst)]
            rows.append([title, *numbers, _verdict(bad, style)])
    steps = plural(proof.steps, what)
    devices = plural(proof.devices, "device")
    head = f"{proof.program}: {steps} on {devices}, against the serial program"
    if proof.first:
        head += f", after {proof.first:,} updates"
    if proof.skipped:
        head += f"\n{plural(proof.skipped, 'more step')} in which gradients overflowed, and the loss scale was halved"
    parts = [head]
    if engine is not None:
        parts[0] += f"\nby {engine.name}: {engine.about()}"
        parts += [_losses(proof, engine.name, what, style)] if proof.losses else []
    parts += [table(["", "tensors", "elements", "closest error", "tolerance", ""], rows, style)]
    failed = [r for r in proof.rows if not r.ok]
    if failed:
        failed.sort(key=lambda r: -r.error)
        shown = [[r.name, r.kind, f"{r.step + 1}", *_numbers(r)] for r in failed[:_MOST_SHOWN]]
        parts.append(table(["tensor", "kind", "step", "error", "tolerance"], shown, style, left=2))
        if len(failed) > _MOST_SHOWN:
            parts[-1] += f"\n… and {len(failed) - _MOST_SHOWN} more"
    blind = [str(b) for b in proof.blind]
    parts += _list("could not be compared, so that any value of its size passes:", blind)
    parts += _list(
        "not reached by these steps, so that nothing is said of it:", [_never(u, out) for u in proof.unreached]
    )
    if failed:
        parts.append(f"NOT EQUAL: {plural(len(failed), 'tensor')} of {len(proof.rows):,}")
    elif proof.vacuous:
        parts += _list("VACUOUS: equal, but that says nothing, because", proof.vacuous)
    else:
        parts.append("equal")
    return "\n\n".join(parts)


def _losses(proof: Proof, engine: str, what: str, style: bool) -> str:
    """The losses of all three beside each other, of at most `_MOST_SHOWN` steps."""
    steps = list(zip(proof.losses, proof.emulated, strict=True))
    every = max(1, len(steps) // _MOST_SHOWN)
    rows = [
        [f"{proof.first + n:,}", *(f"{loss:.7g}" for loss in (serial, emulated, run))]
        for n, ((serial, run), emulated) in enumerate(steps, 1)
        if n in (1, len(steps)) or n % every == 0
    ]
    return table([f"loss of {what}", "serial program", "emulator", engine], rows, style)


def _smaller(small: Small, out: Output) -> str:
    """What was shrunk, and what a proof in those sizes does not say."""
    numbers = [f"{s.name or _literal(s, out)} {s.before:,} -> {s.after:,}" for s in small.shrunk]
    axes = [f"{name} {before:,} -> {after:,}" for name, before, after in small.axes]
    head = f"in the smallest sizes that change nothing else: {', '.join(numbers) or 'those of the file'}"
    if axes:
        devices = small.compiled.program.devices
        head += f"; axes {', '.join(axes)}, so that {plural(small.devices, 'device')} are {devices:,}"
    same = "every operation and message is that of the full size"
    if small.other:
        same = f"{plural(small.other, 'operation')} of the lowered program are others than at full size"
    more = "not proved: what depends on the sizes themselves, such as memory, overflow and rounding of longer sums"
    if small.given:
        more += f", and what is written by hand on more devices of {', '.join(small.given)}"
    if not small.complete:
        more += " (it is too large to try all that might be smaller)"
    return "\n".join(line for text in (head, same, more) for line in wrap(text, _WIDTH, subsequent_indent="  "))


def _literal(shrunk: Shrunk, out: Output) -> str:
    """Where a number stands that no parameter names."""
    source = out.sources.get(shrunk.span.source)
    return f"{shrunk.span.source}:{source.position(shrunk.span.start)[0]}" if source else shrunk.span.source


def _small_json(small: Small, out: Output) -> dict[str, object]:
    numbers = [
        {"name": s.name or None, "before": s.before, "after": s.after, "place": place_json(s.span, out.sources)}
        for s in small.shrunk
    ]
    axes = [{"axis": name, "before": before, "after": after} for name, before, after in small.axes]
    return {
        "sizes": numbers, "axes": axes, "devices": small.devices, "other_operations": small.other,
        "complete": small.complete,
    }  # fmt: skip


def _list(title: str, lines: Sequence[str]) -> list[str]:
    """A part with a title, in at most 80 columns; nothing if there are no lines."""
    if not lines:
        return []
    shown = [
        wrap(
            line, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        for line in lines[:_MOST_SHOWN]
    ]
    more = [[f"  … and {len(lines) - _MOST_SHOWN} more"]] if len(lines) > _MOST_SHOWN else []
    return ["\n".join([title, *(line for part in (*shown, *more) for line in part)])]


def _never(unreached: Unreached, out: Output) -> str:
    """`step.number >= 20: file.par:7`."""
    span = unreached.span
    source = out.sources.get(span.source) if span else None
    place = f"{span.source}:{source.position(span.start)[0]}" if span and source else f"`{unreached.name}`"
    return f"{unreached.never}: {place}" + (f", and {unreached.count - 1} alike" if unreached.count > 1 else "")


def _numbers(row: Row) -> list[str]:
    """Error and tolerance."""
    return [f"{row.error:.1e}" if row.error else "0", f"{row.tolerance:.0e}" if row.tolerance else "exact"]


def _verdict(bad: int, style: bool) -> str:
    text = f"{bad} differ" if bad else "equal"
    return f"\x1b[{'31;1' if bad else '32'}m{text}\x1b[0m" if style else text
