"""`parc verify`: the distributed run against the serial program."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import click

from parc import api
from parc.cli.common import (
    Command,
    Output,
    choice,
    color,
    file_argument,
    job_options,
    read_source,
    set_threads,
    threads_option,
)
from parc.cli.tables import plural, table

if TYPE_CHECKING:
    from runtime.prove import Proof, Row

_KINDS = {
    "loss": "loss",
    "metric": "metrics",
    "gradient": "gradients",
    "weight": "weights",
    "state": "optimizer state",
    "report": "reports",
}
_MOST_SHOWN = 10


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """`nan` would fail everything, `inf` nothing."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number to compare with", ctx, param)
    return value


@click.command("verify", cls=Command)
@file_argument
@click.option("--steps", type=click.IntRange(1), default=2, show_default=True, help="Training steps.")
@click.option("--double", is_flag=True, help="In float64, whatever the job says: rounding hides and feigns nothing.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    callback=_finite,
    help="Largest relative error, instead of the data types' own.",
)
@click.option("--exact", is_flag=True, help="Whole numbers, compared to the bit: for linear models.")
@click.option(
    "--executor",
    type=click.Choice(api.EXECUTORS),
    default="stacked",
    show_default=True,
    help="All devices as one array, or (slow) each by itself with messages between them.",
)
@threads_option
@job_options
def command(
    out: Output,
    file: str,
    steps: int,
    double: bool,
    tolerance: float | None,
    exact: bool,
    executor: api.Executor,
    threads: int,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> bool:
    """Prove that FILE's distributed run computes what its serial program computes.

    Both train for some steps on the same batches; loss, every gradient, the weights and the optimizer's state are
    compared after each.
    """
    set_threads(threads)
    chosen = choice(out, params, job, strategy) | {"double": double}
    proof = api.verify(read_source(out, file), steps, tolerance=tolerance, exact=exact, executor=executor, **chosen)
    out.result = proof.as_json()
    out.data(_shown(proof, color(sys.stdout)))
    if proof.devices == 1:
        out.say("note: one device; nothing was distributed")
    if not proof.ok and not double and not exact:
        out.say("note: `--double` computes in float64, and tells rounding from error")
    return proof.ok


def _shown(proof: Proof, style: bool) -> str:
    rows = []
    for kind, title in _KINDS.items():
        found = [r for r in proof.rows if r.kind == kind]
        if found:
            worst = max(found, key=lambda r: (not r.ok, r.error))
            bad = sum(not r.ok for r in found)
            rows.append(
                [
                    title,
                    f"{len(found):,}",
                    f"{sum(r.elements for r in found):,}",
                    *_numbers(worst),
                    _verdict(bad, style),
                ]
            )
    steps, devices = plural(proof.steps, "step"), plural(proof.devices, "device")
    parts = [
        f"{proof.program}: {steps} on {devices}, against the serial program",
        table(["", "tensors", "elements", "largest error", "tolerance", ""], rows, style),
    ]
    failed = [r for r in proof.rows if not r.ok]
    if failed:
        failed.sort(key=lambda r: -r.error)
        shown = [[r.name, r.kind, f"{r.step + 1}", *_numbers(r)] for r in failed[:_MOST_SHOWN]]
        parts.append(table(["tensor", "kind", "step", "error", "tolerance"], shown, style, left=2))
        if len(failed) > _MOST_SHOWN:
            parts[-1] += f"\n… and {len(failed) - _MOST_SHOWN} more"
    parts.append("equal" if proof.ok else f"NOT EQUAL: {plural(len(failed), 'tensor')} of {len(proof.rows):,}")
    return "\n\n".join(parts)


def _numbers(row: Row) -> list[str]:
    """Error and tolerance."""
    return [f"{row.error:.1e}" if row.error else "0", f"{row.tolerance:.0e}" if row.tolerance else "exact"]


def _verdict(bad: int, style: bool) -> str:
    text = f"{bad} differ" if bad else "equal"
    return f"\x1b[{'31;1' if bad else '32'}m{text}\x1b[0m" if style else text
