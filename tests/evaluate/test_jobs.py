"""What strategies, clusters, optimizers and jobs mean. The docstring of a test is the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.evaluate import evaluate, evaluate_file
from compiler.model import Job
from dsl.diagnostics import ParcError
from tests.evaluate.programs import evaluation, job, program, values


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
    assert (rule.parts, rule.axis, rule.schedule, rule.chunks, rule.cuts) == (
        ("block",),
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
      tile 128, 256, 64
      link 300 GB/s
      efficiency product 0.8
      efficiency eager host 20 us
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
    assert [(x.name, x.capacity, x.bandwidth, x.sharing, x.link) for x in c.memories] == [
        ("host", 768 * 2**30, 200e9, 8, 32e9),
        ("nvme", 3.2e12, 6e9, 8, 6e9),
    ]
    assert dict(c.device.compute) == {"bf16": 256e12, "vector.f32": 8e12}
    assert (c.device.memory, c.device.bandwidth) == (32e9, 1.2e12)
    assert c.device.settings == (
        ("launch", (pytest.approx(5e-6),)),
        ("tile", (128, 256, 64)),
        ("link", (300e9,)),
        ("efficiency", ("product", 0.8)),
        ("efficiency", ("eager", "host", pytest.approx(2e-5))),
    )


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
    assert [str(v.type) for v in block.graph.inputs] == ["f64[]", *["f32[block=2, d=3]"] * 4]
    assert [v.type for v in block.graph.outputs] == [v.type for v in (block.graph.inputs[1], *block.graph.inputs[3:])]
    everything = [v for g in (job.model.graph, block.graph, u.graph) for v in values(g)]
    assert len(everything) == len(set(everything))


def test_inference_needs_no_optimizer() -> None:
    j = job("model m() {\n  dim d = 3\n  weight w[d]\n  output w\n  loss sum(w)\n}\njob serve {\n  infer m()\n}\n")
    assert (j.kind, j.updates, j.entry) == ("infer", (), "infer") and j.evaluated is not None and not j.evaluated.scored


TWO = """
use std.optimizers (sgd)
param layers = 2 in 1..5
param name = "corpus"
param speed = 3 GB/s
model m() {
  dim d = layers, b = 2, s = 4
  input tokens : int32[b,s] in 0..80
  weight w[d]
  loss sum(w)
}
strategy wide {
  mesh (dp = 3)
}
job one {
  train m()
  optimizer sgd(lr = 0.1)
  data text("corpus.txt", stream = layers > 2)
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
    assert (e.job.data.reader, e.job.data.args, dict(e.job.data.options)) == ("text", ("corpus.txt",), {"stream": True})
    assert (e.params["layers"], e.params["name"], str(e.params["speed"])) == (3, "other", "1 TB/s")
    assert [(c.jobs, dict(c.params)) for c in e.checks] == [(("one",), {"layers": 3}), ((), {"layers": 3})]
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
    assert code != "E0113" or (found.span is not None and found.span.source == "main.par")  # which of several files


def test_files_use_files(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "parts.par").write_text(
        'use "more.par"\nparam factor = 3.0\nfn part(x) {\n  return more(x) * factor\n}\n'
    )
    (tmp_path / "lib" / "more.par").write_text("fn more(x) {\n  return x + 1.0\n}\n")
    (tmp_path / "main.par").write_text(
        'use std.optimizers (sgd)\nuse "lib/parts.par" (part)\nuse "lib/parts.par" (part, factor)\n'
        "model m() {\n  dim b = 2, d = 2\n  input t : int32[b,d]\n  weight w[d]\n  loss sum(part(w)) * factor\n}\n"
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
