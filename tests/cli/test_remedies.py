"""What makes a job fit: every remedy that is listed, written into the file by hand, does what is said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import parc.remedies
from dsl.diagnostics import Diagnostic, ParcError
from dsl.render import render
from dsl.source import Source
from parc import api
from parc.cli import cli
from parc.cli.common import Output
from parc.memory import of_program
from parc.remedies import MOST, Remedies, in_words, remedies

JOB = """\
use std.layers (attention, cross_entropy, layer_norm, mlp)
use std.optimizers (adamw)
use std.tactics

device small {
  compute f32 1 TFLOP/s
  memory MEMORY B, 100 GB/s
}

cluster pod() {
  device npu = small
  level server = 8 npu over 30 GB/s, 1 us
}

model gpt() {
  dim b = 32, s = 32, d = 32, v = 64
  input tokens, targets : int32[b,s] in 0..v
  weight wte[v,d]
  x = take(wte, tokens, over v)
  repeat 8 as block {
    x = x + attention(layer_norm(x), 4)
    x = x + mlp(layer_norm(x), 64)
  }
  logits[b,s,v] = layer_norm(x) @ wte
  loss cross_entropy(logits, targets, over v)
}

strategy plan for gpt {
RULES
}

job fit {
  train gpt() on pod() using plan
  optimizer adamw(lr = 0.001)
}
"""
STRATEGIES = {
    "pipeline": """\
  mesh (pp = 2, dp = 2, tp = 2)
  data_parallel(dp)
  tensor_parallel(tp)
  pipeline block on pp, schedule one_f_one_b(microbatches = 2, over = b)""",
    "interleaved": """\
  mesh (pp = 2, dp = 4)
  data_parallel(dp)
  pipeline block on pp, schedule interleaved(microbatches = 2, chunks = 2, over = b)""",
    "one stage": """\
  mesh (dp = 4, tp = 2)
  data_parallel(dp)
  tensor_parallel(tp)
  optimizer_parallel(dp, 1)""",
}


def job(strategy: str, memory: int) -> Source:
    return Source("fit.par", JOB.replace("RULES", STRATEGIES[strategy]).replace("MEMORY", str(memory)))


def by_hand(source: Source, rules: Iterable[str]) -> Source:
    """The rules written into the strategy: in the place of the one of the same kind, or below the others."""
    text = source.text
    for rule in rules:
        word = rule.split()[0]
        line = re.compile(rf"^  {word} .*$", re.M)
        if word in ("mesh", "pipeline", "microbatches") and line.search(text):
            text = line.sub(f"  {rule}", text, count=1)
        else:
            text = re.sub(r"(?s)(strategy plan .*?\n)(\})", rf"\1  {rule}\n\2", text, count=1)
    return Source(source.name, text)


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """Bytes that the jobs need as they are."""
    return {name: api.cost(job(name, 10**9)).needed for name in STRATEGIES}


@pytest.fixture
def few_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tests that do not ask which changes are found: the first that are tried are enough."""
    monkeypatch.setattr("parc.remedies.MOST", 8)


LONG = pytest.mark.nightly
CASES = [
    ("pipeline", 0.6),
    ("one stage", 0.35),
    *(pytest.param(name, share, marks=LONG) for name in STRATEGIES for share in (0.9, 0.75, 0.5)),
]


@pytest.mark.parametrize(("strategy", "share"), CASES)
def test_each_does_what_is_said_of_it(strategy: str, share: float, peaks: dict[str, int]) -> None:
    memory = int(share * peaks[strategy])
    source = job(strategy, memory)
    now = api.cost(source)
    tried = api.remedies(now.compiled)
    assert tried is not None and 1 <= len(tried.found) <= 3 and tried.tried <= MOST
    assert tried.seconds == pytest.approx(now.timeline.step_seconds)
    assert [r.seconds for r in tried.found] == sorted(r.seconds for r in tried.found)
    for r in tried.found:
        found = api.cost(by_hand(source, r.rules))
        assert found.peak == r.peak < found.needed == r.needed <= memory == found.capacity
        assert found.timeline.step_seconds == pytest.approx(r.seconds)
        assert api.remedies(found.compiled) is None
    if tried.least is not None:
        assert api.cost(by_hand(source, tried.least.rules)).needed == tried.least.needed > memory


