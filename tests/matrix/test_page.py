"""`docs/compositions.md` says of each cell of the matrix what becomes of it, and it is what is expected.

`python -m tests.matrix` makes the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.matrix.cells import chosen, expected, senseless
from tests.matrix.judge import PROVED, Outcome
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
