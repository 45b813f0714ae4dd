"""Exported programs whose gradients of tables are lists of rows compute what the emulator does."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import parc
from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from compiler.program import Program, listed
from compiler.text import show
from compiler.walk import walk
from dsl.source import Source
from parc.exporting.torch.file import export_torch
from parc.exporting.torch.library import FUNCTIONS
from tests.export.exported import BACKEND, Ran, alone, judge, together
from tests.export.test_torch import functions, golden
from tests.some import one_in
from tests.sparse.test_lists import TEXT, compiled

ROWS = "rowwise_adagrad(lr = 0.1)"
ADAM = "lazy_adam(lr = 0.1)"

ALONE = {
    "one_list": {},
    "microbatches": {"microbatches": 4},
}
TOGETHER: dict[str, tuple[str, dict[str, int]]] = {
    "data_parallel": (ROWS, {"dp": 2}),
    "microbatches": (ADAM, {"dp": 2, "microbatches": 4}),
    "pieces": (ADAM, {"tp": 2, "layout": 1}),  # of rows of one table, of columns of the other
    "unequal_pieces": (ROWS, {"tp": 2, "dp": 2, "layout": 2, "users": 601, "microbatches": 2}),
    "zero_1": (ADAM, {"dp": 2, "zero": 1}),
    "zero_3": (ROWS, {"dp": 2, "tp": 2, "zero": 3, "layout": 1, "microbatches": 2}),
    "pipeline": (ADAM, {"dp": 2, "pp": 2, "zero": 1, "microbatches": 4}),
}


@cache
def tables(optimizer: str, **params: int) -> Program:
    """With lists in the update, and with a part of them from each micro-batch if there are several."""
    program = compiled(TEXT, optimizer, **params).program
    found = {type(n.op) for c in program.classes for f in c.functions for n, _ in walk(f.body)}
    assert {UniqueRows, ReadRows, WriteRows} <= found
    parts = any(listed(s) for c in program.classes for s in c.states)
    assert parts == (params.get("microbatches", 1) > 1)
    return program


def test_a_program_in_text_keeps_its_lists() -> None:
    """Each op is a call of a function that the file brings with it."""
    text = parc.export(Source("tables.npu", show(tables(ROWS, dp=2))))
    for name in ("unique_rows", "read_rows", "write_rows"):
        assert text.count(f"def {name}(") == 1 and f"= {name}(" in functions(text)


def test_only_parts_of_micro_batches_are_kept_apart() -> None:
    given = 'made.get("part", {})'
    assert given in export_torch(tables(ROWS, microbatches=4))
    assert given not in export_torch(tables(ROWS))


@pytest.mark.parametrize("begin", [0, 4, 8])
def test_slots_of_several_parts_of_a_table(begin: int) -> None:
    """Of a table of 8 rows in parts of 3, 3 and 2 with 4 slots each, where two parts or the last one are here."""
    torch = pytest.importorskip("torch")
    made: dict[str, Any] = {"torch": torch, "math": math}
    exec(FUNCTIONS["unique_rows"], made)
    index, further = torch.tensor([[5, 2, 7], [5, -1, 0]]).int(), torch.tensor([3, 7, 9, 2]).int()
    x, y = torch.arange(12.0).view(2, 3, 2).double(), torch.arange(8.0).view(4, 2).double() * 100
    slots = 4 if begin == 8 else 8
    found, numbers = made["unique_rows"](((x, index), (y, further)), (slots, 2), 1, begin, 4, 3, 8)
    want = [number for part in ([0, 2, -1, -1], [3, 5, -1, -1], [7, -1, -1, -1]) for number in part]
    assert numbers.tolist() == want[begin : begin + slots] and numbers.dtype == torch.int32
    keys, rows = torch.cat((index.flatten(), further)), torch.cat((x.flatten(0, 1), y))
    sums = [rows[keys == n].sum(0).tolist() if n >= 0 else [0.0, 0.0] for n in numbers.tolist()]
    assert found.T.tolist() == sums


@pytest.mark.parametrize(("name", "optimizer"), one_in(2, product(ALONE, [ROWS, ADAM, "sgd(lr = 0.1, clip = 0.1)"])))
def test_lists_on_one_device(name: str, optimizer: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    judge(alone(tables(optimizer, **ALONE[name]), tmp_path / name))


def test_functions_with_lists_compile_as_one_graph(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    judge(alone(tables(ROWS, microbatches=2), tmp_path / "compiled", BACKEND))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    pytest.importorskip("torch")
    programs = {name: tables(optimizer, **params) for name, (optimizer, params) in TOGETHER.items()}
    return together({**programs, "recsys": golden("example_recsys")}, tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("name", [*TOGETHER, "recsys"])
def test_lists_in_processes(name: str, ran: dict[str, Ran]) -> None:
    judge(ran[name])
