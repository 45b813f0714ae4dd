"""Programs from others: what executors take for granted, the verifier holds. Each case is a legal program but for one
line, of a kind that once ended a run with an error of ours after `check` had found nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.text import parse_located, parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from runtime import available
from tests.program.samples import PIPELINE

FIT = """\
program fit
mesh (mb=2 time, dp=2)
input x: f32[b=8, d=4]

stage 0: devices 0..1 {
  weight w: f32[d=4] = normal(0.1)
  counter step: int32[] = zeros
  gradient w.grad: f32[d=4] pending(dp sum) of w
  loss loss: f32[]
  metric far: f32[]
  saved x: f32[b=2/mb/dp, d=4]
  fn F {
    %x: f32[b=2/mb/dp, d=4] = input x
    %w: f32[d=4] = read w
    %y: f32[b=2/mb/dp] = contract %x, %w
    %sum: f32[] pending(mb sum, dp sum) = reduce %y sum over b
    %loss: f32[] pending(mb sum) = all_reduce %sum sum over dp
    accumulate %loss into loss
    accumulate %loss into far
    save %x as x
  }
  fn B {
    %x: f32[b=2/mb/dp, d=4] = load x last
    %dy: f32[b=2/mb/dp] = full 1.0
    %dw: f32[d=4] pending(mb sum, dp sum) = contract %x, %dy
    accumulate %dw into w.grad
  }
  fn U {
    %w: f32[d=4] = read w
    %g: f32[d=4] pending(dp sum) = read w.grad
    %step: int32[] = read step
    %g.sum: f32[d=4] = all_reduce %g sum over dp
    %change: f32[d=4] = mul 0.1, %g.sum
    %w.new: f32[d=4] = sub %w, %change
    %step.next: int32[] = add %step, 1
    write %w.new to w
    write %step.next to step
  }
  schedule {
    for i in 0..2 { F[i] B[i] }
    U
  }
}
"""


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


def found(text: str) -> list[str]:
    """Codes of what the verifier finds; each has a place in the text."""
    try:
        program, where = parse_located(text)
    except ParcError as error:
        return [d.code for d in error.diagnostics]
    wrong = verify(program, where)
    assert all(d.span is not None for d in wrong if d.code != "E0650")
    return [d.code for d in wrong]


INPUT, WEIGHT, COUNTER = "input x: f32[b=8, d=4]", "= normal(0.1)", "int32[] = zeros"
DIMS = ", ".join(f"d{i}=1" for i in range(65))
Wrong = tuple[str, str, str]
"""A code, and what is edited in a program that is fine to get it."""


def beside(code: str, type: str) -> Wrong:
    """One more input, of this type."""
    return code, INPUT, f"{INPUT}\ninput y: {type}"


def called(name: str) -> Wrong:
    """A program of this name, as it is escaped in text."""
    return "E0673", "program fit", f'program "{name}"'


REFUSED: dict[str, Wrong] = {
    # what a buffer begins with
    "no initialiser": ("E0670", WEIGHT, ""),
    "unknown initialiser": ("E0670", WEIGHT, "= foo(3)"),
    "too few numbers": ("E0670", WEIGHT, "= uniform(1.0)"),
    "too many numbers": ("E0670", WEIGHT, "= zeros(1.0)"),
    "no number": ("E0670", WEIGHT, "= constant"),
    "no finite number": ("E0670", WEIGHT, "= constant(nan)"),
    "infinite bounds": ("E0670", WEIGHT, "= uniform(0.0, inf)"),
    "negative deviation": ("E0670", WEIGHT, "= normal(-0.1)"),
    "bounds in disorder": ("E0670", WEIGHT, "= uniform(2.0, 1.0)"),
    "integers drawn": ("E0670", COUNTER, "int32[] = normal(0.1)"),
    "integers cut off": ("E0670", COUNTER, "int32[] = constant(0.5)"),
    "integers beyond their type": ("E0670", COUNTER, "int32[] = constant(3000000000)"),
    "begins a step with something": ("E0670", "loss loss: f32[]", "loss loss: f32[] = zeros"),
    # ranges of data
    "range of floats": ("E0671", INPUT, INPUT + " in 5..6"),
    "nothing below zero": beside("E0671", "int32[b=8] in ..-3"),
    "empty": beside("E0671", "int32[b=8] in 3..3"),
    "beyond the type": beside("E0671", "int32[b=8] in 0..3000000000"),
    "below the type": beside("E0671", "uint32[b=8] in -5..3"),
    "made up beyond the type": beside("E0671", "int32[b=8] in 2147483647.."),
    "range of bools": beside("E0671", "bool[b=8] in 0..2"),
    # sizes of what nothing else looks at
    "dims of an input": beside("E0908", f"int32[{DIMS}]"),
    "dims of a buffer": ("E0908", "metric far: f32[]", f"metric far: f32[{DIMS}]"),
    "huge dim": beside("E0908", "int32[b=999999999999999999]"),
    "huge tensor": beside("E0908", "int32[b=1099511627776, q=1099511627776]"),
    "a dim twice": beside("E0612", "int32[b=8, b=8]"),
    "an empty dim": beside("E0612", "int32[b=0]"),
    # results
    "loss of several numbers": ("E0674", "loss loss: f32[]", "loss loss: f32[b=2]"),
    "metric of several numbers": ("E0674", "metric far: f32[]", "metric far: f32[b=2]"),
    "two losses": ("E0674", "metric far: f32[]", "loss far: f32[]"),
    # the number of the step
    "step of floats": ("E0620", "= full 1.0\n", "= full 1.0\n    %n: int32[] = input w\n"),
    # literals
    "literal beyond its type": ("E0612", "add %step, 1\n", "add %step, 999999999999\n"),
    "infinite integer": ("E0612", "add %step, 1\n", "add %step, inf\n"),
    "integer that is none": ("E0612", "add %step, 1\n", "add %step, nan\n"),
    "literal beyond floats": ("E0612", "= mul 0.1, %g.sum", "= mul 1e39, %g.sum"),
    "filled beyond the type": ("E0612", "= full 1.0\n", "= full 1e39\n"),
    # names
    "NUL": called("a\\u0000b"),
    "escape sequences": called("x\\u001b]0;owned\\u0007\\nequal"),
    "half of a pair": called("a\\ud800b"),
    "right to left": called("\\u202eb"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case: Wrong) -> None:
    code, old, new = case
    assert found(edited(FIT, old, new))[:1] == [code]


UNEVEN = """\
program uneven
mesh (mb=2 time, dp=2)
input x: int32[b=2, d=3]

