"""Commands about jobs: check, compile, diff, explain TENSOR."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import parc
from compiler import driver
from compiler.model import Job
from compiler.text import parse_program, show
from dsl.codes import CODES
from dsl.source import Source
from parc.cli import cli
from tests.cli.sample import FILE

runner = CliRunner()


def run(*args: str, code: int = 0) -> Result:
    result = runner.invoke(cli, args)
    assert result.exit_code == code, result.stderr
    return result


def data(*args: str, code: int = 0) -> Any:
    found = json.loads(run(*args, "--json", code=code).stdout)
    assert found["command"] == args[0] and found["exit"] == code
    return found


# --- check ---------------------------------------------------------------------------------------------


def test_check(file: str) -> None:
    result = run("check", file)
    assert result.stdout == "" and "fit: mlp with data, 2 devices" in result.stderr
    assert data("check", file, "-D", "degree=8")["result"]["jobs"] == [
        {"job": "fit", "model": "mlp", "strategy": "data", "devices": 8}
    ]
    assert data("check", file, "--strategy", "both")["result"]["jobs"][0]["devices"] == 4


def test_check_reads_standard_input() -> None:
    result = runner.invoke(cli, ["check", "-"], input=FILE)
    assert result.exit_code == 0


def test_check_covers_every_job(file: str) -> None:
    text = FILE + FILE[FILE.index("job fit") :].replace("fit", "other").replace("data", "both")
    Path(file).write_text(text)
    assert [j["job"] for j in data("check", file)["result"]["jobs"]] == ["fit", "other"]
    assert [j["job"] for j in data("check", file, "--job", "other")["result"]["jobs"]] == ["other"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["-D", "degree=3"], "E0107"),
        (["-D", "degre=2"], "E0106"),
        (["--job", "fti"], "E0113"),
        (["--strategy", "dta"], "E0103"),
    ],
)
def test_wrong_choices_are_diagnostics(file: str, args: list[str], code: str) -> None:
    found = data("check", file, *args, code=1)
    assert [d["code"] for d in found["diagnostics"]] == [code]
    assert f"error[{code}]" in run("check", file, *args, code=1).stderr


def test_diagnostics_have_places(file: str) -> None:
    Path(file).write_text(FILE.replace("relu(x @ w1)", "relu(x @ w3)"))
    (found,) = data("check", file, code=1)["diagnostics"]
    assert found["place"]["file"] == file and found["place"]["line"] == 12
    text = FILE.replace("relu(x @ w1)", "relu(x @ w3)")
    assert text[found["place"]["start"] : found["place"]["end"]] == "w3"


def test_a_missing_file_is_a_diagnostic(tmp_path: Path) -> None:
    assert data("check", str(tmp_path / "none.par"), code=1)["diagnostics"][0]["code"] == "E0013"


@pytest.mark.parametrize("args", [["check"], ["compile"], ["run", "--steps", "1"]], ids=lambda a: a[0])
def test_a_schedule_that_hangs_is_found_before_anything_runs(
    file: str, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lowering that lets two stages wait for each other: the first wants the second's gradient before it sends."""
    honest = driver.compile_job

    def hanging(job: Job, *more: Any, **options: Any) -> driver.Compiled:
        compiled = honest(job, *more, **options)
        program = parse_program(CODES["E0642"].failing)
        return replace(compiled, program=program)

    monkeypatch.setattr(driver, "compile_job", hanging)
    found = data(*args, file, code=3)["diagnostics"]
    assert [d["code"] for d in found] == ["E0642"] and "hang" in found[0]["message"]
    assert found[0]["place"]["file"] == file  # the strategy that was lowered


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_lowered_program_is_verified(command: str, tmp_path: Path) -> None:
    path = tmp_path / "edited.npu"
    path.write_text(CODES["E0642"].failing)
    found = data(command, str(path), code=1)["diagnostics"]
    assert [d["code"] for d in found] == ["E0642"] and found[0]["place"]["line"] > 1
    path.write_text(CODES["E0642"].mended)
    run(command, str(path), *(["--steps", "1"] if command == "run" else []))


# --- compile -------------------------------------------------------------------------------------------


def test_compile_prints_the_program(file: str) -> None:
    text = run("compile", file).stdout
    assert text == show(parc.compile(file).program) and show(parse_program(text)) == text
    assert text == parc.emit(file)


