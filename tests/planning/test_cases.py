"""Numbers of devices and values of parameters that are free: each is a search of its own, compared by what a token
takes; a certificate of all."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dsl.diagnostics import ParcError
from dsl.files import load
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.cli import cli
from parc.cli.planned_cases import as_csv
from parc.planning.answer import FoundPlan
from parc.planning.compared import ComparedPlans
from parc.planning.filled_answer import FilledPlan
from parc.price import price
from tests.planning.models import text_of

STRATEGY = """
strategy mine for net {
  mesh (dp = auto, tp = auto)
  split b on dp
  split f on tp
}
"""


def text(**sizes: Any) -> str:
    return "param batch = 4\n" + text_of("layers", **{"batch": "batch", "outer": 100, "flops": 0.0005, **sizes})


@cache
def found(
    devices: tuple[int, ...] = (2, 4), batches: tuple[int, ...] = (4, 8), minimise: Any = "step"
) -> ComparedPlans:
    source = Source("job.par", text())
    return api.plan_cases(source, devices=devices, free={"batch": batches}, minimise=minimise, within=None)


def alone(devices: int, batch: int, **sizes: Any) -> FoundPlan:
    return planned(text(**sizes), devices, batch=batch)


def planned(text: str, devices: int, **params: Any) -> FoundPlan:
    made = api.plan(Source("job.par", text), devices=devices, params=params, within=None)
    assert isinstance(made, FoundPlan)
    return made


def test_each_case_is_a_search_of_its_own() -> None:
    of = found()
    assert [(c.devices, c.samples) for c in of.cases] == [(2, 4), (2, 8), (4, 4), (4, 8)] and of.proved and of.gap == 0
    values = []
    for case in of.cases:
        single = alone(case.devices, case.samples).best[0].price
        values.append(single.seconds / single.tokens)
        assert case.price is not None
        assert case.price == single or case.limit <= single.seconds <= case.price.seconds
    assert values.index(min(values)) == of.best
    job = api.evaluate(Source("job.par", of.found.text)).job
    case = of.cases[of.best]
    assert job.cluster is not None and job.cluster.devices == case.devices and price(job) == case.price
    assert f"param batch = {case.samples}\n" in of.found.text


def test_the_time_of_all_devices_is_another_best() -> None:
    few, fast = (found((1, 2), (4,), minimise) for minimise in ("device-time", "days"))
    assert (few.cases[few.best].devices, fast.cases[fast.best].devices) == (1, 2)
    assert certified(Source("job.par", few.found.text), json.loads(json.dumps(few.certificate))).gap == 0
    small = found((1, 2), (4,), "memory")
    assert small.best == 1 and small.front == (0, 1) and small.proved


def test_what_is_no_faster_with_more_devices_is_left_out() -> None:
    sizes = {"inner": 1e-4, "outer": 1e-4}
    of = api.plan_cases(Source("job.par", text(**sizes)), devices=(1, 4), within=None)
    one, four = of.cases
    assert of.best == 0 and of.front == (0,) and four.limit == one.price.seconds  # type: ignore[union-attr]
    assert four.planned is not None and four.planned.found.least is None
    assert len(four.planned.found.tried) < len(alone(4, 4, **sizes).planned.found.tried)
    assert certified(Source("job.par", of.found.text), of.certificate).gap == 0


def test_cases_in_which_nothing_can_be() -> None:
    """One that does not fit is held to it, one that is refused, too."""
    source = Source("job.par", text(hidden="128 * batch // 4", memory=2.5, outside=1))
    of = api.plan_cases(source, free={"batch": (4, 16, 0)}, within=None)
    codes = {c.params[0][1]: c.error.code if c.error else "" for c in of.cases}
    assert codes["4"] == "" and codes["16"] == "E0951" and codes["0"] not in ("", "E0951")
    assert of.proved and certified(Source("job.par", of.found.text), json.loads(json.dumps(of.certificate))).gap == 0
    for wrong in ("E0540", ""):
        stated = deepcopy(of.certificate)
        next(c for c in stated["cases"] if c["code"] == codes["0"])["code"] = wrong  # type: ignore[index]
        with pytest.raises(Unfounded):
            certified(Source("job.par", of.found.text), stated)
    with pytest.raises(ParcError, match="E0951"):
        api.plan_cases(source, devices=(1, 2), free={"batch": (16,)}, within=None)


def test_a_job_without_a_strategy_has_numbers_open() -> None:
    source = Source("job.par", text().replace("batch = 4\n", "batch = auto in {4, 8}\n"))
    of = api.plan_cases(source, within=None)
    assert [c.samples for c in of.cases] == [4, 8] and isinstance(of.found, FoundPlan)
    with pytest.raises(ParcError, match="E0134"):
        api.plan_cases(Source("job.par", text().replace("batch = 4\n", "batch = auto\n")), within=None)
    with pytest.raises(ParcError, match="E0134"):
        api.plan_cases(source, devices=range(1, 64), within=None)


def test_numbers_of_a_strategy_that_are_open() -> None:
    """They are found in each case; of a step of twice the batch half is compared."""
    own = text().replace("train net on pod", "train net on pod using mine") + STRATEGY
    of = api.plan_cases(Source("job.par", own), devices=(1, 2, 4), within=None)
    assert isinstance(of.found, FilledPlan) and of.certificate is None and of.proved
    assert [c.price.seconds for c in of.cases if c.price] == [
        api.plan(Source("job.par", own), devices=n, within=None).best[0].price.seconds for n in (1, 2, 4)
    ]
    free = own.replace("batch = 4\n", "batch = auto in {4, 8, 16}\n")
    plan = api.plan(Source("job.par", free), devices=2, within=None)
    assert isinstance(plan, FilledPlan)
    best = min(plan.filled.fitting, key=lambda f: f.price.seconds / f.price.samples)
    assert plan.best[0].price == best.price and best.price.samples > 4


def test_a_search_that_is_interrupted_tells_what_is_known() -> None:
    def told(*_: object) -> None:
        raise KeyboardInterrupt

    of = api.plan_cases(Source("job.par", text()), devices=(2, 4), within=None, told=told)
    assert of.cases[0].found is not None and of.cases[1].found is None and not of.proved and of.gap == 1
    assert certified(Source("job.par", of.found.text), of.certificate).gap == 1


MUTANTS: dict[str, Callable[[Any], object]] = {
    "another best": lambda c: c.update(best=(c["best"] + 1) % 4),
    "no such best": lambda c: c.update(best=4),
    "a value": lambda c: c["cases"][1].update(value=c["cases"][1]["value"] * 0.9),
    "a parameter": lambda c: c["cases"][1]["params"].update(batch="16"),
    "no parameter": lambda c: c["cases"][0].update(params={}),
    "levels": lambda c: c["cases"][2].update(levels=[4, 1]),
    "devices": lambda c: c["cases"][2].update(devices=2),
    "a limit": lambda c: c["cases"][0].update(limit=1e-9),
    "nothing looked at": lambda c: c["cases"][1].update(certificate=None, value=None),
    "nothing fits": lambda c: c["cases"][1].update(code="E0951", certificate=None, value=None),
    "a step": lambda c: c["cases"][0]["certificate"]["tried"][0].update(seconds=1.0),
    "one twice": lambda c: c["cases"].append(c["cases"][0]),
    "another thing": lambda c: c.update(minimise="device-time"),
    "days": lambda c: c.update(minimise="days"),
    "one less": lambda c: (c["cases"].pop(1), c.update(best=2)),
    "one that nobody asked for": lambda c: c["asked"]["params"].update(batch=["4"]),
    "nothing asked for": lambda c: c.pop("asked"),
    "other devices": lambda c: c["asked"].update(devices=[2, 4, 8]),
    "a limit that only more samples reach": lambda c: c["cases"][2].update(limit=4 * c["cases"][3]["value"]),
    "a gap": lambda c: c.update(gap=0.1),
    "no proof": lambda c: c.update(proved=False),
}


DAILY = (
    *("another best", "a parameter", "a limit", "levels", "nothing looked at", "days", "one less"),
    "a limit that only more samples reach",
)


@pytest.mark.parametrize(
    "mutant", [of if of in DAILY else pytest.param(of, marks=pytest.mark.nightly) for of in MUTANTS]
)
def test_a_certificate_of_cases_is_held(mutant: str) -> None:
    stated, source = json.loads(json.dumps(found().certificate)), Source("job.par", found().found.text)
    if mutant == "a limit":  # once is enough
        held = certified(source, deepcopy(stated))
        assert held.gap == 0 and held.strategies == sum(c["certificate"]["space"]["total"] for c in stated["cases"])
    MUTANTS[mutant](stated)
    with pytest.raises(Unfounded):
        certified(source, stated)


def test_a_value_is_what_the_file_has_then() -> None:
    """`08` is 8, a text may come in quotes, and one with a quote in it is one."""
    made = Source("job.par", 'param name = "x"\nparam slow = 2 us\n' + text().replace("1 us", "slow"))
    given: dict[str, Any] = {"name": 'a"b', "slow": "3.0us"}
    of = api.plan_cases(made, devices=(1,), free={"batch": ("08", "16")}, params=given, within=None)
    assert [dict(case.params)["batch"] for case in of.cases] == ["8", "16"] and 'param name = "a\\"b"' in of.found.text
    assert certified(Source("job.par", of.found.text), json.loads(json.dumps(of.certificate))).gap == 0
    assert 'param name = "b"' in planned(made.text, 1, name='"b"').text
    with pytest.raises(ParcError, match="E0134"):
        api.plan_cases(made, free={"batch": ("08", "8")}, within=None)


def test_forms(tmp_path: Path) -> None:
    file, out, proof, page = (tmp_path / n for n in ("job.par", "planned.par", "proof.json", "page.html"))
    file.write_text(text())
    args = ["plan", str(file), "--devices", "1,2", "-D", "batch=4,8", "--minimise", "days", "--tokens", "1e9"]
    more = ["--json", "--within", "1m", "-o", str(out), "--certificate", str(proof), "--report", str(page)]
    result = json.loads(CliRunner().invoke(cli, [*args, *more]).stdout)["result"]
    assert [(c["params"]["batch"], c["devices"]) for c in result["cases"]] == [("4", 1), ("8", 1), ("4", 2), ("8", 2)]
    for case in result["cases"]:
        assert abs(case["device_days"] - 1e9 / case["tokens"] * case["step_seconds"] / 86400 * case["devices"]) < 1e-9
    assert result["compared"]["proved"] and result["text"] == out.read_text()
    assert "2 cases" not in page.read_text() and "4 cases" in page.read_text()
    assert certified(load(str(out)), json.loads(proof.read_text())).gap == 0
    rows = as_csv(found(), 1e9).splitlines()
    assert rows[0].startswith("batch,devices,samples,step_seconds") and len(rows) == 5
    for wrong in (["--devices", "2,x"], ["--devices", "0"], ["--devices", "2,2"], ["-D", "batch=4,"]):
        assert CliRunner().invoke(cli, ["plan", str(file), *wrong]).exit_code == 2, wrong


@pytest.mark.parametrize("numbers", ["2,x", "2.5", "-1", "0"])
def test_what_is_no_number_of_devices_is_told(numbers: str, tmp_path: Path) -> None:
    file = tmp_path / "job.par"
    file.write_text(text_of("layers"))
    result = CliRunner().invoke(cli, ["plan", str(file), "--devices", numbers])
    assert result.exit_code == 2 and "int()" not in result.output
    assert "is not a number of devices" in result.output or "is not in the range" in result.output
