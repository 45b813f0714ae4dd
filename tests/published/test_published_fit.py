"""The fit finds numbers that it should find, stays within bounds, and writes them where they belong."""

from __future__ import annotations

import csv
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import parc
from benchmarks.published import machines
from benchmarks.published.accelerators import POWER
from benchmarks.published.facts import load
from benchmarks.published.fit import MOST, PRIORS, Problem, Sample, chosen, fit, samples
from benchmarks.published.footprints import solve
from benchmarks.published.group import Group
from benchmarks.published.groups import GROUPS
from benchmarks.published.lines import efficiencies, relative, shown, write, write_footprint
from benchmarks.published.score import main
from benchmarks.published.validate import Fitted
from compiler.cost.price.calibration import DEFAULT, NAMES
from compiler.text import show
from dsl.source import Source

TRUE = {"product": 0.7, "vector": 0.85, "inner": 0.6}
GROUP = Group("test", ("a100_80", "a100_40", "v100"), ("megatron_2020",), tuple(TRUE))


@pytest.fixture(scope="module")
def rows() -> list[Sample]:
    found = samples([row for row in load() if row.family == "megatron2020_tp"])
    assert len(found) == 8
    return found


def pretended(rows: list[Sample], **changes: float) -> list[Sample]:
    """As if measured with the true numbers."""
    cal = DEFAULT.changed(**TRUE, **changes)
    return [replace(s, seconds=s.simulation.seconds(cal)) for s in rows]


def test_what_the_rows_decide_is_found_and_the_rest_stays_at_its_prior(rows: list[Sample]) -> None:
    problem = Problem(GROUP, pretended(rows))
    x = fit(problem)
    assert np.abs(problem.errors(x)).max() < 0.02  # priors draw, a little
    found = problem.values(x)["megatron_2020"]
    assert found["product"] == pytest.approx(0.7, rel=0.05) and found["inner"] == pytest.approx(0.6, rel=0.15)
    none = Problem(GROUP, [])
    assert np.allclose(fit(none), none.centre)


def test_one_row_that_is_wrong_does_not_pull_the_others_along(rows: list[Sample]) -> None:
    wrong = pretended(rows)
    wrong[3] = replace(wrong[3], seconds=2 * wrong[3].seconds)
    problem = Problem(GROUP, wrong)
    errors = np.sort(np.abs(problem.errors(fit(problem))))
    assert errors[-1] > 0.5 and errors[-2] < 0.06


def test_a_fit_is_the_same_each_time(rows: list[Sample]) -> None:
    assert np.array_equal(fit(Problem(GROUP, rows)), fit(Problem(GROUP, rows)))


def test_groups_have_few_numbers_that_there_are_and_stay_within_bounds() -> None:
    for group in GROUPS:
        own = {name for names in group.own.values() for name in names}
        assert {*group.free, *own} <= PRIORS.keys() <= NAMES
        assert set(group.fixed) | {n for of in group.settled.values() for n in of} <= NAMES
        for stack in group.stacks:
            assert len(group.free) + len(group.own.get(stack, ())) <= 10
    assert all(p.low <= p.centre <= p.high for p in PRIORS.values())


def stated(group: Group, device: str) -> dict[str, dict[str, str]]:
    """Stack -> name -> number, as it stands with the device, for it or for what it is like."""
    of = {s: machines.stated(device, "" if s == "general" else s) for s in group.stacks}
    return {s: {name: n for (keyword, name), n in found.items() if keyword == "efficiency"} for s, found in of.items()}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_what_devices_state_is_what_a_fit_writes(group: Group) -> None:
    """All names and no others; what is not fitted to the digit; what stacks share alike: no number is set by hand."""
    problem = Problem(group, [])
    values = problem.values(problem.centre)
    first = stated(group, group.devices[0])
    for stack, of in values.items():
        inherited = {n for n in first.get(group.like.get(stack, ""), {}) if n not in of}
        assert first[stack].keys() == of.keys() | inherited, stack
        assert all(first[stack][n] == shown(n, getattr(DEFAULT, n)) for n in inherited - {"launch"}), stack
        told = group.fixed | group.settled.get(stack, {})
        assert {name: first[stack][name] for name in told} == {name: shown(name, told[name]) for name in told}
        for name, other in group.shared.get(stack, {}).items():
            assert first[stack][name] == first[other][name]
    for name in group.free:
        own = {stack for stack, names in (*group.own.items(), *group.settled.items()) if name in names}
        fitted = [s for s in group.stacks if name in values[s] and s not in own | {*group.shared}]
        assert len({first[s][name] for s in fitted}) == 1
    assert group.power or all(stated(group, device) == first for device in group.devices)
    for device in (*(group.devices[1:] if group.power else ()), *group.relatives):
        lines = [f"efficiency {s} {name} {n}" for s, of in first.items() for name, n in of.items()]
        found = [f"efficiency {s} {name} {n}" for s, of in stated(group, device).items() for name, n in of.items()]
        assert relative(lines, device, group.devices[0]) == found != lines


