"""`--slow RANK=FACTOR` and `--slow-link LEVEL=FACTOR`, of all commands that simulate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from parc.cli.common import each_once

if TYPE_CHECKING:
    from compiler.cost.time.slow import Variation
    from compiler.driver import Compiled

    _Pair = click.ParamType[tuple[str, float]]
else:
    _Pair = click.ParamType  # takes a parameter since click 8.3.2 only

Factors = tuple[tuple[str, float], ...]
_F = TypeVar("_F", bound=Callable[..., Any])


class Factor(_Pair):
    """`3=1.2`, `pod=2`: what, and how many times slower."""

    name = "what=factor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        what, _, text = str(value).partition("=")
        try:
            factor = float(text)
        except ValueError:
            factor = 0.0
        if not what.strip() or not 0 < factor < 1e6:
            self.fail(f"`{value}` is not of the form what=factor, with a factor above 0 and below 1e6", param, ctx)
        return what.strip(), factor


def variation_options(command: _F) -> _F:
    """Adds both options: `slow` and `slow_link`, of type `Factors`."""
    link = "LEVEL=FACTOR: slower links of a level of the cluster."
    command = click.option("--slow-link", multiple=True, type=Factor(), callback=each_once, help=link)(command)
    device = "RANK=FACTOR: a device whose kernels take longer."
    return click.option("--slow", multiple=True, type=Factor(), callback=each_once, help=device)(command)


def variation(compiled: Compiled, slow: Factors, slow_link: Factors) -> Variation | None:
    """What the options say, None without them. Raises click.BadParameter for what the job's cluster has not."""
    if not slow and not slow_link:
        return None
    from compiler.cost.time.slow import Variation

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
