"""Parts of a model that do not need each other, on devices of their own: found, priced, proved, held."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from hashlib import sha256
from typing import Any

import pytest

from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.planning.answer import FoundPlan
from parc.planning.branches import branches, grouped
from parc.planning.certificate import certificate
from parc.planning.refining import Refiner
from parc.price import price
from tests.planning.models import CLUSTER, SIZES, job_of

TOWERS = """
use std.layers (linear, mse, relu_mlp)
use std.optimizers (adamw)

model towers {
  dim b = 8, p = 32, q = 16, d = 512
  input one : f32[b,p]
  input other : f32[b,q]
  l = relu_mlp(linear(one, over d), 1024) as first
  r = relu_mlp(linear(other, over d), 768) as second
  loss mse(l, r) as meet
}

strategy own for towers {
  mesh (dp = 4)
  split b on dp
}

job fit {
  train towers on pod using own
  optimizer adamw(lr = 1e-3)
}
"""

TEXT = TOWERS + CLUSTER.format(**{**SIZES, "outer": 1})
"""The link between the servers is so slow that gradients of both towers are too much for it."""


@cache
def found() -> tuple[Refiner, Source, dict[str, Any]]:
    """What is around the file's own strategy, without a search."""
    source = Source("job.par", TEXT)
    plan = api.plan(source, within=0.0)
    assert isinstance(plan, FoundPlan)
    around = Refiner(source, {}, plan.planned, None, None)
    around.run()
    assert around.best is not None
    text = around.text(around.best.base, around.best.by, True)
    told = certificate(plan.planned, 5, around.tried)
    told = json.loads(json.dumps({**told, "file": sha256(text.encode()).hexdigest()}))
    return around, Source("job.par", text), told


def test_branches_are_what_does_not_need_each_other() -> None:
    job = api.evaluate(Source("job.par", TEXT)).job
    assert [scope for scope, _ in branches(job)] == ["first", "second"]
    assert branches(job_of("transformer")) == branches(job_of("layers")) == ()
    assert grouped((("a", 5.0), ("b", 3.0), ("c", 2.5), ("d", 1.0)), 2) == (("a", "d"), ("b", "c"))


def test_branches_on_devices_of_their_own_win() -> None:
    around, source, told = found()
    made, best = around.best, around.planned.found.fitting[0]
    assert made is not None and made.price is not None and made.by.placed is not None
    assert made.price.seconds < 0.8 * best.price.seconds
    assert "place first on at[0]" in source.text and "place second on at[1]" in source.text
    assert price(api.evaluate(source).job) == made.price
    held = certified(source, told)
    assert (held.seconds, held.needed) == (made.price.seconds, made.price.needed)
    assert api.verify(source).equal


MUTANTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "other groups": lambda row: row["places"]["groups"].reverse(),
    "another axis": lambda row: row["places"].update(along="pp"),
    "micro-batches": lambda row: row["places"].update(microbatches=2 * row["places"]["microbatches"]),
    "no places": lambda row: row.update(places=None),
    "cuts besides": lambda row: row.update(cuts=[1]),
    "one place": lambda row: row["places"].update(groups=[["first", "second"]]),
    "a time": lambda row: row.update(seconds=row["seconds"] * 0.9),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_is_said_of_places_is_held(mutant: str) -> None:
    around, source, told = found()
    at = next(n for n, of in enumerate(around.tried) if of is around.best)
    stated = deepcopy(told)
    stated["around"] = [stated["around"][at]]
    MUTANTS[mutant](stated["around"][0])
    with pytest.raises(Unfounded) as wrong:
        certified(source, stated)
    assert wrong.value.code in ("E1106", "E1101")
