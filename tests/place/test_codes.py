"""Every code of placement: its failing example yields it, its mended one compiles."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from dsl.codes import placement
from dsl.codes.code import Code
from dsl.diagnostics import ParcError
from dsl.source import Source


@pytest.mark.parametrize("code", placement.CODES, ids=lambda c: c.code)
def test_examples(code: Code) -> None:
    with pytest.raises(ParcError) as caught:
        compile_job(evaluate(Source("failing.par", code.failing)))
    assert code.code in {d.code for d in caught.value.diagnostics}
    assert all(d.span is not None for d in caught.value.diagnostics)
    compile_job(evaluate(Source("mended.par", code.mended)))
