"""Models in which something needs the whole batch: that nothing has micro-batches is a number of their space."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from compiler.evaluate import evaluate_file
from compiler.model import Job
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.planning.answer import FoundPlan
from parc.planning.pricing import StrategyPricer
from parc.planning.whole_batch import needs_whole_batch
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, space_of
from tests.planning.models import CLUSTER, IMAGES, MODELS, SIZES, job_of

NORMED = IMAGES.replace("relu(conv(image, {hidden}))", "relu(batch_norm(conv(image, {hidden})))").replace(
    "(conv,", "(batch_norm, conv,"
)
"""Statistics of a batch."""

CONTRAST = """
use std.layers (linear, log_softmax, relu_mlp)
use std.optimizers (sgd)

model views {{
  dim b = {batch}, d = {hidden}, e = 2 * {hidden}
  input one, two : f32[b,d]
  z = one
  repeat {layers} as block {{
    z = z + relu_mlp(z, 2 * {hidden})
  }}
  x = linear(z, over e) as first
  y = linear(two, over e) as second
  dim o = b
  scores[b,o] = x @ rename(y, b -> o)
  loss -mean(sum(where(iota(b) == iota(o), log_softmax(scores, over o), 0.0), over o))
}}

job fit {{
  train views on pod
  optimizer sgd(lr = 0.1)
}}
"""
"""Each sample against all others, behind layers that may be stages."""

WHOLE = {"normed": NORMED, "contrast": CONTRAST}


def text(kind: str) -> str:
    return (WHOLE[kind] + CLUSTER).format(**{**SIZES, "seq": 4, "hidden": 8})


def job(kind: str) -> Job:
    return evaluate_file(Source("job.par", text(kind))).job


@pytest.mark.parametrize("kind", WHOLE)
def test_all_that_has_micro_batches_is_refused(kind: str) -> None:
    """However it is split."""
    space, _ = space_of(job(kind))
    assert needs_whole_batch(job(kind), space.split.batch, space.batch) and not space.whole
    pricer, seen = StrategyPricer(job(kind), space.by_hand), set()
    for of in candidates(space):
        key = of.mesh, of.rules.zero > 0, of.rules.along, of.rules.heads
        if of.mesh.microbatches > 1 and key not in seen:
            seen.add(key)
            with pytest.raises(ParcError, match="E0502"):
                pricer.needed(strategy_of(space, of))
    assert len(seen) > 10


@pytest.mark.parametrize("kind", MODELS)
def test_of_others_the_batch_is_cut(kind: str) -> None:
    of = job_of(kind)
    space, _ = space_of(of)
    assert not needs_whole_batch(of, space.split.batch, space.batch)


@pytest.mark.parametrize("kind", WHOLE)
def test_none_is_priced_and_the_certificate_says_so(kind: str) -> None:
    found = api.plan(Source("job.par", text(kind)), devices=2, within=None)
    assert isinstance(found, FoundPlan) and found.planned.space.whole and found.planned.found.least is None
    counts = found.planned.found.counts
    assert counts.refused == {} and counts.total == found.planned.space.total
    assert all(t.candidate.mesh.microbatches == 1 for t in found.planned.found.tried)
    stated, source = json.loads(json.dumps(found.certificate)), Source("job.par", found.text)
    assert certified(source, deepcopy(stated)).gap == 0
    stated["space"]["batch"]["whole"] = False
    with pytest.raises(Unfounded):
        certified(source, stated)


def test_what_needs_no_whole_batch_is_not_said_to() -> None:
    source = Source("job.par", (MODELS["layers"] + CLUSTER).format(**SIZES))
    found = api.plan(source, within=None)
    assert isinstance(found, FoundPlan)
    stated = json.loads(json.dumps(found.certificate))
    stated["space"]["batch"]["whole"] = True
    with pytest.raises(Unfounded, match="with micro-batches nothing is refused") as error:
        certified(Source("job.par", found.text), stated)
    assert error.value.code == "E1103"
