"""`parc report A B`: several steps on one page, on the same scales."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from dsl.source import Source
from parc import api
from parc.cli import cli
from parc.estimate import Estimate
from parc.units import seconds
from tests.report.pages import Page

EXAMPLES = Path(__file__).parents[2] / "examples"
STRATEGIES = """
strategy zero3 for gpt {
  mesh (dp = 8)
  data_parallel(dp)
  optimizer_parallel(dp, 3)
}
strategy stages for gpt {
  mesh (pp = 4, tp = 2)
  megatron(tp)
  pipeline block on pp, schedule one_f_one_b(microbatches = 8, over = b)
}
strategy many for gpt {
  mesh (pp = 8)
  pipeline block on pp, schedule one_f_one_b(microbatches = 512, over = b)
}
"""
PARAMS = {"layers": 8, "hidden": 256, "heads": 8, "devices": 8, "batch": 512}
NAMES = ("zero3", "stages", "many")


def source() -> Source:
    return Source("gpt.par", (EXAMPLES / "gpt.par").read_text() + STRATEGIES, str(EXAMPLES / "gpt.par"))


@cache
def sides() -> tuple[tuple[str, Estimate, str], ...]:
    found = []
    for name in NAMES:
        e = api.estimate(parc.compile(source(), params=PARAMS, strategy=name))
        span = e.compiled.job.strategy.span
        found.append((name, e, source().text[span.start : span.end]))
    return tuple(found)


@cache
def text() -> str:
    return api.report_compared(sides(), "parc report gpt.par")


def numbers(attribute: str, markup: str) -> list[float]:
    """Of rectangles, in parts of the width."""
    return [float(x) for x in re.findall(rf'<rect[^>]* {attribute}="([\d.]+)%?"', markup)]


def test_it_is_well_formed_and_the_same_each_time() -> None:
    page = Page(text())
    assert text() == api.report_compared(sides(), "parc report gpt.par")
    assert "http" not in re.sub(r"http-equiv", "", text())
    first, *rest = page.texts("h2")
    assert first == "Against zero3"
    assert rest == ["Where the time goes", "Timelines", "Memory", "Communication", "What differs in the strategies"]


def test_bars_of_a_step_add_up_to_it_on_one_scale() -> None:
    """The longest is as wide as the picture; the others are as much narrower as their steps are shorter."""
    inside = text().partition("Where the time goes")[2].partition("</section>")[0]
    pictures = re.findall(r"<svg.*?</svg>", inside)
    steps = [e.timeline.step_seconds for _, e, _ in sides()]
    assert len(pictures) == len(steps)
    for picture, step in zip(pictures, steps, strict=True):
        starts, widths = numbers("x", picture), numbers("width", picture)
        assert sum(widths) == pytest.approx(100 * step / max(steps), abs=0.05)
        for (at, width), (after, _) in pairwise(zip(starts, widths, strict=True)):
            assert at + width == pytest.approx(after, abs=0.01)


def test_timelines_share_an_axis() -> None:
    inside = text().partition("Timelines</h2>")[2].partition("</section>")[0]
    steps = [e.timeline.step_seconds for _, e, _ in sides()]
    idle = r'<rect class="idle" x="0" y="\d+" width="([\d.]+)%"'
    rows = [re.findall(idle, p) for p in inside.split("data-side=")[1:]]
    assert [len(r) for r in rows] == [1, 4, 8]
    for found, step in zip(rows, steps, strict=True):
        assert [float(w) for w in found] == pytest.approx([100 * step / max(steps)] * len(found), abs=0.01)


def test_memories_share_scales() -> None:
    lengths = re.findall(r'data-memory="hbm" data-length="([\d.]+)"', text())
    assert len(lengths) == 3 and len(set(lengths)) == 1
    peaks = [float(y) for y in re.findall(r'<line class="peak" x1="0" x2="100%" y1="([\d.]+)"', text())]
    order = sorted(range(3), key=lambda i: sides()[i][1].fullest[0].moment.peak)
    assert sorted(range(3), key=lambda i: -peaks[i]) == order


def test_it_says_which_is_fastest_and_why() -> None:
    fastest = min(sides(), key=lambda s: s[1].timeline.step_seconds)[0]
    assert f"Fastest: {fastest}." in text()
    for name, e, _ in sides()[1:]:
        assert f"{name} spends" in text() and seconds(e.timeline.step_seconds) in text()


def test_data_of_all_sides() -> None:
    content = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text(), re.DOTALL)[0]
    data = json.loads(content)
    assert [s["name"] for s in data["sides"]] == [*NAMES]
    for side, (_, e, _) in zip(data["sides"], sides(), strict=True):
        assert side["estimate"]["step_seconds"] == e.timeline.step_seconds and side["memory"]
    assert data["sides"][0]["timeline"]["rows"] and data["sides"][2]["timeline"]["rows"] is None


def test_what_differs_in_the_strategies() -> None:
    inside = text().partition("What differs in the strategies")[2]
    assert '<span class="removed">-  optimizer_parallel(dp, 3)</span>' in inside
    assert '<span class="added">+  megatron(tp)</span>' in inside
    assert "mesh" in inside and "dp = 8" in inside and "pp = 4 × tp = 2" in inside
    assert "global batch" not in inside  # which is the same


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "<b>&.par"
    file.write_text(source().text.replace('text("data/corpus.txt")', "synthetic"))
    other = tmp_path / "other.par"
    other.write_text(file.read_text().replace("mesh (dp = 8)", "mesh (dp = 4)"))
    small = ["-D", "layers=8"]
    of = [*small, "-D", "devices=8", "--strategy", "zero3", "--strategy", "stages"]
    done = CliRunner().invoke(cli, ["report", str(file), *of, "-o", str(tmp_path / "x.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "x.html").read_text()
    assert Page(page).texts("h1") == ["zero3 | stages"] and "<b>&" not in page
    done = CliRunner().invoke(cli, ["report", str(file), str(other), *small, "--json"])
    assert done.exit_code == 0 and [s["name"] for s in json.loads(done.stdout)["result"]["sides"]] == [
        str(file), str(other),
    ]  # fmt: skip
    for words, message in (
        ([str(file)] * 5, "4 things can be compared"),
        ([str(file), str(other), *("--strategy", "zero3") * 3], "2 files, 3 strategies"),
    ):
        refused = CliRunner().invoke(cli, ["report", *words])
        assert refused.exit_code == 2 and message in refused.stderr, refused.stderr


def test_a_file_with_several_jobs_is_named(tmp_path: Path) -> None:
    job = "job {} {{\n  train m()\n}}\n"
    for name, jobs in (("one.par", "a"), ("two.par", "ab")):
        (tmp_path / name).write_text("model m {\n  loss 1.0\n}\n" + "".join(map(job.format, jobs)))
    files = [str(tmp_path / n) for n in ("two.par", "one.par")]
    told = CliRunner().invoke(cli, ["report", *files])
    assert told.exit_code == 1 and "error[E0113]" in told.output and f"{files[0]}:7:" in told.output
