"""What errors propose works: the program with the mend that the help states is a program."""

from __future__ import annotations

import re

import pytest

from compiler.driver import compile_job
from compiler.evaluate import check_file, evaluate
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source
from parc import check
from tests.evaluate.programs import JOB

_JOB = JOB.replace("PRECISION", "f32")
_HEAD = "use std.optimizers (sgd)\n"
_PIECES = "fn pieces(x[b,y]) {\n  dim yo = y // 2, k = 2\n  return split(x, y -> (yo, k))\n}\n"


def _findings(body: str, functions: str = "", job: str = _JOB) -> tuple[Diagnostic, ...]:
    text = f"{_HEAD}{functions}model m() {{\n  dim b = 4, y = 8\n  input x : f32[b,y]\n  weight w[y]\n{body}}}\n{job}"
    return check_file(Source("main.par", text))


@pytest.mark.parametrize(
    ("before", "use"),
    [
        ("  z = pieces(x * w)\n", "  loss sum(merge(z, (yo, k) -> n))\n"),
        ("  z = pieces(x * w)\n", "  loss sum(sum(z, over yo))\n"),
        ("", "  z[b, yo, k] = pieces(x * w)\n  loss sum(z)\n"),
    ],
)
def test_dims_that_a_function_made_are_declared_to_be_spoken_of(before: str, use: str) -> None:
    found = [d for d in _findings(before + use, _PIECES) if "`yo`" in d.message]
    assert [d.code for d in found] == ["E0209"]
    mend = "declare it, `dim yo = 4`"
    assert (found[0].help or "").startswith("`z` has it from a function") and (found[0].help or "").endswith(mend)
    assert not _findings(before + "  dim yo = 4, k = 2\n" + use, _PIECES)


def test_dims_of_a_bare_parameter_are_made_known_by_its_pattern() -> None:
    function = "fn total(x) {\n  return sum(x, over (b, y))\n}\n"
    (found, *_) = _findings("  loss total(x * w)\n", function)
    assert found.code == "E0209" and "a parameter `x[b, y]` makes its dims known" in (found.help or "")
    assert not _findings("  loss total(x * w)\n", function.replace("total(x)", "total(x[b, y])"))


@pytest.mark.parametrize(
    ("word", "ours"),
    [("float32", "f32"), ("float", "f32"), ("fp32", "f32"), ("double", "f64"), ("half", "f16"), ("bfloat16", "bf16")]
    + [("Float16", "f16"), ("int64", "int32"), ("i32", "int32"), ("uint8", "uint32"), ("boolean", "bool")],
)
def test_data_types_of_other_systems_have_a_name_here(word: str, ours: str) -> None:
    body = "  loss sum(x * w)\n"
    found = _findings(f"  input more : {word}[b]\n" + body)
    found += _findings(f"  more = zeros(b, dtype = {word})\n" + body)
    device = f"device d {{\n  compute {word} 1 TFLOP/s\n  memory 1 GB, 1 GB/s\n}}\n"
    cluster = "cluster pod {\n  device one = d\n  level all = 1 one over 1 GB/s, 1 us\n}\n"
    found += _findings(body, device + cluster, _JOB.replace("m()", "m() on pod"))
    if ours.startswith(("f", "bf")):
        found += _findings(body, job=JOB.replace("PRECISION", word))
    assert len(found) == 3 + ours.startswith(("f", "bf"))
    assert {(d.code, d.help) for d in found} == {("E0207", f"did you mean `{ours}`?")}


def test_numbers_and_what_they_count_agree() -> None:
    loop = "  repeat 1 as block {\n    x = x * 2.0\n  }\n  loss sum(x * w)\n"
    strategy = "strategy s for m {\n  mesh (pp = 2)\n  pipeline block on pp\n}\n"
    (found,) = _findings(loop, job=strategy + _JOB)
    assert found.message == "`block` has 1 iteration, too few for 2 stages"
    assert found.help == "axis `pp` can have at most 1 device"


