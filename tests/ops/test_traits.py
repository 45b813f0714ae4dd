"""Every op answers for every trait, and has a kernel in every backend; collectives have code in every executor."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from compiler.evaluate.builtins import BUILTINS
from compiler.ops.base import Movement, Op
from compiler.ops.call import Call
from compiler.ops.comm import Comm, Pattern, Relayout
from compiler.ops.derivatives import RULES
from compiler.ops.functions import FUNCTIONS
from compiler.ops.registry import COMM, COMPUTE, EFFECTS, OPS
from compiler.ops.repeat import Repeat
from compiler.text.attrs import attributes
from runtime import numpy
from runtime.numpy import elementwise
from runtime.rank import collectives as of_ranks
from runtime.stacked import collectives as of_stacks

from .rows import ROWS, Row

BACKENDS = {"numpy": numpy.PLANNERS}
"""Each backend's kernels by op."""

EXECUTORS = {"rank": of_ranks.CODE, "stacked": of_stacks.PLANS}
"""Each executor's code by collective."""

LISTS = {"unique_rows", "read_rows", "write_rows"}
SYNTAX = (
    {"map", "contract", "broadcast", "transpose", "fold", "repeat", "move", "zigzag"}
    | LISTS
    | {"dequantise", "expand", "integers", "pack"}
)
"""Ops that operators, names of dims, derivatives or passes make, and no function of the language."""

every_op = pytest.mark.parametrize("op", OPS.values(), ids=lambda c: c.mnemonic)


def test_the_registry_is_whole() -> None:
    """Every class of ops with a mnemonic, of whatever module of the folder; no mnemonic twice."""

    def below(c: type[Op]) -> set[str]:
        own = {c.mnemonic} if c.mnemonic and c.__module__.startswith("compiler.ops.") else set()
        return own.union(*map(below, c.__subclasses__()))

    assert below(Op) == set(OPS)
    assert len(OPS) == len(COMPUTE) + len(COMM) + len(EFFECTS) + len((Repeat, Call))


@every_op
def test_traits_are_of_their_kinds(op: type[Op]) -> None:
    assert is_dataclass(op) and isinstance(op.movement, Movement)
    assert all(isinstance(t, bool) for t in (op.pointwise, op.joins, op.leaf, op.message))
    assert op.joins or not op.pointwise, "elementwise work is done within its neighbours' kernels"
    assert not (op.leaf and op.message)


@every_op
def test_spelling_names_every_attribute_once(op: type[Op]) -> None:
    if op in (Relayout, Repeat, OPS["map"]):
        return  # of placed graphs only; spelled by the printer itself
    spelled = [a.field for a in attributes(op)]
    assert sorted(spelled) == sorted(f.name for f in fields(op))
    assert set(op.derived) <= set(spelled)


@every_op
def test_builtins_make_the_ops(op: type[Op]) -> None:
    if op.builtin:
        assert op.builtin in BUILTINS
    elif op in COMPUTE:
        assert op.mnemonic in SYNTAX


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_every_backend_has_every_kernel(backend: dict[type[Op], object]) -> None:
    assert set(backend) == set(COMPUTE)


def test_every_function_has_a_kernel() -> None:
    assert set(elementwise.FUNCTIONS) == set(FUNCTIONS)
    for f in FUNCTIONS.values():
        assert not f.builtin or f.name == "pow" or f.value is not None, f.name


@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
def test_every_executor_has_every_collective(executor: dict[type[Op], object]) -> None:
    assert set(executor) == set(COMM) - {Relayout}


@pytest.mark.parametrize("op", COMM, ids=lambda c: c.mnemonic)
def test_every_collective_has_a_case(op: type[Comm]) -> None:
    """Which compares both executors with the whole."""
    cases = (Path(__file__).parent.parent / "runtime" / "test_collectives.py").read_text()
    assert op is Relayout or re.search(rf"\b{op.__name__}\(", cases)


@pytest.mark.parametrize("op", COMM, ids=lambda c: c.mnemonic)
def test_collectives_answer_for_layouts_and_bytes(op: type[Comm]) -> None:
    if op is Relayout:
        return
    assert op.after is not Comm.after, "which layout it gives"
    assert op.message == (op.pattern is not Pattern.LOCAL), "a message goes somewhere"
    assert (op.sent is not Comm.sent) == op.message, "what a device sends"


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_answers_about_rows(row: Row) -> None:
    op, n = row.op, len(row.ins)
    assert op.terms(row.ins, row.outs) >= 1
    assert op.exact(row.ins, row.outs) or row.outs[0].dtype != "bool"
    assert all(isinstance(op.sees_padding(i), bool) for i in range(n))
    assert isinstance(op.cheap(), bool) and op.uniform() in (None, getattr(op, "value", None))
    if op.movement is not Movement.NO:
        assert n == 1 and op.selects() and op.linear(1) == (frozenset({0}),)
    if any(op.differentiable(i) for i, t in enumerate(row.ins) if t.is_float) and row.outs[0].is_float:
        assert type(op) in RULES


def test_what_a_view_is_stands_in_one_place() -> None:
    """A view shares its operand's memory: no list elsewhere says so."""
    views = {c.mnemonic for c in OPS.values() if c.movement is Movement.VIEW}
    moved = {c.mnemonic for c in OPS.values() if c.movement is Movement.COPY}
    assert views == {"broadcast", "transpose", "stop_gradient", "rename", "split"}
    assert moved == {"merge", "slice", "shard", "only_first"}
