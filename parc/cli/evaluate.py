"""`parc evaluate`: the forward pass of a model, with the weights of a checkpoint."""

from __future__ import annotations

import click

from parc.cli.common import (
    Command,
    Output,
    check_program,
    choice,
    entry_of,
    file_argument,
    job_options,
    set_threads,
    threads_option,
)
from parc.cli.engine import engine_of, engine_options
from parc.cli.keeping import from_option, keeping_of, outputs_option
from parc.cli.run import carry_out


@click.command("evaluate", cls=Command)
@file_argument
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Batches.")
@from_option
@outputs_option
@engine_options
@threads_option
@job_options
def command(
    out: Output,
    file: str,
    steps: int,
    given: str | None,
    output: str | None,
    engine: str,
    device: str,
    patience: float,
    threads: int,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Evaluate the model of FILE (`.par`, or a lowered `.npu` that has the entry): loss, metrics and outputs.

    As `parc run --evaluate`: every batch meets the weights of the checkpoint, or, without one, those that they begin
    with.
    """
    set_threads(threads)
    check_program(out, file, params=params, job=job, strategy=strategy)
    chosen = choice(out, params, job, strategy) | entry_of(True)
    keeping = keeping_of(out, None, None, None, None, given)
    carry_out(out, file, steps, chosen, keeping, output, None, engine_of(engine, device, patience))
