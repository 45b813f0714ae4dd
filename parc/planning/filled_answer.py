"""The answer to `parc plan` for a file with holes: the file with numbers in their place, all else as it was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain, cycle, islice, product
from typing import Any

from compiler.evaluate import evaluate_file
from compiler.model import Job
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from dsl.parser import parse
from dsl.printer import format_source
from dsl.source import Source
from parc.planning.filling import Filled, FilledValues, fill, filled_price
from parc.planning.holes import Hole, open_file
from parc.planning.planning import resized
from parc.planning.text import defaults, edited, with_cluster
from parc.planning.verified import verified
from parc.units import amount


@dataclass(frozen=True, slots=True)
class FilledPlan:
    """text: the file without holes; strategy: the job's; best: so many as asked for, best first; job: with the best."""

    text: str
    strategy: str
    holes: tuple[Hole, ...]
    best: tuple[FilledValues, ...]
    filled: Filled
    minimise: str
    job: Job

    @property
    def gap(self) -> float:
        """By which share of the best's value what was not looked at can be better, at most."""
        least, best = self.filled.least, self.best[0].value
        return 0.0 if least is None else max(0.0, 1 - least / best)

    def certificate(self) -> dict[str, Any]:
        """What was tried, in numbers."""
        found = self.filled
        return {
            "holes": {h.name: list(h.values) for h in self.holes},
            "total": found.total,
            "discarded_by_number": found.numbers,
            "same": found.same,
            "refused": dict(sorted(found.refused.items())),
            "unfit": found.unfit,
            "fitting": len(found.fitting),
            "not_better": found.not_better,
            "left": found.left,
            "least": found.least,
            "gap": self.gap,
            "proved": found.least is None,
        }


USUAL = 64, 48
"""Devices and batch whose divisors are tried where nothing is known yet."""

MOST_TRIED = 64
"""Values of open parameters that are tried until some are right together."""


def filled_file(
    source: Source,
    params: Mapping[str, str],
    job: str | None,
    strategy: str | None,
    devices: int | None,
    minimise: str,
    within: float | None,
    keep: int,
    told: Callable[[FilledValues], None] | None = None,
) -> FilledPlan:
    """Fill the holes of the job's strategy and of the parameters. Raises ParcError: E0951 if nothing fits, E0134 for a
    number of devices that is open, what is wrong with all values otherwise."""
    source = _set(source, params)
    first, second = _sizes(source, job, 1), _sizes(source, job, 2)
    assert first.cluster is not None
    if devices is None and second.cluster is not None and first.cluster.devices != second.cluster.devices:
        message = "how many devices the cluster has hangs on what is left open"
        raise fail("E0134", message, first.span, help="`--devices 64` says how many there are")
    number = devices or first.cluster.devices
    fixed = second.cluster is not None and first.cluster.devices == second.cluster.devices
    if fixed and number != first.cluster.devices:
        source = with_cluster(source, first.name, resized(first.cluster, number))
    batch = next((i.value.type.dims[0].size for i in first.model.inputs if i.value.type.dims), 1)
    of = open_file(source, {}, job, strategy, number, batch)
    found = fill(of, {}, job, strategy, number, minimise, within, told)
    if not found.fitting:
        raise _nothing(found, first, number)
    best = found.fitting[0]
    text = format_source(of.filled(dict(best.values)).text, source.name)
    again = verified(replace(source, text=text), job, strategy)
    assert filled_price(again) == best.price, "the plan has another price as text"
    return FilledPlan(text, again.strategy.name, of.holes, tuple(found.fitting[:keep]), found, minimise, again)


def _set(source: Source, params: Mapping[str, str]) -> Source:
    """The text with what is set as defaults."""
    file = parse(source.text, source.name)
    known = {i.name.id for i in file.items if isinstance(i, ast.Param)}
    unknown = next((n for n in params if n not in known), None)
    if unknown is not None:
        raise fail("E0106", f"the file has no parameter `{unknown}`")
    return replace(source, text=edited(source.text, defaults(file, params)))


def _sizes(source: Source, job: str | None, number: int) -> Job:
    """The job without a strategy, parameters that are open being the first or (2) the last of their values that are
    right together. Raises ParcError: what is wrong with the first ones, if it is with many."""
    of = open_file(source, {}, job, None, *USUAL)
    ways = [(h.values[::-1] if number > 1 else h.values) or (number,) for h in of.holes]
    wrong: ParcError | None = None
    alike = zip(*(islice(cycle(way), max(map(len, ways))) for way in ways))  # each value of each of them, soon
    for chosen in islice(chain(alike, product(*ways)), MOST_TRIED):
        try:
            made = evaluate_file(of.filled(dict(zip(of.holes, chosen, strict=True))), {}, job, "serial").job
        except ParcError as error:
            wrong = wrong or error
            continue
        if made.cluster is None:
            raise fail("E0801", f"the job `{made.name}` does not say on which cluster it runs", made.span)
        return made
    assert wrong is not None
    raise wrong


def _nothing(found: Filled, job: Job, devices: int) -> Exception:
    assert job.cluster is not None
    if found.unfit:
        which = f"{found.unfit:,} values that were tried in time" if found.left else f"{found.total:,} values"
        message = f"with none of the {which} the job fits into the devices' memory"
        if found.smallest is not None:
            message += f"; the smallest needs {amount(found.smallest)} of {amount(job.cluster.device.memory)}"
        help = "`--within` gives it more time" if found.left else "more devices, or other values"
        return fail("E0951", message, job.cluster.span, help=help)
    if found.left:
        codes = ", ".join(sorted(found.refused))
        message = f"none of the {sum(found.refused.values()):,} values that were tried in time can be ({codes})"
        return fail("E0951", message, job.cluster.span, help="`--within` gives it more time; fewer values, too")
    if found.first is not None:
        return found.first
    message = f"with none of the {found.total:,} values the mesh has {devices:,} devices"
    return fail("E0406", message, job.cluster.span, help="`--devices` says how many there are")
