"""`offload rows`: tables rest in other memories, and the rows that are used alone cross to the devices and back.

Every case is bit for bit the program without the rule, on both executors, and takes the memory that is predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import parc
import runtime.stacked.files as files
from compiler.cost.kernels.work import Copy
from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate, evaluate_file
from compiler.memory.tiers import FIRST
from compiler.model import EVALUATE, TRAIN_STEP
from compiler.ops.index import Take
from compiler.ops.move import Move
from compiler.ops.rows import ReadRows, WriteRows
from compiler.program import Program
from compiler.text import parse_program, show
from compiler.verify import verify
from compiler.walk import walk
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact
from tests.memory.test_offload import same_bits

TEXT = Path(__file__).parent.parent.joinpath("sparse", "tables.par").read_text(encoding="utf-8")
RULE = "offload rows to host"
SPLIT = "  split b on dp\n"


def compiled(
    rules: str, optimizer: str = "rowwise_adagrad(lr = 0.1)", text: str = TEXT, entry: str = TRAIN_STEP, **params: int
) -> Compiled:
    """With rules in front of the others."""
    assert SPLIT in text
    text = text.replace(SPLIT, f"  {rules}\n{SPLIT}").replace("OPTIMIZER", optimizer)
    text = text.replace("SCHEDULE", "one_f_one_b")
    given = {k: str(v) for k, v in params.items()}
    return compile_job(evaluate_file(Source("t.par", text), given).job, entry)


def moved(program: Program) -> list[str]:
    """What is moved, by name."""
    nodes = (n for c in program.classes for f in c.functions for n, _ in walk(f.body))
    return [n.inputs[0].name for n in nodes if isinstance(n.op, Move)]


def far(program: Program) -> set[type]:
    """What needs rows of tables where they rest."""
    nodes = (n for c in program.classes for f in c.functions for n, _ in walk(f.body))
    return {type(n.op) for n in nodes if n.far is not None}


NARROW = TEXT.replace("precision f32, master f32", "precision bf16, master f32")

CASES = {
    "alone": ({}, RULE, "lazy_adam(lr = 0.1)", TEXT),
    "data, micro-batches": ({"dp": 2, "microbatches": 2}, RULE, "adagrad(lr = 0.1)", TEXT),
    "on disk": ({"dp": 2, "microbatches": 2}, RULE.replace("host", "nvme"), "lazy_adam(lr = 0.1)", TEXT),
    "on disk, by rows and columns": ({"tp": 2, "layout": 1}, RULE.replace("host", "nvme"), "sgd(lr = 0.1)", TEXT),
    "by rows and columns": ({"dp": 2, "tp": 2, "layout": 1}, RULE, "rowwise_adagrad(lr = 0.1)", TEXT),
    "ZeRO-1": ({"dp": 2, "zero": 1, "microbatches": 2}, RULE, "lazy_adam(lr = 0.1)", TEXT),
    "ZeRO-2, by rows": ({"dp": 2, "tp": 2, "zero": 2, "layout": 1}, RULE, "adagrad(lr = 0.1)", TEXT),
    "a pipeline": ({"pp": 2, "dp": 2, "microbatches": 2}, RULE, "rowwise_adagrad(lr = 0.1)", TEXT),
    "one of two": ({"dp": 2}, f"{RULE} in second", "lazy_adam(lr = 0.1)", TEXT),
    "narrow types": ({"dp": 2, "microbatches": 2}, RULE, "lazy_adam(lr = 0.1)", NARROW),
    "each elsewhere": (
        {"dp": 2}, "offload rows to nvme in table\n  offload rows to host", "lazy_adam(lr = 0.1)", TEXT
    ),
    "states elsewhere": ({"tp": 2, "layout": 1}, f"offload optimizer to nvme\n  {RULE}", "adagrad(lr = 0.1)", TEXT),
    "and all else": ({"dp": 2}, f"{RULE}\n  offload weights, optimizer to nvme", "lazy_adam(lr = 0.1)", TEXT),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rows_alone_cross(name: str) -> None:
    params, rule, optimizer, text = CASES[name]
    found, plain = (compiled(r, optimizer, text, **params) for r in (rule, ""))
    program = found.program
    assert verify(program) == ()
    assert parse_program(show(program)) == program
    same_bits(program, plain.program)
    exact(program)
    assert prove(found.training, program).equal
    assert far(program) == {Take, ReadRows, WriteRows}
    assert not [n for n in moved(program) if n.startswith(("table", "second"))]
    tables = [s for c in program.classes for s in c.states if s.logical in ("table", "second") and s.chunk == 0]
    assert {s.memory for s in tables} > {FIRST} or all(s.memory != FIRST for s in tables)


def test_what_needs_more_than_rows_has_all_of_it() -> None:
    """An optimizer that changes every row, and a table that is gathered where it is used."""
    for optimizer, params in (("adam(lr = 0.1)", {"dp": 2}), ("lazy_adam(lr = 0.1)", {"dp": 2, "zero": 3})):
        found, plain = (compiled(r, optimizer, **params) for r in (RULE, ""))
        assert verify(found.program) == ()
        same_bits(found.program, plain.program)
        exact(found.program)
        assert any(n.startswith("table") for n in moved(found.program))


def test_they_rest_there_in_all_entries() -> None:
    program = compiled(RULE, entry=EVALUATE, dp=2).program
    assert far(program) == {Take} and not moved(program)
    exact(program)


def test_what_is_frozen_is_looked_up_there() -> None:
    text = TEXT.replace("  precision", "  frozen table\n  precision")
    found, plain = (compiled(r, text=text, dp=2) for r in (RULE, ""))
    same_bits(found.program, plain.program)
    assert {s.memory for c in found.program.classes for s in c.states if s.logical == "table"} == {"host"}


CLUSTER = """
use std.devices (a100_80)

