"""`check` of a job's results: what the lowered program needs, held against what the file demands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from compiler.evaluate.checks import FAMILIES, RESULTS, CheckResult
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source
from parc import api
from parc.cli import cli
from parc.results import ROLES, Results

FILE = """\
use std.devices (a100_80)

param degree = 2 in {1, 2, 4}
param most = 1 GiB

optimizer sgd(lr) {
  w = w - lr * g
}

cluster pod {
  device gpu = a100_80
  level server = degree gpu over 300 GB/s, 1 us
}

model line(width = 1024) {
  dim b = 8, d = width
  input x : f32[b,d]
  weight w[d]
  loss mean(x @ w)
}

strategy data for line {
  mesh (dp = degree)
  split b on dp
}

job fit {
  train line on pod using data
  optimizer sgd(lr = 0.1)
}

job alone {
  train line
  optimizer sgd(lr = 0.1)
}

fn half(x) {
  return x / 2
}

"""


def refused(check: str, **options: object) -> Diagnostic:
    with pytest.raises(ParcError) as caught:
        parc.check(Source("t", f"{FILE}check {check}\n"), **options)  # type: ignore[arg-type]
    (found,) = caught.value.diagnostics
    return found


@pytest.mark.parametrize(
    "check",
    [
        "fit.memory.peak <= 1 GiB",
        "fit.memory.peak <= most and half(fit.memory.peak) <= most",
        "fit.memory.peak > 1 KiB and fit.memory.peak < alone.memory.peak",
        "not fit.memory.peak == alone.memory.peak or degree == 1",
        "fit.step_time > 1 us and fit.step_time < 1 h",
        "fit.mfu >= 0.0 and fit.mfu <= 1.0 and fit.hfu >= fit.mfu and fit.bubble == 0.0",
        "fit.samples_per_second > 0 and fit.tokens_per_second >= fit.samples_per_second",
        "(fit.memory.peak if degree > 1 else 0 B) < most",
        "fit.parameters == 1024 and fit.devices == degree and fit.samples == 8",
        "fit.memory.weight == 4 B * fit.parameters and fit.memory.optimizer == 0 B",
        "fit.memory.weight + fit.memory.gradient <= fit.memory.peak and fit.memory.total == degree * fit.memory.peak",
        "fit.memory.capacity == 80 GiB and fit.peak_flops == degree * 19.5 TFLOP/s",
        "fit.flops <= fit.hardware_flops and alone.flops == fit.flops",
        "fit.exposed.dp <= fit.exposed and fit.exposed < fit.step_time and fit.update_time < fit.step_time",
        "fit.sent.dp >= 2 * (degree - 1) / degree * fit.memory.weight",
        "fit.step_time * 1000 < 1 days and 1 days < 1 years and 365 days < 1 years and 366 days > 1 years",
        "1000 EFLOP == 1 ZFLOP",
    ],
)
def test_checks_that_hold(check: str) -> None:
    assert len(parc.check(Source("t", f"{FILE}check {check}\n")).jobs) == 2


def test_what_goes_over_two_axes_at_once_counts_for_each() -> None:
    """The loss is added up over both: of `exposed.dp` and `exposed.tp`, but once of `exposed`."""
    text = FILE.replace("(dp = degree)\n", "(dp = degree, tp = 2)\n  split d on tp\n").replace(
        "= degree gpu", "= 4 gpu"
    )
    text = text.replace("mean(x @ w)", "sum(x @ w)").replace("w[d]\n", "w[d]\n  weight c[d]\n  x = x * c\n", 1)
    t = api.cost(Source("t", text), job="fit").timeline
    assert t.exposed_by_axis["dp+tp"] > 0 and t.exposed == pytest.approx(sum(t.exposed_by_axis.values()))
    both = {"exposed": (t.exposed_by_axis, "s"), "sent": (t.traffic, "B")}
    for family, (by_axes, unit) in both.items():
        joint = by_axes["dp+tp"]
        for axis in ("dp", "tp"):
            own = by_axes.get(axis, 0.0) + joint
            name = f"fit.{family}.{axis}"
            check = f"check {name} >= {0.999 * own:.15f} {unit} and {name} <= {1.001 * own:.15f} {unit}"
            assert parc.check(Source("t", f"{text}{check}\n"))


def test_a_check_that_fails_says_what_it_found() -> None:
    found = refused("fit.memory.peak < most / 10 ** 9")
    assert found.code == "E0217" and found.span is not None
    (peak, _), (most, _) = found.notes
    assert re.fullmatch(r"fit\.memory\.peak = [\d.]+ B", peak) and most == "most = 1 GiB"


def test_the_peak_is_that_of_the_program() -> None:
    peak = api.cost(Source("t", FILE), job="fit").peak
    assert parc.check(Source("t", f"{FILE}check fit.memory.peak == {peak} B\n"))
    assert refused(f"fit.memory.peak == {peak + 1} B").code == "E0217"
    assert refused(f"fit.memory.peak == {peak} B", params={"degree": "4"}).code == "E0217"


@pytest.mark.parametrize(
    ("check", "code", "text"),
    [
        ("fit.step_tim < 1 us", "E0101", "did you mean `step_time`?"),
        ("fit.memory < 1 B", "E0101", "memory.peak"),
        ("fit.memory.peek < 1 B", "E0101", "did you mean `memory.peak`?"),
        ("fit.memory.optimiser < 1 B", "E0101", "did you mean `memory.optimizer`?"),
        ("fit.memory.weight.w < 1 B", "E0101", ""),
        ("fit.exposed.stages < 1 s", "E0101", "there are `exposed.dp`"),
        ("fit.sent.dq < 1 B", "E0101", "did you mean `sent.dp`?"),
        ("alone.exposed.dp < 1 s", "E0801", ""),
        ("alone.memory.capacity > 1 B", "E0801", ""),
        ("fit.flops < 1 B", "E0212", ""),
        ("fitt.memory.peak < 1 B", "E0113", "did you mean `fit`?"),
        ("fit.memory.peak < mosst", "E0101", "did you mean `most`?"),
        ("fit.memory.peak < 1 us", "E0212", ""),
        ("fit.memory.peak / 0 < 1 B", "E0211", ""),
        ("fit.memory.peak", "E0210", ""),
        ("[1].memory.peak < 1 B", "E0210", "check pretrain.memory.peak"),
        ("alone.step_time < 1 s", "E0801", ""),
        ("undefined(fit.memory.peak) < 1 B", "E0103", ""),
    ],
)
def test_checks_that_make_no_sense(check: str, code: str, text: str) -> None:
    found = refused(check)
    assert found.code == code and text in (found.help or "")


def test_checks_of_other_jobs_are_left_alone() -> None:
    text = f"{FILE}check fit.memory.peak < 1 B\ncheck alone.memory.peak < 1 B and fit.memory.peak < 1 B\n"
    assert parc.check(Source("t", text), job="alone").jobs
    with pytest.raises(ParcError) as caught:
        parc.check(Source("t", text))
    assert [d.code for d in caught.value.diagnostics] == ["E0217", "E0217"]


def test_the_command_fails() -> None:
    result = CliRunner().invoke(cli, ["check", "-"], input=f"{FILE}check fit.memory.peak <= 1 B\n")
    assert result.exit_code == 1 and "error[E0217]: this check does not hold" in result.stderr
    assert "note: fit.memory.peak = " in result.stderr


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ("fit.memory.weight > 1 MiB", "0.003906 MiB > 1 MiB"),
        ("fit.memory.weight >= 4.0001 KiB", "4 KiB >= 4.0001 KiB"),
        ("fit.memory.weight > 2 * fit.memory.weight", "4 KiB > 8 KiB"),
        ("fit.parameters / 3 == 341.3333", "341.33333 == 341.3333"),
    ],
)
def test_both_sides_of_a_check_that_fails_have_one_unit(check: str, found: str) -> None:
    assert refused(check).message == f"this check does not hold: {found}"


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ("fit.flops > 1 ZFLOP", "131.1 KFLOP > 1 ZFLOP"),  # 2 * 8 * 1024 * 4 forward, and for the gradient
        ("fit.flops == 3 FLOP", "131100 FLOP == 3 FLOP"),
    ],
)
def test_amounts_of_computation_have_a_unit_to_read(check: str, found: str) -> None:
    text = FILE.replace("d = width\n", "d = width, e = 4\n").replace("weight w[d]", "weight w[d,e]")
    with pytest.raises(ParcError) as caught:
        parc.check(Source("t", f"{text}check {check}\n"))
    (wrong,) = caught.value.diagnostics
    assert wrong.message == f"this check does not hold: {found}"
    assert [note for note, _ in wrong.notes] == [f"fit.flops = {found.split(check[9:])[0].strip()}"]


@pytest.mark.parametrize(
    ("check", "notes"),
    [
        ("fit.memory.weight > 1 MiB", ["fit.memory.weight = 0.003906 MiB"]),
        ("fit.memory.weight == 4.0961 KB", ["fit.memory.weight = 4.096 KB"]),
        ("fit.memory.weight == 3 B", ["fit.memory.weight = 4096 B"]),
        ("fit.memory.weight > 1e6 * 1 TB", ["fit.memory.weight = 4 KiB"]),
        ("2 * fit.memory.weight > 0.5 MiB", ["fit.memory.weight = 0.003906 MiB"]),
        ("fit.memory.weight > 1 MB or fit.memory.weight + 1 B < 1 KiB", ["fit.memory.weight = 0.004096 MB"]),
        ("fit.memory.weight / fit.parameters > 1 KB", ["fit.memory.weight = 4.096 KB", "fit.parameters = 1024"]),
    ],
)
def test_notes_tell_a_quantity_as_the_message_does(check: str, notes: list[str]) -> None:
    assert [text for text, _ in refused(check).notes] == notes


def test_checks_are_listed_with_what_was_found() -> None:
    text = (
        f"{FILE}check degree == 2\n"
        "check fit.parameters == 1024 or fit.memory.peak > most\n"
        "check not fit.parameters < 1024 and fit.memory.weight == 4 KiB\n"
    )
    held: list[CheckResult] = []
    parc.check(Source("t", text), told=held.append)
    assert [(h.text, h.found, h.holds) for h in held] == [
        ("degree == 2", "2 == 2", True),
        ("fit.parameters == 1024 or fit.memory.peak > most", "1024 == 1024", True),
        ("not fit.parameters < 1024 and fit.memory.weight == 4 KiB", "not 1024 < 1024 and 4 KiB == 4 KiB", True),
    ]


def test_the_command_lists_checks_that_fail_too() -> None:
    text = f"{FILE}check fit.devices == 2\ncheck fit.parameters < 5 and fit.devices == 2\n"
    shown = CliRunner().invoke(cli, ["check", "-"], input=text)
    assert shown.exit_code == 1
    assert shown.stdout == (
        "✓ fit.devices == 2                         2 == 2\n✗ fit.parameters < 5 and fit.devices == 2  1024 < 5\n"
    )
    found = json.loads(CliRunner().invoke(cli, ["check", "-", "--json"], input=text).stdout)
    assert found["exit"] == 1 and [d["code"] for d in found["diagnostics"]] == ["E0217"]
    assert found["result"]["checks"][1] == {
        "check": "fit.parameters < 5 and fit.devices == 2",
        "found": "1024 < 5",
        "holds": False,
    }


def test_strategies_that_a_job_uses_are_not_tried_with_others() -> None:
    """Another job's sizes need not suit them; those that nobody uses are tried."""
    other = "strategy wide for line {\n  microbatches 16 over b\n}\n"
    job = "job large {\n  train line using wide\n  optimizer sgd(lr = 0.1)\n}\n"
    sized = FILE.replace(
        "model line(width = 1024) {\n  dim b = 8", "model line(width = 1024, batch = 8) {\n  dim b = batch"
    )
    assert len(parc.check(Source("t", sized + other + job.replace("line", "line(1024, 16)"))).jobs) == 3
    with pytest.raises(ParcError) as caught:
        parc.check(Source("t", sized + other))
    assert "E0411" in [d.code for d in caught.value.diagnostics]


