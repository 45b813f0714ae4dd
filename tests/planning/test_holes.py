"""`auto`: numbers that are found, in a file that is kept as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from csv import DictReader
from itertools import count, product
from math import prod
from pathlib import Path

import pytest
from click.testing import CliRunner

from compiler.evaluate import evaluate_file
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.cli import cli
from parc.planning.filled_answer import FilledPlan
from parc.planning.hole_values import FEW, hole_values
from parc.planning.holes import open_file
from parc.price import price
from tests.planning.models import text_of

STRATEGY = """
strategy mine for net {{
  mesh (dp = {dp}, tp = {tp})
  split b on dp
  split f on tp
  zero(dp, {zero})
  microbatches {m} over b
}}

tactic zero(dp, stage) {{
  if stage >= 1 {{
    shard optimizer on dp
  }}
}}
"""

SLOW = {"flops": 0.01, "bandwidth": 1, "inner": 0.01, "outer": 0.001, "hidden": 96}


def text(**open: object) -> str:
    found = text_of("layers", **SLOW).replace("train net on pod", "train net on pod using mine")
    return found + STRATEGY.format(**{"dp": "auto", "tp": "auto", "zero": "auto", "m": "auto", **open})


def test_the_best_numbers_are_found_and_the_rest_stays() -> None:
    found = api.plan(Source("job.par", text()), within=None, keep=1000)
    assert isinstance(found, FilledPlan) and found.filled.least is None and "auto" not in found.text
    prices = {}
    for dp, zero, m in product((1, 2, 4), (0, 1, 2, 3), (1, 2, 4, 8)):
        try:
            job = evaluate_file(Source("job.par", text(dp=dp, tp=4 // dp, zero=zero, m=m))).job
            prices[dp, 4 // dp, zero, m] = price(job)
        except ParcError:
            pass
    best = min(prices.values(), key=lambda p: p.seconds)
    assert found.best[0].price.seconds == best.seconds
    for one in found.best:
        values = {h.name: n for h, n in one.values}
        assert prices[values["dp"], values["tp"], values["zero"], values["microbatches"]] == one.price
        assert one.bound <= one.price.seconds
    of = found.filled
    counted = of.numbers + of.same + sum(of.refused.values()) + of.unfit + len(of.fitting) + of.not_better + of.left
    assert counted == of.total == 3 * 3 * 4 * 4
    assert "split f on tp" in found.text and api.check(Source("job.par", found.text)).jobs


def test_a_parameter_that_is_open_or_set() -> None:
    file = "param dp = auto in {1, 2, 4}\n" + text(dp="dp", tp="4 // dp", zero=0, m=1)
    found = api.plan(Source("job.par", file), within=None)
    assert isinstance(found, FilledPlan) and [h.values for h in found.holes] == [(1, 2, 4)]
    assert f"param dp = {found.best[0].values[0][1]} in {{1, 2, 4}}" in found.text
    assert evaluate_file(Source("job.par", file), {"dp": "2"}).job.strategy.mesh[0].size == 2
    with pytest.raises(ParcError, match="E0134"):
        evaluate_file(Source("job.par", file))


def test_what_is_open_is_told_alike_wherever_it_stands() -> None:
    """An argument of a tactic, too: it is no mesh axis that there is not."""
    for open in ({"dp": 2, "tp": 2, "m": 1}, {"dp": 2, "tp": 2, "zero": 1}, {"tp": 2, "zero": 0, "m": 1}):
        with pytest.raises(ParcError) as error:
            evaluate_file(Source("job.par", text(**open)))
        assert {d.code for d in error.value.diagnostics} == {"E0134"}, open


def test_a_value_that_is_called_auto_is_one() -> None:
    assert evaluate_file(Source("job.par", "param auto = 2\n" + text(dp="auto", tp=2, zero=0, m=1))).job


def test_where_no_number_can_be(tmp_path: Path) -> None:
    file = tmp_path / "job.par"
    file.write_text(text(dp="2 * auto", tp=2, zero=0, m=1))
    result = CliRunner().invoke(cli, ["plan", str(file)])
    assert (
        result.exit_code == 1 and "E0134" in result.stderr and "nothing says what `auto` may be here" in result.stderr
    )
    file.write_text(text(dp=8))
    result = CliRunner().invoke(cli, ["plan", str(file)])
    assert result.exit_code == 1 and "E0406" in result.stderr


def test_command(tmp_path: Path) -> None:
    file, made = tmp_path / "job.par", tmp_path / "planned.par"
    file.write_text(text(zero=0, m=1))
    result = CliRunner().invoke(cli, ["plan", str(file), "-o", str(made), "--within", "1m"])
    assert result.exit_code == 0 and "proved: no other values are better" in result.stderr
    assert CliRunner().invoke(cli, ["check", str(made)]).exit_code == 0
    rows = CliRunner().invoke(cli, ["plan", str(file), "--csv", "--within", "1m"]).stdout.splitlines()
    assert rows[0] == "dp,tp,step_seconds,needed_bytes,days,bound" and len(rows) == 4


STAGES = """
strategy staged for gpt {
  mesh (pp = auto, dp = auto)
  split b on dp
  shard optimizer on dp
  pipeline block on pp, schedule interleaved(microbatches = 2, chunks = auto, over = b)
}
"""


def test_what_says_the_same_is_tried_once() -> None:
    """Chunks of one stage: they have the very same price, and stand once among the best."""
    file = text_of("transformer", layers=4).replace("train gpt on pod", "train gpt on pod using staged") + STAGES
    found = api.plan(Source("job.par", file), within=None, keep=1000)
    assert isinstance(found, FilledPlan) and found.filled.same == 3 and found.certificate()["same"] == 3
    tried = [tuple(n for _, n in f.values) for f in found.best]
    assert [v for v in tried if v[0] == 1] == [(1, 4, 1)]
    alike = {price(evaluate_file(Source("job.par", fixed(file, 1, 4, chunks))).job) for chunks in (1, 2, 4)}
    assert alike == {next(f.price for f in found.best if f.values[0][1] == 1)}


def fixed(file: str, *numbers: int) -> str:
    for number in numbers:
        file = file.replace("auto", str(number), 1)
    return file


def test_what_was_not_looked_at_in_time_is_bounded() -> None:
    """By all work on all devices; where a tactic may do something else, by nothing."""
    found = api.plan(Source("job.par", text()), within=1e-9, keep=1000)
    assert isinstance(found, FilledPlan) and found.filled.left > 1 and found.filled.least is not None
    every = api.plan(Source("job.par", text()), within=None)
    assert 0 < found.filled.least <= every.best[0].price.seconds and found.gap < 1
    beside = text() + "tactic other(dp) {\n  offload optimizer to host\n}\n"
    assert api.plan(Source("job.par", beside), within=1e-9).filled.least == 0  # type: ignore[union-attr]


def test_more_values_than_anybody_can_list() -> None:
    """240 ^ 6 of them: soon some from everywhere are looked at, and what is near the best."""
    names = ["one", "two", "three", "four", "five", "six"]
    params = "".join(f"param {name} = auto in 1..720721\n" for name in names)
    file = params + text_of("layers", **{**SLOW, "batch": 720720}).replace("on pod", "on pod using mine")
    file += STRATEGY.format(dp=4, tp=1, zero=0, m=" * ".join(names))
    found = api.plan(Source("job.par", file), within=2.0)
    assert isinstance(found, FilledPlan) and found.filled.total == 240**6 and found.filled.left > 10**13


def test_all_numbers_of_values_are_ordered_and_told_apart() -> None:
    of = open_file(Source("job.par", text()), {}, None, None, 4, 5040)
    every = hole_values(of, 4)
    assert every.count == 3 * 4 * 60 and sorted(every.order()) == list(range(every.count))
    assert all(every.number(every.at(n)) == n for n in range(every.count))
    for number in (0, 77, every.count - 1):
        own = every.at(number)
        near = [every.at(n) for n in every.near(number)]
        assert len({*near}) == len(near) >= 4 and own not in near
        assert all(prod(n for h, n in other if h.name in ("dp", "tp")) == 4 for other in near)
    many = hole_values(open_file(Source("job.par", text()), {}, None, None, 4, 720720), 4)
    assert many.count > FEW and sorted(many.order()) == list(range(many.count))


def test_an_open_size_of_a_model() -> None:
    """None of the first that are tried can be; and what modules are called is nothing that a model speaks of."""
    wide = text_of("transformer").replace("d = 16", "d = wide")
    found = api.plan(Source("job.par", "param wide = auto\n" + wide), devices=8, within=None)
    assert isinstance(found, FilledPlan) and {f.values[0][1] for f in found.best} == {4, 8}
    named = "use std.devices (h100)\nparam devices = auto in {1, 2, 4}\n" + text(dp="devices", m=1)
    assert "devices" not in open_file(Source("job.par", named), {}, None, None, 4, 8).touched


def test_days(tmp_path: Path) -> None:
    file = tmp_path / "job.par"
    file.write_text(text(zero=0, m=1))
    args = ["plan", str(file), "--minimise", "days", "--tokens", "1e9", "--within", "1m"]
    result = CliRunner().invoke(cli, [*args, "--json", "-o", str(tmp_path / "planned.par")])
    best = json.loads(result.stdout)["result"]["best"]
    assert all(abs(b["days"] - 1e9 / 8 * b["step_seconds"] / 86400) < 1e-9 for b in best)
    shown = CliRunner().invoke(cli, [*args, "--csv"])
    days = [row["days"] for row in DictReader(shown.stdout.splitlines())]
    assert days == [str(b["days"]) for b in best] and "days" in shown.stderr.splitlines()[0]


def test_values_that_a_check_speaks_against_are_left_out() -> None:
    """Wherever among the values they are; and what is wrong with all of them is told."""
    text = text_of("tables") + "\nparam open = auto in 1..5\ncheck open > 2\ncheck open != 4\n"
    found = api.plan(Source("job.par", text), within=None)
    assert isinstance(found, FilledPlan) and "param open = 3" in found.text
    with pytest.raises(ParcError, match="E0217"):
        api.plan(Source("job.par", text.replace("open > 2", "open > 9")), within=None)


def test_a_certificate_of_numbers_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is searched: what would be found is not thrown away."""
    monkeypatch.setattr(api, "plan", lambda *_, **__: pytest.fail("it is searched"))
    file = tmp_path / "job.par"
    file.write_text(text())
    result = CliRunner().invoke(cli, ["plan", str(file), "--certificate", str(tmp_path / "c.json")])
    assert result.exit_code == 2 and "not of numbers that are left open" in result.stderr


def test_one_that_is_interrupted_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was being looked at is left: wherever it was, counts add up."""
    for at in (6, 14, 16):
        calls = count()

        def made(*of: object, calls: Iterator[int] = calls, at: int = at, **more: object) -> object:
            if next(calls) == at:
                raise KeyboardInterrupt
            return evaluate_file(*of, **more)  # type: ignore[arg-type]

        monkeypatch.setattr("parc.planning.filling.evaluate_file", made)
        try:
            found = api.plan(Source("job.par", text(m=1)), within=None)
        except KeyboardInterrupt:
            continue
        assert isinstance(found, FilledPlan) and found.filled.interrupted
        assert found.filled.least is not None and found.filled.left > 0
        assert found.filled.known + found.filled.left == found.filled.total
