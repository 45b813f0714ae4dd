"""One drawn job: its whole space priced, and the search, its bounds and its certificate held to that."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from time import process_time
from typing import Any

from dsl.data import dataclass
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.planning.answer import FoundPlan
from parc.planning.left_out import SIZED, WORDS
from parc.planning.search import MEMORY, STEP
from tests.planning.drawn_spaces import DrawnSpace, drawn_space
from tests.planning.held import (
    Disagreement,
    WholeSpace,
    all_looks,
    best_inside,
    hold,
    hold_alone,
    hold_bounds,
    hold_found,
    memory_for,
    searched,
    some_left_out,
    whole_space,
    with_room,
)

LEAST, MOST = 560, 800
"""Candidates that no number speaks against; some may turn out to be none."""

ALONE = 3
"""So many prices of each kind are found alone as well."""

CERTIFIED = 7
"""Of so many jobs one has a certificate, which is checked."""


@dataclass(frozen=True, slots=True)
class JudgedSpace:
    """What became of a drawn job. legal: candidates that were priced; fitting: of these, in the devices' memory;
    tried: of these, by the search; inside: whether the optimum is in no corner; between: how many of its choices are
    between their ends; bounds: how many were held; wrong: what does not agree, else empty."""

    seed: int
    kind: str = ""
    minimise: str = ""
    devices: int = 0
    total: int = 0
    legal: int = 0
    refused: int = 0
    fitting: int = 0
    tried: int = 0
    inside: bool = False
    between: int = 0
    bounds: int = 0
    certified: bool = False
    seconds: float = 0.0
    wrong: str = ""

    @property
    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def judged(seed: int, least: int = LEAST, most: int = MOST, certify: bool | None = None) -> JudgedSpace:
    """Draw a job and hold all to its prices. seconds: of CPU. certify: whether its certificate is checked."""
    began, drawn = process_time(), drawn_space(seed, least, most)
    known: dict[str, Any] = {"seed": seed, "kind": drawn.kind, "minimise": drawn.minimise}
    try:
        every = whole_space(drawn.job())
        memory = memory_for(every, drawn.share)
        whole = with_room(every, drawn.job(memory))
        known |= _numbers(whole)
        known |= _held(whole, drawn, seed)
        if seed % CERTIFIED == 0 if certify is None else certify:
            _hold_certificate(drawn, memory, whole)
            known["certified"] = True
    except Disagreement as error:
        known["wrong"] = str(error)
    return JudgedSpace(**known, seconds=round(process_time() - began, 2))


def _numbers(whole: WholeSpace) -> dict[str, Any]:
    fitting = sum(p.fits for p in whole.prices.values())
    numbers = {"devices": whole.space.devices, "total": whole.space.total, "legal": len(whole.prices)}
    return {**numbers, "refused": len(whole.refused), "fitting": fitting}


def _held(whole: WholeSpace, drawn: DrawnSpace, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    hold_alone(whole, ALONE, rng)
    found: dict[str, Any] = {"bounds": 0}
    for minimise in sorted({STEP, drawn.minimise}):  # the time last: more is looked at for it
        search, ended = searched(whole, minimise, bool(rng.getrandbits(1)))
        hold_found(whole, ended, minimise)
        found["bounds"] += search.held
        if minimise == drawn.minimise:
            found["tried"] = len(ended.tried)
    all_looks(whole, search.layers, search.paces, search.rooms)
    found["bounds"] += hold_bounds(whole, search.layers, search.paces, search.rooms)
    less = some_left_out(whole, names_left_out(rng))
    search, ended = searched(less, drawn.minimise, bool(rng.getrandbits(1)))
    hold_found(less, ended, drawn.minimise)
    found["bounds"] += search.held
    found["inside"], found["between"] = best_inside(whole, drawn.minimise)
    return found


def names_left_out(rng: random.Random) -> list[str]:
    """Some names, drawn. (Where stages may not be outermost, replicas are, also where the cluster tells no order: such
    strategies are in no space with all.)"""
    sizes = [f"{name}>{n}" for name in SIZED for n in (2, 3)]
    return rng.sample([*(word for word in WORDS if word != "outermost=pp"), *sizes], rng.choice((1, 2, 3)))


def _hold_certificate(drawn: DrawnSpace, memory: int, whole: WholeSpace) -> None:
    """The command's own way: its file has the best, and its certificate holds."""
    source = drawn.source(memory)
    found = api.plan(source, minimise="memory" if drawn.minimise == MEMORY else "step", within=None)
    assert isinstance(found, FoundPlan)
    mine, best = found.best[0].value, min(whole.value(of, drawn.minimise) for of in whole.prices)
    hold(mine == best and found.certificate["proved"], "the command has another best", mine, best)
    try:
        of = certified(type(source)("job.par", found.text), json.loads(json.dumps(found.certificate)))
    except Unfounded as error:
        raise Disagreement(f"the certificate does not hold: {error}") from error
    hold(of.gap == 0 and of.strategies == whole.space.total, "the certificate is of another space", of)
