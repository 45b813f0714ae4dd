"""The examples of the catalogue: programs for the codes of text and verifier, files for those of schedules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from compiler.cost.kernels.repeated import repeated_work
from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.text import parse_located, show
from compiler.verify import verify
from dsl.codes import CODES, Code
from dsl.diagnostics import Diagnostic, ParcError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [c for c in CODES.values() if c.code.startswith("E06")]
SCHEDULE = [c for c in CODES.values() if c.code.startswith("E05")]


def of_program(text: str) -> tuple[Diagnostic, ...]:
    try:
        return verify(*parse_located(text, "example.npu"))
    except ParcError as error:
        return error.diagnostics


@pytest.mark.parametrize("code", PROGRAM, ids=lambda c: c.code)
def test_program(code: Code) -> None:
    assert of_program(code.mended) == ()
    assert show(parse_located(code.mended)[0]) == code.mended
    found = of_program(code.failing)
    assert {d.code for d in found} == {code.code}, [str(d) for d in found]


@pytest.mark.parametrize("code", SCHEDULE, ids=lambda c: c.code)
def test_schedule(code: Code, tmp_path: Path) -> None:
    def findings(text: str) -> tuple[Diagnostic, ...]:
        file = tmp_path / "main.par"
        file.write_text(text)
        try:
            compiled = compile_job(evaluate_file(file, {}, None, None).job)
        except ParcError as error:
            return error.diagnostics
        return (*verify(compiled.program), *repeated_work(compiled))

    assert [str(d) for d in findings(code.mended)] == []
    found = findings(code.failing)
    assert {d.code for d in found} == {code.code}, [str(d) for d in found]
    assert all(d.span is not None for d in found)


def test_every_code_of_text_and_verifier_is_in_the_catalogue() -> None:
    used = set()
    for folder in ("compiler/text", "compiler/verify", "compiler/schedules"):
        for file in (ROOT / folder).glob("*.py"):
            tree = ast.parse(file.read_text())
            used |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    used = {u for u in used if len(u) == 5 and u[:3] in ("E05", "E06") and u[3:].isdigit()}
    assert used == {c.code for c in PROGRAM}
