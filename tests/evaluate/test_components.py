"""Models that are called by models: what they are given, what they give, and what of them is let be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import parc
from compiler.evaluate import evaluate
from compiler.model import Job
from compiler.ops.create import Random
from compiler.ops.repeat import Repeat
from compiler.walk import walk
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.stacked import Emulator

LIBRARY = """\
use std.layers (dropout, linear, mlp)
use std.optimizers (sgd)

"""

NET = """\
model net(width, layers = 2) {
  dim b = 4, s = 6, d = 8
  input x : f32[b,s,d]
  input y : f32[b,s,d]
  dim k = width
  h = linear(x, over k)
  repeat layers as block {
    h = h + dropout(mlp(h, 2 * width), 0.1)
  }
  out = linear(h, over d)
  size = mean(h * h)
  output out, size
  metric largest = max(out)
  loss mean((out - y) * (out - y))
}

"""

WHOLE = """\
model whole {
  dim b = 4, s = 6, d = 8
  input x, y : f32[b,s,d]
  p, n = net(16, x = x) as teacher
  q, m = net(8, 3, x = x) as student
  loss mean((q - y) * (q - y)) + mean((p - q) * (p - q)) + 0.1 * m + 0.1 * n
}

"""

JOB = """\
job fit {
  train whole
  optimizer sgd(lr = 0.1)
  FROZEN
}
"""


def job(frozen: str = "frozen teacher", whole: str = WHOLE, net: str = NET) -> Job:
    return evaluate(Source("m.par", LIBRARY + net + whole + JOB.replace("FROZEN", frozen)))


def random(of: Job, scope: str) -> int:
    graph = of.model.graph
    return sum(isinstance(n.op, Random) and n.output.name.startswith(scope) for n, _ in walk(graph))


def test_a_call_is_what_a_function_would_be() -> None:
    """The same graph, but for names: nothing of the callee's loss, metrics or inputs is there."""
    function = NET.replace("model net(width, layers = 2) {", "fn net(width, layers = 2, x) {").replace(
        "  input x : f32[b,s,d]\n  input y : f32[b,s,d]\n", ""
    )
    function = function[: function.index("  output")] + "  return out, size\n}\n\n"
    called, inlined = (str(job("", net=net).model.graph) for net in (NET, function))
    assert called == inlined
    found = job("")
    assert [i.value.name for i in found.model.inputs] == ["x", "y"] and not found.model.metrics
    assert {w.name.partition(".")[0] for w in found.model.weights} == {"teacher", "student"}


def test_each_call_has_weights_and_loops_of_its_own() -> None:
    found = job()
    loops = {n.op.body.name: n.op.count for n in found.model.graph.nodes if isinstance(n.op, Repeat)}
    assert loops == {"teacher.block": 2, "student.block": 3}
    assert {w.name for w in found.model.weights if not w.trained} == {
        w.name for w in found.model.weights if w.name.startswith("teacher.")
    }
    same = WHOLE.replace("net(16, x = x)", "net(8, 3, x = x)")
    run = Emulator(parc.compile(Source("m.par", LIBRARY + NET + same + JOB.replace("FROZEN", ""))).program)
    weights = run.weights()
    assert not np.array_equal(weights["teacher.linear.w"], weights["student.linear.w"])
    other = Emulator(parc.compile(Source("m.par", LIBRARY + NET + WHOLE + JOB.replace("FROZEN", ""))).program)
    for name in ("student.linear.w", "student.block.mlp.w1"):  # they begin alike, whatever else there is
        assert np.array_equal(other.weights()[name], weights[name])


def test_what_is_frozen_as_a_whole_is_not_in_training() -> None:
    frozen, trained, part = job(), job(""), job("frozen teacher.linear")
    assert (random(frozen, "teacher"), random(frozen, "student")) == (0, 1)
    assert random(trained, "teacher") == random(part, "teacher") == 1
    assert frozen.evaluated is not None and random(frozen, "student") == 1
    plain = WHOLE.replace("  q, m = net(8, 3, x = x) as student\n", "  weight w[d]\n  q = x * w\n  m = mean(q)\n")
    alone = job(whole=plain)
    assert alone.evaluated is None  # nothing that is trained asks


