"""What the README has one type to see the real engine proved: three strategies at once, four processes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from parc.cli import cli  # noqa: E402
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


@pytest.fixture(scope="module")
def told() -> str:
    """What the command shows."""
    return run()


def rows(told: str) -> list[list[float]]:
    """Of each step its number, and the losses of the serial program, of the emulator and of the processes."""
    return [[float(x) for x in row] for row in re.findall(r"^(\d+) +([\d.]+) +([\d.]+) +([\d.]+)$", told, re.MULTILINE)]


def test_the_documented_command_shows_three_losses_and_a_verdict(told: str) -> None:
    assert "4 processes on cpu" in told
    assert [row[0] for row in rows(told)] == [1, 2, 3, 4, 5]
    for _, *losses in rows(told):
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert len({row[1] for row in rows(told)}) == 5, "it learns"
    assert told.rstrip().splitlines()[-1] == "equal"


@pytest.fixture(scope="module")
def emulated() -> list[float]:
    """The losses of `parc run` without processes."""
    done = CliRunner().invoke(cli, ["run", str(ROOT / "examples" / "gpt.par"), *documented()[4:], "--json"])
    losses = json.loads(done.stdout)["result"]["losses"]
    assert len(losses) == 5
    return losses


def test_its_losses_are_those_of_an_emulated_run(told: str, emulated: list[float]) -> None:
    for mine in zip(*(row[1:] for row in rows(told)), strict=True):
        assert list(mine) == pytest.approx(emulated, rel=1e-4)


@pytest.mark.nightly
def test_so_they_are_in_json(emulated: list[float]) -> None:
    found = json.loads(run("--json"))["result"]
    assert found["ok"]
    for mine in (found["emulated"], [engine for _, engine in found["losses"]]):
        assert mine == pytest.approx(emulated, rel=1e-4)
