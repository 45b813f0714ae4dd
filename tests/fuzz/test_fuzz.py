"""Mutants of files, new ones every day: nothing falls over. `python -m tests.fuzz` runs many more.

`FUZZ_SEED=20261129 pytest tests/fuzz` repeats those of a day.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dsl.source import Source
from parc import api
from tests.fuzz import data, par
from tests.fuzz.bundles import Scenes
from tests.fuzz.cell import MEMORY, SECONDS, Cell, cell, cells
from tests.fuzz.file_mutants import mutant
from tests.fuzz.par_mutants import Pool
from tests.fuzz.tree import matches
from tests.fuzz.work import LONG, LONGEST, much, much_apart, seconds

ROOT = Path(__file__).resolve().parents[2]
SEED = os.environ.get("FUZZ_SEED") or f"{datetime.now(UTC):%Y%m%d}"
EXAMPLE = (ROOT / "examples" / "gpt.par").read_text(encoding="utf-8")
LONG_ONE = ROOT / "tests" / "fuzz" / "found" / "repeat_65536.par"
FEW = LONG_ONE.read_text(encoding="utf-8").replace("65536", "2")

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="of Linux")


def fuzz(*args: str) -> str:
    """What the command prints; fails if it does."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *args], capture_output=True, text=True, cwd=ROOT, errors="replace"
    )
    print(done.stdout)
    assert done.returncode == 0, f"python -m tests.fuzz {' '.join(args)}\n{done.stdout[-8000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.parametrize("what", ["par", "npu"])
def test_two_thousand_mutants(what: str, tmp_path: Path) -> None:
    said = fuzz(what, "--count", "2000", "--seed", SEED, "--found", str(tmp_path), "--show")
    assert f"{what}: 2,000 mutants from seed {SEED}: 0 failures" in said


@pytest.mark.parametrize(("what", "count"), [("data", 150), ("tokens", 150), ("stored", 80)])
def test_files_of_others(what: str, count: int, tmp_path: Path) -> None:
    said = fuzz(what, "--count", str(count), "--seed", SEED, "--found", str(tmp_path), "--show")
    assert f"{what}: {count} mutants from seed {SEED}: 0 failures" in said


@pytest.mark.nightly
def test_counts_of_all_sizes(tmp_path: Path) -> None:
    said = fuzz("counts", "--count", "60", "--seed", SEED, "--found", str(tmp_path), "--show")
    assert f"counts: 60 mutants from seed {SEED}: 0 failures" in said


def test_minutes_are_those_of_the_whole_command() -> None:
    """In 0.6 seconds nothing is loaded yet."""
    assert "par: 0 mutants" in fuzz("par", "--minutes", "0.01")


def test_killed_while_they_write() -> None:
    assert "kills: 27" in fuzz("kills", "--count", "27", "--seed", SEED)


def test_what_computes_something_else_is_noticed() -> None:
    """Of three programs; `pytest -m nightly` takes 36."""
    assert "mutations: 45 of 3" in fuzz("mutations", "--count", "3", "--each", "15", "--seed", "2")


@pytest.mark.nightly
def test_thirty_six_programs_and_a_thousand_kills() -> None:
    assert "of 36 drawn programs" in fuzz("mutations", "--count", "36", "--each", "60")
    assert "kills: 1,000" in fuzz("kills", "--count", "1000", "--seed", SEED)


@pytest.mark.parametrize(("what", "least"), [("par", 3), ("npu", 3), ("data", 2), ("tokens", 1)])
def test_what_was_found_stays_mended(what: str, least: int) -> None:
    """Mutants that failed once, made small."""
    found = sorted((Path(__file__).parent / "found").glob(f"*.{what}"))
    assert fuzz(what, "--file", *map(str, found)).count(": fine") == len(found) >= least


# --- the fuzzer itself ----------------------------------------------------------------------------------


