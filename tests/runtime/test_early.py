"""Pending sums that the stacked executor resolves as they are made: the same values, and no device's addend stands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import runtime.room as room
from compiler.graph import Dim, Node, Type, Value
from compiler.model import Precision
from compiler.ops.comm import AllReduce, ReduceScatter
from compiler.ops.contract import Contract
from compiler.ops.effects import StageReduce
from compiler.ops.index import Take
from compiler.origin import Role
from compiler.program import Program
from compiler.text import parse_located
from compiler.walk import walk
from runtime.data.synthetic import synthetic
from runtime.numpy import CallContext, Env, LocalValue, plan
from runtime.numpy.summed import Summed
from runtime.rank.executor import RankExecutor
from runtime.room import stacked
from runtime.stacked import Emulator
from runtime.stacked.early import added_early
from runtime.stacked.straight import memory_order
from tests.runtime import models


def nodes(p: Program) -> list[Node]:
    return [n for c in p.classes for f in c.functions for n, _ in walk(f.body)]


PLANS = [
    ("dp=4",),
    ("dp=2", "tp=2", "microbatches=2"),
    ("dp=2", "cp=2", "zero=2"),
    ("dp=2", "pp=2", "microbatches=2"),
    ("dp=3", "batch=9", "zero=3"),
]


@pytest.mark.parametrize("options", PLANS, ids=",".join)
def test_the_same_as_devices_by_themselves(options: tuple[str, ...]) -> None:
    p = models.double_gpt(*options).program
    assert any(isinstance(n.op, Summed) for n in nodes(added_early(p)))
    batch = synthetic(p.inputs, 3, 0)
    one, other = Emulator(p), RankExecutor(p)
    for _ in range(2):
        got, want = one.step(batch, gradients=True), other.step(batch, gradients=True)
        np.testing.assert_allclose(got.loss, want.loss, rtol=1e-12)
        for name, g in want.gradients.items():
            np.testing.assert_allclose(got.gradients[name], g, rtol=1e-9, atol=1e-13)
    for name, w in other.weights().items():
        np.testing.assert_allclose(one.weights()[name], w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", PLANS[:4], ids=",".join)
def test_no_gradient_is_kept_once_per_device(options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    p = models.gpt(*options).program

    def pending(q: Program) -> set[str]:
        return {a for c in q.classes for s in c.states if s.role is Role.GRADIENT for a, _ in s.layout.pending}

    assert pending(p) and not pending(added_early(p))
    less = stacked(p)
    monkeypatch.setattr(room, "added_early", lambda q: q)
    assert less < stacked(p)


def test_sums_between_groups_are_early_in_all_of_them() -> None:
    p = models.gpt("dp=2", "pp=2").program
    joined = [n for n in nodes(p) if isinstance(n.op, StageReduce) and n.output.layout.pending]
    assert joined
    early = {n.op.key: n for n in nodes(added_early(p)) if isinstance(n.op, StageReduce)}
    assert all(early[n.op.key].output.layout.pending == () for n in joined if isinstance(n.op, StageReduce))


def test_sixteen_bits_are_rounded_on_each_device() -> None:
    p = models.gpt("dp=2", "tp=2", precision=Precision("bf16", "f32")).program
    early = added_early(p)
    assert not any(isinstance(n.op, Summed) and n.output.type.dtype == "bf16" for n in nodes(early))
    left = {v.name for n in nodes(early) for v in n.outputs if v.layout.pending}
    made = {n.output.name for n in nodes(p) if isinstance(n.op, Contract) and n.output.layout.pending}
    narrow = {v.name for n in nodes(p) for v in n.outputs if v.type.dtype == "bf16"}
    assert made & narrow and made & narrow <= left


BODY = """\
program p
mesh (dp=4)
input x: f32[b=8, i=3]

