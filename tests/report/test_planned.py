"""`parc plan --report`: what was found, as one page."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from click.testing import CliRunner

from dsl.source import Source
from parc import api
from parc.cli import cli
from parc.planning.answer import FoundPlan
from parc.planning.reasons import front
from parc.report.planned import PlanPoint, chosen
from tests.planning.models import text_of
from tests.report.pages import Page

SMALL = {"batch": 4, "outside": 1}


@cache
def found() -> FoundPlan:
    plan = api.plan(Source("job.par", text_of("transformer", **SMALL)), within=None, keep=3)
    assert isinstance(plan, FoundPlan)
    return plan


@cache
def text() -> str:
    return api.plan_report(found(), tokens=1e6, command="parc plan job.par")


def data() -> dict[str, object]:
    inside = re.search(r'id="data">(.*?)</script>', text())
    assert inside
    found: dict[str, object] = json.loads(inside[1])
    return found


def test_it_is_well_formed_stands_alone_and_is_the_same_each_time() -> None:
    page = Page(text())
    assert text() == api.plan_report(found(), tokens=1e6, command="parc plan job.par")
    assert "http" not in re.sub(r"http-equiv", "", text())
    first, second, *_, searched, last = page.texts("h2")
    assert (first, second) == ("Time against memory", "The best beside each other")
    assert (searched, last) == ("What was searched", "The strategies")


def test_the_front_is_drawn_each_point_leads_to_its_strategy() -> None:
    page, points = Page(text()), front(found().planned.found.fitting)
    assert len(points) > 1
    assert page.classes("circle").count("front") == len(points)
    places = {attrs["id"] for _, attrs, _ in page.found if attrs.get("id")}
    links = [attrs["href"] or "" for name, attrs, _ in page.found if name == "a"]
    assert links and all(link[1:] in places for link in links)
    rows = data()["front"]
    assert isinstance(rows, list)
    assert [(r["step_seconds"], r["needed_bytes"]) for r in rows] == [(p.price.seconds, p.price.needed) for p in points]
    at = [
        (float((a["cx"] or "").rstrip("%")), float(a["cy"] or ""))
        for name, a, _ in page.found
        if name == "circle" and a["class"] == "front"
    ]
    assert at == sorted(at, key=lambda p: (-p[0], -p[1]))  # less memory is to the left, more time is above


def test_what_became_of_all_adds_up_to_the_space_and_steps_are_compared() -> None:
    outcomes, sides = data()["outcomes"], data()["sides"]
    assert isinstance(outcomes, dict) and isinstance(sides, list)
    assert sum(outcomes.values()) == found().planned.space.total
    assert 2 <= len(sides) <= 3 and sides[0]["name"] == "plan 1"
    assert sides[0]["estimate"]["step_seconds"] == found().best[0].price.seconds


def test_names_of_the_file_stay_text() -> None:
    point = PlanPoint(1.0, 2**30, (("<q>", "&"),), "split <q> on dp", days=1.0)
    from parc.report.planned import PlanPage, planned

    of = PlanPage("<q>", "<q>", [point], 1, 2.0**31, [("<q>", 1)], "<q>", [("<q>", "<q>")], "<q>")
    assert "q" not in {name for name, _, _ in Page(planned(of)).found} and "<q>" not in planned(of)


def test_of_a_long_front_the_fastest_and_the_smallest_are_compared() -> None:
    points = [PlanPoint(1.0 + n, 100 - n, (), "") for n in range(9)]
    assert chosen(points, points) == [points[0], points[1], points[8]]
    assert chosen(points, points[:1]) == points[:3]
    twins = [points[0], *[PlanPoint(2.0, 200, (("n", str(n)),), "") for n in range(3)]]
    assert chosen(twins, points[:1]) == twins[:2]


def test_command_with_numbers_left_open(tmp_path: Path) -> None:
    job, page = tmp_path / "job.par", tmp_path / "page.html"
    strategy = "strategy mine for net {\n  mesh (dp = 4)\n  split b on dp\n  microbatches auto over b\n}\n"
    written = text_of("layers", **SMALL, inside=4).replace("job fit", f"{strategy}\njob fit")
    job.write_text(written.replace("train net on pod", "train net on pod using mine"))
    told = CliRunner().invoke(cli, ["plan", str(job), "--report", str(page), "-o", str(tmp_path / "planned.par")])
    assert told.exit_code == 0, told.output
    assert "Time against memory" in Page(page.read_text()).texts("h2")
    assert "parc plan" in page.read_text() and "auto over" not in page.read_text()
