"""The parser's tables are lark's, and those of the grammar as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

import dsl.tables as tables
from dsl.tables import FILE, grammar_text, make, read, write


def test_the_file_belongs_to_the_grammar() -> None:
    """`python -m dsl.tables` writes it."""
    assert read(FILE, grammar_text()) == make(grammar_text())


def test_a_file_of_another_grammar_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = grammar_text().replace('"param" NAME', '"parameter" NAME')
    assert changed != grammar_text()
    assert read(FILE, changed) is None
    monkeypatch.setattr(tables, "grammar_text", lambda: changed)
    assert "PARAMETER" in tables.tables().literals
    write(tmp_path / "tables.json", changed)
    assert read(tmp_path / "tables.json", changed) == make(changed)


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"rules": []}'])
def test_a_broken_file_is_not_used(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "tables.json"
    if content is not None:
        path.write_text(content)
    assert read(path, grammar_text()) is None