def test_families_of_a_device_are_faster_or_slower_by_a_factor(rows: list[Sample]) -> None:
    """One of them is 30% slower for its software: that is no property of the device, however many rows say so."""
    cal = DEFAULT.changed(**TRUE)

    def family(name: str, times: float, of: list[Sample]) -> list[Sample]:
        return [
            replace(
                s, row=replace(s.row, facts={**s.row.facts, "family": name}), seconds=times * s.simulation.seconds(cal)
            )
            for s in of
        ]

    several = replace(GROUP, families=("a", "b", "c"))
    all_rows = [*family("a", 1.0, rows[:4]), *family("b", 1.0, rows[4:]), *family("c", 1.3, rows)]
    problem = Problem(several, all_rows)
    x = fit(problem)
    biases = dict(zip("abc", x[len(problem.names) :]))
    assert biases["c"] - (biases["a"] + biases["b"]) / 2 == pytest.approx(np.log(1.3), abs=0.05)
    assert problem.plain(x)[8:].mean() < problem.plain(x)[:8].mean() - 0.2
    known = Fitted(problem, x).foreign()
    assert known.shape == (16,) and known[8:].mean() < -0.15


def test_of_large_families_some_rows_are_taken_from_the_shortest_to_the_longest() -> None:
    group = next(g for g in GROUPS if g.name == "a100_unfused")
    found = [row for row in chosen(group, load()) if row.family == "bloom_sweep"]
    seconds = [row.seconds or 0.0 for row in found]
    assert len(found) == MOST and seconds == sorted(seconds) and seconds[0] < 100 < 400 < seconds[-1]


def test_lines_are_put_at_their_devices_and_no_others_touched(tmp_path: Path) -> None:
    text = "device a {\n  launch 4 us\n  efficiency core 0.4\n  efficiency x core 0.3\n}\n\ndevice b {\n  cores 2\n}\n"
    file = tmp_path / "devices.par"
    file.write_text(text)
    special = Group("x", ("a",), ("x",), ("product", "host"))
    lines = efficiencies(special, {"x": {"product": 0.756, "host": 1.5e-5}})
    assert lines == ["efficiency x product 0.76", "efficiency x host 15 us"]
    write(special, lines, file)
    assert file.read_text() == text.replace("  efficiency x core 0.3\n", "".join(f"  {line}\n" for line in lines))
    general = Group("g", ("a",), ("general",), ("core",))
    write(general, ["efficiency core 0.5"], file)
    assert "efficiency core 0.4" not in file.read_text() and "efficiency x product 0.76" in file.read_text()
    write(general, ["efficiency core 0.5"], file)
    assert file.read_text().count("efficiency core 0.5") == 1
    file.write_text("device gb200 {\n}\n\ndevice b200 {\n  efficiency product 0.9\n}\n")
    write(Group("g", ("gb200",), ("general",), ("product",), relatives=("b200",)), ["efficiency product 0.5"], file)
    best = 0.5 * (1745 / 2250) / (1822 / 2500)  # TFLOP/s of micro.csv, and peaks
    best *= (1000 / 2250 / (1200 / 2500)) ** POWER  # watts
    lines = f"device gb200 {{\n  efficiency product 0.5\n}}\n\ndevice b200 {{\n  efficiency product {best:.2g}\n}}\n"
    assert file.read_text() == lines


