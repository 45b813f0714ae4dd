"""What `docs/compositions.md` says of cells is so: some are run. What is known of a cell is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.matrix.cells import Cell, cells, chosen, expected, spread
from tests.matrix.judge import PROVED, Kept, Outcome, outcome
from tests.matrix.page import read

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compositions.md"


@pytest.fixture(scope="module")
def said() -> Mapping[str, Outcome]:
    return read(PAGE.read_text(encoding="utf-8"))


def sampled() -> list[Cell]:
    refused = [c for c in cells(2) if expected(c) != PROVED]
    return [*spread(chosen(), 499, 7), *spread(refused, 23)]


@pytest.mark.parametrize("cell", sampled(), ids=str)
def test_what_the_page_says_is_so(cell: Cell, said: Mapping[str, Outcome]) -> None:
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
