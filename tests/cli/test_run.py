"""`parc run` and `parc verify`."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from compiler.limits import LengthLimit
from parc import api
from parc.cli import cli
from parc.training import Progress
from runtime.prove import proof
from tests.cli.sample import FILE

ROOT = Path(__file__).parent.parent.parent
runner = CliRunner()


def test_run(file: str) -> None:
    result = runner.invoke(cli, ["run", file, "--steps", "3", "--strategy", "both"])
    assert result.exit_code == 0, result.stderr
    assert "in 3 steps on 4 devices" in result.stdout and "step 3/3  loss" in result.stderr
    found = json.loads(runner.invoke(cli, ["run", file, "--steps", "3", "--strategy", "both", "--json"]).stdout)[
        "result"
    ]
    assert len(found["losses"]) == 3 and all(map(math.isfinite, found["losses"]))
    assert found["memory"][0]["memory"] == "hbm" and found["memory"][0]["peak"] > found["memory"][0]["roles"]["weight"]
    sent = {(t["op"], tuple(t["axes"])): (t["calls"], t["bytes"]) for t in found["traffic"]}
    # per step: y is reduced over tp (128 bytes a device), w1 and w2 (512 bytes each) and the loss over dp
    assert sent == {("all_reduce", ("tp",)): (1, 128), ("all_reduce", ("dp",)): (3, 1028)}


def test_two_clocks(file: str, tmp_path: Path) -> None:
    """What a step takes here, and on the job's cluster by `parc cost`; a job or program without one has one clock."""
    gpt = str(ROOT / "examples" / "gpt.par")
    options = ["-D", "dp=2", "-D", "tp=2"]
    shown = runner.invoke(cli, ["run", gpt, "--steps", "2", *options])
    assert re.search(r"^a step: [\d.]+ m?s here, [\d.]+ ms on 4 ascend910 \(simulated\)$", shown.stdout, re.MULTILINE)
    assert re.search(r"step 2/2  loss [\d.]+ +[\d.]+ m?s here, [\d.]+ ms simulated$", shown.stderr, re.MULTILINE)
    found = json.loads(runner.invoke(cli, ["run", gpt, "--steps", "2", "--json", *options]).stdout)["result"]
    assert found["step_seconds"] > 0 and found["device"] == "ascend910"
    assert found["simulated_step_seconds"] == api.cost(gpt, params={"dp": 2, "tp": 2}).timeline.step_seconds

    seen: list[Progress] = []
    parc.run(gpt, 3, progress=seen.append)
    first, _, last = (p.simulated_seconds for p in seen)
    assert first and last == 3 * first and [p.step for p in seen] == [1, 2, 3]
    assert seen[0].seconds <= seen[1].seconds <= seen[2].seconds

    lowered = str(tmp_path / "gpt.npu")
    assert runner.invoke(cli, ["compile", gpt, "-o", lowered]).exit_code == 0
    for source in (file, lowered):
        alone = json.loads(runner.invoke(cli, ["run", source, "--steps", "1", "--json"]).stdout)["result"]
        assert alone["simulated_step_seconds"] is None and alone["device"] is None and alone["step_seconds"] > 0
        assert "simulated" not in runner.invoke(cli, ["run", source, "--steps", "1"]).output


def test_a_lowered_program_runs_alike(file: str, tmp_path: Path) -> None:
    target = str(tmp_path / "mlp.npu")
    assert runner.invoke(cli, ["compile", file, "-o", target]).exit_code == 0
    assert parc.run(target, 3).losses == parc.run(file, 3).losses
    assert runner.invoke(cli, ["run", target, "--steps", "1"]).exit_code == 0


def on_a_tiny_pair(kilobytes: float) -> str:
    """The sample's text with a cluster of two devices of so much memory."""
    cluster = f"""
device tiny {{
  compute f32 1 TFLOP/s
  memory {kilobytes} KB, 1 GB/s
}}

cluster pair {{
  device npu = tiny
  level server = 2 npu over 1 GB/s, 1 us
}}
"""
    return FILE.replace("\noptimizer", f"{cluster}\noptimizer").replace("train mlp(width)", "train mlp(width) on pair")


@pytest.mark.parametrize("command", [["run"], ["verify"], ["verify", "--double"], ["verify", "--executor", "private"]])
def test_running_out_of_memory_is_a_diagnostic(command: list[str], file: str) -> None:
    Path(file).write_text(on_a_tiny_pair(2))
    result = runner.invoke(cli, [*command, file])
    assert result.exit_code == 1 and "error[E0701]" in result.stderr and "help: " in result.stderr


def test_a_proof_in_double_precision_takes_no_more_memory_than_there_is(file: str) -> None:
    """What counts is whether the job fits as it is written."""
    Path(file).write_text(on_a_tiny_pair(1e6))
    found = json.loads(runner.invoke(cli, ["cost", file, "--json"]).stdout)["result"]
    Path(file).write_text(on_a_tiny_pair(max(found["needed"], found["program_peak"]) / 1000))
    for command in (["run"], ["verify"], ["verify", "--double"]):
        result = runner.invoke(cli, [*command, file])
        assert result.exit_code == 0, result.stderr


