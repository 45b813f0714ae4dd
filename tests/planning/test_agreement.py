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
from parc.certifying.halves import HeldHalves
from parc.certifying.layers import REDONE, TIMES, LayerTable, StatedLayer
from parc.certifying.paces import PacedKey
from parc.certifying.sides import single
from parc.certifying.stated import StatedPart
from parc.certifying.tally import SpaceTally, Tallied, candidate
from parc.planning.certificate import certificate
from parc.planning.found import Counts, Found
from parc.planning.groups import bunch_bound
from parc.planning.guess import kin
from parc.planning.layer_work import LayerWork
from parc.planning.layers import SplitLayer
from parc.planning.opened import OpenGroup
from parc.planning.planning import Planned
from parc.planning.pricing import StrategyPricer
from parc.planning.search import STEP, Search
from parc.planning.space import PlanChoice
from tests.planning.brute import candidates, some, space_of
from tests.planning.drawn_models import KINDS
from tests.planning.models import text_of

ROUNDED = 1 + 1e-8
NUMBERS = ("rows", "replicas", "zero", "first", "stages", "split", "products")


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


def rules_of(kind: SplitLayer) -> tuple[str, bool, tuple[str, ...], int]:
    return kind.along, kind.heads, kind.tables, kind.by


def layer_of(kind: SplitLayer, of: LayerWork) -> StatedLayer:
    numbers = {name: getattr(of, name) for name in (*TIMES, "saved")}
    fewer = dict(zip(TIMES, of.fewer, strict=True))
    return StatedLayer(
        dict(kind.inside),
        kind.recompute,
        rules_of(kind),
        of.rows,
        numbers,
        fewer,
        dict(zip(REDONE, of.products, strict=True)),
        of.kept,
    )


class BothSides:
    """A search that has looked at some of its layers, and who holds it to them."""

    def __init__(self, source: str) -> None:
        job = evaluate_file(Source("job.par", source)).job
        self.space, self.bounds = space_of(job)
        self.search = search = Search(self.space, self.bounds, StrategyPricer(job, self.space.by_hand))
        search._fill()
        search._push_groups()
        self.groups = [of for _, _, of in (*search.likely, *search.later)]
        nothing = Planned(job, self.space, self.bounds, Found((), (), Counts(), None, 0.0), STEP)
        self.stated, self.floors = _space(StatedPart(certificate(nothing, 1)), job)

    def theirs(self) -> dict[Any, float]:
        """The other side's bounds of all candidates that have room."""
        known, paced = self.search.layers.known, self.search.paces.known
        layers = LayerTable(self.stated, [layer_of(kind, of) for kind, works in known.items() for of in works])
        paces = {
            PacedKey(of.inside, of.recompute, rules_of(of), *(getattr(k, name) for name in NUMBERS)): n
            for k, n in paced.items()
            if n
            for of in (k.layer,)
        }
        halves = HeldHalves(self.stated, self.floors, lambda *of: self.search.pricer.job)
        return dict(Tallied(self.stated, self.floors, layers, paces, {}, halves, STEP, inf, ()).below(SpaceTally()))

    def compared(self) -> Iterator[tuple[str, PlanChoice, float, float]]:
        """Each bound of each candidate, by what it is of, and what the other side says."""
        search, theirs = self.search, self.theirs()
        for of in self.groups:
            assert isinstance(of.what, OpenGroup)
            bound = search._grouped(of)
            for bunch in of.what.bunches:
                layer = search.layers.best(kin(self.space, bunch.mesh, bunch.rules))
                least = bunch_bound(self.space, search.bounds, bunch, layer, search.minimise == STEP)
                for leaf in search._leaves(bunch):
                    yield "group", leaf, bound, theirs.get(key_of(leaf), inf)
                    yield "bunch", leaf, least, theirs.get(key_of(leaf), inf)
        for choice in candidates(self.space):
            mine = kin(self.space, choice.mesh, choice.rules)
            layer = search.layers.best(mine)
            own = search.value(choice, layer)
            if layer is not None and own < inf:
                own = self.bounds.seconds(choice, layer, search.paces.best(choice, mine))
            yield "candidate", choice, own, theirs.get(key_of(choice), inf)


@pytest.mark.parametrize("seed", [4, 8, *(pytest.param(n, marks=pytest.mark.nightly) for n in range(9, 29))])
def test_what_a_search_leaves_out_is_left_out_by_its_certificate(seed: int) -> None:
    sides, r = BothSides(drawn(seed)), random.Random(seed)
    layers, paces = sides.search.layers, sides.search.paces
    for of in r.sample(sides.groups, min(8, len(sides.groups))):  # as when a group is opened
        layers.rougher(of.kin)
    kinds = set()
    for kind, choice, mine, theirs in sides.compared():
        assert mine <= theirs * ROUNDED, (kind, choice, mine, theirs)
        kinds.add((kind, choice.rules.by > 0))
    assert len(kinds) == 6
    for choice in some(sides.space, 6, seed):  # as when candidates are
        while layers.closer(mine_of := kin(sides.space, choice.mesh, choice.rules), False):
            pass
        while paces.closer(choice, mine_of):
            pass
    assert all(mine <= theirs * ROUNDED for _, _, mine, theirs in sides.compared())


def test_messages_that_hide_beside_products_are_none_of_fewer_rows() -> None:
    sides = BothSides(drawn(4))
    layers, kind = sides.search.layers, SplitLayer((("cp", 2),), 0, "", False, ())
    whole, one = layers.work(kind, sides.space.batch), layers.work(kind, 1)
    assert all(a < getattr(whole, name) for name, a in zip(TIMES[:2], whole.fewer, strict=False))
    assert all(getattr(whole.of(1), name) <= getattr(one, name) for name in (*TIMES, "saved"))
    assert whole.of(sides.space.batch) == whole


@pytest.mark.parametrize("kind", ["gpt", "experts"])
def test_both_know_where_a_device_has_one_position(kind: str) -> None:
    """Of whole spaces of models with heads of one column and experts."""
    sizes = {"heads": 4, "hidden": 4, "seq": 4, "experts": 4, "times": 1, "vocab": 64, "layers": 2, "batch": 8}
    text = text_of("transformer", inside=4, outside=2)
    model = text[text.index("model gpt {") : text.index("job fit {")]
    mine = f"model gpt {{\n  {KINDS[kind].text.format(**sizes)}\n}}\n\n"
    text = text.replace(model, mine).replace("attention, cross_entropy, layer_norm, mlp", KINDS[kind].uses)
    both = BothSides(text)
    found = set()
    for choice in candidates(both.space):
        of = kin(both.space, choice.mesh, choice.rules)
        alone = single(both.stated, dict(of.layer.inside), of.rows, rules_of(of.layer))
        assert both.search.layers.scaled(of) != alone, of
        found.add((of.layer.inside, alone))
    assert {(("tp", 4),), (("ep", 4),)} & {inside for inside, alone in found if alone}
    assert ((), False) in found
