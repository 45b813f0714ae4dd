"""The catalogue's examples of E07xx, but those of decoding: the failing one yields the code, the mended one runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.text import parse_located
from dsl.codes import Code
from dsl.codes.decoding import CODES as DECODING
from dsl.codes.running import CODES
from dsl.diagnostics import Diagnostic, ParcError
from runtime.data import open_data
from runtime.data.synthetic import synthetic
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator

ROOT = Path(__file__).resolve().parents[2]
OURS = CODES
EMULATED = [c for c in OURS if not any(line.startswith("# --") for line in c.failing.splitlines())]
"""Those that a program has by itself: the others are of an engine, of checkpoints (tests/cli/test_catalogue.py)."""


def findings(text: str, folder: Path, private: bool) -> tuple[Diagnostic, ...]:
    try:
        if text.startswith("program"):
            program, capacities = parse_located(text)[0], None
            batch = synthetic(program.inputs, 0, 0)
        else:
            file = folder / "main.par"
            file.write_text(text)
            job = evaluate(file)
            program = compile_job(job).program
            assert job.cluster is not None
            capacities = {"hbm": job.cluster.device.memory}
            batch = open_data(job.data, program.inputs).batch(0, 0)
        if private:
            RankExecutor(program).step(batch)
        else:
            Emulator(program, capacities).step(batch)
    except ParcError as error:
        return error.diagnostics
    return ()


@pytest.mark.parametrize("private", [False, True], ids=["stacked", "private"])
@pytest.mark.parametrize("code", EMULATED, ids=lambda c: c.code)
def test_examples(code: Code, private: bool, tmp_path: Path) -> None:
    assert [str(d) for d in findings(code.mended, tmp_path, private)] == []
    if private and code.code == "E0701":
        return  # it measures, and has no limits
    found = findings(code.failing, tmp_path, private)
    assert {d.code for d in found} == {code.code}, [str(d) for d in found]


def test_every_code_is_in_the_catalogue_and_every_entry_is_used() -> None:
    used = set()
    for file in [
        *(ROOT / "runtime").rglob("*.py"),
        ROOT / "compiler" / "memory" / "capacity.py",
        ROOT / "compiler" / "readers.py",
        ROOT / "parc" / "cli" / "engine.py",
        ROOT / "parc" / "keeping.py",
    ]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value[:3] == "E07":
                used.add(node.value)
    assert {u for u in used if len(u) == 5} - {c.code for c in DECODING} == {c.code for c in OURS}