stage 0: devices 0..1 {
  metric most: int32[]
  fn F {
    %x: int32[b=1/mb, d=2/dp of 3] = input x
    %masked: int32[b=1/mb, d=2/dp of 3] = mask_pad %x d with 0
    %sum: int32[] pending(mb sum, dp sum) = reduce %masked sum over (b, d)
    %all: int32[] pending(mb sum) = all_reduce %sum sum over dp
    accumulate %all into most
  }
  schedule {
    F[0..2]
  }
}
"""


@pytest.mark.parametrize("fill", ["-inf", "nan", "0.5", "3000000000", "true"])
def test_fills_are_of_the_type(fill: str) -> None:
    assert found(UNEVEN) == []
    assert found(edited(UNEVEN, "with 0", f"with {fill}"))[:1] in (["E0612"], ["E0604"])


W3 = "weight w3: f32[d=4] = ones"
TWICE = "weight w3: f32[d=4] = ones\n  weight w: f32[f=4/tp, d=4] = "

ALIKE = {
    "other initialiser": "normal(0.1) of w2 frozen",
    "other type": "normal(0.5) of w1 frozen",
    "renewed on one stage only": "normal(0.5) of w2 frozen",
}


@pytest.mark.parametrize("declared", ALIKE.values(), ids=ALIKE)
def test_copies_on_several_stages_begin_alike(declared: str) -> None:
    assert found(edited(PIPELINE, W3, TWICE + declared)) == ["E0674"]


def test_legal() -> None:
    assert found(FIT) == []
    assert found(PIPELINE) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        beside("", "int32[b=8] in 2..5")[1:],
        beside("", "uint32[b=8] in 4294967290..4294967296")[1:],
        beside("", "int32[b=8] in -4..")[1:],
        (COUNTER, "int32[] = constant(3)"),
        (WEIGHT, "= uniform(-1, 1)"),
        (WEIGHT, "= constant(0.5)"),
        ("program fit\nmesh (mb=2 time, dp=2)", "program fit\nmesh (mb=2 time, dp=2)\nseed 18446744073709551615"),
        ("program fit", 'program "naïve job: 2"'),
    ],
)
def test_runs(old: str, new: str) -> None:
    text = edited(FIT, old, new)
    assert found(text) == []
    assert len(api.run(Source("fit.npu", text), 2).losses) == 2


WINDOWS = """\
program windows
mesh (mb=2 time, dp=2)
input x: f32[b=8, d=4]

