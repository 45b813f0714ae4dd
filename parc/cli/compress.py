"""`parc compress`: a checkpoint whose matrices rest in fewer bits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from parc import api
from parc.cli.common import Command, Output, choice, job_options, read_source
from parc.cli.tables import amount, plural

if TYPE_CHECKING:
    from runtime.compress.compressing import Compression


@click.command("compress", cls=Command)
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder that is made.")
@click.option(
    "--method",
    type=click.Choice(["gptq", "awq", "smooth", "nearest"]),
    default="gptq",
    help="`gptq` (default): by the inputs that layers have on the job's data; `awq`: these are scaled by their sizes, "
    "and each number is rounded by itself; `smooth`: as `gptq`, with activations that the job rounds scaled for that; "
    "`nearest`: each number by itself.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 10**6),
    default=8,
    metavar="N",
    help="Batches to calibrate with, and as many others to tell the loss of (default: 8).",
)
@job_options
def command(
    out: Output,
    checkpoint: str,
    file: str,
    output: str,
    method: Literal["gptq", "awq", "smooth", "nearest"],
    steps: int,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Make of CHECKPOINT (or the last in a folder) one for the job of FILE, which stores weights in fewer bits.

    The job says what rests how (`store weights as int4(group = 128) in block`); told are the bytes, and the loss before
    and after, of data that neither training nor calibration has read.
    """
    source = read_source(out, file)
    found = api.compress(checkpoint, source, output, method=method, steps=steps, **choice(out, params, job, strategy))
    out.result = asdict(found) | {"loss_more": found.more}
    out.data(_shown(found))


def _shown(found: Compression) -> str:
    share = found.after / found.before
    lines = [f"{plural(found.weights, 'weight')}: {amount(found.before)} -> {amount(found.after)}, {share:.3f} of it"]
    if found.loss is not None and found.more is not None:
        after = f"{found.loss:.5f} -> {found.made:.5f}, {found.more:+.2%}"
        plain = f"; each number by itself: {found.plain:.5f}" if found.method != "nearest" else ""
        lines.append(f"loss of {plural(found.batches, 'batch')}: {after}{plain}")
    lines.append(found.folder)
    return "\n".join(lines)