def test_verify(file: str) -> None:
    result = runner.invoke(cli, ["verify", file, "--strategy", "both"])
    assert result.exit_code == 0 and result.stdout.rstrip().endswith("\nequal"), result.stderr
    found = json.loads(runner.invoke(cli, ["verify", file, "--json"]).stdout)["result"]
    assert found["ok"] and {t["kind"] for t in found["tensors"]} == {"loss", "gradient", "weight", "state"}


@pytest.mark.parametrize("x", ["input x : f32[b,d]", "input given : f32[b,d]\n  x = cast(given, compute)"])
def test_verify_in_double_precision(file: str, x: str) -> None:
    """The job's own type, where it is written out, becomes float64 too."""
    Path(file).write_text(FILE.replace("input x : f32[b,d]", x))
    result = runner.invoke(cli, ["verify", file, "--double", "--json"])
    found = json.loads(result.stdout)["result"]["tensors"]
    assert result.exit_code == 0 and all(t["tolerance"] <= 1e-9 for t in found if t["dtype"] == "f64")
    assert {t["dtype"] for t in found if t["kind"] == "weight"} == {"f64"}


def test_verify_with_each_device_by_itself(file: str) -> None:
    result = runner.invoke(cli, ["verify", file, "--strategy", "both", "--executor", "private"])
    assert result.exit_code == 0 and result.stdout.rstrip().endswith("\nequal"), result.stderr


def test_verify_says_so_where_nothing_is_distributed(file: str) -> None:
    result = runner.invoke(cli, ["verify", file, "--strategy", "serial"])
    assert result.exit_code == 0 and "nothing was distributed" in result.stderr


def test_verify_fails_beyond_the_tolerance(file: str) -> None:
    result = runner.invoke(cli, ["verify", file, "--tolerance", "0"])
    assert result.exit_code == 1 and "NOT EQUAL" in result.stdout and "--double" in result.stderr
    assert result.stdout.rstrip().splitlines()[-1].startswith("NOT EQUAL")


def test_verify_fails_for_a_tensor_that_is_missing(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof.Emulator, "weights", lambda self: {})
    result = runner.invoke(cli, ["verify", file, "--json"])
    found = json.loads(result.stdout)["result"]
    assert result.exit_code == 1 and not found["ok"]
    assert {t["name"] for t in found["tensors"] if t["error"] is None} == {"w1", "w2"}


def test_a_terminal_gets_a_progress_bar(file: str) -> None:
    terminal, end = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = [sys.executable, "-m", "parc", "run", file, "--steps", "2"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=end, env=environment, text=True)
    os.close(end)
    shown = os.read(terminal, 100_000).decode(errors="replace")  # the terminal may stop within a character
    os.close(terminal)
    assert done.returncode == 0 and "training" in shown and "\x1b" in shown and "\x1b" not in done.stdout


def test_threads_default_to_one(file: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | {"PYTHONPATH": str(ROOT)}
    script = (
        "import os, parc.cli\ntry: parc.cli.cli.main(['run', {!r}, '--steps', '1', *{!r}])\n"
        "except SystemExit as e: print(e.code, os.environ['OPENBLAS_NUM_THREADS'])"
    )
    for args, expected in (((), "0 1"), (("--threads", "2"), "0 2")):
        done = subprocess.run(
            [sys.executable, "-c", script.format(file, args)], capture_output=True, text=True, env=environment
        )
        assert done.stdout.splitlines()[-1] == expected


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-1"])
def test_a_tolerance_is_a_number_to_compare_with(file: str, tolerance: str) -> None:
    result = runner.invoke(cli, ["verify", file, "--tolerance", tolerance])
    assert result.exit_code == 2 and "--tolerance" in result.stderr


@pytest.mark.parametrize("patience", ["nan", "1e400", "1e308", "2e6"])
@pytest.mark.parametrize("args", [["run", "FILE"], ["serve", str(Path(__file__).with_name("writer.par")), "--check"]])
def test_patience_is_what_sockets_and_clocks_count(file: str, args: list[str], patience: str) -> None:
    """Longer ones ended in them, as an error of ours."""
    result = runner.invoke(cli, [*(file if a == "FILE" else a for a in args), "--patience", patience])
    assert result.exit_code == 2 and "--patience" in result.stderr


def test_numbers_too_large_for_the_type_are_infinite(file: str, tmp_path: Path) -> None:
    """The run diverges; numpy has nothing to say of it (warnings are errors here)."""
    path = tmp_path / "wild.par"
    path.write_text(Path(file).read_text().replace("lr = 0.1", "lr = 1e30"))
    result = runner.invoke(cli, ["run", str(path), "--steps", "3", "--json"])
    assert result.exit_code == 0, result.stdout + result.stderr
    assert json.loads(result.stdout)["result"]["losses"][-1] is None


def test_a_step_that_is_too_long_to_be_priced_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has one clock, as without a cluster."""
    monkeypatch.setattr("compiler.cost.time.length.BEGUN", LengthLimit(3, "priced"))
    gpt = str(ROOT / "examples" / "gpt.par")
    assert "error[E0931]" in runner.invoke(cli, ["cost", gpt, "-D", "pp=2"]).stderr
    ran = runner.invoke(cli, ["run", gpt, "--steps", "1", "-D", "pp=2"])
    assert ran.exit_code == 0 and "a step: " in ran.stdout and "simulated" not in ran.output
