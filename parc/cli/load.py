"""Options of a load of requests, and what is told of one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from parc.cli.common import NumberRange
from parc.cli.tables import plural, seconds, table
from parc.units import percent

if TYPE_CHECKING:
    from parc.serving_load import RequestLoad, ServingPrice

F = TypeVar("F", bound=Callable[..., Any])

_MOST = 10**7


class TokenRange(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`200`, or `100..500`: from the least to the most."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,8})(?:\.\.([0-9]{1,8}))?", str(value))
        if found is None:
            self.fail(f"`{value}` is neither a number of tokens nor two, `100..500`", param, ctx)
        low = int(found[1])
        high = int(found[2] or low)
        if not 1 <= low <= high <= _MOST:
            self.fail(f"`{value}`: from 1 to {_MOST:,}, the lesser number first", param, ctx)
        return low, high


class Within(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`0.5,0.05`: seconds to the first token, and for each one more; either may be left out."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        first, comma, each = str(value).partition(",")
        try:
            found = tuple(float(x) if x.strip() else None for x in (first, each))
        except ValueError:
            found = (None, None)
        if not any(x is not None for x in found) or any(x is not None and not 0 < x < 1e9 for x in found):
            self.fail(f"`{value}` is not `SECONDS,SECONDS`: to the first token, and for each one more", param, ctx)
        return found


def load_options(function: F) -> F:
    """`--serve` and what goes with it; the command calls `load_of`."""
    for option in (
        click.option(
            "--within", type=Within(), default=(None, None), metavar="FIRST,EACH",
            help="With --serve: seconds in which a good request has its first token, and each one more.",
        ),
        click.option(
            "--requests", type=click.IntRange(1, 10**5), default=1000, show_default=True, help="With --serve: how many."
        ),
        click.option(
            "--output-tokens", type=TokenRange(), default="128", show_default=True, metavar="N|LOW..HIGH",
            help="With --serve: that each request makes.",
        ),
        click.option(
            "--prompt-tokens", type=TokenRange(), default="128", show_default=True, metavar="N|LOW..HIGH",
            help="With --serve: that each request reads.",
        ),
        click.option(
            "--serve", type=NumberRange(1e-4, 1e6), metavar="RATE",
            help="Play so many requests a second through the job, as `parc serve` would have them.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def refuse_load() -> None:
    """Raises click.UsageError where what goes with `--serve` is given without it."""
    asked = click.get_current_context()
    for name in ("prompt_tokens", "output_tokens", "requests", "within"):
        if asked.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"`--{name.replace('_', '-')}` goes with `--serve RATE`")


def load_of(
    rate: float, prompt: tuple[int, int], output: tuple[int, int], requests: int,
    within: tuple[float | None, float | None],
) -> RequestLoad:  # fmt: skip
    """What the options say."""
    from parc.serving_load import RequestLoad

    return RequestLoad(rate, prompt, output, requests, within=within)


def played(p: ServingPrice, style: bool) -> str:
    """The figures, and what they say."""
    load = p.load
    spans = ["..".join(f"{n:,}" for n in dict.fromkeys(pair)) for pair in (load.prompt, load.output)]
    head = f"{plural(load.count, 'request')}, {load.rate:g} a second, each reads {spans[0]} tokens and makes {spans[1]}"
    rows = [
        ["time to the first token", seconds(p.first_token.p50), seconds(p.first_token.p99)],
        ["time for each one more", seconds(p.token.p50), seconds(p.token.p99)],
    ]
    more = [
        ["tokens per second", f"{p.tokens_per_second:,.1f}"],
        ["busy", percent(p.busy)],
        ["texts in a call", f"{p.together:,.1f} of {p.rows:,}"],
        ["waiting for a row, at most", f"{p.most_waiting:,}"],
        [f"a prefill of {p.prefill:,}", seconds(p.prefill_seconds)],
        ["a position of each", seconds(p.decode_seconds)],
    ]
    if p.interrupted:
        more.append(["interrupted for want of pages", f"{p.interrupted:,}"])
    if load.within != (None, None):
        more.append(["good requests per second", f"{p.goodput:,.2f} ({percent(p.good / load.count)})"])
    return "\n\n".join([head, table(["of a request", "p50", "p99"], rows, style), table(["of all", ""], more, style)])