stage 0: devices 0..1 {
  metric far: f32[]
  fn F {
    %x: f32[b=2/mb/dp, d=4] = input x
    %w: f32[b=2/mb/dp, o=5, k=2] = window %x dim d out o=5 kernel k=2 stride 1 pad 3 fill 0.0 dilation 5
    %sum: f32[] pending(mb sum, dp sum) = reduce %w sum over (b, o, k)
    %all: f32[] pending(mb sum) = all_reduce %sum sum over dp
    accumulate %all into far
  }
  schedule {
    F[0..2]
  }
}
"""


def test_windows_reach_beyond_the_ends_by_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(WINDOWS) == []
    assert api.run(Source("p.npu", WINDOWS), 1).steps == 1
    far = edited(WINDOWS, "pad 3 fill 0.0 dilation 5", "pad 500000000 fill 0.0 dilation 1000000000")
    far = far.replace("o=5", "o=4")
    assert found(far) == []
    monkeypatch.setattr(available, "available", lambda: available.Limit(2**30, "test"))
    with pytest.raises(ParcError, match="E0910"):
        api.run(Source("p.npu", far), 1)


def test_regions_name_nodes_in_order() -> None:
    text = edited(FIT, "    save %x as x\n", "    save %x as x\n    region loss over (b): %sum..%y\n")
    assert found(text) == ["E0605"]
    assert found(text.replace("%sum..%y", "%y..%sum")) == []
    assert found(text.replace("over (b): %sum..%y", "kept nan: %y..%sum")) == ["E0605"]


SEEDED = """\
use std.optimizers (sgd)
model m {
  dim b = 4, d = 4
  input x : f32[b,d]
  weight w[d]
  loss mean(x * w * 2 ** 60 * 9876543210987654321)
}
job fit {
  train m
  optimizer sgd(lr = 0.1)
  seed 9223372036854775807
}
"""


def test_numbers_of_many_digits_are_read_back(tmp_path: Path) -> None:
    """Of what `compile` writes, at any stage."""
    job = tmp_path / "job.par"
    job.write_text(SEEDED)
    program = api.compile(job).program
    for stage in ("graph", "training", "placed", "program"):
        path = tmp_path / f"job.{'npu' if stage == 'program' else stage}"
        path.write_text(api.emit(job, stage, folder=str(tmp_path)))
        assert "9223372036854775807" in path.read_text()
        assert parse_program(api.emit(path)) == parse_program(show(program))


def test_large_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "fit.npu"
    path.write_text("# what a long program would be\n" * (5 * 2**20 // 31) + FIT)
    assert api.load_program(path) == parse_program(FIT)
    assert api.diff_text(api.load_program(path), parse_program(FIT)) == ""


def test_sizes_are_told_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` takes any number of devices and micro-batches, `run` says by numbers that there are too many."""
    micro = FIT.replace("mb=2", "mb=999999999").replace("b=8", "b=3999999996").replace("0..2 {", "0..999999999 {")
    devices = FIT.replace("dp=2", "dp=100000000").replace("b=8", "b=400000000").replace("0..1 {", "0..99999999 {")
    assert found(micro) == found(devices) == []
    monkeypatch.setattr(available, "available", lambda: available.Limit(2**30, "test"))
    for text, code in ((micro, "E0931"), (devices, "E0910")):
        with pytest.raises(ParcError, match=code) as raised:
            api.run(Source("p.npu", text), 1)
    help = raised.value.diagnostics[0].help
    assert help is not None and "`parc verify --small` takes the `.par` file" in help