def test_memory_is_that_of_the_stack_and_the_programs_has_its_own_name() -> None:
    """`memory` has roles that add up to its peak; without a cluster it is the program's."""
    found = Results(parc.compile(Source("t", FILE), job="fit"))
    assert found.systems is not None
    roles = " + ".join(f"fit.memory.{role}" for role in found.systems.fullest.peak.roles)
    own = " + ".join(f"fit.program_memory.{role}" for role in found.program_memory[0].roles)
    plain = FILE.replace(" on pod", "")
    assert plain != FILE
    for text, checks in (
        (FILE, ["fit.memory.peak < fit.memory.reserved", "fit.memory.reserved < fit.memory.needed"]),
        (FILE, [f"{roles} == fit.memory.peak", f"{own} == fit.program_memory.peak"]),
        (FILE, ["fit.program_memory.total == degree * fit.program_memory.peak"]),
        (plain, [f"fit.memory.{name} == fit.program_memory.peak" for name in ("peak", "reserved", "needed")]),
        (plain, [f"fit.memory.{name} == fit.program_memory.{name}" for name in ("saved", "optimizer", "total")]),
    ):
        held: list[CheckResult] = []
        parc.check(Source("t", text + "".join(f"check {c}\n" for c in checks)), told=held.append)
        assert len(held) >= len(checks) and all(h.holds for h in held)


