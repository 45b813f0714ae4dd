"""`parc sweep`: a row for each combination, with the price of `parc cost` or the code of what is wrong."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import parc
from dsl.diagnostics import ParcError
from parc.cli import cli
from parc.sweeping import COLUMNS, values_of

TEXT = """use std.devices (a100_80)
use std.layers (layer_norm, mlp)
use std.optimizers (adamw)

param dp = 1 in 1..9
param tp = 1 in 1..9
param zero = 1 in {0, 1}
param label = "a"

model deep {
  dim b = 8, d = 64
  input x : f32[b,d]
  h = x
  repeat 2 as block {
    h = h + mlp(layer_norm(h), 256)
  }
  loss mean(h * h)
}

cluster pod(devices) {
  device gpu = a100_80
  level server = devices gpu over 300 GB/s, 1 us
}

strategy plan for deep {
  mesh (dp = dp, tp = tp)
  split b on dp
  split f on tp
  if zero > 0 {
    shard optimizer on dp
  }
}

job fit {
  train deep on pod(dp * tp) using plan
  optimizer adamw(lr = 1e-3)
}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "deep.par"
    path.write_text(TEXT)
    return str(path)


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["sweep", *args])


def rows(*args: str) -> list[dict[str, Any]]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stdout
    found: list[dict[str, Any]] = json.loads(result.stdout)["result"]["rows"]
    return found


def test_all_combinations_with_the_price_of_cost(file: str) -> None:
    found = rows(file, "-D", "tp=1,2,4", "-D", "dp=1..4", "-D", "zero=0,1")
    assert [tuple(r["params"].values()) for r in found] == [
        (tp, dp, zero) for tp in ("1", "2", "4") for dp in ("1", "2", "3") for zero in ("0", "1")
    ]
    for row in found:
        if row["params"]["dp"] == "3":
            assert row["code"] == "E0540" and row["step_seconds"] is None and row["fits"] is None
            assert "3 pieces" in row["message"] and row["devices"] == 3 * int(row["params"]["tp"])
            continue
        e = parc.api.cost(file, params=row["params"]).as_json()
        assert (row["code"], row["message"]) == ("", "")
        for key in ("devices", "step_seconds", "samples", "tokens", "tokens_per_second", "fits"):
            assert row[key] == e[key], key
        assert row["needed_bytes"] == e["needed"]


def test_what_is_not_allowed_is_a_row(file: str) -> None:
    codes = {r["params"]["zero"]: r["code"] for r in rows(file, "-D", "zero=0..4", "-D", "dp=2")}
    assert codes == {"0": "", "1": "", "2": "E0107", "3": "E0107"}


def test_csv_has_the_same_columns_always(file: str) -> None:
    for options in (["-D", "dp=1,2,3", "-D", "tp=2"], ["-D", "dp=3,5", "-D", "tp=1"]):
        result = run(file, *options, "--csv")
        found = list(csv.reader(io.StringIO(result.stdout)))
        assert result.exit_code == 0 and found[0] == ["dp", "tp", *COLUMNS]
        assert len(found) == 1 + len(options[1].split("=")[1].split(",")) and {len(r) for r in found} == {
            2 + len(COLUMNS)
        }
    (head, first, *_) = csv.reader(io.StringIO(run(file, "-D", "dp=2,3", "--csv").stdout))
    row = rows(file, "-D", "dp=2,3")[0]
    shown = dict(zip(head, first, strict=True))
    assert float(shown["step_seconds"]) == row["step_seconds"] and shown["fits"] == "true" and shown["code"] == ""


def test_a_table_for_people_and_the_best(file: str) -> None:
    result = run(file, "-D", "dp=1,2,3")
    assert "E0540: dim b" in result.stdout and "step" in result.stdout
    found = json.loads(run(file, "-D", "dp=1,2,3", "--json").stdout)["result"]
    cost = [r["step_seconds"] / r["samples"] * r["devices"] for r in found["rows"][:2]]
    assert found["best"] == cost.index(min(cost)) and f"dp={found['best'] + 1}" in result.stderr


def test_what_is_wrong_with_all_is_an_error(file: str) -> None:
    for options, code in (
        (["-D", "ddp=1,2"], "E0106"),
        (["-D", "dp=x,y"], "E0106"),
        (["-D", "dp=3"], "E0540"),
        (["-D", "zero=7"], "E0107"),
        (["--job", "none", "-D", "dp=1,2"], "E0113"),
    ):
        result = run(file, *options, "--json")
        assert result.exit_code == 1, options
        assert json.loads(result.stdout)["diagnostics"][0]["code"] == code, options
    Path(file).write_text(TEXT.replace(" on pod(dp * tp)", ""))
    assert "E0801" in run(file, "-D", "dp=1,2").stderr
    Path(file).write_text(TEXT + "param x = = 1\n")
    assert run(file, "-D", "dp=1,2").exit_code == 1


@pytest.mark.parametrize(
    "text", ["1,,2", ",", "1,", "4..4", "4..1", "0..10002", "1,2,1", "0..3,2", "1..99999999999999999999999"]
)
def test_values_that_are_none(text: str, file: str) -> None:
    with pytest.raises(ValueError):
        values_of(text)
    result = run(file, "-D", f"dp={text}")
    assert result.exit_code == 2 and result.stdout == ""


def test_values() -> None:
    assert values_of("1, 2,4") == ("1", "2", "4") and values_of("0..3") == ("0", "1", "2")
    assert values_of("-2..1,7") == ("-2", "-1", "0", "7") and values_of("[1,2],[3]") == ("[1,2]", "[3]")
    assert values_of('"a",true,0.5,3 GB') == ('"a"', "true", "0.5", "3 GB")


def test_there_is_an_end(file: str) -> None:
    result = run(file, "-D", "dp=1..201", "-D", "tp=1..201")
    assert result.exit_code == 2 and "40,000 combinations" in result.stderr
    assert run(file, "--csv", "--json").exit_code == 2


def test_as_a_function(file: str) -> None:
    found = parc.sweep(file, {"dp": [1, 2, 3], "label": ['"b"']})
    assert [c.error.code if c.error else "" for c in found] == ["", "", "E0540"]
    assert found[0].params == (("dp", "1"), ("label", '"b"'))
    with pytest.raises(ParcError):
        parc.sweep(file, {"dp": [3]})
