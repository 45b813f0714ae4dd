"""A job with many values of its parameters: what each combination takes and needs, or why it cannot be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError
from dsl.parser import parse
from parc.price import Price, price

if TYPE_CHECKING:
    from dsl.source import Source

MOST = 10_000
"""Combinations of one sweep."""

WHOLE = ("E0106", "E0801")
"""What is wrong with all combinations alike: no such parameter, or of another kind; a job without a cluster."""

_RANGE = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)")
_COMMA = re.compile(r",(?![^\[]*\])")

COLUMNS = (
    *("devices", "step_seconds", "samples", "tokens", "tokens_per_second", "needed_bytes", "fits"),
    *("code", "message"),
)
"""What is told of each combination, behind its parameters; the first error's code and message where it is none."""


@dataclass(frozen=True, slots=True)
class SweptCase:
    """One combination. params: as written; devices: that it needs, if that is known; price, or what is wrong."""

    params: tuple[tuple[str, str], ...]
    devices: int | None = None
    price: Price | None = None
    error: Diagnostic | None = None

    def row(self) -> tuple[object, ...]:
        """The values of `COLUMNS`; None where there is nothing to tell."""
        if self.price is None:
            assert self.error is not None
            return (self.devices, *[None] * 6, self.error.code, self.error.message)
        p = self.price
        each = p.tokens / p.seconds if p.seconds else 0.0
        return (self.devices, p.seconds, p.samples, p.tokens, each, p.needed, p.fits, "", "")


def values_of(text: str) -> tuple[str, ...]:
    """What `1,2,4` or `0..4` (4 not included) stands for. Raises ValueError for what is empty or endless."""
    found: list[str] = []
    for part in _COMMA.split(text):
        part = part.strip()
        between = _RANGE.fullmatch(part)
        if not part:
            raise ValueError(f"`{text}` has an empty value")
        if between is None:
            found.append(part)
            continue
        low, high = (int(n) if len(n) < 20 else None for n in between.groups())
        if low is None or high is None or not 0 < high - low <= MOST:
            raise ValueError(f"`{part}` is no range of 1 to {MOST:,} values: the end is not included")
        found += map(str, range(low, high))
    if len(set(found)) < len(found):
        raise ValueError(f"`{text}` has a value twice")
    return tuple(found)


def sweep(
    source: Source, axes: Mapping[str, Sequence[str]], job: str | None = None, strategy: str | None = None
) -> tuple[SweptCase, ...]:
    """Each combination of values, the last parameter's changing first. What is wrong with all alike is raised."""
    from compiler.evaluate import evaluate_file

    parse(source.text, source.name)
    cases: list[SweptCase] = []
    errors: list[ParcError] = []
    for params in (tuple(zip(axes, values)) for values in product(*axes.values())):
        devices = None
        try:
            made = evaluate_file(source, dict(params), job, strategy).job
            devices = made.strategy.devices
            cases.append(SweptCase(params, devices, price(made)))
        except ParcError as error:
            first = next((d for d in error.diagnostics if d.severity == "error"), error.diagnostics[0])
            if first.code in WHOLE or first.limit:
                raise
            errors.append(error)
            cases.append(SweptCase(params, devices, error=first))
    if len(errors) == len(cases) and len({(c.error.code, c.error.message) for c in cases if c.error}) == 1:
        raise errors[0]
    return tuple(cases)


def best(cases: Sequence[SweptCase]) -> int | None:
    """Which of those that fit takes least for a sample; of equal ones the first."""
    found = [
        (case.price.seconds / max(case.price.samples, 1) * (case.devices or 1), at)
        for at, case in enumerate(cases)
        if case.price is not None and case.price.fits
    ]
    return min(found)[1] if found else None