cluster box {
  device gpu = a100_80
  level node = pp * dp * tp gpu over 300 GB/s, 2 us
  host memory 2 TiB, 400 GB/s over 25 GB/s
  nvme capacity 30 TB, 24 GB/s over 6 GB/s
}
"""


def copies(rule: str, **params: int) -> list[int]:
    """Bytes of each copy between memories, of all functions."""
    text = CLUSTER + TEXT.replace("using plain", "on box using plain")
    simulation = Simulation.of(compiled(rule, text=text, **params))
    parts = [p for features in simulation.features.parts for p in features.values()]
    return [node.work.bytes for part in parts for node, _ in part.each() if isinstance(node.work, Copy)]


def test_a_row_takes_whole_grains_of_its_memory() -> None:
    """Rows of 16 bytes: three times 16 of one table and 16 of another are taken, at most 64 and 16 are renewed."""
    lines = [16 * 64, 48 * 64, 16 * 64]
    rows, states = [64 * 64, 16 * 64], [64 * 64, 16 * 64]
    assert sorted(copies(RULE)) == sorted([*lines, *2 * rows, *2 * states])
    blocks = copies(RULE.replace("host", "nvme"))
    assert sorted(blocks) == sorted(n * 64 for n in (*lines, *2 * rows, *2 * states))


def test_devices_with_pieces_have_their_part_of_what_is_asked_for() -> None:
    whole, pieces = (sum(copies(f"{RULE} in table", tp=n, layout=1)) for n in (1, 4))
    assert pieces * 4 == whole


def test_it_costs_less_than_to_move_the_tables() -> None:
    text = CLUSTER + TEXT.replace("using plain", "on box using plain")
    rules = (RULE, "offload weights, optimizer to host in table\n  offload weights, optimizer to host in second")
    rows, whole = (Simulation.of(compiled(r, text=text, users=100_000)).seconds() for r in rules)
    assert whole - rows > 4 * 100_000 * 16 / 25e9  # both are read, and in the update read or written


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("E0571", "offload rows to host prefetch 2"),
        ("E0542", "offload rows to host in block"),
        ("E0542", "offload rows to host\n  offload weights to host in table"),
        ("E0403", "offload row to host"),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(code: str, rule: str) -> None:
    with pytest.raises(ParcError) as raised:
        compiled(rule)
    d = next(d for d in raised.value.diagnostics if d.code == code)
    assert d.span is not None and d.help


def test_a_table_that_is_read_otherwise_is_none() -> None:
    text = TEXT.replace("x = x + tanh", "x = x + 0.1 * mean(table) + tanh").replace("take(second", "take(table")
    text = text.replace("  weight second[u,e] ~ normal(0.1)\n", "")
    with pytest.raises(ParcError) as raised:
        compiled(RULE, text=text)
    assert {d.code for d in raised.value.diagnostics} == {"E0542"}


def test_ten_terabytes_in_small() -> None:
    """The example learns the ratings that are shipped, bit for bit as without the rule."""
    file = Path(__file__).parent.parent.parent / "examples" / "embeddings_10tb.par"
    found, plain = (parc.compile(file, job=job).program for job in ("small", "small_all_here"))
    assert far(found) == {Take, ReadRows, WriteRows}
    assert not [n for n in moved(found) if n.startswith(("student", "lecturer"))]  # the others are as small as a list
    batches = list(parc.batches(file, 4, job="small"))
    for executor in (Emulator, RankExecutor):
        left, right = executor(found), executor(plain)
        losses = [(left.step(b).loss, right.step(b).loss) for b in batches]
        assert all(a == b for a, b in losses) and losses[-1][0] < losses[0][0]
        ours, others = ({**run.weights(), **run.states()} for run in (left, right))
        assert all((x == others[name]).all() for name, x in ours.items()) and ours.keys() == others.keys()
    exact(found)


@pytest.mark.parametrize(
    "params", [{}, {"tp": 2, "layout": 1}, {"dp": 2, "zero": 3}, {"tp": 2, "layout": 2, "users": 101}], ids=str
)
def test_what_rests_in_a_file_begins_there_piece_by_piece(
    params: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where devices have pieces of the rows: no array of a table's size is ever made."""
    monkeypatch.setattr(files, "BLOCK", 64)
    made: list[int] = []
    init = files.init_array
    monkeypatch.setattr(files, "init_array", lambda *of: (found := init(*of), made.append(found.size))[0])
    there, here = (
        Emulator(compiled(rule, "adam(lr = 0.1)", **params).program)
        for rule in ("offload weights, optimizer to nvme in table", "")
    )
    same = {**there.weights(), **there.states()}
    assert all(same[n].tobytes() == x.tobytes() for n, x in {**here.weights(), **here.states()}.items())
    assert made and (max(made) <= 64 or params.get("layout") == 2)  # uneven pieces are made at once


NUMBER = """\
model scaled() {
  dim b = 4, d = 8
  input x : f32[b,d]
  weight factor[] ~ normal(0.5)
  loss mean(factor * x * x)
}

optimizer moved(lr) {
  state m ~ zeros
  m = 0.9 * m + g
  w = w - lr * m
}

strategy plan for scaled {
  mesh (dp = 2)
  split b on dp
  RULE
}

job fit {
  train scaled() using plan
  optimizer moved(lr = 0.1)
}
"""


def test_a_number_rests_in_a_file() -> None:
    there, here = (
        Emulator(compile_job(evaluate(Source("number.par", NUMBER.replace("RULE", rule)))).program)
        for rule in ("offload weights, optimizer to nvme", "")
    )
    for run in (there, here):
        run.step({"x": np.arange(32, dtype=np.float32).reshape(4, 8)})
    ours, others = ({**run.weights(), **run.states()} for run in (there, here))
    assert ours.keys() == others.keys() and all(ours[n].tobytes() == x.tobytes() for n, x in others.items())