@pytest.mark.parametrize("rules", [("split b on dp",), ("split y, b on dp",), ("split y on dp",)])
@pytest.mark.parametrize("later", [True, False])
def test_the_legal_numbers_of_micro_batches_are_those_that_work(rules: tuple[str, ...], later: bool) -> None:
    """Of what other axes leave of the dim, wherever the strategy says it."""

    def findings(count: int, pad: str = "") -> tuple[Diagnostic, ...]:
        cut = f"microbatches {count} over b{pad}"
        lines = (*rules, cut) if later else (cut, *rules)
        strategy = "strategy s for m {\n  mesh (dp = 2)\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
        job = strategy + _JOB.replace("m()", "m() using s")
        body = "  dim b = 8, y = 4\n  input x : f32[b,y]\n  weight w[y]\n  loss sum(x * w)\n"
        text = f"{_HEAD}model m() {{\n{body}}}\n{job}"
        try:
            check(Source("main.par", text))
        except ParcError as error:
            return error.diagnostics
        return ()

    (found,) = findings(3)
    assert found.code == "E0411"
    taken = " b " in rules[0]
    smaller = "legal are 1, 2, 4, 8; or let the last be smaller, with `pad`"
    assert found.help == ("legal are 1, 2, 4: `dp` splits it in 2 already" if taken else smaller)
    assert bool(findings(3, " pad")) == taken  # 3, 3 and 2
    assert not findings(4)
    assert bool([d for d in findings(8) if d.code == "E0540"]) == taken


@pytest.mark.parametrize(
    "begin, added, precision, line",
    [
        ("0.0", "balance", "bf16, master f32", "total = zeros(dtype = master)"),
        ("0", "cast(balance, compute)", "bf16, master f32", "total = zeros()"),
        ("1.5", "balance", "bf16, master f32", "total = full(1.5, dtype = master)"),
        ("0.0", "cast(h, compute)", "bf16, master f32", "total = zeros(b, d)"),
        ("0.0", "balance", "f32", "total = zeros(dtype = master)"),
        ("0", "1", "bf16, master f32", "total = zeros(dtype = master)"),
        ("2", "0.5", "bf16, master f32", "total = full(2, dtype = master)"),
    ],
)
def test_a_number_that_a_loop_changes_begins_as_the_tensor_that_it_becomes(
    begin: str, added: str, precision: str, line: str
) -> None:
    """The line that the help of E0309 states is all that there is to mend: a loss that every layer adds to."""
    text = f"""use std.optimizers (sgd)
model m() {{
  dim b = 4, d = 8
  input x : compute[b,d]
  h = x
  total = {begin}
  repeat 2 as block {{
    weight w[d]
    h = h * w
    balance = mean(cast(h, master))
    total = total + {added}
  }}
  loss mean(cast(h, master)) + mean(cast(total, master))
}}
{JOB.replace("PRECISION", precision)}"""
    (found,) = check_file(Source("main.par", text))
    assert found.code == "E0309" and (found.help or "").endswith(f"before the loop, write `{line}`")
    assert not check_file(Source("main.par", text.replace(f"total = {begin}", line)))


@pytest.mark.parametrize(
    ("begin", "line"),
    [
        ("zeros()", "total = zeros(dtype = master)"),
        ("full(1.5)", "total = cast(total, master)"),
        ("mean(x)", "total = cast(total, master)"),
    ],
)
def test_a_sum_that_begins_too_narrow_begins_wider(begin: str, line: str) -> None:
    """Not the loss is to be rounded (`cast(balance, compute)`)."""
    text = f"""use std.optimizers (sgd)
model m() {{
  dim b = 4, d = 8
  input x : compute[b,d]
  h = x
  total = {begin}
  repeat 2 as block {{
    weight w[d]
    h = h * w
    total = total + mean(cast(h, master))
  }}
  loss mean(cast(h, master)) + total
}}
{JOB.replace("PRECISION", "bf16, master f32")}"""
    (found,) = check_file(Source("main.par", text))
    assert found.code == "E0202" and (found.help or "").endswith(f"before the loop, write `{line}`")
    assert not check_file(Source("main.par", text.replace("  repeat", f"  {line}\n  repeat")))
    again = text.replace("mean(cast(h, master))\n  }", "cast(mean(h), compute)\n  }")
    (found,) = check_file(Source("main.par", again))  # the loss itself is of two types
    assert found.code == "E0202" and "`cast(x, master)`" in (found.help or "")
    assert not check_file(Source("main.par", again.replace(") + total", ") + cast(total, master)")))


