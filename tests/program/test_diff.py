"""Tables of collectives and buffers, and differences of programs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from compiler.diff import Difference, buffers, diff, in_flight
from compiler.graph import Graph
from compiler.program import DeviceClass, Function, FunctionPhase
from compiler.schedules import NAMES, actions, kinds, rolled
from compiler.text import parse_program
from compiler.traffic import CollectiveCalls, collectives
from tests.program.samples import LAYERS, PIPELINE


def test_collectives_of_a_pipeline() -> None:
    """Four micro-batches; f32; b=2, d=4, f=4 locally; 2 devices on each axis."""
    found = {
        (c.groups, c.function, c.op, c.axes, c.dim): (c.count, c.bytes) for c in collectives(parse_program(PIPELINE))
    }
    assert found == {
        ((0,), "F", "all_reduce", ("tp",), ""): (4, 4 * 2 * 0.5 * 2 * 4 * 4),
        ((0,), "F", "send", (), ""): (4, 4 * 2 * 4 * 4),
        ((0,), "U", "reduce_scatter", ("dp",), "d"): (1, 0.5 * 4 * 4 * 4),
        ((0,), "U", "all_gather", ("dp",), "d"): (1, 2 * 4 * 4),
        ((0,), "U", "all_reduce", ("dp",), ""): (1, 4 * 4 * 4),
        ((0,), "U", "all_reduce", ("tp",), ""): (1, 4),
        ((0,), "U", "stage_reduce", (), ""): (1, 4),
        ((1,), "F", "all_reduce", ("dp",), ""): (4, 4 * 4),
        ((1,), "B", "send", (), ""): (4, 4 * 2 * 4 * 4),
        ((1,), "U", "all_reduce", ("dp",), ""): (1, 4 * 4),
        ((1,), "U", "stage_reduce", (), ""): (1, 4),
    }


def test_loops_count() -> None:
    text = LAYERS.replace("%row: f32[b=2/dp] pending(tp sum)", "%row.tp: f32[b=2/dp] pending(tp sum)")
    text = text.replace(
        "      yield %c.next, %row",
        "      %row: f32[b=2/dp] = all_reduce %row.tp sum over tp\n      yield %c.next, %row",
    )
    rows = [c for c in collectives(parse_program(text)) if c.op == "all_reduce" and c.axes == ("tp",)]
    assert sum(c.count for c in rows) == 3 + 1  # in three iterations, and the maximum after the loop
    halo = next(c for c in collectives(parse_program(text)) if c.op == "halo")
    assert halo == CollectiveCalls((0,), FunctionPhase.FORWARD, 0, "halo", ("tp",), "s", 1, 2 * 2 * 7 * 4)


def test_buffers() -> None:
    found = {(b.groups, b.role): b.bytes for b in buffers(parse_program(PIPELINE))}
    assert found[(0,), "weight"] == 4 * 4 * 4 * 2
    assert found[(0,), "gradient"] == 4 * 4 * 4 * 2
    assert found[(0,), "saved"] == 2 * (2 * 4 + 2 * 4) * 4  # two micro-batches in flight
    assert found[(1,), "saved"] == 2 * 4 * 4


@pytest.mark.parametrize("name", [n for n in NAMES if n != "forward"])
@pytest.mark.parametrize(("p", "v", "m"), [(1, 1, 1), (1, 1, 5), (4, 1, 2), (4, 1, 9), (3, 2, 6)])
def test_in_flight_is_what_the_list_says(name: str, p: int, v: int, m: int) -> None:
    if v > 1 and name != "interleaved":
        return
    last = kinds(name)[-1]
    functions = tuple(Function(k, c, Graph("", (), (), ())) for k in kinds(name) for c in range(v))
    for g, schedule in enumerate(rolled(name, p, v, m)):
        held = most = 0
        for a in actions(name, p, v, m, g):
            held += {"F": 1, last: -1}.get(a.kind, 0)
            most = max(most, held)
        assert in_flight(DeviceClass((g,), (), (), functions, schedule), g) == most


def test_no_difference() -> None:
    program = parse_program(PIPELINE)
    assert not diff(program, program)
    assert str(diff(program, program)) == "no differences"


def test_differences() -> None:
    before = parse_program(PIPELINE)
    text = PIPELINE.replace("all_reduce %g3 sum over dp", "all_reduce %g3 sum over (dp)")
    text = text.replace("weight w3: f32[d=4] = ones", "weight w3: f32[d=2/dp] = ones in host")
    text = text.replace("    send %y as y to 1\n", "    send %y as y to 1\n    send %x as x to 1\n")
    text = text.replace("    for i in 0..4 { F[i] B[i] }\n", "    F[0..4]\n    B[0..4]\n")
    after = parse_program(text)
    found = diff(before, after)
    assert found.layouts == (Difference("weight w3", "f32[d=4] on stage 1", "f32[d=2/dp] in host on stage 1"),)
    assert found.calls == (Difference("F send", 4, 8),)
    assert found.bytes == (Difference("F send", 128.0, 256.0),)
    # saved: stage 1 has caught up with stage 0
    assert found.buffers == (
        Difference("weight in host", None, 8.0),
        Difference("in all in host at the peak", None, 8.0),
    )
    assert found.frame == (Difference("schedule of stage 1", "for i in 0..4 { F[i] B[i] }\nU", "F[0..4]\nB[0..4]\nU"),)
    assert json.loads(json.dumps(found.to_dict()))["calls"][0] == {"what": "F send", "before": 4, "after": 8}
    shown = str(found)
    assert "    weight w3: f32[d=4] on stage 1 -> f32[d=2/dp] in host on stage 1" in shown
    assert "  - for i in 0..4 { F[i] B[i] }" in shown
    assert "  + weight in host: 8 B" in shown
    assert "    F send: 128 B -> 256 B" in shown


def test_the_mesh_differs() -> None:
    program = parse_program(LAYERS)
    other = replace(program, axes=(replace(program.axes[0], size=4), program.axes[1]))
    assert Difference("axis dp", "2", "4") in diff(program, other).frame


@pytest.mark.parametrize(
    ("old", "new", "part", "what"),
    [
        ("relu %u", "tanh %u", "operations", "train_step F tanh"),
        ("input x: f32[b=16, d=4]", "input x: f32[b=16, d=4]\ninput z: f32[b=16, d=4]", "frame", "input z"),
        ("program", "program", "", ""),
    ],
)
def test_what_is_computed_differs(old: str, new: str, part: str, what: str) -> None:
    """An op, a literal or an input is no difference of order or names."""
    found = diff(parse_program(PIPELINE), parse_program(PIPELINE.replace(old, new)))
    assert bool(found) == bool(part)
    assert not part or what in [d.what for d in getattr(found, part)]


def test_initialisers_differ() -> None:
    after = PIPELINE.replace("w1: f32[d=4, f=4/tp] = normal(0.5)", "w1: f32[d=4, f=4/tp] = constant(3)")
    found = diff(parse_program(PIPELINE), parse_program(after)).frame
    assert found == (Difference("weight w1 at first", "normal(0.5)", "constant(3)"),)