def test_the_results_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
    assert [name for name in RESULTS if f"`fit.{name}`" not in page] == []
    assert [role for role in ROLES if f".{role}`" not in page] == []
    assert [name for name in FAMILIES if f"`fit.{name}." not in page] == []


WALLS = Path(__file__).parents[2] / "examples" / "walls.par"


def test_the_walls_hold() -> None:
    """Every check of the example, and those that a smaller card or another training would break."""
    held: list[CheckResult] = []
    parc.check(WALLS, told=held.append)
    assert len(held) == WALLS.read_text().count("\ncheck ") == 18 and all(h.holds for h in held)


ONE_CARD = WALLS.with_name("one_card.par")


def test_one_card_trains_what_it_says() -> None:
    """Every check of the example holds; with more memory for the host one layer more has room."""
    held: list[CheckResult] = []
    parc.check(ONE_CARD, told=held.append)
    assert len(held) == ONE_CARD.read_text().count("\ncheck ") == 19 and all(h.holds for h in held)
    with pytest.raises(ParcError):
        parc.check(ONE_CARD, told=held.append, params={"ram": "256 GiB"})
    assert [h.text.split()[0] for h in held if not h.holds] == ["weights_more.host_memory.peak"]


def test_ten_terabytes_of_tables_fit_where_they_do() -> None:
    """Every check of the example holds; with 1 TiB in a server none but the one that says that it is too little."""
    held: list[CheckResult] = []
    file = WALLS.with_name("embeddings_10tb.par")
    parc.check(file, told=held.append)
    assert len(held) == file.read_text().count("\ncheck ") == 9 and all(h.holds for h in held)
    with pytest.raises(ParcError):
        parc.check(file, told=held.append, params={"ram": "1 TiB"})
    assert [h.text.split()[0] for h in held if not h.holds] == ["on_hosts.host_memory.peak"]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"card": "8 GB"}, {"pretrain.memory.needed", "answer_from_host.decode.memory.needed"}),
        (
            {"card": "80 GB"},
            {"alone.memory.peak", "without_optimizer_parallel.memory.needed", "answer_packed.decode.memory.needed"},
        ),
        ({"tokens": "1000000000000"}, {"pretrain.step_time"}),
        ({"tokens": "1000000000"}, {"pretrain.flops"}),
    ],
)
def test_walls_stand_where_they_are(change: dict[str, str], broken: set[str]) -> None:
    held: list[CheckResult] = []
    with pytest.raises(ParcError) as caught:
        parc.check(WALLS, told=held.append, params=change)
    assert {d.code for d in caught.value.diagnostics} == {"E0217"}
    assert {h.text.split()[0] for h in held if not h.holds} == broken
