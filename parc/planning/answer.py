"""The answer to `parc plan`: a file with the best strategy, held to its price, the runners-up, a certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from hashlib import sha256
from math import inf
from typing import Any

from compiler.evaluate import evaluate_file
from compiler.model import Job
from compiler.strategy import SERIAL
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError, fail
from dsl.source import Source
from parc.planning.certificate import certificate
from parc.planning.found import Counts, PricedPlan
from parc.planning.left_out import NOTHING_LEFT_OUT, SpaceWithout
from parc.planning.offloads import Away, offloads
from parc.planning.planning import NONE, OPEN, KnownBefore, Planned, plan, resized
from parc.planning.reasons import front
from parc.planning.refining import RefinedPlan, refined
from parc.planning.spread import sparsest
from parc.planning.text import taken, with_strategy
from parc.planning.verified import verified
from parc.price import Price, price
from parc.units import amount


@dataclass(frozen=True, slots=True)
class OwnPlan:
    """The strategy that the file had, by name, and its price on the same cluster."""

    name: str
    price: Price


@dataclass(frozen=True, slots=True)
class FoundPlan:
    """What was found. text: the file with the best strategy; strategy: its name there; best: so many as asked for, best
    first; front: of time against memory, of all that were priced and fit; own: what the file had before; refined: what
    was found around the best and is better, which `text` has then."""

    planned: Planned
    text: str
    strategy: str
    best: tuple[PricedPlan, ...]
    front: tuple[PricedPlan, ...]
    certificate: dict[str, Any]
    own: OwnPlan | None = None
    refined: RefinedPlan | None = None


def planned_file(
    source: Source,
    params: Mapping[str, str],
    job: str | None,
    strategy: str | None,
    devices: int | None,
    minimise: str,
    within: float | None,
    keep: int,
    told: Callable[[PricedPlan, Counts], None] | None = None,
    before: KnownBefore = NONE,
    processes: int = 1,
    without: SpaceWithout = NOTHING_LEFT_OUT,
) -> FoundPlan:
    """Search, and write the best into the file. before: what is known of other searches; without: what no strategy
    has. Raises FoundNothing (E0951) if nothing was found that fits."""
    own = _own(source, params, job, strategy)
    made = evaluate_file(source, params, job, "serial").job
    other = None
    if devices is not None and made.cluster is not None and devices != made.cluster.devices:
        other = resized(made.cluster, devices)
        made = replace(made, cluster=other)
    text, name = "", ""
    away: tuple[Away, ...] = ()
    own_strategy = SERIAL if own is None else own.strategy
    for names in (taken(source), None):  # if what is written by hand is not proved, without any
        search = partial(plan, made, minimise, within, told, names, before=before, processes=processes, without=without)
        planned = search(own=own_strategy)
        if not planned.found.fitting and not planned.found.interrupted and (away := _away(made, without)):
            with_hosts = search(away)
            if with_hosts.found.fitting or with_hosts.found.interrupted:
                planned = replace(with_hosts, here=planned.found.counts)
        found = planned.found
        if not found.fitting:
            if found.interrupted:
                raise KeyboardInterrupt
            raise _nothing(planned, bool(away))
        best = found.fitting[0]
        write = partial(with_strategy, source, made.name, params, planned.space, best.candidate, other)
        text, name = _written(write, source, planned, best.price)
        if not best.candidate.rules.by or proved(replace(source, text=text), made.name):
            break
    around = refined(source, params, planned, other, within)
    if (better := around.best) is not None and better.price is not None:
        write = partial(around.text, better.base, better.by)
        text, name = _written(write, source, planned, better.price)
    told_of = certificate(planned, keep, around.tried)
    told_of["file"] = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    had = _priced(own) if own is not None and other is None else None
    return FoundPlan(planned, text, name, found.fitting[:keep], tuple(front(found.fitting)), told_of, had, better)


def _away(job: Job, without: SpaceWithout) -> tuple[Away, ...]:
    """What may rest with the hosts. (Not looked for where it is left out.)"""
    return () if "offload" in without.words else tuple(away for away in offloads(job) if without.away(away))


class FoundNothing(ParcError):
    """Nothing was found that fits (E0951). planned: what was searched."""

    def __init__(self, planned: Planned, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic)
        self.planned = planned


def _priced(own: Job) -> OwnPlan | None:
    """The file's own strategy; None for one that splits nothing or cannot be."""
    if not own.strategy.mesh:
        return None
    try:
        return OwnPlan(own.strategy.name, price(own))
    except ParcError:
        return None