def test_weights_that_do_not_divide_are_stored_in_uneven_pieces() -> None:
    """No dim of the table, of most of the memory, divides by 8. Systems cut one long buffer, the emulator's devices do
    not: what is to fit is the program's own memory."""
    text = JOB.replace("b = 32, s = 32, d = 32, v = 64", "b = 8, s = 4, d = 36, v = 6004")
    text = text.replace("RULES", "  mesh (dp = 8)\n  data_parallel(dp)")
    roomy = Source("fit.par", text.replace("MEMORY", str(10**9)))
    even, uneven = (
        api.cost(by_hand(roomy, [f"shard optimizer, gradients, weights on dp{pad}"])).program_peak
        for pad in ("", " pad")
    )
    assert uneven < 0.7 * even
    source = Source("fit.par", text.replace("MEMORY", str(uneven)))
    tried = remedies(api.cost(source).compiled, {"hbm": uneven}, of_program)
    assert tried.found and all("pad" in " ".join(r.rules) for r in tried.found)
    for r in tried.found:
        assert api.cost(by_hand(source, r.rules)).program_peak == r.peak == r.needed <= uneven


def test_three_changes_are_found_where_two_are_not_enough() -> None:
    """Everything is too large: what is saved, the batch, and what is stored of weights."""
    rules = "  mesh (dp = 8)\n  data_parallel(dp)"
    text = JOB.replace("RULES", rules).replace("b = 32, s = 32, d = 32, v = 64", "b = 64, s = 32, d = 64, v = 512")
    three = ["recompute block", "shard optimizer, gradients, weights on dp", "microbatches 4 over b"]

    def peak(*some: str) -> int:
        return api.cost(by_hand(Source("fit.par", text.replace("MEMORY", str(10**9))), some)).needed

    need = peak(*three)
    assert need < 0.95 * min(peak(*(r for r in three if r != left)) for left in three)
    tried = api.remedies(api.cost(Source("fit.par", text.replace("MEMORY", str(need)))).compiled)
    assert tried is not None and tried.found and all(len(r.rules) == 3 for r in tried.found)


