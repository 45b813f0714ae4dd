"""`parc init`: a job from the configuration of a published model."""

from __future__ import annotations

from typing import Any

import click

from parc import api
from parc.cli.common import Command, Output, json_option, output_option, read_source
from parc.cli.writing import check_output, write_output


class ClusterType(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`64 h100`: a number and a device of the standard library."""

    name = "cluster"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        from parc.importing.cluster import read_cluster

        try:
            return read_cluster(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("init", cls=Command)
@click.option("--from", "config", metavar="CONFIG", type=click.Path(allow_dash=True), required=True,
              help="The config.json of a model of Hugging Face.")  # fmt: skip
@click.option("--cluster", metavar="'N DEVICE'", type=ClusterType(), help="What it is to run on, such as '64 h100'.")
@click.option(
    "--ignore",
    "ignored",
    metavar="KEY",
    multiple=True,
    help="A key of the configuration that changes nothing (again for each).",
)
@output_option
@json_option
def command(
    out: Output, config: str, cluster: tuple[int, str] | None, ignored: tuple[str, ...], output: str | None
) -> None:
    """Write a job (`.par`) from the config.json of a published model: the model with its sizes, a cluster, a strategy.

    \b
    parc init --from config.json --cluster '64 h100' -o job.par
    parc cost job.par
    """
    source = read_source(out, config)
    check_output(output, source)
    found = api.init(source, cluster=cluster, ignored=ignored)
    if output:
        write_output(output, found.text)
    else:
        out.data(found.text, newline=False)
    where = f" on {cluster[0]:,} {cluster[1]}" if cluster else ""
    out.say(f"{found.family}: {found.parameters:,} parameters{where}")
    if found.fits is False:
        out.say("It does not fit there with any of the usual strategies: `parc cost` says what would help.")
    out.result = {
        "family": found.family,
        "parameters": found.parameters,
        "devices": found.devices,
        "fits": found.fits,
        "text": found.text,
        "output": output,
    }
