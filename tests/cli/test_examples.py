"""`parc run` of the examples: on the data that they ship the loss falls clearly; what is printed is what was used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from parc.cli import cli

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

FALLS = {
    "gpt.par": (["-D", "dp=2", "-D", "tp=2"], 0.6),
    "llama.par": (["-D", "cp=2"], 0.7),
    "resnet.par": (["-D", "sp=2", "-D", "sx=2"], 0.7),
    "recsys.par": (["-D", "dp=4"], 0.25),
    "streaming.par": (["-D", "dp=2"], 0.6),
}
"""Arguments, and the fraction of the loss of the first step that the last 20 of 200 steps are below, on the average."""


@pytest.mark.parametrize("name", FALLS)
def test_the_loss_falls_on_real_data(name: str) -> None:
    args, fraction = FALLS[name]
    result = CliRunner().invoke(cli, ["run", str(EXAMPLES / name), "--steps", "200", "--json", *args])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["result"]
    assert len(found["losses"]) == 200
    first, last = found["losses"][0], sum(found["losses"][-20:]) / 20
    assert last < fraction * first
    page = (EXAMPLES.parent / "docs" / "cli.md").read_text()
    (row,) = re.findall(rf"^\| `{name}` \| [^|]+ \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [first, last] == pytest.approx([float(x) for x in row], rel=0.15)  # 200 steps let rounding grow
    assert found["data"] in ("text", "csv", "images")
    for row in found["memory"]:
        assert row["peak"] == sum(row["roles"].values()) > 0
    assert found["traffic"] and all(t["bytes"] > 0 and t["calls"] > 0 for t in found["traffic"])


def test_made_up_data_are_called_so() -> None:
    result = CliRunner().invoke(cli, ["run", str(EXAMPLES / "towers.par"), "--steps", "1"])
    assert result.exit_code == 0 and "made-up" in result.stderr