def test_where_nothing_helps(peaks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parc.remedies.MOST", 12)
    tried = api.remedies(api.cost(job("pipeline", peaks["pipeline"] // 50)).compiled)
    assert isinstance(tried, Remedies) and not tried.found and tried.tried == 12 and tried.least is not None
    assert tried.least.needed < peaks["pipeline"]
    assert in_words(tried).startswith("none of the 12 changes")


@pytest.mark.usefixtures("few_tried")
def test_on_the_command_line(tmp_path: Path, peaks: dict[str, int]) -> None:
    file = tmp_path / "fit.par"
    runner = CliRunner()

    def run(*args: str) -> tuple[int, str, str]:
        result = runner.invoke(cli, [*args, str(file)])
        return result.exit_code, result.stdout, result.stderr

    file.write_text(job("pipeline", int(0.6 * peaks["pipeline"])).text)
    code, text, _ = run("cost", "--json")
    found = json.loads(text)["result"]
    assert code == 0 and not found["fits"] and found["remedies"]["found"]
    code, text, _ = run("cost")
    assert code == 0 and "It does not fit" in text and "it fits with" in text
    for r in found["remedies"]["found"]:
        assert " and ".join(r["rules"]) in text
    code, _, errors = run("run", "--steps", "1")
    assert code == 1 and "error[E0701]" in errors and "it fits with" in " ".join(errors.split())
    assert f"`{found['remedies']['found'][0]['rules'][0]}`" in errors

    file.write_text(job("pipeline", peaks["pipeline"] // 50).text)
    assert "makes it fit" in run("cost")[1]
    file.write_text(job("pipeline", peaks["pipeline"]).text)
    assert json.loads(run("cost", "--json")[1])["result"]["remedies"] is None
    assert "fit" not in run("cost")[1].replace("fit: gpt", "")


@pytest.mark.usefixtures("few_tried")
def test_a_job_that_fits_with_its_software_may_be_too_large_for_the_emulator() -> None:
    """The emulator's devices hold the program's own values; it says that they are what is too large."""
    roomy = api.cost(job("pipeline", 10**9))
    assert roomy.needed < roomy.program_peak
    source = job("pipeline", (roomy.needed + roomy.program_peak) // 2)
    now = api.cost(source)
    assert now.fits and api.remedies(now.compiled) is None
    for command in (api.run, api.verify):
        with pytest.raises(ParcError) as caught:
            command(source, 1)  # type: ignore[operator]
        (error,) = caught.value.diagnostics
        assert error.code == "E0701" and "the emulated devices" in error.message
        assert any("with the cluster's software the job fits" in text for text, _ in error.notes)
        assert error.help is not None and error.help.startswith("it fits with")


@pytest.mark.usefixtures("few_tried")
def test_what_does_not_fit_with_its_software_is_refused_though_the_emulator_has_room() -> None:
    """A driver that takes half of the card: nothing of that is in the emulator."""
    roomy = api.cost(job("pipeline", 10**9))
    text = job("pipeline", 2 * roomy.program_peak).text
    source = Source(
        "fit.par", text.replace("device small {", f"device small {{\n  footprint context {2 * roomy.program_peak} B")
    )
    now = api.cost(source)
    assert not now.fits and now.program_peak < now.capacity
    with pytest.raises(ParcError) as caught:
        api.run(source, 1)
    (error,) = caught.value.diagnostics
    assert error.code == "E0701" and "the devices of group" in error.message
    assert any("for the driver" in text for text, _ in error.notes)


def test_where_the_driver_alone_takes_more_than_there_is_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told at once, by `cost`, and by `run` and `verify` too."""
    monkeypatch.setattr("parc.remedies.MOST", 2)
    source = job("pipeline", 100_000_000)
    few = Source("few.par", source.text.replace("100 GB/s\n", "100 GB/s\n  footprint context 99 MB\n"))
    tried = api.remedies(api.cost(few).compiled)
    assert tried is not None and tried.tried == 2 and tried.driver is None
    more = Source("more.par", source.text.replace("100 GB/s\n", "100 GB/s\n  footprint context 101 MB\n"))
    tried = api.remedies(api.cost(more).compiled)
    assert tried is not None and not tried.tried and not tried.found and tried.least is None
    told = "o change of the strategy makes it fit: the driver alone takes 96.3 MiB of each device, which has 95.4 MiB"
    shown = CliRunner().invoke(cli, ["cost", "-"], input=more.text)
    assert shown.exit_code == 0 and f"N{told}.\n" in shown.output
    with pytest.raises(ParcError) as caught:
        api.run(more)
    (found,) = caught.value.diagnostics
    assert found.code == "E0701" and found.help == f"n{told}"


@pytest.mark.parametrize("command", ("run", pytest.param("verify", marks=pytest.mark.nightly)))
def test_the_error_is_told_before_what_helps_is_looked_for(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then the rest of it, so that the whole is what it would be in one."""
    monkeypatch.setattr("parc.remedies.MOST", 3)
    found = parc.remedies.remedies
    source = job("pipeline", api.cost(job("pipeline", 10**9)).program_peak // 2)
    with pytest.raises(ParcError) as caught:
        api.run(source)
    (whole,) = caught.value.diagnostics
    before: list[Diagnostic] = []

    def looked_for(*args: Any) -> Any:
        assert [d.code for d in before] == ["E0701"] and before[0].help is None
        return found(*args)

    def begin(out: Output, diagnostic: Diagnostic) -> None:
        before.append(diagnostic)
        begun(out, diagnostic)

    begun = Output.begin
    monkeypatch.setattr("parc.remedies.remedies", looked_for)
    monkeypatch.setattr(Output, "begin", begin)
    shown = CliRunner().invoke(cli, [command, "-"], input=source.text)
    assert shown.exit_code == 1 and shown.stderr.endswith(render([whole], {}) + "\n") and len(before) == 1
    assert before[0] == replace(whole, help=None) and whole.help
    before.clear()
    told = json.loads(CliRunner().invoke(cli, [command, "-", "--json"], input=source.text).stdout)
    assert [d["help"] for d in told["diagnostics"]] == [whole.help]