@pytest.mark.parametrize(
    ("begin", "line"),
    [("true", "ones(dtype = bool)"), ("false", "zeros(dtype = bool)"), ("true", "ones(b, dtype = bool)")],
)
def test_a_boolean_that_a_loop_changes(begin: str, line: str) -> None:
    over = "mean(h, over d)" if "(b" in line else "mean(h)"
    text = f"""use std.optimizers (sgd)
model m() {{
  dim b = 4, d = 8
  input x : f32[b,d]
  h = x
  fine = {begin}
  repeat 2 as block {{
    weight w[d]
    h = h * w
    fine = fine {"and" if begin == "true" else "or"} {over} > 0.0
  }}
  loss mean(h) + mean(cast(fine, f32))
}}
{JOB.replace("PRECISION", "f32")}"""
    (found,) = check_file(Source("main.par", text))
    assert found.code == "E0309" and (found.help or "").endswith(f"before the loop, write `fine = {line}`")
    assert not check_file(Source("main.par", text.replace(f"fine = {begin}", f"fine = {line}")))


@pytest.mark.parametrize(
    ("pp", "chunks", "micro", "dp"), [(2, 2, 3, 1), (2, 2, 5, 1), (4, 2, 2, 1), (2, 4, 3, 2), (2, 2, 1, 4)]
)
def test_what_is_proposed_for_interleaving_works(pp: int, chunks: int, micro: int, dp: int) -> None:
    """Any number of micro-batches; of devices, of chunks, and the other schedule: each of them is accepted."""

    def findings(schedule: str, pp: int, layers: int = 8) -> tuple[Diagnostic, ...]:
        rules = f"split b on dp\n  pipeline stack.block on pp, schedule {schedule}"
        strategy = f"strategy s for m {{\n  mesh (pp = {pp}, dp = {dp})\n  {rules}\n}}\n"
        body = (
            "fn run(x[b,y]) {\n  z = x\n"
            f"  repeat {layers} as block {{\n    weight w[y]\n    z = tanh(z * w)\n  }}\n  return z\n}}\n"
            "model m() {\n  dim b = 120, y = 4\n  input x : f32[b,y]\n  loss mean(run(x) as stack)\n}\n"
        )
        try:
            compile_job(evaluate(Source("main.par", f"{_HEAD}{body}{strategy}{_JOB.replace('m()', 'm() using s')}")))
        except ParcError as error:
            return error.diagnostics
        return ()

    assert not findings(f"interleaved(microbatches = {micro}, chunks = {chunks})", pp)

    layers = pp * chunks - 1
    for number in (pp, micro):  # whether the stages divide it, or not
        (found,) = findings(f"interleaved(microbatches = {number}, chunks = {chunks})", pp, layers)
        assert found.code == "E0408" and found.help is not None
        devices = re.findall(r"at most ([0-9]+) device", found.help)
        fewer = re.findall(r"`chunks` can be at most ([0-9]+)", found.help)
        others = re.findall(r"`(one_f_one_b)`", found.help)
        assert devices or fewer or others
        for few in devices:
            assert not findings(f"interleaved(microbatches = {number}, chunks = {chunks})", int(few), layers)
        for few in fewer:
            assert not findings(f"interleaved(microbatches = {number}, chunks = {few})", pp, layers)
        for other in others:
            assert not findings(f"{other}(microbatches = {number})", pp, layers)
