"""Cells of the matrix on processes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from dsl.diagnostics import ParcError
from runtime.prove import prove
from tests.matrix.cells import Cell

if TYPE_CHECKING:
    from runtime.torch.engine import ProcessPool


def devices(cell: Cell) -> int:
    """How many a cell needs."""
    return prod(n for t in cell.tactics for _, n in t.axes)


def judge(pool: ProcessPool, cell: Cell, steps: int = 2) -> str:
    """ "proved", or what is wrong."""
    try:
        compiled = cell.compile()
        proof = prove(compiled.training, compiled.program, steps, executor=pool.executor)
    except ParcError as e:
        return str(e.diagnostics[0])
    return "proved" if proof.ok else f"not equal: {proof.worst}"
