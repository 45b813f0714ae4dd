"""The space: its size in closed form against all of it written out, and what can be split of models of all kinds."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest

from compiler.evaluate import evaluate_file
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.planning.answer import FoundPlan
from parc.planning.dims import splittable
from parc.planning.pricing import StrategyPricer
from parc.planning.space import INNER, PlanSpace, divisors, factors, ordered
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, space_of
from tests.planning.models import CLUSTER, MODELS, SIZES, job_of, text_of


@pytest.mark.parametrize("n", [1, 2, 12, 30, 64, 72, 97])
def test_ordered_factorizations_are_as_many_as_there_are(n: int) -> None:
    for parts in range(5):
        found = list(factors(n, parts))
        assert len(found) == len(set(found)) == ordered(n, parts)
    assert divisors(n) == tuple(d for d in range(1, n + 1) if n % d == 0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("servers", [1, 3, 4])
def test_the_closed_form_counts_every_choice_once(model: str, servers: int) -> None:
    space, _ = space_of(job_of(model, outside=servers, batch=12))
    total = 0
    for sizes in product(divisors(space.devices), repeat=len(space.roles)):
        axes = [(r, n) for r, n in zip(space.roles, sizes, strict=True) if n > 1]
        if _product(sizes) == space.devices:
            total += space.options([r for r, _ in axes]) * len(divisors(space.batch))
    assert total == space.total
    found = list(candidates(space))
    assert len(set(found)) == len(found) == sum(map(space.legal, space.meshes())) <= space.total
    strategies = [strategy_of(space, c) for c in found]
    assert len(set(strategies)) == len(strategies)  # none is there twice


def _product(sizes: tuple[int, ...]) -> int:
    found = 1
    for n in sizes:
        found *= n
    return found


def test_what_can_be_split_follows_from_what_is_computed() -> None:
    found = splittable(job_of("transformer"))
    assert (found.batch, found.positions, found.heads, found.loops) == ("b", ("s",), ("h",), (("block", 2),))
    assert set(found.inner) == {"v", "h", "f"} and found.experts == found.rows == ()
    assert set(splittable(job_of("layers")).inner) == {"f"}
    assert splittable(job_of("tables")).rows == ("u",)
    assert splittable(job_of("images")).positions == ("y", "x")


def test_one_device_has_one_mesh() -> None:
    space, _ = space_of(job_of("layers", inside=1, outside=1, batch=1))
    assert isinstance(space, PlanSpace) and space.total == 1 == len(list(candidates(space)))


def test_names_of_dims_mean_nothing() -> None:
    job = job_of("layers")
    text = text_of("layers")
    for old, new in (("b", "people"), ("d", "q"), ("f", "b")):
        text = re.sub(rf"\b{old}\b(?! *GB| *MB)", f"_{new}", text)
    other = evaluate_file(Source("job.par", text.replace("_", "z"))).job
    a, b = space_of(job)[0], space_of(other)[0]
    assert b.split.inner == ("zb",) and b.split.batch == "zpeople" and a.total == b.total
    assert [c.rules for c in candidates(a)] == [c.rules for c in candidates(b)]


@pytest.mark.parametrize(("layers", "chunks"), [(30, [2, 3, 4, 5, 8]), (24, [2, 3, 4, 6, 8]), (9, [2, 4]), (2, [])])
def test_chunks_are_as_many_as_layers_have_room_for(layers: int, chunks: list[int]) -> None:
    """Of two stages: powers of two wherever there are as many layers; others where they come out even."""
    space, _ = space_of(job_of("transformer", layers=layers))
    found = {s for mesh in space.meshes() if mesh.size("stages") == 2 for s in space.ways(mesh).schedules}
    assert sorted(n for name, n in found if name == "interleaved") == chunks


IN_GROUPS = """
use std.optimizers (sgd)

model net {{
  dim b = 8, d = 16, f = 24, p = 2, q = 12
  input x : f32[b,d]
  weight w1[d,f], w2[f,d]
  z = split(relu(x @ w1), f -> (p, q))
  most = max(z, over q)
  y[b,d] = merge(z - most, (p, q) -> f) @ w2
  loss mean((y - x) * (y - x))
}}

job fit {{
  train net on pod
  optimizer sgd(lr = 0.1)
}}
"""


def test_a_dim_in_groups_is_split_as_far_as_there_are_groups() -> None:
    """On more devices than there are groups no strategy could be placed: such are in no space."""
    text = (IN_GROUPS + CLUSTER).format(**{**SIZES, "inside": 4, "outside": 1})
    space, _ = space_of(job := evaluate_file(Source("job.par", text)).job)
    every = [*candidates(space)]
    assert {n for of in every for role, n in of.mesh.axes if role.kind == INNER} == {2}
    pricer = StrategyPricer(job)
    assert all(pricer.needed(strategy_of(space, of)) for of in every)
    found = api.plan(Source("job.par", text), within=5.0)
    assert isinstance(found, FoundPlan)
    certified(Source("job.par", found.text), json.loads(json.dumps(found.certificate)))