def _own(source: Source, params: Mapping[str, str], job: str | None, strategy: str | None) -> Job | None:
    """The job with its own strategy; None for one that is wrong. One whose weights rest in fewer bits is refused
    (E0802): none of the space says that, and without it another job is computed. Raises ParcError for a strategy that
    is named and wrong."""
    try:
        own = evaluate_file(source, params, job, strategy).job
    except ParcError:
        if strategy is not None:
            raise
        return None
    if own.strategy.stores:
        message = f"no strategies are searched for `{own.name}`, whose strategy `{own.strategy.name}` stores weights"
        raise fail("E0802", message, own.strategy.stores[0].span, help=OPEN)
    return own


def _written(write: Callable[[bool], str], source: Source, planned: Planned, best: Price) -> tuple[str, str]:
    """The file with a plan, with tactics where that is the very plan, and the strategy's name in it. write: with
    tactics, or without."""
    for tactics in (True, False):
        text = write(tactics)
        if name := held(text, source, planned, best):
            return text, name
    raise AssertionError("the plan has another price as text")


def held(text: str, source: Source, planned: Planned, best: Price) -> str | None:
    """The strategy's name in the text, whose program is verified; None if it has not the very price that was found: a
    tactic may name its dims in another order, which decides where a tensor has two of them."""
    job = verified(replace(source, text=text), planned.job.name)
    return job.strategy.name if price(job) == best else None


def proved(source: Source, name: str) -> bool:
    """Whether all that the file's strategy has by hand was tried by itself, and computes what its scope does."""
    job = evaluate_file(source, job=name).job
    if not job.strategy.implementations:
        return True
    from parc.api.compiling import sizes
    from parc.by_hand import tried

    outcomes, _ = tried(job, sizes(source, {"job": name, "double": True}), (source,), name)
    return all(one.equal for one in outcomes)


def _nothing(planned: Planned, hosts: bool) -> FoundNothing:
    """hosts: whether it was tried with states, weights and activations in the hosts' memory, too."""
    found, job = planned.found, planned.job
    assert job.cluster is not None
    there = amount(job.cluster.device.memory)
    counts = found.counts
    if found.limit < inf:
        left = f"; {counts.left:,} were not looked at in time" if counts.left else ""
        message = f"none of the {counts.total:,} strategies that fit is better than those of other cases{left}"
        help = "`--within` gives it more time" if counts.left else "another number of devices, or another batch"
    elif counts.left:
        message = f"none of the {counts.priced:,} strategies that were tried in time fits into the devices' {there}"
        help = "`--within` gives it more time; `-D` or `--devices` another job"
    elif not counts.unfit and not counts.too_large:
        codes = f", or is refused ({', '.join(sorted(counts.refused))})" if counts.refused else ""
        message = f"none of the {counts.total:,} strategies can be: nothing has so many equal parts{codes}"
        help = f"another number of devices than {planned.space.devices:,} (`--devices`)"
    else:
        message = f"none of the {counts.total:,} strategies fits into the devices' {there}"
        help = "more devices (`--devices`), a smaller batch or model"
    if found.smallest is not None:
        message += f"; the smallest needs {amount(found.smallest)}"
    elif counts.too_large and not counts.left and found.limit == inf:
        space, bounds = planned.space, planned.bounds
        sizes = (bounds.needed(sparsest(of), 3, away=away) for of in space.meshes() for away in space.offloads)
        message += f": weights, gradients and states alone need {amount(min(sizes))} at least"
    if names := planned.space.without.names:
        message = f"without {', '.join(names)}, {message}"
        help += "; less that is left out (`--without`)"
    if hosts:
        message += "; nor does any that was tried with states, weights and activations in the hosts' memory"
    return FoundNothing(planned, Diagnostic("E0951", message, job.cluster.span, help=help))