stage 0: devices 0..3 {{
  weight w: f32[i=3, j=2] = normal(1.0)
  gradient g: f32[i=3, j=2] pending(dp sum) of w
  weight v: f32[i=3, j=2] = zeros
  fn F {{
    %x: f32[b=2/dp, i=3] = input x
    %w: f32[i=3, j=2] = read w
    %y: f32[b=2/dp, j=2] = contract %x, %w
    %d: f32[i=3, j=2] pending(dp sum) = contract %x, %y
    accumulate %d into g
  }}
  fn U {{
    %g: f32[i=3, j=2] pending(dp sum) = read g
{update}
    write %u to v
  }}
  schedule {{
    F[0]
    U
  }}
}}
"""
REDUCED = "    %u: f32[i=3, j=2] = all_reduce %g sum over dp"


def updated(update: str) -> tuple[Program, np.ndarray, np.ndarray]:
    """The program, what `v` is after a step, and the gradient."""
    p = parse_located(BODY.format(update=update))[0]
    run = Emulator(p)
    result = run.step(synthetic(p.inputs, 1, 0), gradients=True)
    return p, run.weights()["v"], result.gradients["w"]


def test_what_is_read_only_to_be_added_up_is() -> None:
    p, v, g = updated(REDUCED)
    assert not added_early(p).classes[0].states[1].layout.pending
    np.testing.assert_allclose(v, g, rtol=1e-6)
    assert np.abs(g).max() > 0.1


def test_what_another_op_reads_is_not() -> None:
    other = REDUCED.replace("%u:", "%r:") + "\n    %e: f32[i=3, j=2] = exp %r\n    %u: f32[i=3, j=2] = sub %e, %r"
    assert not added_early(updated(other)[0]).classes[0].states[1].layout.pending
    squares = "    %s: f32[i=3, j=2] pending(dp sum) = mul %g, %g\n" + REDUCED.replace("%g", "%s")
    p, v, g = updated(squares)
    assert added_early(p).classes[0].states[1].layout.pending
    assert not np.allclose(v, g * g)  # the sum of squares, wrong as it is, stays what the program says


def test_a_linear_op_passes_it_on() -> None:
    p, v, g = updated("    %h: f32[i=3, j=2] pending(dp sum) = mul 3.0, %g\n" + REDUCED.replace("%g", "%h"))
    assert not added_early(p).classes[0].states[1].layout.pending
    np.testing.assert_allclose(v, 3 * g, rtol=1e-6)


def test_what_is_alike_on_all_devices_is_added_as_often() -> None:
    """A program may say so of a product of replicated values; all of them are addends then."""
    text = BODY.format(update=REDUCED).replace("b=2/dp", "b=8")
    p = parse_located(text)[0]
    run, other = Emulator(p), RankExecutor(p)
    for e in (run, other):
        e.step(synthetic(p.inputs, 1, 0))
    np.testing.assert_allclose(run.weights()["v"], other.weights()["v"], rtol=1e-6)


def test_a_sum_that_is_not_in_the_program_is_not_taken() -> None:
    """A mutant without the reductions of its gradients computes with each device's own."""
    p = models.gpt("dp=2").program
    (cls,) = p.classes
    functions = []
    for f in cls.functions:
        kept: list[Node] = []
        same: dict[str, Value] = {}
        for n in f.body.nodes:
            inputs = tuple(same.get(v.name, v) for v in n.inputs)
            if isinstance(n.op, AllReduce) and inputs[0].type.dims and "grad" in inputs[0].name:
                same[n.output.name] = inputs[0]
            else:
                kept.append(replace(n, inputs=inputs))
        functions.append(replace(f, body=replace(f.body, nodes=tuple(kept))))
    mutant = added_early(p.with_classes([replace(cls, functions=tuple(functions))])).classes[0]
    assert [s.layout.pending for s in added_early(p).classes[0].states if s.role is Role.GRADIENT and s.type.dims] == [
        () for s in mutant.states if s.role is Role.GRADIENT and s.type.dims
    ]
    assert any(s.layout.pending for s in mutant.states if s.role is Role.GRADIENT)


def test_reductions_that_are_done_leave_nothing_behind() -> None:
    p = models.gpt("dp=2", "tp=2", "zero=1").program
    before = sum(isinstance(n.op, AllReduce | ReduceScatter) and n.op.fn == "sum" for n in nodes(p))
    after = sum(isinstance(n.op, AllReduce | ReduceScatter) and n.op.fn == "sum" for n in nodes(added_early(p)))
    assert before > 30 and after <= 3  # of single numbers


def test_values_lie_as_the_logical_array_does() -> None:
    assert memory_order(("dp", "tp"), (2, 4), (("dp",), (), ("tp",))) == (0, 2, 3, 1, 4)
    assert memory_order(("dp", "tp"), (2, 4), (("dp", "tp"), ())) == ()
    assert memory_order(("dp", "tp"), (2, 1), ((), ("dp",))) == (1, 2, 0, 3)
    assert memory_order(("dp", "tp"), (2, 4), ((), ("tp",))) == (0, 2, 1, 3)  # pending on dp


@pytest.mark.parametrize("options", [("tp=4",), ("dp=2", "tp=2"), ("tp=2", "cp=2")], ids=",".join)
def test_rows_of_a_split_table_are_taken_at_once(options: tuple[str, ...]) -> None:
    p = models.double_gpt(*options).program
    taken = [n for n in nodes(added_early(p)) if isinstance(n.op, Summed) and isinstance(n.op.op, Take)]
    assert taken and not taken[0].output.layout.pending
    batch = synthetic(p.inputs, 3, 0)
    one, other = Emulator(p).step(batch), RankExecutor(p).step(batch)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-12)


def test_rows_that_there_are_not_are_zeros() -> None:
    table, index = Type("f64", (Dim("v", 6), Dim("d", 3))), Type("int32", (Dim("n", 4),))
    ins = (LocalValue(Type("f64", (Dim("v", 3), Dim("d", 3))), (2,), table, (("tp",), ())), LocalValue.whole(index))
    ins = (ins[0], replace(ins[1], lead=(1,)))
    out = LocalValue(Type("f64", (Dim("n", 4), Dim("d", 3))), (1,), Type("f64", (Dim("n", 4), Dim("d", 3))), ((), ()))
    take = plan(Summed(Take("v"), (0,)), ins, (out,), Env(("tp",), {"tp": 2}))
    x = np.arange(18.0).reshape(2, 3, 3)
    got = take(CallContext(), x, np.array([[0, 5, -1, 6]], np.int32))
    np.testing.assert_array_equal(got[0], [[0, 1, 2], [15, 16, 17], [0, 0, 0], [0, 0, 0]])
