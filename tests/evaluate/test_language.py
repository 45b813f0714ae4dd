"""What programs mean. The docstring of a test is the program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.evaluate import evaluate, evaluate_file
from compiler.graph import Dim, Type
from compiler.model import Init, Job
from compiler.ops.repeat import Repeat
from dsl import units
from dsl.diagnostics import ParcError
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


@program
def test_an_axis_stands_for_its_size_and_tactics_nest(job: Job) -> None:
    """
    use std.optimizers (sgd)
    tactic both(a, dims, n) {
      one(a, dims)
      if n == 4 {
        shard optimizer on a
      } else if n == 2 {
        shard gradients on a
      } else {
        shard weights on a
      }
    }
    tactic one(axis, dims) {
      split dims, v on axis
    }
    model m() {
      dim b = 8, d = 8, v = 2
      input x : f32[b, d]
      weight w[d, v]
      loss sum(x @ w)
    }
    strategy plan for m {
      mesh (dp = 2, tp = 2)
      both(tp, over (b, d), dp * tp)
      both(dp, over b, dp) in w
      recompute
      offload optimizer to host
    }
    job fit {
      train m() using plan
      optimizer sgd(lr = 0.1)
    }
    """
    s = job.strategy
    assert [(r.dims, r.axis, r.scope) for r in s.splits] == [(("b", "d", "v"), "tp", None), (("b", "v"), "dp", "w")]
    assert [(r.classes, r.axis, r.scope) for r in s.shards] == [
        (("optimizer",), "tp", None),
        (("gradients",), "dp", "w"),
    ]
    assert [r.scope for r in s.recomputes] == [None]
    assert [(r.classes, r.memory) for r in s.offloads] == [(("optimizer",), "host")]


@program
def test_pipelines(job: Job) -> None:
    """
    use std.optimizers (sgd)
    model m() {
      dim b = 8
      input x : f32[b]
      y = x
      repeat 8 as block {
        weight w[b]
        y = y * w
      }
      loss sum(y)
    }
    strategy plan {
      mesh (pp = 2)
      pipeline block on pp, schedule interleaved(4, chunks = 2, over = b), cuts [1, 2, 4]
    }
    job fit {
      train m() using plan
      optimizer sgd(lr = 0.1)
    }
    """
    (rule,) = job.strategy.pipelines
    assert (rule.label, rule.axis, rule.schedule, rule.chunks, rule.cuts) == (
        "block",
        "pp",
        "interleaved",
        2,
        (1, 2, 4),
    )
    assert (job.strategy.microbatches, job.strategy.microbatch_dim) == (4, "b")


@program
def test_clusters(job: Job) -> None:
    """
    use std.optimizers (sgd)
    device chip {
      compute bf16 256 TFLOP/s
      compute vector f32 8 TFLOP/s
      memory 32 GB, 1.2 TB/s
      launch 5 us
      tile 128, 256
    }
    cluster pod(servers = 2, size = 8) {
      device npu = chip
      level server = size npu over 30 GB/s, 1 us
      level pod = servers server over 100 Gb/s, 5 us
      host memory 768 GiB, 200 GB/s over 32 GB/s
      nvme capacity 3.2 TB over 6 GB/s
    }
    model m() {
      dim b = 8
      weight w[b]
      loss sum(w)
    }
    job fit {
      train m() on pod(servers = 4)
      optimizer sgd(lr = 0.1)
    }
    """
    c = job.cluster
    assert c is not None
    assert c.devices == 32
    assert [(x.name, x.count, x.bandwidth) for x in c.levels] == [("server", 8, 30e9), ("pod", 4, 12.5e9)]
    assert [x.latency for x in c.levels] == pytest.approx([1e-6, 5e-6])
    assert [(x.kind, x.capacity, x.bandwidth, x.link) for x in c.memories] == [
        ("host", 768 * 2**30, 200e9, 32e9),
        ("nvme", 3.2e12, 6e9, 6e9),
    ]
    assert dict(c.device.compute) == {"bf16": 256e12, "vector.f32": 8e12}
    assert (c.device.memory, c.device.bandwidth) == (32e9, 1.2e12)
    assert dict(c.device.settings)["tile"] == (128, 256)
    assert dict(c.device.settings)["launch"][0].expect(units.SECONDS) == pytest.approx(5e-6)


@program
def test_optimizers_have_a_graph_for_each_weight(job: Job) -> None:
    """
    use std.optimizers (adamw, cosine)
    model m() {
      dim d = 3
      x = ones(d)
      repeat 2 as block {
        weight w[d]
        x = x * w
      }
      weight u[d]
      loss sum(x * u)
    }
    job fit {
      train m()
      optimizer adamw(lr = cosine(step, 3e-4, 1000), clip = 1.0)
      precision bf16
    }
    """
    assert job.clip == 1.0
    block, u = job.updates
    assert block.weight == "block.w"
    assert [s.name for s in block.states] == ["block.w.m", "block.w.v"]
    assert [s.of for s in u.states] == ["u", "u"]
    assert [str(v.type) for v in block.graph.inputs] == ["f32[]", *["f32[block=2, d=3]"] * 4]
    assert [v.type for v in block.graph.outputs] == [v.type for v in (block.graph.inputs[1], *block.graph.inputs[3:])]
    everything = [v for g in (job.model.graph, block.graph, u.graph) for v in values(g)]
    assert len(everything) == len(set(everything))


def test_inference_needs_no_optimizer() -> None:
    j = job("model m() {\n  dim d = 3\n  weight w[d]\n  loss sum(w)\n}\njob serve {\n  infer m()\n}\n")
    assert (j.kind, j.updates) == ("infer", ())


TWO = """
use std.optimizers (sgd)
param layers = 2 in 1..5
param name = "corpus"
param speed = 3 GB/s
model m() {
  dim d = layers
  weight w[d]
  loss sum(w)
}
strategy wide {
  mesh (dp = 3)
}
job one {
  train m()
  optimizer sgd(lr = 0.1)
  data text("corpus.txt", length = 2 * layers)
  seed 5
}
job two {
  train m() using wide
  optimizer sgd(lr = 0.2)
}
check one.memory.peak <= 30 GiB if layers < 4 else true
check layers < 5
"""


def test_jobs_overrides_strategies_and_checks() -> None:
    e = evaluation(TWO, job="one", overrides={"layers": "3", "name": "other", "speed": "1 TB/s"}, strategy="wide")
    assert e.job.name == "one"
    assert e.jobs == ("one", "two")
    assert e.job.strategy.name == "wide"
    assert e.job.seed == 5
    assert e.job.data is not None
    assert (e.job.data.reader, e.job.data.args, dict(e.job.data.options)) == ("text", ("corpus.txt",), {"length": 6})
    assert (e.params["layers"], e.params["name"], str(e.params["speed"])) == (3, "other", "1 TB/s")
    (check,) = e.checks
    assert (check.jobs, dict(check.params)) == (("one",), {"layers": 3})
    assert evaluation(TWO, job="two", strategy="serial").job.strategy.mesh == ()


@pytest.mark.parametrize(
    ("options", "code", "help"),
    [
        ({"overrides": {"lyers": "3"}}, "E0106", "did you mean `layers`?"),
        ({"overrides": {"layers": "three"}}, "E0106", "it is an integer in the file"),
        ({"overrides": {"layers": "2.5"}}, "E0106", None),
        ({"overrides": {"layers": "1 + 1"}}, "E0106", "it is an integer in the file"),
        ({"overrides": {"layers": "2\nparam x = 3"}}, "E0106", "it is an integer in the file"),
        ({"overrides": {"layers": "5"}}, "E0107", "a range ends before its second number"),
        ({"overrides": {"speed": "3 GB"}}, "E0106", None),
        ({"job": "ones"}, "E0113", "did you mean `one`?"),
        ({"job": None}, "E0113", "there are `one` and `two`"),
        ({"strategy": "wider"}, "E0103", "did you mean `wide`?"),
    ],
)
def test_wrong_options(options: dict[str, object], code: str, help: str | None) -> None:
    with pytest.raises(ParcError) as error:
        evaluation(TWO, **({"job": "one"} | options))
    (found,) = error.value.diagnostics
    assert (found.code, found.help) == (code, help)


def test_files_use_files(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "parts.par").write_text(
        'use "more.par"\nparam factor = 3.0\nfn part(x) {\n  return more(x) * factor\n}\n'
    )
    (tmp_path / "lib" / "more.par").write_text("fn more(x) {\n  return x + 1.0\n}\n")
    (tmp_path / "main.par").write_text(
        'use std.optimizers (sgd)\nuse "lib/parts.par" (part)\nuse "lib/parts.par" (part, factor)\n'
        "model m() {\n  dim d = 2\n  weight w[d]\n  loss sum(part(w)) * factor\n}\n"
        'job fit {\n  train m()\n  optimizer sgd(lr = 0.1)\n  data text("x.txt")\n}\n'
    )
    j = evaluate(tmp_path / "main.par")
    assert [n.output.name for n in j.model.graph][:2] == ["part.more.out", "part.out"]
    assert j.data is not None
    assert Path(j.data.folder) == tmp_path.resolve()
    assert len(evaluate_file(tmp_path / "main.par").sources) == 4


def test_the_example_evaluates_with_all_its_parameters() -> None:
    path = Path(__file__).parents[2] / "examples" / "gpt.par"
    sizes = {"dp": "2", "tp": "2", "pp": "2", "cp": "2", "microbatches": "4", "zero": "3", "layers": "1024"}
    j = evaluate(path, sizes)
    assert j.strategy.devices == 16
    assert j.cluster is not None
    assert j.cluster.devices == 16
    assert len(values(j.model.graph)) < 200  # rolled: not by the number of layers
    assert [w.value.type.shape for w in j.model.weights if w.name == "block.mlp.w1"] == [(1024, 64, 256)]
