"""Texts of earlier stages hold what each entry needs: they are read back, and lead to the same program."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.driver import compile_job, run_passes
from compiler.evaluate import evaluate
from compiler.model import ENTRIES
from compiler.text.stage_parser import parse_stage
from compiler.text.stages import show_stage
from tests.entries.test_evaluate import COUNTED, source


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("strategy", ["micro-batches", "zero 3", "interleaved", "recompute"])
def test_every_stage_is_read_back(strategy: str, entry: str) -> None:
    given = source(strategy, loss=COUNTED)
    more = "  if not training {\n    output x\n  }\n  x = dropout(x, 0.1)\n"
    job = evaluate(replace(given, text=given.text.replace("  logits[b,s,v]", f"{more}  logits[b,s,v]")))
    assert job.evaluated is not None and job.evaluated.outputs != job.model.outputs
    program = compile_job(job, entry).program
    read = parse_stage(show_stage(job))
    assert compile_job(read, entry).program == program
    work = run_passes(job, "place", entry)
    for stage in (work.training, work.placed):
        text = show_stage(stage)
        again = parse_stage(text)
        assert show_stage(again) == text
        assert compile_job(again).program == program
