"""Written jobs: formatted, legal, within the devices' memories, and proved equal to the serial program in small."""

from __future__ import annotations

import pytest

import parc
from dsl.source import Source
from parc import api
from tests.importing.oracle import declared, imported
from tests.importing.small import PUBLISHED, SMALL

STRATEGIES = {
    "split": {"dp": 2, "tp": 2, "ep": 2, "zero": 3, "again": True, "batch": 8, "microbatches": 2},
    "stages": {"pp": 2, "dp": 2, "zero": 1, "batch": 8, "microbatches": 4},
    "context": {"cp": 2, "tp": 2, "batch": 4},
}


PROVED = ("gpt2", "llama_biases", "gemma3", "phi3_long", "mixtral", "bert", "vit", "t5", "gpt_oss", "deepseek_v3_yarn")
"""What differs from these differs in sizes and options; the others are proved at night."""
EACH = [
    pytest.param(
        n, s, marks=() if n in PROVED and (s == "split" or (PROVED.index(n) + i) % 2 == 0) else pytest.mark.nightly
    )
    for n in SMALL
    for i, s in enumerate(STRATEGIES)
]
"""By default families with what splits most, and half of them with each other strategy."""


@pytest.mark.parametrize(("name", "strategy"), EACH)
def test_a_job_is_equal_to_the_serial_program(name: str, strategy: str) -> None:
    job = imported(SMALL[name])
    params = declared(job, {"seq": 16, "target_seq": 16, **STRATEGIES[strategy]})
    if "cp" in STRATEGIES[strategy] and "cp" not in params:
        pytest.skip("sequences of this family are not split by positions")
    proof = parc.verify(Source("job.par", job.text), 1, params=params, double=True)
    assert proof.ok, proof


def devices(parameters: int) -> int:
    return next(n for most, n in ((4e9, 8), (2e10, 64), (1e11, 256), (5e11, 1024), (1e12, 2048)) if parameters < most)


USUAL = ("Meta-Llama-3-8B", "DeepSeek-V3", "t5-small")


@pytest.mark.parametrize("name", [n if n in USUAL else pytest.param(n, marks=pytest.mark.nightly) for n in PUBLISHED])
def test_published_models_on_h100(name: str) -> None:
    published = PUBLISHED[name]
    number = devices(published["parameters"])
    job = imported(published["config"], "bf16", (number, "h100"))
    source = Source("job.par", job.text)
    assert parc.fmt(job.text) == job.text
    assert job.fits and job.devices == number and job.parameters == published["parameters"]
    found = parc.check(source)
    (checked,) = found.jobs
    assert checked.job.strategy.devices == number and found.warnings == ()
    assert api.price(checked.job).fits


@pytest.mark.parametrize("device", ["v100", "a100_80", "gb200", "tpu_v5p", "ascend910b"])
def test_other_clusters(device: str) -> None:
    job = imported(PUBLISHED["gpt2"]["config"], "bf16", (32, device))
    cost = api.cost(Source("job.par", job.text))
    assert job.fits and cost.timeline.devices == 32 and cost.fits


def test_what_does_not_fit_is_written_all_the_same() -> None:
    job = imported(PUBLISHED["Llama-3.3-70B-Instruct"]["config"], "bf16", (8, "h100"))
    assert job.fits is False and parc.check(Source("job.par", job.text)).jobs


def test_degrees_can_be_changed() -> None:
    """The cluster follows them."""
    job = imported(PUBLISHED["Meta-Llama-3-8B"]["config"], "bf16", (64, "h100"))
    for params in ({"dp": 2}, {"dp": 4, "tp": 2, "pp": 2, "microbatches": 8}, {"dp": 1, "tp": 8, "seq": 8192}):
        (checked,) = parc.check(Source("job.par", job.text), params={"batch": 64, **params}).jobs
        cluster = checked.job.cluster
        assert cluster is not None and cluster.devices == checked.job.strategy.devices
