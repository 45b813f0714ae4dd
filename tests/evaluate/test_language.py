"""What programs mean. The docstring of a test is the program."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import Dim, Type
from compiler.model import Init, Job
from compiler.ops.repeat import Repeat
from tests.evaluate.programs import evaluation, job, model, ops, program, random_arrays, reduced, values


@program
def test_paths_of_calls_labels_and_reassignment(job: Job) -> None:
    """
    fn inner(x[b]) {
      weight w[b]
      y = x * w
      return y + 1.0
    }
    fn outer(x[b]) {
      return inner(x) + inner(x) + inner(x) as last
    }
    model m() {
      dim b = 4
      input x : f32[b]
      x = outer(x)
      x = x * 2.0
      loss sum(x)
    }
    """
    assert [w.name for w in job.model.weights] == ["outer.inner.w", "outer.inner_1.w", "outer.last.w"]
    names = [n.output.name for n in job.model.graph]
    assert names[:2] == ["outer.inner.y", "outer.inner.out"]
    assert names[-4:] == ["outer.last.out", "outer.out", "x_1", "loss"]


@program
def test_the_dim_of_a_loop_is_given_once_in_a_model_and_its_path_hangs_on_nothing_else(job: Job) -> None:
    """
    fn tower(x[b, d]) {
      repeat 2 as layers {
        weight w[d]
        x = x * w
      }
      return x
    }
    model m() {
      dim b = 4, d = 4
      input x : f32[b, d]
      y = tower(x) as left
      z = tower(x) as right
      loss sum(y * z)
    }
    """
    assert [w.name for w in job.model.weights] == ["left.layers.w", "right.layers.w"]
    assert [w.value.type.names for w in job.model.weights] == [("layers", "d"), ("layers_1", "d")]


@program
def test_at_sums_what_the_left_side_has_not(job: Job) -> None:
    """
    model m() {
      dim b = 2, i = 3, j = 4
      input x : f32[b, i, j]
      weight w[b, i, j]
      kept[j, b] = x @ w
      all = x @ w
      loss sum(kept * all)
    }
    """
    assert values(job.model.graph)["kept"].type == Type("f32", (Dim("j", 4), Dim("b", 2)))
    assert values(job.model.graph)["all"].type == Type("f32")


@program
def test_the_target_is_handed_down_through_elementwise_operations(job: Job) -> None:
    """
    model m() {
      dim b = 2, i = 3, j = 4
      input x : f32[b, i]
      weight w[i, j], bias[b, j], u[b, i, j]
      y[b, j] = relu(cast(x @ w, f32) + -(x @ u)) * 2.0 + where(bias > 0.0, x @ u, bias)
      loss sum(y)
    }
    """
    contracts = [n.output.type.names for n in job.model.graph if n.op.mnemonic == "contract"]
    assert contracts == [("b", "j")] * 3


@program
def test_assignment_transposes(job: Job) -> None:
    """
    model m() {
      dim b = 2, i = 3
      input x : f32[b, i]
      weight w[i]
      y[i, b] = x * w
      loss sum(y)
    }
    """
    assert values(job.model.graph)["y_1"].type.names == ("i", "b")


@program
def test_dims_keep_the_callers_names(job: Job) -> None:
    """
    fn dense(x[..., d], width) {
      dim f = width
      weight w[d, f]
      y[..., f] = x @ w
      return y
    }
    model m() {
      dim batch = 2, s = 3, channels = 4
      input x : f32[batch, s, channels]
      loss sum(dense(x, 2 * channels))
    }
    """
    assert values(job.model.graph)["dense.y"].type == Type("f32", (Dim("batch", 2), Dim("s", 3), Dim("f", 8)))
    assert job.model.weights[0].value.type.names == ("channels", "f")


@program
def test_rest_dims_are_not_summed(job: Job) -> None:
    """
    fn both(x[..., d], y[..., d]) {
      z[...] = x @ y
      return z
    }
    model m() {
      dim a = 2, b = 3, c = 4
      weight x[a, b, c], y[a, b, c]
      loss sum(both(x, y))
    }
    """
    assert values(job.model.graph)["both.z"].type.names == ("a", "b")


@program
def test_repeat_carries_stacks_and_takes_invariants(job: Job) -> None:
    """
    model m() {
      dim b = 2, d = 3
      input x, mask, unused : f32[b, d]
      y = x
      z = x
      repeat 5 as block {
        weight w[d]
        t = y * w * mask
        y = t + y
        z = y
        if false {
          x = y
        }
      }
      loss sum(y + z)
    }
    """
    (node,) = [n for n in job.model.graph if isinstance(n.op, Repeat)]
    op = node.op
    assert isinstance(op, Repeat)
    assert (op.label, op.count, op.carries, op.stacks) == ("block", 5, 2, 1)
    assert [v.name for v in node.inputs] == ["x", "x", "block.w", "mask"]
    assert [v.name for v in op.body.inputs] == ["block.y", "block.z", "block.w.slice", "block.mask"]
    assert [v.name for v in node.outputs] == ["y", "z"]
    assert job.model.weights[0].loops == ("block",)


@program
def test_nested_repeats(job: Job) -> None:
    """
    model m() {
      dim d = 3
      weight scale[d]
      x = scale
      repeat 2 as outer {
        weight u[d]
        repeat 4 as inner {
          weight w[d]
          x = x * w * u + cast(uniform(d), compute)
        }
      }
      loss sum(x * scale)
    }
    """
    weights = {w.name: w for w in job.model.weights}
    assert weights["outer.inner.w"].value.type == Type("f32", (Dim("outer", 2), Dim("inner", 4), Dim("d", 3)))
    assert weights["outer.inner.w"].loops == ("outer", "inner")
    assert job.model.graph.inputs[-1].name == "step"
    (outer,) = [n.op for n in job.model.graph if isinstance(n.op, Repeat)]
    (inner,) = [n.op for n in outer.body if isinstance(n.op, Repeat)]
    (random,) = [n for n in inner.body if n.op.mnemonic == "random"]
    assert [v.name for v in random.inputs] == ["outer.inner.step", "outer.inner.outer_index", "outer.inner.index"] or [
        v.name for v in random.inputs
    ] == ["outer.inner.step", "outer.inner.index_1", "outer.inner.index"]


def test_a_repeat_computes_what_its_iterations_would() -> None:
    body = """
    dim b = 2, d = 3
    input x : f64[b, d]
    y = x
    repeat 4 as block {
      weight w[d]
      y = y * w + x
    }
    loss sum(y)
    """
    m = model(body, precision="f64")
    a = random_arrays(m)
    want = a["x"]
    for w in a["block.w"]:
        want = want * w + a["x"]
    np.testing.assert_allclose(reduced(m, a), want, rtol=1e-12)


def test_random_numbers_differ_between_iterations_steps_and_places() -> None:
    body = """
    dim n = 50
    weight w[n]
    y = w
    z = w
    repeat 2 as block {
      z = y
      y = cast(uniform(n), compute) + 0.0 * w
    }
    loss sum(concat(y, z, uniform(n), uniform(n), over n -> all))
    """
    m = model(body)
    one = reduced(m, {"w": np.zeros(50, np.float32)})
    two = reduced(m, {"w": np.zeros(50, np.float32), "step": np.int32(2)})
    pieces = {p.tobytes() for p in [*np.split(one, 4), *np.split(two, 4)]}
    assert len(pieces) == 8


@program
def test_a_weight_is_cast_once_per_graph(job: Job) -> None:
    """
    use std.optimizers (sgd)
    model m() {
      dim d = 3
      input x : compute[d]
      weight w[d]
      y = x * w + w
      repeat 2 as block {
        y = y * w + w
      }
      loss sum(cast(w, master)) + sum(cast(y, master))
    }
    job fit {
      train m()
      optimizer sgd(lr = 0.1)
      precision bf16, master f32
    }
    """
    assert ops(job.model.graph).count("cast") == 2  # w, and y for the loss; not cast(w, master)
    (repeat,) = [n.op for n in job.model.graph if isinstance(n.op, Repeat)]
    assert ops(repeat.body).count("cast") == 1
    assert job.model.graph.outputs[0].type == Type("f32")


def test_precision_defaults() -> None:
    head = (
        "use std.optimizers (sgd)\nmodel m() {\n  dim d = 3\n  weight w[d]\n  loss sum(w)\n}\njob fit {\n  train m()\n"
    )
    tail = "  optimizer sgd(lr = 0.1)\n}\n"
    for written, expected in {
        "": ("f32", "f32", None),
        "  precision f64\n": ("f64", "f64", None),
        "  precision bf16\n": ("bf16", "f32", None),
        "  precision f16, master f32, loss_scale dynamic\n": ("f16", "f32", "dynamic"),
        "  precision f16, loss_scale 1024\n": ("f16", "f32", 1024.0),
    }.items():
        p = job(head + written + tail).precision
        assert (p.compute, p.master, p.loss_scale) == expected


@program
def test_a_model_s_interface(job: Job) -> None:
    """
    model m() {
      dim b = 2, d = 3
      input x : f32[b, d]
      input i, j : int32[b] in 0..d
      weight u[d] ~ uniform(-1, 2 * 0.5)
      weight w[d], v[d] ~ zeros
      metric size = sum(x)
      loss sum(x * u + w * v)
      metric count = sum(i)
    }
    """
    m = job.model
    assert [(i.value.name, i.low, i.high) for i in m.inputs] == [("x", None, None), ("i", 0, 3), ("j", 0, 3)]
    assert [w.init for w in m.weights] == [Init("uniform", (-1.0, 1.0)), Init("zeros"), Init("zeros")]
    assert m.metrics == ("size", "count")
    assert [v.name for v in m.graph.inputs] == ["x", "i", "j", "u", "w", "v"]
    assert [str(v.type) for v in m.graph.outputs] == ["f32[]", "f32[]", "f32[]"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7 / 2", 3.5),
        ("8 / 2 + 7 // 2 + 7 % 4", 10),
        ("2 ** 3 ** 0", 2),
        ("-2 ** 2", -4),
        ("1 if 2 > 1 and not false else 0", 1),
        ("max(1, 2, 1.5) + min(3, 4) + floor(2.5)", 7),
        ("abs(-3) + sqrt(16.0)", 7.0),
        ("half(8) + half(x = 2)", 5),
        ("8 GB / 2 GB", 4),
    ],
)
def test_static_values(expression: str, value: float) -> None:
    text = f"fn half(x) {{\n  if x > 100 {{\n    return 0\n  }}\n  return x // 2\n}}\nparam p = {expression}\n"
    tail = "use std.optimizers (sgd)\nmodel m() {\n  dim d = 3\n  weight w[d]\n  loss sum(w)\n}\n"
    result = evaluation(text + tail + "job fit {\n  train m()\n  optimizer sgd(lr = 0.1)\n}\n").params["p"]
    assert result == value
    assert type(result) is type(value)