def test_what_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that hangs, takes all memory, fails, uses a command as nobody can, or says that something is wrong."""
    monkeypatch.setattr("tests.fuzz.cell.SECONDS", 1.0)

    def hangs(c: Cell) -> None:
        c.stage("hangs")
        while True:
            pass

    def fails(c: Cell) -> None:
        raise ValueError("odd")

    def allocates(c: Cell) -> None:
        bytearray(2**30)

    def misuses(c: Cell) -> None:
        c.command("check")

    def warns(c: Cell) -> None:
        c.wrong("odd", "here", "so")

    kinds = {}
    for case in (hangs, fails, allocates, misuses, warns):
        found = cell(case).finding
        assert found is not None
        kinds[case.__name__] = found.kind
    assert kinds == {
        "hangs": "seconds", "fails": "harness", "allocates": "harness", "misuses": "exit 2", "warns": "odd"
    }  # fmt: skip
    fine = cell(lambda c: c.stage("fine"))
    assert fine.finding is None and fine.stage == "fine" and fine.cpu < 1.0


def test_what_takes_long_for_its_size_is_told_from_what_hangs() -> None:
    """Of what a hang could be found in, a step takes a hundredth of the limit at least."""
    program = api.load_program(str(LONG_ONE))
    assert seconds(program) > LONGEST and much(program, 0)
    program = api.load_program(Source("few.par", FEW))
    assert seconds(program) < LONG and not much(program, 1) and not much_apart(program)
    program = api.load_program(str(LONG_ONE.with_name("seconds_at_runtime_rank_interpreter_py__body.par")))
    assert seconds(program) < LONGEST and much_apart(program)  # 1,000 layers on each of 8 devices
    assert 30 * LONGEST < SECONDS


def test_what_commands_share_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cases go as far, and say the same, as where each command does everything itself; so they do in a process that has
    much of its own, as one of many tests."""
    others = mmap.mmap(-1, MEMORY - 2**26)
    chosen = [n for n in range(400) if n % 20 == 0]

    def ended() -> list[tuple[str, str, list[str]]]:
        cases = [(n, par.case(drawn[n], tmp_path)) for n in chosen]
        return [(how.stage, str(how.finding), how.notes) for _, how in sorted(cells(cases), key=lambda c: c[0])]

    made = par.Corpus((EXAMPLE, FEW), (1.0, 3.0), Pool.of([EXAMPLE, FEW]))
    drawn = {n: par.drawn(made, Random(n)) for n in chosen} | {0: FEW, 20: FEW.replace("drawn()", "undrawn()")}
    shared = ended()
    monkeypatch.setattr(par, "once", nullcontext)
    assert ended() == shared and {stage for stage, _, _ in shared} > {"check"}
    others.close()


def test_the_tree_is_the_grammar_s() -> None:
    found, tokens = matches(EXAMPLE)
    rules = {m.rule for m in found}
    assert rules >= {"model", "job", "strategy", "dim", "weight", "call", "mesh", "param", "repeat", "split"} - {
        "split"
    }
    for m in found:
        assert 0 <= m.start < m.end <= len(EXAMPLE)
    jobs = [EXAMPLE[m.start : m.end] for m in found if m.rule == "job"]
    assert jobs and all(j.startswith("job ") and j.endswith("}") for j in jobs)
    assert len(tokens) > 300


def test_mutants_are_drawn_again_from_their_number() -> None:
    made = par.Corpus((EXAMPLE,), (1.0,), Pool.of([EXAMPLE]))
    first = [par.drawn(made, Random(i)) for i in range(60)]
    assert first == [par.drawn(made, Random(i)) for i in range(60)]
    assert len(set(first)) > 50 and EXAMPLE not in first


def test_what_is_read_otherwise_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the code that reads files of data by itself."""
    scenes = data.scenes()
    real = api.batches

    def one_further(file: Source, steps: int) -> Iterator[Any]:
        for batch in real(file, steps):
            yield {name: x + 1 for name, x in batch.items()}

    here = [s for s in scenes.all if s.name in ("text", "csv", "npy", "safetensors", "raw", "tokens")]
    Scenes(here).warm()
    monkeypatch.setattr(api, "batches", one_further)
    for scene in here:
        with pytest.raises(AssertionError, match="misread|out of range"):
            Scenes([scene]).warm()


def test_files_are_changed_and_drawn_again() -> None:
    """By their kinds: each change is another content, and the same from the same number."""
    contents = {name: content for scene in data.scenes().all for name, content in scene.files.items()}
    contents |= {"a.json": b'{"a": [1, 2.5, "x"], "b": {"c": null}}', "a.jinja": b"{% for m in x %}{{ m }}{% endfor %}"}
    for name, content in contents.items():
        made = [mutant(name, content, Random(i)) for i in range(30)]
        assert made == [mutant(name, content, Random(i)) for i in range(30)]
        assert len(set(made)) > 15 and made.count(content) <= 1
