"""Of a model with several loops, which are computed again: those that keep most for what they cost; and what a
certificate is held to there."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from hashlib import sha256
from itertools import product
from typing import Any

import pytest

from compiler.evaluate import evaluate_file
from compiler.strategy import RecomputeRule
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.planning.answer import FoundPlan
from parc.planning.certificate import certificate
from parc.planning.dims import splittable
from parc.planning.fewer_layers import densest, fewer_lines, of_loops
from parc.planning.refining import Refiner
from parc.price import price
from tests.planning.models import CLUSTER, SIZES

PYRAMID = """
use std.layers (conv, mse)
use std.optimizers (sgd)

fn level(z[b,y,x,c]) {{
  repeat 3 as block {{
    z = z + conv(relu(conv(z, c) as first), c) as second
  }}
  return z
}}

model net {{
  dim b = 16, y = 16, x = 16, c = 4
  input image : f32[b,y,x,c]
  z = level(conv(image, 8, stride = 2)) as fine
  z = level(conv(z, 16, stride = 2)) as coarse
  z = level(conv(z, 16, stride = 2)) as least
  loss mse(z, 0.5 * z)
}}

job fit {{
  train net on pod using mine
  optimizer sgd(lr = 0.1)
}}

strategy mine for net {{
  mesh (dp = 2)
  split b on dp
  {}
}}
"""

LOOPS = ("fine.block", "coarse.block", "least.block")

SLOW = {"inside": 2, "outside": 1, "bandwidth": 1, "flops": 0.001, "memory": 1.6}


def text(*lines: str, **sizes: float) -> str:
    cluster = CLUSTER.format(**{**SIZES, **SLOW, **sizes})
    return PYRAMID.format("\n  ".join(lines)) + cluster


@cache
def found() -> tuple[Refiner, Source, dict[str, Any]]:
    """What is around the file's own strategy, which computes all layers again."""
    source = Source("job.par", text(*(f"recompute {of}" for of in LOOPS)))
    plan = api.plan(source, within=0.0)
    assert isinstance(plan, FoundPlan)
    around = Refiner(source, {}, plan.planned, None, None)
    around.run()
    assert around.best is not None
    made = around.text(around.best.base, around.best.by, True)
    told = certificate(plan.planned, 5, around.tried)
    return around, Source("job.par", made), {**told, "file": sha256(made.encode()).hexdigest()}


def test_the_loops_that_keep_most_are_first() -> None:
    """Each level has a quarter of the positions, and twice the channels: as much to keep, twice the work; the last as
    many channels again."""
    job = evaluate_file(Source("job.par", text())).job
    split = splittable(job)
    assert split.paths == LOOPS
    assert densest(job, split, tuple(map(RecomputeRule, LOOPS))) == (0, 1, 2)
    but = tuple(RecomputeRule(of, (f"{of}.first.z", f"{of}.second.z")) for of in LOOPS[::-1])
    assert densest(job, split, but)[0] == 0  # no product again: what keeps most
    assert [of_loops(split, (2, 0, 1), n) for n in (1, 3, 4, 8)] == [(0, 0, 1), (0, 0, 3), (1, 0, 3), (3, 2, 3)]
    lines = ["recompute fine.block", "recompute coarse.block keep coarse.block.first.z", "recompute least.block"]
    assert fewer_lines(split, [*lines, "split b on dp"], (3, 2, 0)) == [
        "recompute fine.block",
        "recompute coarse.block[0..2] keep coarse.block[0..2].first.z",
        "split b on dp",
    ]


def test_what_is_better_is_found_and_held() -> None:
    around, source, told = found()
    made, base = around.best, around.planned.found.fitting[0]
    assert made is not None and made.price is not None and made.price.seconds < base.price.seconds
    assert len(made.by.again) == 3 and made.by.again[2] == 0
    assert price(api.evaluate(source).job) == made.price
    held = certified(source, told)
    assert (held.seconds, held.needed) == (made.price.seconds, made.price.needed)
    assert api.verify(Source("job.par", source.text.replace("memory 1.6 MB", "memory 9 MB"))).equal


@pytest.mark.nightly
def test_no_other_layers_of_the_loops_are_faster() -> None:
    """All that fits of so many first layers of each loop, priced one by one."""
    around, _, _ = found()
    assert around.best is not None and around.best.price is not None
    fits = []
    for again in product(range(4), repeat=3):
        lines = (f"recompute {of}[0..{n}]" if n < 3 else f"recompute {of}" for of, n in zip(LOOPS, again) if n)
        fits.append(price(evaluate_file(Source("job.par", text(*lines))).job))
    best = min(p.seconds for p in fits if p.fits)
    assert around.best.price.seconds <= 1.01 * best


MUTANTS: dict[str, Callable[[Any], object]] = {
    "other loops": lambda row: row.update(again=row["again"][::-1]),
    "one loop": lambda row: row.update(again=row["again"][:1]),
    "all layers": lambda row: row.update(again=[3, 3, 3]),
    "no layer": lambda row: row.update(again=[0, 0, 0]),
    "too many": lambda row: row.update(again=[4, 0, 0]),
    "a number": lambda row: row.update(again=row["again"][0]),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_is_said_of_it_is_held(mutant: str) -> None:
    _, source, told = found()
    stated = deepcopy(told)
    MUTANTS[mutant](stated["around"][0])
    with pytest.raises(Unfounded) as wrong:
        certified(source, stated)
    assert wrong.value.code in ("E1106", "E1101")
