"""`parc report`: the file that it writes, and jobs that have none."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

import parc
from dsl.source import Source
from parc import api
from parc.cli import cli
from parc.units import amount
from tests.report.pages import Page

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_what_does_not_fit_is_said() -> None:
    source = (EXAMPLES / "gpt.par").read_text().replace("device npu = ascend910", "device npu = small")
    source += "\ndevice small {\n  compute f32 1 TFLOP/s\n  memory 200 KiB, 1 TB/s\n}\n"
    e = api.estimate(parc.compile(Source("x.par", source)))
    page = api.report(e)
    assert "does not fit" in page and f"{amount(e.needed - e.capacity)} of device memory too much" in page


def test_a_file_with_a_hostile_name(tmp_path: Path) -> None:
    file = tmp_path / "<img src=x onerror=alert(1)>&.par"
    file.write_text((EXAMPLES / "gpt.par").read_text())
    done = CliRunner().invoke(cli, ["report", str(file), "-D", "dp=2"])
    assert done.exit_code == 0 and "<img" not in done.stdout and "&lt;img src=x" in done.stdout
    Page(done.stdout)


def test_a_job_without_a_cluster_has_no_report(tmp_path: Path) -> None:
    source = "model m {\n  dim b = 2\n  input x : f32[b]\n  weight w[b]\n  loss mean(x * w)\n}\n"
    source += "optimizer sgd(lr) {\n  w = w - lr * g\n}\njob fit {\n  train m\n  optimizer sgd(lr = 0.1)\n}\n"
    file = tmp_path / "m.par"
    file.write_text(source)
    done = CliRunner().invoke(cli, ["report", str(file), "-o", str(tmp_path / "x.html")])
    assert done.exit_code == 1 and "E0801" in done.stderr and not (tmp_path / "x.html").exists()
