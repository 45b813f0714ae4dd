"""`parc report`: a page that stands alone, is well formed, and says what was simulated."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import parc
from compiler.cost.price.pricer import PICOSECONDS
from compiler.cost.time.breakdown import SLOWER
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.slow import Variation
from compiler.memory.occupancy import occupancy
from parc import api
from parc.cli import cli
from parc.estimate import Estimate, _better
from parc.report.html import esc
from parc.report.inside import UNROLLED, Time
from parc.report.memory import coarser, levels
from parc.report.pipeline import BOXES, rows
from parc.report.spent import all_axes, parts
from parc.units import amount, percent, seconds
from tests.report.pages import Page

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CASES = {
    "serial": ("gpt", ""),
    "pipeline": ("gpt", "dp=2 tp=2 pp=2 microbatches=4 layers=8"),
    "zero3": ("gpt", "dp=4 zero=3 layers=12"),
    "towers": ("towers", ""),
    "recsys": ("recsys", ""),
    "many": ("gpt", "pp=8 layers=8 batch=512 microbatches=512"),
    "pangu": ("pangu_200b", ""),
}


@cache
def estimated(case: str) -> Estimate:
    example, options = CASES[case]
    return api.estimate(parc.compile(EXAMPLES / f"{example}.par", params=dict(o.split("=") for o in options.split())))


@cache
def text(case: str) -> str:
    return api.report(estimated(case), f"parc report {case}", "strategy s {}")


@cache
def data(case: str) -> Any:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text(case), re.DOTALL)
    return json.loads(found)


def part(case: str, ident: str) -> str:
    """A section of the page."""
    (found,) = re.findall(rf'<section id="{ident}">.*?</section>', text(case), re.DOTALL)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_page_is_well_formed_and_stands_alone(case: str) -> None:
    page = text(case)
    found = Page(page)
    assert page.startswith("<!DOCTYPE html>") and found.texts("title") and found.texts("h1")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<img|<iframe|\bfetch\b|XMLHttp|\bsrc=", page)
    idents = [attrs["id"] for _, attrs, _ in found.found if "id" in attrs]
    assert len(set(idents)) == len(idents)
    for _, attrs, _ in found.found:
        if (href := attrs.get("href")) is not None:
            assert href.startswith("#") and href[1:] in idents
    assert found.classes("svg").count("map") in (0, 3) and len(found.classes("svg")) > 5
    assert "NaN" not in page and "Infinity" not in page and "inf" not in re.findall(r'="([^"]*)"', page)


@pytest.mark.parametrize("case", CASES)
def test_sections_are_xml(case: str) -> None:
    for ident in re.findall(r'<section id="(\w+)">', text(case)):
        ElementTree.fromstring(part(case, ident))


@pytest.mark.parametrize("case", CASES)
def test_pictures_stay_within_their_frames(case: str) -> None:
    for x, width in re.findall(r'<rect[^>]* x="([\d.]+)%"[^>]* width="([\d.]+)%"', text(case)):
        assert 0 <= float(x) <= 100 and float(x) + float(width) <= 100.01
    assert not re.search(r' (?:width|height|x|y)="-', text(case))


@pytest.mark.parametrize("case", CASES)
def test_the_headline_says_what_the_cost_says(case: str) -> None:
    e, page = estimated(case), Page(part(case, "headline"))
    values = page.texts("b")
    t = e.timeline
    each = (seconds(t.step_seconds), f"{t.tokens_per_second:,.0f}", percent(t.mfu), percent(t.bubble))
    assert values == [*each, percent(t.exposed / t.step_seconds), amount(e.needed)]
    assert esc(t.bottleneck) in part(case, "headline")
    for h in e.helps:
        assert h.what in page.texts("td") and seconds(h.seconds) in page.texts("td")


@pytest.mark.parametrize("case", CASES)
def test_the_parts_of_the_step_add_up_to_it(case: str) -> None:
    """As computed, in the data, and as drawn."""
    t = estimated(case).timeline
    for c, spent in enumerate(t.spent):
        assert sum(s for _, _, s in parts(spent, all_axes(t))) == pytest.approx(t.step_seconds, rel=1e-9)
        assert spent.products + spent.vectors + spent.update == pytest.approx(t.busy[c], rel=1e-9)
        told = data(case)["classes"][c]["spent"]
        assert sum(told["exposed"].values()) + sum(s for k, s in told.items() if k != "exposed") == pytest.approx(
            t.step_seconds, rel=1e-9
        )
    # `part` stops at the table of all stages
    bars = re.findall(r'<rect class="\w+" x="([\d.]+)%" y="2" width="([\d.]+)%"', part(case, "time"))
    assert len(bars) == len(parts(t.spent[t.slowest], all_axes(t)))
    at = 0.0
    for x, width in bars:
        assert float(x) == pytest.approx(at, abs=0.02)
        at = float(x) + float(width)
    assert at == pytest.approx(100, abs=0.02)


@pytest.mark.parametrize("case", CASES)
def test_exposed_communication_is_that_of_the_class_that_waits_longest(case: str) -> None:
    t = estimated(case).timeline
    longest = max(t.spent, key=lambda s: sum(s.exposed.values()))
    assert longest.exposed == pytest.approx({a: s for a, s in t.exposed_by_axis.items() if s})
    for spent in t.spent:
        for link in spent.links:
            assert link.exposed == pytest.approx(spent.exposed.get(link.axes, 0.0))
            assert 0 <= link.exposed <= link.seconds * (1 + 1e-9) and link.hidden >= 0
        assert {a for a in spent.exposed} <= {link.axes for link in spent.links}
    for axes in {link.axes for spent in t.spent for link in spent.links}:
        most = max(link.bytes for spent in t.spent for link in spent.links if link.axes == axes)
        assert most == pytest.approx(t.traffic.get(axes, 0.0))
    table = Page(part(case, "communication")).texts("td") if t.exposed_by_axis else []
    for axes, s in t.exposed_by_axis.items():
        if s:
            assert axes in table and seconds(s) in table


@pytest.mark.parametrize("case", CASES)
def test_the_bubble_is_the_mean_of_the_classes(case: str) -> None:
    t = estimated(case).timeline
    assert sum(s.bubble for s in t.spent) / len(t.spent) / t.step_seconds == pytest.approx(t.bubble, abs=1e-9)


@pytest.mark.parametrize("case", [c for c in CASES if c != "many"])
def test_every_pass_is_a_box_in_its_place(case: str) -> None:
    t = estimated(case).timeline
    shown = part(case, "pipeline")
    lines = re.findall(r'<g class="row" data-row="(\d+)">(.*?)</g>', shown)
    assert [int(r) for r, _ in lines] == list(range(len(t.classes)))
    for r, row in lines:
        mine = [e for e in t.events if e.cls == int(r) and e.stream != "send"]
        boxes = re.findall(r'<rect class="(\w+)"[^>]* x="([\d.]+)%"[^>]* width="([\d.]+)%"', row)
        told = data(case)["timeline"]["rows"][int(r)]
        assert len(boxes) == len(mine) == len(told)
        for e, (kind, x, width), (same, micro, chunk, start, duration) in zip(mine, boxes, told, strict=True):
            assert kind == same == ("M" if e.kind == "collective" else e.kind)
            assert (micro, chunk) == (e.micro, e.chunk)
            assert start == pytest.approx(e.start_ps / 1e6, abs=2e-3)
            assert duration == pytest.approx(e.duration_ps / 1e6, abs=2e-3)
            assert float(x) / 100 * t.step_seconds == pytest.approx(e.start_ps / PICOSECONDS, abs=2e-5 * t.step_seconds)
            assert float(width) / 100 * t.step_seconds == pytest.approx(
                e.duration_ps / PICOSECONDS, abs=2e-5 * t.step_seconds
            )


@pytest.mark.parametrize("case", CASES)
def test_inside_a_pass_kernels_and_waits_fill_the_row_of_computation(case: str) -> None:
    t = estimated(case).timeline
    shown = part(case, "inside")
    pieces = Simulation.of(estimated(case).compiled).record(UNROLLED)
    mine = {key: found for (c, key, _), found in pieces.items() if c == t.classes[t.slowest].program and found}
    pictures = re.findall(r'data-part="inside-(\w+?)(\d+)">(.*?)</svg>', shown)
    assert [(kind, int(chunk)) for kind, chunk, _ in pictures] == sorted(mine, key=lambda k: ("FBWU".index(k[0]), k[1]))
    for _, _, picture in pictures:
        compute, *others = re.findall(r'<g class="row">(.*?)</g>', picture)
        for row in (compute, *others):
            at = 0.0
            for x, width in re.findall(r'<rect [^>]*? x="([\d.]+)%"[^>]*? width="([\d.]+)%"', row):
                assert float(x) >= at - 0.002
                at = float(x) + float(width)
            assert at <= 100.002
        widths = [float(w) for w in re.findall(r' width="([\d.]+)%"', compute)]
        assert sum(widths) == pytest.approx(100, abs=0.01 + 5e-4 * len(widths))


def test_most_of_a_long_loop_is_cut_out_of_its_picture() -> None:
    pieces = Simulation.of(estimated("zero3").compiled).record(0)
    for (_, (kind, _), _), found in pieces.items():
        rest = [p for p in found if p.kind == "repeat"]
        if kind == "U":
            assert not rest
            continue
        length = max(p.end for p in found)
        time = Time(found, length)
        assert time.at(0) == 0 and time.at(length) == pytest.approx(1)
        at = [time.at(length * i // 100) for i in range(101)]
        assert at == sorted(at)
        loop = next(p for p in rest if p.stream == "compute")
        assert loop.duration > 0.4 * length and 0 < time.at(loop.end) - time.at(loop.start) < 0.5
        assert any(time.is_cut(length * i // 100) for i in range(101)) and not time.is_cut(loop.start)
        before = [p for p in found if p.end <= loop.start and p.stream == "compute"]
        scale = {round((time.at(p.end) - time.at(p.start)) / p.duration * length, 6) for p in before}
        assert len(scale) == 1  # what is not cut keeps its proportions


def test_messages_are_lines_between_their_stages() -> None:
    t = estimated("towers").timeline
    found = rows(t)
    assert len(found.lines) == sum(e.stream == "send" for e in t.events)
    assert {(m.source, m.to) for m in found.lines} == {(c, to) for c, spent in enumerate(t.spent) for to in spent.sends}
    assert part("towers", "pipeline").count("<line x1=") + part("towers", "pipeline").count('"far"') == len(found.lines)


def test_too_many_boxes_are_shares_of_time_and_two_excerpts() -> None:
    t, shown = estimated("many").timeline, part("many", "pipeline")
    found = rows(t)
    assert found.count > BOXES and data("many")["timeline"] == {
        "columns": ["kind", "micro_batch", "chunk", "start_us", "duration_us"], "rows": None, "boxes": found.count
    }  # fmt: skip
    assert shown.count('class="row"') == 2 * len(t.classes) and shown.count('data-part="all"') == 0
    assert len(shown) < 400_000
    ends = [e for e in t.events if e.kind == "B" and e.micro == 511]
    assert shown.count(">511</text>") >= len(ends) and ">255</text>" not in shown


@pytest.mark.parametrize("case", CASES)
def test_memory_over_time_reaches_the_peak(case: str) -> None:
    e = estimated(case)
    (hbm,) = data(case)["memory"]
    most = max(sum(row[3:]) for row in hbm["rows"]) if case not in ("serial", "towers", "recsys") else hbm["peak"]
    assert hbm["peak"] == e.peak and most == e.peak
    at = 0.0
    for row in hbm["rows"]:
        assert row[0] == pytest.approx(at, abs=2e-3)
        at = row[0] + row[1]
    assert at == pytest.approx(e.timeline.step_seconds * 1e6, rel=1e-6)
    assert amount(e.peak) in part(case, "memory")


def test_memory_is_drawn_against_the_time_of_its_actions() -> None:
    e = estimated("pangu")
    series = occupancy(e.compiled.program, e.systems.memory)[3]["hbm"]
    every = levels(e.timeline, 3, series)
    found = {level.action: level for level in every if level.action}
    for action, moment in zip(series.actions, series.moments, strict=True):
        events = [x for x in e.timeline.events if x.cls == 3 and x.stream == "compute" and x.name == str(action)]
        level = found[str(action)]
        assert (level.start, level.end) == (events[0].start_ps, events[-1].end_ps) and level.total == moment.peak
    few = coarser(every, 10)
    assert len(few) == 10 and max(v.total for v in few) == series.peak


@pytest.mark.parametrize("case", CASES)
def test_the_largest_values_of_the_fullest_moment_are_listed(case: str) -> None:
    shown, told = Page(part(case, "memory")), estimated(case).fullest[0]
    cells = [*shown.texts("td"), *shown.texts("code")]
    for a in told.moment.alive[:10]:
        assert {a.name, a.type, amount(a.bytes)} <= set(cells)
    (sentence,) = (n for n in shown.texts("p") if "The program's own values" in n)
    own = told.program
    assert own.reserved is not None
    for size in (told.reserved, own.moment.peak, own.allocation.size, own.reserved):
        assert amount(size) in sentence


def test_a_capacity_far_above_is_left_out_and_one_in_reach_is_a_line() -> None:
    assert 'class="capacity"' not in part("serial", "memory") and 'class="peak"' in part("serial", "memory")
    assert f"capacity {amount(estimated('pangu').capacity)}" in part("pangu", "memory")


def test_what_users_write_is_text() -> None:
    hostile = "</script><script>alert(1)</script>\"'&<b>"
    page = api.report(estimated("serial"), f"parc report '{hostile}.par'", f"strategy s {{ # {hostile}\n}}")
    found = Page(page)
    assert page.count("<script") == 2 and "alert(1)</script>" not in page and "<b>alert" not in page
    assert any(hostile in code for code in found.texts("code"))
    told = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(told[0])["command"] == f"parc report '{hostile}.par'"


def test_the_page_shows_strategy_and_command(tmp_path: Path) -> None:
    out = tmp_path / "x.html"
    args = ["report", str(EXAMPLES / "gpt.par"), "-D", "pp=2", "--job", "pretrain"]
    done = CliRunner().invoke(cli, [*args, "-o", str(out)])
    assert done.exit_code == 0 and done.stdout == "" and "KiB" in done.stderr
    page = out.read_text()
    codes = Page(page).texts("code")
    assert any(c.startswith("strategy hybrid for gpt {") and c.endswith("}") for c in codes)
    assert f"parc report {EXAMPLES / 'gpt.par'} -D pp=2 --job pretrain" in codes
    assert [p.name for p in tmp_path.iterdir()] == ["x.html"]
    assert CliRunner().invoke(cli, args).stdout == page


def test_the_same_input_gives_the_same_bytes() -> None:
    pages = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "parc", "report", "examples/gpt.par", "-D", "pp=2", "-D", "tp=2"],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            check=True,
        )
        pages.add(done.stdout)
    assert len(pages) == 1


def test_pangus_page_is_small() -> None:
    assert len(text("pangu").encode()) < 700_000


def test_slow_devices_have_a_page_too() -> None:
    compiled = estimated("pipeline").compiled
    e = api.estimate(compiled, Variation({1: 2.0}, {}))
    page, t = api.report(e), e.timeline
    Page(page)
    assert len(t.classes) > 2 and 'class="row"' in page and seconds(t.step_seconds) in page
    for section in ("time", "pipeline", "inside", "communication", "cluster"):
        assert f'<section id="{section}">' in page
    for c, spent in enumerate(t.spent):
        assert sum(s for _, _, s in parts(spent, all_axes(t))) == pytest.approx(t.step_seconds, rel=1e-9)
        assert spent.products + spent.vectors + spent.update == pytest.approx(t.busy[c], rel=1e-9)
        assert all(0 <= link.exposed <= link.seconds * (1 + 1e-9) for link in spent.links)
    mean = sum(s.bubble * c.count for s, c in zip(t.spent, t.classes, strict=True)) / t.devices
    assert mean / t.step_seconds == pytest.approx(t.bubble, rel=1e-9)
    (late,) = (c for c, p in enumerate(t.classes) if (p.first, p.count) == (1, 1))
    assert t.slowest == late and ", if none is slow." in page
    waits = [s.exposed.get(SLOWER, 0.0) for s in t.spent]
    assert waits[late] == 0 < max(waits) and t.spent[late].products == max(s.products for s in t.spent)


def test_slow_links_are_in_the_pictures() -> None:
    """The kernels and messages of a pass fill it, as long as the links make it."""
    compiled = estimated("pipeline").compiled
    slow = Variation({}, {"server": 50.0})
    e, found = api.estimate(compiled, slow), api.trace(compiled, "all", slow)
    assert e.timeline.step_seconds == found.timeline.step_seconds > estimated("pipeline").timeline.step_seconds
    passes = [i for i, event in enumerate(found.timeline.events) if event.stream == "compute"]
    assert passes and set(passes) - set(found.shown) <= {
        i for i in passes if found.timeline.events[i].name == "once per step"
    }
    assert api.report(e) != text("pipeline")


@pytest.mark.parametrize("slow", [Variation(), Variation({}, {"server": 3.0}), Variation({0: 1.5}, {"server": 2.0})])
def test_what_would_help_is_how_long_the_step_would_take(slow: Variation) -> None:
    """Found without all the figures of a step; with them it is the same."""
    simulation = Simulation.of(estimated("pipeline").compiled)
    for _, calibration, variation in _better(simulation, slow):
        assert simulation.seconds(calibration, variation) == simulation.run(calibration, variation).step_seconds
    helps = api.estimate(estimated("pipeline").compiled, slow).helps
    assert helps and [h.seconds for h in helps] == sorted(h.seconds for h in helps)


def test_messages_that_nothing_waits_for_have_a_colour_too() -> None:
    """Where those of some axes are hidden on all devices, they are in the pictures, not among what is exposed."""
    e = estimated("zero3")
    assert all_axes(e.timeline) == ["dp"] and any(link.axes == "dp" for s in e.timeline.spent for link in s.links)
    spent = tuple(replace(s, exposed={}) for s in e.timeline.spent)
    page = api.report(replace(e, timeline=replace(e.timeline, spent=spent)))
    Page(page)
    assert "messages over other axes" in page and "messages over other axes" not in text("zero3")


def test_a_class_of_devices_is_one_shape() -> None:
    shown = part("pangu", "cluster")
    t = estimated("pangu").timeline
    shapes = re.findall(r'<path id="c\d+" d="([^"]*)"', shown)
    assert [s.count("z") for s in shapes] == [p.count for p in t.classes]
    assert shown.count("<use") == 3 * len(t.classes) and len(shown) < 100_000
