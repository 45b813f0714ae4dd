"""The sample as a file of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.sample import FILE


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mlp.par"
    path.write_text(FILE)
    return str(path)