def test_compile_writes_a_file(file: str, tmp_path: Path) -> None:
    target = tmp_path / "out.npu"
    result = run("compile", file, "-o", str(target), "--strategy", "both")
    assert result.stdout == "" and parse_program(target.read_text()).devices == 4


def test_compile_writes_nothing_after_an_error(file: str, tmp_path: Path) -> None:
    target = tmp_path / "out.npu"
    run("compile", file, "-o", str(target), "-D", "degree=3", code=1)
    assert not target.exists()


@pytest.mark.parametrize(
    ("stage", "shows"),
    [
        ("ast", "Optimizer"),
        ("graph", "model mlp ("),
        ("training", "backward mlp.grad ("),
        ("placed", "%relu: f32[b=4/dp, f=32]"),
    ],
)
def test_compile_stops_after_a_stage(file: str, stage: str, shows: str) -> None:
    assert shows in run("compile", file, "--emit", stage).stdout
    assert shows in data("compile", file, "--emit", stage)["result"]["text"]


# --- diff ----------------------------------------------------------------------------------------------


def test_diff_of_strategies(file: str) -> None:
    text = run("diff", file, "--strategy", "both", "--text").stdout
    assert f"--- {file}\n+++ {file} (both)\n" in text and "-mesh (dp=2)\n+mesh (dp=2, tp=2)" in text
    backwards = run("diff", file, "--strategy", "both", "--strategy", "data", "--text").stdout
    assert "-mesh (dp=2, tp=2)\n+mesh (dp=2)" in backwards


def test_diff_says_what_changes(file: str) -> None:
    assert "axis tp" in run("diff", file, "--strategy", "both").stdout
    changes = data("diff", file, "--strategy", "both")["result"]["changes"]
    assert {"what": "axis tp", "before": None, "after": "2"} in changes["frame"]
    assert any("all_reduce" in c["what"] for c in changes["bytes"])


def test_diff_of_files(file: str, tmp_path: Path) -> None:
    golden = tmp_path / "golden.npu"
    run("compile", file, "-o", str(golden))
    same = run("diff", str(golden), file, "--exit-code")
    assert same.stdout == "" and "the same" in same.stderr
    assert data("diff", str(golden), file, "-D", "degree=4")["result"]["equal"] is False
    run("diff", str(golden), file, "-D", "degree=4", "--exit-code", code=1)


@pytest.mark.parametrize("args", [["a.par"], ["a.par", "b.par", "c.par"], ["a.par", *["--strategy", "x"] * 3]])
def test_diff_needs_two_sides(args: list[str]) -> None:
    run("diff", *args, code=2)


# --- explain TENSOR ------------------------------------------------------------------------------------


def test_explain_a_tensor(file: str) -> None:
    text = run("explain", file, "y", "--strategy", "both").stdout
    assert text.startswith("y: f32[b=4/dp, d=8] pending(tp sum)") and f"{file}:12" in text
    assert "dp splits b: the only dim that the rules allow   `split b on dp`" in text
    assert "tp splits f: `w1` is split there" not in text  # y is made of w2
    assert "tp splits f: `w2` is split there and stays where it is; f is summed over" in text
    assert "128 B per device and step in all" in text
    found = data("explain", file, "y", "--strategy", "both")["result"]
    (change,) = found["changes"]
    assert change["kind"] == "all-reduce over tp" and (change["times"], change["bytes"]) == (1, 128.0)
    assert change["reader"] == "sub" and change["type"] == "f32[b=4/dp, d=8]" and found["sent"] == 128.0
    assert {w["axis"]: w["rule"]["text"] for w in found["why"]} == {"dp": "split b on dp", "tp": "split f on tp"}
    assert found["bytes"] == [128, 256] and found["role"] == "activation" and found["place"]["line"] == 12


def test_explain_an_unknown_tensor(file: str) -> None:
    assert "did you mean `relu`?" in run("explain", file, "rellu", code=1).stderr


# --- the functions -------------------------------------------------------------------------------------


def test_functions_take_text_and_values() -> None:
    source = Source("here.par", FILE)
    assert parc.compile(source, params={"degree": 4}).program.devices == 4
    assert parc.evaluate(source, strategy="both").job.strategy.devices == 4
    with pytest.raises(parc.ParcError):
        parc.check(source, params={"degree": 3})


def test_every_public_function_is_there() -> None:
    assert all(hasattr(parc, name) for name in parc.__all__)
