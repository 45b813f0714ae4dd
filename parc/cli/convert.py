"""`parc convert`: a checkpoint for another strategy, or for another system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from parc import api
from parc.cli.common import Command, Name, Output, check_program, choice, job_options, read_source
from parc.cli.tables import amount, plural

if TYPE_CHECKING:
    from runtime.checkpoints.converting import Conversion
    from runtime.checkpoints.laying_out import Layout


PUBLIC: dict[str, Layout | None] = {
    "hf": None, "gptq": "gptq", "awq": "awq", "compressed-tensors": "compressed-tensors",
}  # fmt: skip
"""What `--to` may say beside a file: published models, and how their matrices are laid out (None: whole)."""


@click.command("convert", cls=Command)
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option(
    "--to",
    "file",
    required=True,
    metavar="FILE|hf|LAYOUT",
    help="The `.par` file (or `.npu`) that it is to be for; `hf`: files that transformers reads; `gptq`, `awq`, "
    "`compressed-tensors`: the same, with matrices of fewer bits in that layout.",
)
@click.option("--config", metavar="CONFIG", help="With `hf` or a LAYOUT: the config.json that the job was made of.")
@click.option("-o", "--output", metavar="DIR", help="The folder that is made.")
@click.option("--plan", is_flag=True, help="Write nothing: say what would be written and moved.")
@click.option("--from-job", metavar="NAME", type=Name(), help="With `--plan`: the job of a `.par` file with several.")
@job_options
def command(
    out: Output,
    checkpoint: str,
    file: str,
    config: str | None,
    output: str | None,
    plan: bool,
    from_job: str | None,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Make of CHECKPOINT (or the last in a folder) one for the job of FILE: other devices, another strategy.

    The numbers stay as they are; a job that infers takes the weights alone, in the type of its computation. With
    `--plan` CHECKPOINT may be a `.par` file, of which nothing has been saved yet. It may also be the folder of a
    published model, with its config.json; and the weights of a job that `parc init` made of one go back there:

    \b
    parc convert saved --to hf --config config.json -o model
    parc convert packed --to gptq --config config.json -o model
    """
    if (file in PUBLIC) != (config is not None):
        to = file if file in PUBLIC else "hf"
        raise click.UsageError(
            f"`--to {to}` and `--config CONFIG` go together: the config.json that `parc init --from` made the job of "
            "says what weights are called there. A model with names of its own has them in its checkpoints, in "
            "safetensors: whole, if they are of one device (`--to FILE.par`)"
        )
    if config is not None:
        _publish(out, checkpoint, file, config, output, bool(plan or from_job or params or job or strategy))
        return
    if (output is None) != plan:
        raise click.UsageError("`-o DIR` says what is to be made, or `--plan` that nothing is")
    check_program(out, file, params=params, job=job, strategy=strategy)
    source = read_source(out, file, program=True)
    found = api.convert(checkpoint, source, output, from_job=from_job, **choice(out, params, job, strategy))
    out.result = asdict(found) | {"output": output}
    out.data(_shown(found, output))


def _publish(out: Output, checkpoint: str, to: str, config: str, output: str | None, more: bool) -> None:
    if output is None or more:
        raise click.UsageError(f"`--to {to}` takes `--config CONFIG` and `-o DIR`, and nothing else")
    source = read_source(out, config)
    found = api.publish(checkpoint, source, output, layout=PUBLIC[to])
    out.result = asdict(found) | {"output": output}
    head = f"{plural(found.before, 'device')} -> {to}: {plural(found.tensors, 'tensor')}, {amount(found.bytes)}"
    out.data("\n".join([f"{head} in {plural(found.files, 'file')}", *_left_out(found.dropped), output]))


def _left_out(dropped: Sequence[str]) -> list[str]:
    return [f"left out: {plural(len(dropped), 'tensor')}, such as {dropped[0]}"] if dropped else []


def _shown(found: Conversion, output: str | None) -> str:
    devices = f"{plural(found.before, 'device')} -> {found.after:,}"
    size = f"{amount(found.bytes)}, of which {amount(found.moved)} move to another device"
    lines = [f"{devices}: {plural(found.tensors, 'tensor')}, {size}"]
    if found.cast:
        lines.append(f"in another type: {plural(len(found.cast), 'tensor')}")
    lines += _left_out(found.dropped)
    if output is not None:
        lines.append(output)
    return "\n".join(lines)
