"""The bounds of a search and those of who holds its certificate to them are of one mind, candidate by candidate."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from compiler.evaluate import evaluate_file
from dsl.source import Source
from parc.certifying.check import _space
from parc.certifying.layers import TIMES, LayerTable, StatedLayer
from parc.certifying.paces import PacedKey
from parc.certifying.stated import StatedPart
from parc.certifying.tally import SpaceTally, Tallied, candidate
from parc.planning.certificate import certificate
from parc.planning.guess import kin
from parc.planning.layer_work import LayerWork
from parc.planning.layers import SplitLayer
from parc.planning.opened import OpenGroup
from parc.planning.planning import Planned
from parc.planning.pricing import StrategyPricer
from parc.planning.search import STEP, Search
from parc.planning.space import PlanChoice
from tests.planning.brute import candidates, space_of
from tests.planning.models import text_of

ROUNDED = 1 + 1e-8


def drawn(seed: int) -> str:
    """A file, whose stack may hide messages of attention beside its products."""
    r = random.Random(seed)
    sizes: dict[str, float] = {"inside": 2, "outside": r.choice([1, 1, 2]), "layers": r.choice([1, 2]), "hidden": 24}
    sizes |= {"batch": r.choice([2, 4]), "seq": r.choice([32, 128]), "heads": r.choice([1, 3, 4])}
    sizes |= {"inner": r.choice([0.5, 3, 10]), "flops": r.choice([0.1, 1, 10]), "vector": r.choice([0.1, 1, 100])}
    beside = r.choice(["ring 0.8", "ring 0.8", "overlap 0.5"])
    more = f"  efficiency fused_attention 1\n  efficiency {beside}\n  memory"
    return text_of("transformer", **sizes).replace("  memory", more, 1)


def key_of(of: PlanChoice) -> Any:
    """As the other side has it."""
    rules, order = of.rules, {role.kind for role, _ in of.axes}
    first = rules.first if {"stages", "data"} <= order else ""
    mesh = {role.name: n for role, n in of.axes}
    choices = rules.zero, rules.recompute, (rules.schedule, rules.chunks), rules.along, rules.heads, rules.rows
    return candidate(mesh, of.mesh.microbatches, first, *choices, rules.by, rules.offload)


def rules_of(kind: SplitLayer) -> tuple[str, bool, bool, int]:
    return kind.along, kind.heads, kind.tables, kind.by


def layer_of(kind: SplitLayer, of: LayerWork) -> StatedLayer:
    numbers = {name: getattr(of, name) for name in (*TIMES, "saved")}
    fewer = dict(zip(TIMES, of.fewer, strict=True))
    return StatedLayer(dict(kind.inside), kind.recompute, rules_of(kind), of.rows, numbers, fewer)


def both(source: str, within: float | None) -> Iterator[tuple[str, PlanChoice, float, float]]:
    """Of each candidate each bound that a search has, by name, and what the other side says."""
    job = evaluate_file(Source("job.par", source)).job
    space, bounds = space_of(job)
    search = Search(space, bounds, StrategyPricer(job, space.by_hand))
    fill, groups = search._fill, []

    def filled() -> None:
        fill()
        groups.extend(of for _, _, of in (*search.likely, *search.later))

    search._fill = filled  # type: ignore[method-assign]
    found = search.run(within)
    stated, floors = _space(StatedPart(certificate(Planned(job, space, bounds, found, STEP), 1)), job)
    layers = LayerTable(stated, [layer_of(kind, of) for kind, works in found.layers.items() for of in works])
    paces = {
        PacedKey(of.inside, of.recompute, rules_of(of), k.rows, k.replicas, k.zero, k.first, k.stages, k.split): turns
        for k, turns in found.paces.items()
        if turns
        for of in (k.layer,)
    }
    theirs = dict(Tallied(stated, floors, layers, paces, STEP, inf, ()).below(SpaceTally()))
    for of in groups:
        assert isinstance(of.what, OpenGroup)
        bound = search._grouped(of)
        for bunch in of.what.bunches:
            least = search.least(bunch, search.layers.best(kin(space, bunch.mesh, bunch.rules)))
            for leaf in search._leaves(bunch):
                yield "group", leaf, bound, theirs.get(key_of(leaf), inf)
                yield "bunch", leaf, least, theirs.get(key_of(leaf), inf)
    for of in candidates(space):
        mine = kin(space, of.mesh, of.rules)
        layer = search.layers.best(mine)
        if search.value(of) < inf:
            pace = search.paces.best(of, mine) if layer is not None else None
            own = inf if search.value(of, layer) == inf else bounds.seconds(of, layer, pace)
            yield "candidate", of, own, theirs.get(key_of(of), inf)


@pytest.mark.parametrize("seed", [2, *(pytest.param(n, marks=pytest.mark.nightly) for n in range(3, 23))])
def test_what_a_search_leaves_out_is_left_out_by_its_certificate(seed: int) -> None:
    kinds = set()
    for kind, of, mine, theirs in both(drawn(seed), 0.5 if seed % 2 else None):
        assert mine <= theirs * ROUNDED, (kind, of, mine, theirs)
        kinds.add((kind, of.rules.by > 0))
    assert len(kinds) == 6
