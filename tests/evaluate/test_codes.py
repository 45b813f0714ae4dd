"""Every code that evaluation raises: the failing example of the catalogue yields it, the mended one yields nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.evaluate import check_file
from dsl.codes import CODES, Code
from dsl.diagnostics import Diagnostic, ParcError

FAMILIES = (
    "E01",
    "E02",
    "E03",
    "E0401",
    "E0402",
    "E0403",
    "E0404",
    "E0405",
    "E0406",
    "E0407",
    "E0408",
    "E0409",
    "E041",
)
LIMITS = ("E0906", "E0907", "E0908", "E0909")
OURS = [c for c in CODES.values() if c.code.startswith(FAMILIES) or c.code in LIMITS]


def findings(text: str, folder: Path) -> tuple[Diagnostic, ...]:
    """What is found in a file; its first lines `# -D name=value` are options of the command."""
    file = folder / "main.par"
    file.write_text(text)
    options = [line.removeprefix("# -D ") for line in text.splitlines() if line.startswith("# -D ")]
    try:
        return check_file(file, dict(o.split("=", 1) for o in options), folder)
    except ParcError as error:
        return error.diagnostics


@pytest.mark.parametrize("code", OURS, ids=lambda c: c.code)
def test_failing_example_yields_the_code_and_mended_nothing(code: Code, tmp_path: Path) -> None:
    assert [str(d) for d in findings(code.mended, tmp_path)] == []
    found = findings(code.failing, tmp_path)
    assert {d.code for d in found} == {code.code}, [str(d) for d in found]
    for diagnostic in found:
        assert diagnostic.message
        if "-D" not in diagnostic.message:
            assert diagnostic.span is not None
            assert 0 <= diagnostic.span.start <= diagnostic.span.end <= len(code.failing)
