"""`docs/compositions.md` says of each cell of the matrix what becomes of it, and it is what is expected; some are run.

`python -m tests.matrix` makes the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.matrix.cells import Cell, cells, chosen, expected, senseless, spread
from tests.matrix.judge import PROVED, Kept, Outcome, outcome
from tests.matrix.page import read, render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compositions.md"


@pytest.fixture(scope="module")
def said() -> Mapping[str, Outcome]:
    return read(PAGE.read_text(encoding="utf-8"))


def test_the_rows_of_the_page_are_those_of_the_matrix(said: Mapping[str, Outcome]) -> None:
    assert {c: o.what for c, o in said.items()} == {str(c): expected(c) for c in chosen()}


def test_nearly_all_that_makes_sense_is_proved(said: Mapping[str, Outcome]) -> None:
    for size in (1, 2, 3):
        sensible = [str(c) for c in chosen() if len(c.tactics) == size and not senseless(c)]
        assert sum(said[c].what == PROVED for c in sensible) >= 0.95 * len(sensible)


def test_the_page_is_as_it_is_written(said: Mapping[str, Outcome]) -> None:
    """Sums, tables and lists agree, and nothing on it was changed by hand."""
    page = PAGE.read_text(encoding="utf-8")
    made = page.partition("Made with ")[2].partition("; data of seed")[0]
    assert made and render(said, made) == page


def sampled() -> list[Cell]:
    refused = [c for c in cells(2) if expected(c) != PROVED]
    return [*spread(chosen(), 499, 7), *spread(refused, 23)]


@pytest.mark.parametrize("cell", sampled(), ids=str)
def test_what_it_says_is_so(cell: Cell, said: Mapping[str, Outcome]) -> None:
    assert outcome(cell) == said[str(cell)]


def test_what_is_kept_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = [*cells(1)[:2], next(c for c in cells(2) if expected(c) != PROVED)]
    path = tmp_path / "kept.jsonl"
    first = list(Kept(path).outcomes(some))
    assert [o.what for _, o in first] == [expected(c) for c in some]
    with path.open("a") as file:
        file.write('["interrup')
    monkeypatch.setattr(Cell, "compile", lambda self, precision=None: pytest.fail("compiled again"))
    assert list(Kept(path).outcomes(some)) == first


def test_a_program_is_not_proved_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sources change, but not what they make of a cell, the proof stands."""
    cell, path = cells(1)[0], tmp_path / "kept.jsonl"
    first = list(Kept(path).outcomes([cell]))
    lines = [line for line in path.read_text().splitlines(keepends=True)]
    assert len(lines) == 2
    path.write_text(lines[1])
    monkeypatch.setattr("tests.matrix.judge._proof", lambda compiled: pytest.fail("proved again"))
    assert list(Kept(path).outcomes([cell])) == first
