"""The answer: a file that is as it was but for its strategy, on as many devices as asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from compiler.evaluate import evaluate_file
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.cli import cli
from parc.planning.answer import FoundPlan
from parc.planning.reasons import front
from parc.price import price
from tests.planning.models import text_of


def test_other_devices_and_parameters_are_written_into_the_file() -> None:
    text = "param batch = 4\n" + text_of("layers", batch="batch")  # type: ignore[arg-type]
    found = api.plan(Source("job.par", text), devices=6, params={"batch": 12}, within=None)
    assert isinstance(found, FoundPlan) and "param batch = 12\n" in found.text
    job = evaluate_file(Source("job.par", found.text)).job
    assert job.cluster is not None and [level.count for level in job.cluster.levels] == [2, 3]
    assert job.strategy.name == found.strategy == "planned" and job.strategy.devices == 6
    assert price(job) == found.best[0].price
    again = api.plan(Source("job.par", found.text), within=None)  # a plan can be planned again
    assert isinstance(again, FoundPlan) and again.strategy == "planned_2" and again.best[0].price == found.best[0].price


def test_the_front_has_what_nothing_beats() -> None:
    found = api.plan(Source("job.par", text_of("layers")), within=None)
    assert isinstance(found, FoundPlan)
    plans = found.planned.found.fitting
    for plan in plans:
        beaten = any(
            p.price.seconds <= plan.price.seconds and p.price.needed <= plan.price.needed and p.price != plan.price
            for p in plans
        )
        assert beaten or plan.price in [p.price for p in front(plans)]


def test_days_and_forms(tmp_path: Path) -> None:
    file = tmp_path / "job.par"
    file.write_text(text_of("layers"))
    shown = CliRunner().invoke(cli, ["plan", str(file), "--minimise", "days", "--tokens", "1e9", "--json"])
    best = json.loads(shown.stdout)["result"]["best"][0]
    assert abs(best["days"] - 1e9 / 8 * best["step_seconds"] / 86400) < 1e-9 * best["days"]
    assert CliRunner().invoke(cli, ["plan", str(file), "--minimise", "days"]).exit_code == 2
    assert CliRunner().invoke(cli, ["plan", str(file), "--within", "soon"]).exit_code == 2
    rows = CliRunner().invoke(cli, ["plan", str(file), "--csv", "--best", "3"]).stdout.splitlines()
    assert rows[0].startswith("dp,tp,order,microbatches,zero,schedule") and len(rows) == 4


def test_a_plan_that_is_written_elsewhere_says_what_it_does_not_find(tmp_path: Path) -> None:
    """Its data are looked for from where it is."""
    file, folder = tmp_path / "job.par", tmp_path / "plans"
    folder.mkdir()
    (tmp_path / "numbers.csv").write_text("1,2\n")
    named = 'param from = "numbers.csv"\n' + text_of("layers")
    file.write_text(named)
    said = "is read from its own folder, where there is no `numbers.csv`: write it beside"
    there = CliRunner().invoke(cli, ["plan", str(file), "--within", "1s", "-o", str(folder / "planned.par")])
    assert there.exit_code == 0 and said in there.stderr
    here = CliRunner().invoke(cli, ["plan", str(file), "--within", "1s", "-o", str(tmp_path / "planned.par")])
    assert here.exit_code == 0 and said not in here.stderr


def test_what_fits_nowhere_says_what_it_needs() -> None:
    """Where bounds say so before anything is priced."""
    with pytest.raises(ParcError, match=r"weights, gradients and states alone need [\d.]+ KiB at least") as error:
        api.plan(Source("job.par", text_of("layers", memory=0.001)), within=None)
    assert error.value.diagnostics[0].code == "E0951"
