"""Gradients of tables that are lists of rows: the program does what the serial one does, which adds them up."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate_file
from compiler.explain import explain_tensor
from compiler.model import Precision
from compiler.ops.comm import AllGather, AllReduce
from compiler.ops.rows import UniqueRows, WriteRows
from compiler.program import FunctionPhase, on_updates
from compiler.text import parse_program, show
from compiler.text.stage_parser import parse_stage
from compiler.text.stages import show_stage
from compiler.traffic import volumes
from compiler.verify import verify
from compiler.walk import walk
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.data.synthetic import synthetic
from runtime.prove import prove
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact

FILE = Path(__file__).with_name("tables.par")
DOUBLE = Precision("f64", "f64")
TEXT = FILE.read_text(encoding="utf-8")


@cache
def tables(
    optimizer: str = "sgd(lr = 0.1)", schedule: str = "one_f_one_b", double: bool = False, **params: int
) -> Compiled:
    return compiled(TEXT, optimizer, schedule, double, **params)


def compiled(text: str, optimizer: str, schedule: str = "gpipe", double: bool = True, **params: int | str) -> Compiled:
    source = Source("tables.par", text.replace("OPTIMIZER", optimizer).replace("SCHEDULE", schedule))
    given = {k: str(v) for k, v in params.items()}
    return compile_job(evaluate_file(source, given, precision=DOUBLE if double else None).job)


def lists(compiled: Compiled) -> frozenset[str]:
    return compiled.placed.training.listed


BOTH = {"table", "second"}

# --- which optimizers leave rows without a gradient alone ------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        ("sgd(lr = 0.1)", None),
        ("sgd(lr = 0.1, clip = 0.1)", None),
        ("adagrad(lr = 0.1)", None),
        ("rowwise_adagrad(lr = 0.1)", None),
        ("lazy_adam(lr = 0.1)", None),
        ("sgd(lr = 0.1, momentum = 0.9)", "changes the weight"),
        ("sgd(lr = 0.1, decay = 0.1)", "changes the weight"),
        ("adam(lr = 0.1)", "changes the weight"),
    ],
)
def test_which_optimizers_leave_other_rows_alone(optimizer: str, why: str | None) -> None:
    found = tables(optimizer)
    assert lists(found) == (frozenset() if why else BOTH)
    assert all(why is not None and why in told for told in found.placed.training.dense.values())
    assert found.training.listed == frozenset()  # the proof's program adds them up


OWN = """
optimizer own(lr) {{
  state s ~ {init}
  {body}
}}
"""


@pytest.mark.parametrize(
    ("init", "body", "listed"),
    [
        ("zeros", "s = s + g * g\n  w = w - lr * g / (sqrt(s) + 1e-6)", True),
        ("ones", "s = s + abs(g)\n  w = w - lr * g / s", False),  # it may be 0 in the end, for all that is known
        ("zeros", "s = s + g * g\n  w = w - lr * g / sqrt(s)", False),  # 0 / 0
        ("normal(0.1)", "s = s + g * g\n  w = w - lr * g / (sqrt(s) + 1e-6)", False),  # the root of what is below 0
        ("zeros", "s = maximum(s, g)\n  w = w - lr * g", True),  # never below 0, so that it is the larger one
        ("zeros", "s = minimum(s, g)\n  w = w - lr * g", False),
        ("zeros", "s = where(g == 0.0, s, g)\n  w = w - lr * sign(g)", True),
        ("zeros", "s = g\n  w = w - lr * g", False),
        ("zeros", "s = s + norm(g)\n  w = w - lr * g", False),  # of all rows
        ("zeros", "s = s + g * 2.0 ** -step\n  w = w - lr * g", True),
        ("zeros", "s = s + g * g\n  w = w - lr * g * rsqrt(s)", False),  # 0 times infinity
        ("zeros", "s = s + g * g\n  w = w - lr * (g * rsqrt(s + 1e-6))", True),
        ("zeros", "s = s + g\n  w = w - lr * g * sqrt(s)", False),  # the root of what may be below 0
    ],
)
def test_it_is_derived_from_the_text(init: str, body: str, listed: bool) -> None:
    found = compiled(TEXT + OWN.format(init=init, body=body), "own(lr = 0.1)")
    assert lists(found) == (BOTH if listed else frozenset())
    assert prove(found.training, found.program).equal


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("  loss ", "  y = touched(x)\n  loss ", "E0339"),
        ("s = s + g * g", "s = where(touched(w), s, s + g * g)", "E0339"),
        ("s = s + g * g", "s = where(touched(g * 2.0), s, s + g * g)", "E0339"),
        ("state s ~ zeros", "state s[columns] ~ zeros", "E0312"),
        ("state s ~ zeros", "state s[rows] ~ zeros", "E0312"),  # what is assigned has columns, too
        ("s = s + g * g", "s = s + g * mean(g, over lines)", "E0209"),
    ],
)
def test_wrong_words(old: str, new: str, code: str) -> None:
    text = TEXT + OWN.format(init="zeros", body="s = s + g * g\n  w = w - lr * g / (sqrt(s) + 1e-6)")
    assert old in text
    with pytest.raises(ParcError) as found:
        compiled(text.replace(old, new), "own(lr = 0.1)")
    assert [d.code for d in found.value.diagnostics][0] == code


# --- the same as the serial program ----------------------------------------------------------------------------------

LAYOUTS = [
    {},
    {"dp": 2},
    {"dp": 2, "microbatches": 4},
    {"dp": 2, "tp": 2, "layout": 1, "microbatches": 2},
    {"dp": 2, "zero": 1},
    {"dp": 2, "users": 601, "zero": 1},
    {"dp": 2, "tp": 2, "users": 601, "layout": 2, "microbatches": 2},
    {"dp": 2, "tp": 2, "layout": 1, "microbatches": 2, "zero": 1},
    {"dp": 2, "tp": 2, "layout": 1, "zero": 2},
    {"dp": 2, "tp": 2, "layout": 1, "microbatches": 2, "zero": 3},
    {"pp": 2, "microbatches": 4},
    {"pp": 2, "dp": 2, "microbatches": 2, "zero": 1},
]


@pytest.mark.parametrize("optimizer", ["sgd(lr = 0.1)", "rowwise_adagrad(lr = 0.1)", "lazy_adam(lr = 0.1, clip = 0.1)"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_equal_to_the_serial_program(optimizer: str, layout: dict[str, int]) -> None:
    found = tables(optimizer, double=True, **layout)
    assert lists(found) == BOTH
    assert not verify(found.program)
    assert prove(found.training, found.program, steps=3).equal
    assert prove(found.training, found.program, executor=RankExecutor).equal


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_texts_of_all_stages(layout: dict[str, int]) -> None:
    found = tables("lazy_adam(lr = 0.1)", **layout)
    assert parse_program(show(found.program)) == found.program
    for stage in (found.placed.training, found.placed):
        text = show_stage(stage)
        again = parse_stage(text)
        assert show_stage(again) == text
        assert compile_job(again).program == found.program  # type: ignore[arg-type]


UNEVEN = [
    {"dp": 2, "microbatches": 2, "batch": 10},
    {"dp": 3, "batch": 10},
    {"dp": 3, "tp": 2, "layout": 1, "microbatches": 2, "batch": 14, "zero": 1},
]


@pytest.mark.parametrize("layout", UNEVEN, ids=str)
def test_uneven_pieces_of_lists(layout: dict[str, int]) -> None:
    found = compiled(TEXT.replace("split b on dp", "split b on dp pad"), "lazy_adam(lr = 0.1)", **layout)
    assert lists(found) == BOTH
    assert prove(found.training, found.program).equal
    exact(found.program)


def test_uneven_micro_batches_are_added_up() -> None:
    text = TEXT.replace("microbatches microbatches over b", "microbatches microbatches over b pad")
    found = compiled(text, "lazy_adam(lr = 0.1)", batch=10, microbatches=4)
    assert set(found.placed.training.dense.values()) == {"micro-batches are uneven"}
    assert prove(found.training, found.program).equal


@pytest.mark.parametrize("schedule", ["gpipe", "zero_bubble"])
def test_schedules(schedule: str) -> None:
    found = tables("adagrad(lr = 0.1)", schedule, double=True, pp=2, microbatches=4)
    assert lists(found) == BOTH
    assert prove(found.training, found.program).equal


@pytest.mark.parametrize("loss_scale", ["dynamic", "64"])
def test_narrow_types_and_loss_scales(loss_scale: str) -> None:
    text = TEXT.replace("precision f32, master f32", f"precision f16, master f32, loss_scale {loss_scale}")
    found = compiled(text, "lazy_adam(lr = 0.1)", double=False, dp=2, microbatches=2)
    assert lists(found) == BOTH
    assert prove(found.training, found.program).equal


@pytest.mark.parametrize("optimizer", ["sgd(lr = 0.1)", "lazy_adam(lr = 0.1)"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_memory_is_what_is_predicted(optimizer: str, layout: dict[str, int]) -> None:
    exact(tables(optimizer, **layout).program)


def test_the_proof_sees_a_lost_list() -> None:
    """Without what the other devices have taken, and with rows that are written elsewhere."""
    found = tables("sgd(lr = 0.1)", double=True, dp=2)

    def without(node):  # type: ignore[no-untyped-def]
        return not (isinstance(node.op, AllGather) and node.inputs[0].type.dtype != "int32")

    def change(cls, body):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        gone = {n.output.name: n.inputs[0] for n in body.nodes if not without(n)}
        nodes = [replace(n, inputs=tuple(gone.get(v.name, v) for v in n.inputs)) for n in body.nodes if without(n)]
        return replace(body, nodes=tuple(nodes))

    broken = on_updates(found.program, change)
    assert verify(broken)


# --- what is taken, and when it is no list ---------------------------------------------------------------------------


def test_rows_that_are_taken_without_a_gradient_are_touched() -> None:
    """Their means decay; those of rows that nobody has taken do not."""
    found = tables("lazy_adam(lr = 0.1)", double=True)
    inputs = {i.name: i.type for i in found.program.inputs}
    run = Emulator(found.program)
    first = {
        name: np.zeros(t.shape, np.int32) if t.dtype == "int32" else np.ones(t.shape) for name, t in inputs.items()
    }
    first["other"][:] = 7
    run.step(first)
    before = run.states()["second.m"]
    assert before[7].any()
    assert not before[8].any()
    weights = run.weights()["second"]
    run.step(first | {"other": np.full(inputs["other"].shape, 8, np.int32)})
    after = run.states()["second.m"]
    np.testing.assert_array_equal(after[7], before[7])
    np.testing.assert_array_equal(run.weights()["second"][7], weights[7])
    assert after[8].any()


def test_a_small_table_is_added_up() -> None:
    found = tables(users=40)
    assert lists(found) == {"second"}
    assert "the 64 rows of a step's list" in found.placed.training.dense["table"]
    assert prove(found.training, found.program).equal


OTHERS = [
    ("loss mean((x - wanted) ** 2)", "loss mean((x - wanted) ** 2) + mean(table ** 2)", "read otherwise"),
    ("x = take(", "x = sum(take(table, iota(s), over u), over s) + take(", "the same in all micro-batches"),
    ("repeat 2 as block {", "repeat 2 as block {\n    x = x + take(table, other, over u)", "or in a loop"),
]


@pytest.mark.parametrize(("old", "new", "why"), OTHERS)
def test_other_readers(old: str, new: str, why: str) -> None:
    assert old in TEXT
    found = compiled(TEXT.replace(old, new), "lazy_adam(lr = 0.1)", microbatches=2)
    assert why in found.placed.training.dense["table"]
    assert lists(found) == {"second"}
    assert prove(found.training, found.program).equal


def test_a_table_of_two_stages_is_added_up() -> None:
    text = TEXT.replace("  loss ", "  x = x + take(second, user, over u)\n  loss ")
    found = compiled(text, "lazy_adam(lr = 0.1)", pp=2, microbatches=2)
    assert lists(found) == {"table"}
    assert found.placed.training.dense["second"] == "it is read on several stages"
    assert prove(found.training, found.program).equal


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (" at table.index\n", " at nothing\n", "E0674"),
        (" at table.index\n", " at second.index\n", "E0674"),
        ("rows table.index: int32[b=16, s=3]", "rows table.index: int32[b=16, t=3]", "E0674"),
        ("gradient table.grad", "loss table.grad", "E0674"),
    ],
)
def test_lists_of_programs_that_were_changed(old: str, new: str, code: str) -> None:
    text = show(tables("sgd(lr = 0.1)").program)
    assert old in text
    assert code in {d.code for d in verify(parse_program(text.replace(old, new)))}


def test_it_is_told() -> None:
    found = tables("lazy_adam(lr = 0.1)", users=40)
    graphs = found.placed, found.staged, found.program
    told = [explain_tensor(*graphs, name).gradient for name in ("second", "table", "block.w")]
    assert told[0].startswith("a list of rows and their numbers, 16 different ones at most")
    assert told[1].startswith("a tensor of its size, no list of rows: the 64 rows of a step's list are 1280 bytes")
    assert told[2] == ""


@pytest.mark.parametrize("params", [{}, {"zero": 2}, {"microbatches": 2}, {"tp": 2, "layout": 1, "zero": 1}], ids=str)
def test_all_that_is_sent_for_lists_is_told(params: dict[str, int]) -> None:
    """The rows of each take, their numbers, and the rows of new values: all gathers of the update are for a weight."""
    found = tables("lazy_adam(lr = 0.1)", dp=2, **params)
    graphs = found.placed, found.staged, found.program
    told = [c for w in found.job.model.weights for c in explain_tensor(*graphs, w.name).changes if c.phase == "update"]
    (update,) = [f for f in found.program.classes[0].functions if f.phase is FunctionPhase.UPDATE]
    sent = [t for (op, _), t in volumes(update.body, found.program.sizes).items() if op == AllGather.mnemonic]
    assert len([c for c in told if c.of == "gradient" and c.kind.startswith("all-gather")]) == 3 * 2
    assert sum(c.bytes for c in told if c.kind.startswith("all-gather")) == sum(t.bytes for t in sent) > 0


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_lists_are_gathered_and_tables_are_not_reduced() -> None:
    found = tables("sgd(lr = 0.1)", dp=2, users=60000)
    (cls,) = found.program.classes
    update = next(f.body for f in cls.functions if f.phase is FunctionPhase.UPDATE)
    nodes = [n for n, _ in walk(update)]
    assert not any(isinstance(n.op, AllReduce) and n.inputs[0].type.has("u") for n in nodes)
    assert [n.op.slot.size for n in nodes if isinstance(n.op, UniqueRows)] == [64, 16]
    sent = sum(v.bytes for v in volumes(update, found.program.sizes).values())
    assert sent < 10_000  # a table has 960,000


def test_rows_are_renewed_in_the_memory_of_the_table() -> None:
    found = tables("lazy_adam(lr = 0.1)", users=60000)
    assert sum(isinstance(n.op, WriteRows) for f in found.program.classes[0].functions for n, _ in walk(f.body)) == 6
    run = Emulator(found.program)
    run.step(synthetic(found.program.inputs, 0, 0))
    (group,) = run.groups.values()
    held = {name: group.states[group.find(name)] for name in ("table", "table.m", "second.v")}
    kept = run.weights()["table"].copy()
    run.step(synthetic(found.program.inputs, 0, 1))
    assert all(group.states[group.find(name)] is array for name, array in held.items())
    assert not np.array_equal(run.weights()["table"], kept)
