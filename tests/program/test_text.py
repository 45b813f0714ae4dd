"""Program text: what is printed is read again as the same program; whatever is read gives a program or coded errors."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.layout import TIME, Layout
from compiler.ops.create import Full
from compiler.program import Affine, Axis, DeviceClass, Entry, For, Function, FunctionPhase, Program, Run, Update
from compiler.text import Site, parse_located, parse_program, show, show_instr, show_schedule, show_var
from dsl.diagnostics import ParcError
from dsl.limits import MAX_LOWERED
from tests.program.generate import programs
from tests.program.samples import LAYERS, PIPELINE


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(programs())
def test_round_trip(program: Program) -> None:
    text = show(program)
    again = parse_program(text)
    assert again == program
    assert show(again) == text


def identical(a: float, b: float) -> bool:
    return repr(a) == repr(b)


@given(st.floats())
@example(-0.0)
@example(float("inf"))
@example(float("nan"))
@example(5e-324)
def test_floats_to_the_last_bit(value: float) -> None:
    """Equality forgives -0.0 and nan does not even equal itself: compare what is written."""
    instr = Node(Full(value, "f64", ()), (), (Value("x", Type("f64"), layout=Layout(())),))
    cls = DeviceClass((0,), (), (), (Function(FunctionPhase.FORWARD, 0, Graph("", (), (instr,), ())),), ())
    program = Program("p", (), (), (Entry("train_step", (cls,)),))
    op = parse_program(show(program)).classes[0].functions[0].body.nodes[0].op
    assert isinstance(op, Full)
    assert identical(op.value, value)


@pytest.mark.parametrize("text", [PIPELINE, LAYERS])
def test_samples_are_printed_as_they_are_written(text: str) -> None:
    assert show(parse_program(text)) == text


def test_types_show_local_sizes() -> None:
    sizes = {TIME: 2, "dp": 4, "tp": 4}
    t = Type("f32", (Dim("b", 32), Dim("v", 50)))
    layout = Layout(((TIME, "dp"), ("tp",)), (("cp", "sum"),), ((0, 1, 2),))
    assert (
        show_var(Value("x", t, layout=layout), sizes) == "%x: f32[b=7/mb/dp halo(1, 2), v=13/tp of 50] pending(cp sum)"
    )
    assert show_instr(Node(Full(0.5, "f32", t.dims), (), (Value("x", t, layout=Layout(((), ()))),)), {}) == (
        "%x: f32[b=32, v=50] = full 0.5"
    )


def test_schedules_read_as_formulas() -> None:
    schedule = (
        Run(FunctionPhase.FORWARD, 0, Affine(0), Affine(3, -1)),
        For(Affine(5, 1), 4, ((FunctionPhase.FORWARD, 1, Affine(3, -2)), (FunctionPhase.BACKWARD, -1, Affine(0, -1)))),
        Run(FunctionPhase.BACKWARD, 0, Affine(2, 1), Affine(3, 1)),
        Update(),
    )
    assert show_schedule(schedule).splitlines() == [
        "F[0..3 - g]",
        "for i in 0..5 + g { F.1[4*i + 3 - 2*g] B.*[4*i - g] }",
        "B[2 + g]",
        "U",
    ]


@pytest.mark.parametrize(
    ("axes", "groups", "devices"),
    [
        ([("pp", 16, "place"), ("dp", 16, "mesh"), ("tp", 8, "mesh")], range(1, 15), "128..1919"),
        ([(TIME, 8, "time"), ("dp", 2, "mesh")], [0], "0..1"),
        ([("dp", 64, "mesh"), ("pp", 2, "place"), ("tp", 4, "mesh")], [0], "0..3 + 8*(0..63)"),
        ([("dp", 2, "mesh"), ("pp", 2, "place"), ("tp", 4, "mesh")], [0, 1], "0..7 + 8*(0..1)"),
        ([("dp", 3, "mesh"), ("pp", 2, "place")], [1], "1 + 2*(0..2)"),
        ([("a", 2, "mesh"), ("pp", 2, "place"), ("b", 2, "mesh"), ("qq", 2, "place")], [1], "1 + 8*(0..1) + 2*(0..1)"),
        ([], [0], "0"),
    ],
)
def test_devices(axes: list[tuple[str, int, str]], groups: list[int], devices: str) -> None:
    cls = DeviceClass(tuple(groups), (), (), (), ())
    text = show(Program("p", tuple(Axis(*a) for a in axes), (), (Entry("train_step", (cls,)),)))
    assert f": devices {devices} {{" in text
    assert parse_program(text).classes[0] == cls


ERRORS = [
    ("E0601", "program two_stages", "programme two_stages"),
    ("E0601", "= relu %u", "= relu u"),
    ("E0601", "%h: f32[b=2/mb/dp, f=4/tp] = relu", "%h: f33[b=2/mb/dp, f=4/tp] = relu"),
    ("E0601", "weight w1", "weigth w1"),
    ("E0601", "for i in 0..3", "for i in 1..3"),
    ("E0601", "fn B {", "fn G {"),
    ("E0601", "fn B {", "fn B.x {"),
    ("E0601", "{ F[i + 1] B[i] }", "{ F[i + 1] B[2*i] }"),
    ("E0601", "fn B", "fn B.x"),
    ("E0601", "send %y as y to 1\n", "send %y as y to\n"),
    ("E0602", "= relu %u", "= relu %u ; twice"),
    ("E0602", "input x:", 'input "x:'),
    ("E0602", "input x:", 'input "\\x":'),
    ("E0603", "= relu %u", "= rleu %u"),
    ("E0604", "reduce %o sum over b", "reduce %o sum over 3"),
    ("E0604", "full 0.0625", "full true"),
    ("E0604", "send %y as y to 1", "send %y as y to 1.5"),
    ("E0605", "f=4/tp] = read w1", "f=4/pt] = read w1"),
    ("E0605", "input x: f32[b=16, d=4]", "input x: f32[b=16/tp, d=4]"),
    ("E0605", "f=4/tp] = read w1", "f=4/tp of 9] = read w1"),
    ("E0605", "dp=2, tp=2", "dp=2, dp=2"),
    ("E0605", "f=4/tp] = read w1", "f=1/tp halo(1, 1)] = read w1"),
    ("E0606", "devices 4..7", "devices 4..8"),
    ("E0606", "stage 1:", "stage 2:"),
    ("E0606", "stage 1:", "stage 1..0:"),
    ("E0608", "stages 2", "stages 99999999999999999999"),
    ("E0608", "dp=2, tp=2", "dp=99999, tp=99999"),
    ("E0608", "dp=2, tp=2", ", ".join(f"a{i}=1" for i in range(65))),
    ("E0608", "input x:", f"input {'x' * 40_000}:"),
    ("E0608", "among (0, 1)", "among (0..9999999)"),
    ("E0608", "input x:", f"seed {'9' * 101}\ninput x:"),
    ("E0673", "input x:", 'input "x\\u0000":'),
    ("E0673", "= relu %u", '= relu %"\\u202eu"'),
    ("E0673", "sum over b", 'sum over "b\\ud800"'),
    ("E0608", "reduce %o sum over b", f"reduce %o sum over {'(' * 100}b"),
]


@pytest.mark.parametrize(("code", "old", "new"), ERRORS)
def test_errors_point_at_the_text(code: str, old: str, new: str) -> None:
    assert old in PIPELINE
    text = PIPELINE.replace(old, new, 1)
    with pytest.raises(ParcError) as caught:
        parse_program(text, "p.npu")
    d = caught.value.diagnostics[0]
    assert d.code == code, str(d)
    assert d.span is not None and d.span.source == "p.npu"
    at = text.index(new)
    assert at - 40 <= d.span.start <= at + len(new) + 3


def test_several_errors_at_once() -> None:
    text = PIPELINE.replace("= relu %u", "= rleu %u").replace("weight w3", "wieght w3")
    with pytest.raises(ParcError) as caught:
        parse_program(text)
    assert [d.code for d in caught.value.diagnostics] == ["E0603", "E0603", "E0601"]
    assert caught.value.diagnostics[0].help == "did you mean `relu`?"
    assert caught.value.diagnostics[2].help == "did you mean `weight`?"


def test_locations() -> None:
    program, where = parse_located(LAYERS, "l.npu")
    loop = next(i for i, n in enumerate(program.classes[0].functions[0].body.nodes) if n.op.mnemonic == "repeat")
    span = where.find(Site(0, "fn", 0, (loop, 1, 0)))
    assert span is not None
    assert LAYERS[span.start : span.end] == "%e.next: f32[b=2/dp, s=3/tp, k=2] = tanh %e"
    span = where.find(Site(0, "state", 1))
    assert span is not None
    assert LAYERS[span.start : span.end].strip() == "loss loss: f32[]"


def test_comments_and_space_do_not_count() -> None:
    lines = ["# a comment", "", *(f"  {line}   # so" for line in PIPELINE.splitlines()), "", ""]
    assert parse_program("\r\n".join(lines)) == parse_program(PIPELINE)


def survives(text: str) -> None:
    try:
        parse_program(text)
    except ParcError as error:
        assert all(d.code.startswith("E06") for d in error.diagnostics)


@settings(max_examples=200)
@given(st.text(max_size=200) | st.text(alphabet='program F[]{}()%:=/.,0129\n"#-*', max_size=200))
def test_any_text(text: str) -> None:
    survives(text)
    survives("program x\nmesh (a=2)\n" + text)


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.sampled_from([PIPELINE, LAYERS]))
def test_damaged_programs(seed: int, text: str) -> None:
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        i, j = sorted((rng.randrange(len(text)), rng.randrange(len(text))))
        j = min(j, i + rng.choice([1, 2, 10, 100]))
        piece = rng.choice(
            ["", text[j : j + 20], rng.choice(["{", "}", "(", "999999999999", '"', "\n", "g", "-", "repeat"])]
        )
        text = text[:i] + piece + text[j:]
    survives(text)


def test_hostile_texts_end_soon() -> None:
    start = time.process_time()
    deep = "%x: f32[] = repeat b 1 (\n) {\n" * 3000
    open_class = "program x\nmesh (pp=2 place)\nstage 0: devices 0 {\n fn F {\n"
    survives(open_class + deep)
    survives(open_class + "%x: f32[] = reduce " * 20_000)
    survives("(" * 200_000)
    survives("program x\nmesh (a=1000000000 place)\nstage 0..999999999: devices 0 {\n")
    survives("program x\nmesh (" + ", ".join(f"a{i}=1" for i in range(10_000)) + ")\n")
    survives("x" * (MAX_LOWERED + 1))
    survives('"' + "\\" * 100_000)
    assert time.process_time() - start < 5