def test_dims_in_another_order_are_transposed() -> None:
    turned = WHOLE.replace("p, n = net(16, x = x)", "z[d,s,b] = x + 0.0\n  p, n = net(16, x = z)")
    names = [n.op.mnemonic for n in job(whole=turned).model.graph.nodes]
    assert names.count("transpose") == [n.op.mnemonic for n in job().model.graph.nodes].count("transpose") + 2


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ("net(16, x = x)", "net(16)", "E0110", "`net` needs its input `x`"),
        ("net(16, x = x)", "net(16, x = x, z = y)", "E0109", "no input or parameter `z`"),
        ("net(16, x = x)", "net(16, 2, x)", "E0111", "one argument too many for the model `net`"),
        ("net(16, x = x)", "net(x = x)", "E0110", "the model `net` needs `width`"),
        ("net(16, x = x)", "net(x, x = x)", "E0210", ""),
        (
            "net(16, x = x)",
            "net(16, x = mean(x, over s))",
            "E0213",
            "given is f32[b=4, d=8]",
        ),
        ("net(16, x = x)", "net(16, x = rename(x, s -> t))", "E0213", "given is f32[b=4, t=6, d=8]"),
        ("net(16, x = x)", "net(16, x = cast(x, bf16))", "E0202", "given is bf16"),
        ("net(16, x = x)", "net(16, x = 3.0)", "E0210", ""),
        ("net(16, x = x)", "net(16, x = x, x = y)", "E0111", "`x` is given twice"),
        ("p, n = net(16, x = x)", "p = net(16, x = x)", "E0216", "1 names for 2 results"),
        ("net(16, x = x)", "nett(16, x = x)", "E0103", "there is no function `nett`"),
        ("net(16, x = x)", "whole()", "E0112", "recursion"),
    ],
)
def test_what_is_wrong_with_a_call(old: str, new: str, code: str, says: str) -> None:
    with pytest.raises(ParcError) as caught:
        job("", WHOLE.replace(old, new, 1))
    found = caught.value.diagnostics[0]
    assert found.code == code and says in found.message and found.span is not None, found


def test_an_input_by_position_says_how() -> None:
    with pytest.raises(ParcError) as caught:
        job("", WHOLE.replace("net(16, x = x)", "net(16, 2, x)", 1))
    assert caught.value.diagnostics[0].help == "its inputs are given by name: `net(x = …)`"


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ("  output out, size\n", "  output out, out\n", "E0102", "two results `out`"),
        ("  output out, size\n", "", "E0307", "`net` puts out nothing"),
        ("  out = linear(h, over d)\n", "  out = linear(h, over d) + y\n", "E0110", "`net` needs its input `y`"),
        ("  input y : f32[b,s,d]\n", "  input y : f32[b,s,e]\n", "E0209", "no dim `e`"),
        ("  repeat layers as block {\n", "  repeat layers as block {\n    input z : f32[b]\n", "E0302", "`repeat`"),
    ],
)
def test_what_is_wrong_with_a_model_that_is_called(old: str, new: str, code: str, says: str) -> None:
    assert old in NET
    with pytest.raises(ParcError) as caught:
        job("", net=NET.replace(old, new, 1))
    assert code in {d.code for d in caught.value.diagnostics}
    assert any(says in d.message for d in caught.value.diagnostics), caught.value


def test_inputs_that_a_test_leaves_out() -> None:
    chosen = NET.replace("  input y : f32[b,s,d]\n", "  if layers > 2 {\n    input y : f32[b,s,d]\n  }\n")
    chosen = chosen.replace("  out = linear(h, over d)\n", "  out = linear(h, over d)\n")
    job("", WHOLE.replace("net(8, 3, x = x)", "net(8, 3, x = x, y = y)"), chosen)
    with pytest.raises(ParcError, match="no input `y` with these arguments"):
        job("", WHOLE.replace("net(16, x = x)", "net(16, x = x, y = y)"), chosen)


def test_an_optimizer_calls_no_model() -> None:
    text = LIBRARY.replace("use std.optimizers (sgd)\n", "") + NET + WHOLE + JOB.replace("FROZEN", "")
    text += "\noptimizer sgd(lr) {\n  w = w - lr * net(3, x = g)\n}\n"
    with pytest.raises(ParcError, match="E0114"):
        evaluate(Source("m.par", text))


def test_a_model_is_called_in_loops_by_functions_and_from_other_files(tmp_path: Path) -> None:
    """In a loop each iteration has weights of its own; a file's parameters are its own."""
    net = "param scale = 2\n\nmodel net {\n  dim b = 4, d = 8\n  input x : f32[b,d]\n  weight w[d] ~ ones\n"
    net += "  y = scale * x * w\n  output y\n  loss mean(y)\n}\n"
    (tmp_path / "net.par").write_text(net)
    (tmp_path / "job.par").write_text("""\
use "net.par" (net)
use std.optimizers (sgd)

param scale = 3

fn twice(x) {
  return net(x = net(x = x) as first) as second
}

model whole {
  dim b = 4, d = 8
  input x : f32[b,d]
  repeat 3 as block {
    x = twice(x) + net(x = x)
  }
  loss scale * mean(x)
}

job fit {
  train whole
  optimizer sgd(lr = 0.0)
}
""")
    job = evaluate(tmp_path / "job.par")
    assert {w.name: w.loops for w in job.model.weights} == {
        "block.twice.first.w": ("block",), "block.twice.second.w": ("block",), "block.net.w": ("block",),
    }  # fmt: skip
    run = Emulator(parc.compile(tmp_path / "job.par").program)
    x = np.arange(32.0, dtype=np.float32).reshape(4, 8)
    assert float(run.step({"x": x}).loss) == pytest.approx(3 * 6**3 * x.mean())
    assert parc.verify(tmp_path / "job.par", 1).ok
