"""The commands of docs/serving.md, in their order."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.checkpoints.test_page import ROOT, carry_out, commands


def test_the_page_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert len(commands(page)) == 19
    carry_out(page, tmp_path)
