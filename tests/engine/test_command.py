"""What the README has one type to see the real engine proved: three strategies at once, four processes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from tests.engine.test_faults import ENVIRONMENT, ROOT  # noqa: E402

BLOCK = re.compile(r"^<!-- ci: engine -->\n```sh\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def documented() -> list[str]:
    """The arguments of `parc` in the README, which the page on PyTorch has, too."""
    found = BLOCK.search((ROOT / "README.md").read_text())
    assert found is not None
    command = found[1].split(" && ")[-1]
    assert command in (ROOT / "docs" / "torch.md").read_text()
    return shlex.split(command)[1:]


def run(*more: str) -> str:
    line = [sys.executable, "-m", "parc", *documented(), *more]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documented_command_shows_three_losses_and_a_verdict() -> None:
    told = run()
    assert "4 processes on cpu" in told
    rows = re.findall(r"^(\d+) +([\d.]+) +([\d.]+) +([\d.]+)$", told, re.MULTILINE)
    assert [row[0] for row in rows] == [str(n + 1) for n in range(5)]
    for _, *losses in rows:
        assert [float(x) for x in losses] == pytest.approx([float(losses[0])] * 3, rel=1e-5)
    assert len({row[1] for row in rows}) == 5, "it learns"
    assert told.rstrip().splitlines()[-1] == "equal"


def test_its_losses_are_those_of_an_emulated_run() -> None:
    found = json.loads(run("--json"))["result"]
    options = documented()[4:]
    line = [sys.executable, "-m", "parc", "run", "examples/gpt.par", *options, "--json"]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    losses = json.loads(done.stdout)["result"]["losses"]
    assert found["ok"] and len(losses) == 5
    for mine in (found["emulated"], [engine for _, engine in found["losses"]]):
        assert mine == pytest.approx(losses, rel=1e-4)
