"""Golden lowered programs: of the known techniques on a transformer, and of every example.

`pytest tests/golden --update-golden` replaces the files of programs that changed, if they are proved equal to the
serial program. Review the difference (`parc diff` says what it means).
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from compiler.text import parse_program, show
from tests.golden.cases import CASES, EXAMPLES, PROGRAMS, Case, compiled, update
from tests.program.mutations import mutations


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_golden(case: Case, request: pytest.FixtureRequest) -> None:
    program = compiled(case.name).program
    if request.config.getoption("--update-golden"):
        update(case.path, case, program)
    text = show(program)
    golden = case.path.read_text(encoding="utf-8") if case.path.exists() else ""
    if text != golden:
        lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), "golden", "now", n=1, lineterm="")
        shown = "\n".join(line[:160] for _, line in zip(range(60), lines, strict=False))
        pytest.fail(
            f"{case.name} is lowered otherwise (if that is right: pytest {PROGRAMS.parent} --update-golden)\n{shown}"
        )
    assert parse_program(golden) == program


def test_every_example_has_one_and_no_file_is_left_over() -> None:
    names = {c.file.stem for c in CASES if c.file.parent == EXAMPLES}
    # Jobs of pangu_200b, and the same model and strategy in other sizes; a U-Net, whose 5,800 lines would be those of
    # the residual network at four sizes (`.ci/run` proves it).
    assert names | {
        "unet",
        "walls",
        "megatron_175b",
        "one_card",
        "serving",
        "gpt_serving",
        "distil_serving",
        "embeddings_10tb",
    } == {p.stem for p in EXAMPLES.glob("*.par")}
    assert {p.name for p in PROGRAMS.iterdir()} == {c.path.name for c in CASES}


@pytest.mark.parametrize("kind", ["drop", "scale", "lost"])
def test_what_is_not_proved_is_not_written(kind: str, tmp_path: Path) -> None:
    """A program that the verifier refuses, and one that only computes something else, replace no file."""
    case = next(c for c in CASES if c.name == "zero_1")
    program = compiled(case.name).program
    path = tmp_path / "zero_1.npu"
    path.write_text("before")
    broken = next(p for name, p in mutations(program) if name.startswith(f"{kind}:"))
    with pytest.raises(AssertionError, match="not equal" if kind == "scale" else "not legal"):
        update(path, case, broken)
    assert path.read_text() == "before"
    update(path, case, program)
    assert path.read_text() == show(program)
