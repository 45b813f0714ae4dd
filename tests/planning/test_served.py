"""Plans of jobs that do not train: by numbers that their strategies leave open, at their own prices; else refused."""

from __future__ import annotations

import json

import pytest

import parc
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.decoding import entry_prices
from parc.planning.filled_answer import FilledPlan
from parc.planning.planning import plan
from parc.price import price
from tests.planning.models import job_of, text_of

SMALL = {"batch": 4, "outside": 1, "layers": 2, "hidden": 32}
STRATEGY = (
    "strategy few for gpt {{\n  mesh (dp = auto, tp = auto)\n  split b on dp\n  split h, f, v on tp\n{}}}\n\njob fit {{"
)
STORED = "  store weights as int8 in block\n"


def served(rules: str = "", decode: bool = False, open: bool = True) -> Source:
    """A transformer that infers, or decodes, its mesh left open or another."""
    text = text_of("transformer", **SMALL).replace("  loss cross_entropy", "  output logits\n  loss cross_entropy")
    strategy = STRATEGY.format(rules)
    text = text.replace("job fit {", strategy if open else strategy.replace("dp = auto, tp = auto", "dp = 1, tp = 2"))
    entries = "\n  decode over s, prefill 8" if decode else ""
    return Source(
        "job.par",
        text.replace("train gpt on pod\n  optimizer adamw(lr = 1e-3)", f"infer gpt on pod using few{entries}"),
    )


@pytest.mark.parametrize("rules", ["", STORED])
def test_of_a_job_that_decodes_the_decode_step_counts(rules: str) -> None:
    found = api.plan(served(rules, decode=True), within=None)
    assert isinstance(found, FilledPlan) and len(found.filled.fitting) == 2 and found.filled.least is None
    assert ("store weights as int8" in found.text) == bool(rules)
    prefill, decode = entry_prices(parc.compile(Source("job.par", found.text)))
    assert found.best[0].price.seconds == decode.seconds
    assert found.best[0].price.needed == max(prefill.needed, decode.needed)
    assert found.best[0].price.seconds <= found.filled.fitting[1].price.seconds


def test_weights_in_fewer_bits_need_less_when_they_are_kept() -> None:
    whole, stored = (api.plan(served(r, decode=True), within=None) for r in ("", STORED))
    assert stored.best[0].price.needed < whole.best[0].price.needed


def test_a_job_that_infers_is_found_without_bounds_of_steps_that_train() -> None:
    found = api.plan(served(), within=None)
    assert isinstance(found, FilledPlan) and len(found.filled.fitting) == 2 and not found.filled.not_better
    assert found.best[0].bound == 0 and found.best[0].value == min(f.price.seconds for f in found.filled.fitting)
    assert price(parc.evaluate(Source("job.par", found.text)).job) == found.best[0].price


@pytest.mark.parametrize("source", [served(open=False), served(decode=True, open=False), served(STORED, open=False)])
def test_without_such_numbers_they_are_refused(source: Source) -> None:
    with pytest.raises(ParcError) as told:
        api.plan(source, within=None)
    assert [d.code for d in told.value.diagnostics] == ["E0802"]
    assert "auto" in str(told.value.diagnostics[0].help)


def test_the_refusal_says_how_to_go_on() -> None:
    """What the help says to write is what is found then."""
    source = served(decode=True, open=False)
    with pytest.raises(ParcError) as told:
        api.plan(source, within=None)
    advice = str(told.value.diagnostics[0].help)
    assert "mesh (dp = auto, tp = auto)" in advice
    open_mesh = source.text.replace("dp = 1, tp = 2", "dp = auto, tp = auto")
    assert open_mesh != source.text
    assert isinstance(api.plan(Source("job.par", open_mesh), within=None), FilledPlan)


def test_frozen_layers_store_weights_and_are_refused_until_numbers_are_open() -> None:
    text = (
        served(STORED, open=False)
        .text.replace("infer gpt", "train gpt")
        .replace("using few", "using few\n  frozen block\n  optimizer adamw(lr = 1e-3)")
    )
    with pytest.raises(ParcError) as told:
        api.plan(Source("job.par", text), within=None)
    assert [d.code for d in told.value.diagnostics] == ["E0802"]
    found = api.plan(Source("job.par", text.replace("dp = 1, tp = 2", "dp = auto, tp = auto")), within=None)
    assert isinstance(found, FilledPlan) and "store weights as int8" in found.text


def test_no_certificate_holds_of_a_job_that_does_not_train() -> None:
    of = text_of("layers", batch=2, outside=1, memory=16)
    found = api.plan(Source("job.par", of), within=None)
    certificate = json.loads(json.dumps(found.certificate))  # type: ignore[arg-type]
    text = found.text.replace("  loss mean", "  output y\n  loss mean").replace("train net", "infer net")
    text = text.replace("  optimizer sgd(lr = 0.1)\n", "")
    from hashlib import sha256

    certificate["file"] = sha256(text.encode()).hexdigest()
    with pytest.raises(Unfounded, match="does not train"):
        certified(Source("job.par", text), certificate)


def test_the_search_itself_takes_no_such_job() -> None:
    from dataclasses import replace

    with pytest.raises(ParcError, match="does not train"):
        plan(replace(job_of("layers"), kind="infer"))