def test_a_stack_like_another_has_lines_of_what_is_different(tmp_path: Path) -> None:
    """What the other has and it has not is written as the default; where nothing differs there is one line."""
    group = Group("x", ("a",), ("general", "x", "y"), ("product",), like={"x": "general", "y": "x"})
    lines = efficiencies(
        group, {"general": {"product": 0.7, "ramp": 90.0}, "x": {"product": 0.7}, "y": {"product": 0.7}}
    )
    assert lines == [
        "efficiency product 0.7",
        "efficiency ramp 90",
        "stack x",
        "efficiency x ramp 110",
        "stack y like x",
    ]
    file = tmp_path / "devices.par"
    file.write_text("device a {\n  efficiency product 0.3\n  stack x like z\n  efficiency z core 0.3\n}\n")
    for _ in range(2):
        write(group, lines, file)
        assert file.read_text() == "\n  ".join(["device a {", "efficiency z core 0.3", *lines]) + "\n}\n"


def test_reserve_and_context_are_found_where_rows_tell_them_apart(tmp_path: Path) -> None:
    sizes = [2e10, 4e10, 6e10, 7e10]
    reserved = [(1e10, n, 1e10 + 1.2 * n, False) for n in sizes]
    assert solve(reserved) == (pytest.approx(0.2, abs=0.03), pytest.approx(2e9))
    driver = [(1e10, n, 1e10 + 1.1 * n + 3e9, True) for n in sizes] * 9
    assert solve(driver) == (pytest.approx(0.1, abs=0.01), pytest.approx(3e9, rel=0.2))
    assert solve([(0.0, n, 0.7 * n, False) for n in sizes])[0] == 0.0
    text = "device a {\n  footprint x loss 6\n  footprint x reserve 0.3\n  efficiency core 0.4\n}\n"
    file = tmp_path / "devices.par"
    file.write_text(text)
    for _ in range(2):
        write_footprint(["a"], ["footprint x reserve 0.1"], file)
        assert file.read_text() == text.replace("reserve 0.3", "reserve 0.1")


@pytest.mark.parametrize("name, value", [("product", 0.756), ("host", 4.71e-5), ("fixed", 0.0173), ("inner_half", 4e6)])
def test_numbers_are_shown_in_units(name: str, value: float) -> None:
    number, *unit = shown(name, value).split()
    scale = {"us": 1e-6, "ms": 1e-3, "MB": 1e6}[unit[0]] if unit else 1.0
    assert float(number) * scale == pytest.approx(value, rel=0.01)


def test_any_table_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other columns, cells that are missing or nonsense, tasks that are none of ours: counted by reason."""
    good = next(dict(r.facts) for r in load() if r.family == "megatron2020_tp")
    good |= {"step_time_s": good.pop("seconds"), "task": "train"}
    odd = [good | {"hidden": "wide"}, good | {"task": "infer"}, good | {"step_time_s": ""}, {"row_id": "empty"}]
    file = tmp_path / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(good))
        writer.writeheader()
        writer.writerows([good, *odd])
    assert main([str(file)]) == 0
    text = capsys.readouterr().out
    assert "4 of 5 rows are left out" in text and "hidden is not a number: wide" in text
    assert "task infer" in text and "neither the time nor the memory" in text
    assert main([str(tmp_path / "none.csv")]) == 2


def test_what_is_compiled_can_be_sent_to_another_process() -> None:
    """As fits and scores do with `--jobs N`, with functions of the file and of the library."""
    rows = [next(r for r in load() if r.family == f) for f in ("megatron2020_tp", "maxtext_v5e", "megatron_bridge")]
    alone, sent = samples(rows), samples(rows, 2)
    assert [str(s.row) for s in alone] == [str(s.row) for s in sent] and alone
    assert [s.simulation.seconds() for s in alone] == [s.simulation.seconds() for s in sent]
    compiled = parc.compile(Source("t.par", OWN))
    assert show(pickle.loads(pickle.dumps(compiled)).program) == show(compiled.program)


OWN = """
use std.optimizers (sgd)
fn twice(x[b,d]) {
  weight w[d] ~ ones
  return x * w
}
model m() {
  dim b = 2, d = 2
  input x : f32[b,d]
  y = twice(x) as once
  loss mean(y)
}
job j {
  train m()
  optimizer sgd(lr = 0.1)
}
"""
