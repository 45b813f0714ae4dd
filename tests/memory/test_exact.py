"""The predicted peak is what devices with private buffers measure, to the byte: examples, tactics, pairs of them, all
schedules, recompute, precisions, uneven stages. `pytest -m nightly` takes all tactics and pairs on all examples.

Measured are numpy's own arrays (`measured`). The stacked executor holds one array for all devices and fuses
steps, so that it has no memory of a device to measure: what it reports is the prediction.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate, evaluate_file
from compiler.memory.action import FIRST, STATIC
from compiler.memory.peak import memory_use
from compiler.model import Precision
from compiler.program import Program
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.rank.executor import RankExecutor
from tests.matrix.cells import Cell, cells, each_once, expected, spread
from tests.memory.measured import exact
from tests.some import by_all_cores

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = "layers=4 hidden=16 heads=4 vocab=24 seq=8 batch=8"
TINY = SMALL + " dp=1 tp=1 pp=1 microbatches=1 zero=0"


def example(name: str, options: str = "", precision: Precision | None = None, **replacements: str) -> Compiled:
    """The example, smaller by `options`; pieces of its text are exchanged first."""
    overrides = dict(o.split("=", 1) for o in options.split())
    path = EXAMPLES / f"{name}.par"
    if not replacements:
        return compile_job(evaluate_file(path.as_posix(), overrides, precision=precision).job)
    text = path.read_text(encoding="utf-8")
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return compile_job(evaluate(Source(path.name, text), overrides))


@cache
def few() -> Program:
    """Four stages of two layers, of eight micro-batches."""
    return example("gpt", "layers=8 pp=4 microbatches=8 batch=1024").program


@cache
def many() -> Program:
    """Four stages of 256 layers, of as many micro-batches as there are samples."""
    return example("gpt", "layers=1024 pp=4 microbatches=1024 batch=1024").program


EVERY = [
    ("gpt", SMALL),
    ("gpt", SMALL + " dp=2 tp=2 pp=2 microbatches=2 zero=1"),
    ("llama", SMALL + " kv_heads=2"),
    ("llama", SMALL + " kv_heads=2 tp=2 cp=2 zero=3 dp=2"),
    ("pangu_200b", TINY),
    ("pangu_200b", SMALL + " dp=2 tp=2 pp=2 microbatches=2"),
    ("recsys", ""),
    ("recsys", "dp=4 microbatches=2"),
    ("resnet", ""),
    ("resnet", "dp=2 sp=2 batch=8"),
    ("resnet", "sp=2 sx=2 batch=8 microbatches=2"),
    ("towers", ""),
    ("towers", "dp=2"),
    ("unet", "channels=4 batch=4 dp=2 sp=2 zero=3"),
    ("megatron_175b", SMALL + " dp=2 tp=2 pp=2"),
    ("lora", "layers=4 hidden=16 width=32 vocab=24 seq=8 batch=8 dp=2 tp=2 pp=2 microbatches=2 zero=1"),
    ("lora", "layers=4 hidden=16 width=32 vocab=24 seq=8 batch=8 dp=2 zero=3"),
    ("mamba", "layers=4 hidden=16 vocab=24 seq=8 batch=8 dp=2 tp=2 zero=1 microbatches=2"),
    ("mamba", "layers=4 hidden=16 vocab=24 seq=8 batch=8 pp=2 dp=2 microbatches=4"),
    ("distill", ""),
    ("schedules", ""),
    ("streaming", "layers=4 hidden=16 vocab=24 seq=4 memory=8 batch=8 dp=2 tp=2"),
    ("streaming", "layers=4 hidden=16 vocab=24 seq=4 memory=8 batch=8 pp=2 dp=2 microbatches=4 zero=1"),
]


@pytest.mark.parametrize(("name", "options"), EVERY, ids=lambda v: v.replace(" ", ","))
def test_every_example(name: str, options: str) -> None:
    exact(example(name, options).program)


ANSWERS = ["answer", "answer_packed", "answer_from_host"]
WALLS = ["alone", "pretrain", "misplaced", "without_recompute", "without_optimizer_parallel", *ANSWERS]


@pytest.mark.parametrize("job", WALLS)
def test_the_walls(job: str) -> None:
    """The strategies are those of 2,048 cards, their axes and the model smaller."""
    text = (EXAMPLES / "walls.par").read_text(encoding="utf-8")
    changes = {
        r"^check .*": "",
        r"\b(layers, hidden, heads, vocab, seq), (1|512)\)": r"4, 32, 4, 24, 8, 8)",
        r"prefill 128": "prefill 4",
        r"pod\(2048\)": "pod(8)",
        r"\b(pp|dp|tp) = (16|8)\b": r"\1 = 2",
        r"microbatches = 32": "microbatches = 2",
    }
    for old, new in changes.items():
        text, count = re.subn(old, new, text, flags=re.M)
        assert count
    source = Source("walls.par", text, (EXAMPLES / "walls.par").as_posix())
    program = compile_job(evaluate(source, job=job)).program
    assert program.devices == (1 if job in ("alone", *ANSWERS) else 8)
    exact(program, 1)


@pytest.mark.parametrize("job", ["here", "states", "weights", "disk"])
def test_the_memories_of_one_card(job: str) -> None:
    """With a smaller model."""
    options = ["in_hbm", "states_away", "weights_away", "on_disk"]
    sizes = dict.fromkeys(options, "3") | {"hidden": "16", "heads": "4", "vocab": "24", "seq": "8"}
    exact(compile_job(evaluate_file((EXAMPLES / "one_card.par").as_posix(), sizes, job=job).job).program, 1)


def test_no_example_is_forgotten() -> None:
    large = {
        "walls",
        "one_card",
        "serving",
        "gpt_serving",
        "distil_serving",
        "embeddings_10tb",
    }  # of sizes that are not run: their jobs are proved in small
    assert {name for name, _ in EVERY} | large == {path.stem for path in EXAMPLES.glob("*.par")}
    assert set(WALLS) == set(re.findall(r"^job (\w+)", (EXAMPLES / "walls.par").read_text(), re.M))


COMPOSITIONS = [
    "cp=2 tp=2 microbatches=4",
    "dp=2 zero=2 microbatches=4",
    "dp=4 zero=3 microbatches=2",
    "pp=4 microbatches=8",
    "pp=2 tp=2 cp=2 zero=2 microbatches=4",
    "pp=2 dp=2 zero=3 microbatches=4",
    "pp=3 microbatches=4",
]


@pytest.mark.parametrize("options", COMPOSITIONS)
def test_compositions(options: str) -> None:
    exact(example("gpt", f"{SMALL} {options}").program, 1)


SCHEDULES = ["gpipe(", "one_f_one_b(", "interleaved(chunks = 2, ", "zero_bubble("]
RECOMPUTE = ["", "recompute block", "recompute block keep block.attention.out", "recompute block.attention"]
PIPELINE = "pipeline block on pp, schedule one_f_one_b(microbatches = microbatches, over = b)"


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_and_recompute(schedule: str, recompute: str) -> None:
    changes = {"one_f_one_b(": schedule, "  if pp > 1 {": f"  {recompute}\n  if pp > 1 {{"}
    exact(example("gpt", f"{SMALL} pp=2 microbatches=4", **changes).program, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_uneven_stages(schedule: str) -> None:
    cuts = "[1, 2, 4]" if "chunks" in schedule else "[3]"
    changes = {PIPELINE: PIPELINE.replace("one_f_one_b(", schedule) + f", cuts {cuts}"}
    program = example("gpt", f"{SMALL} layers=5 pp=2 dp=2 zero=1 microbatches=2", **changes).program
    exact(program, 1)


@pytest.mark.parametrize("compute", ["f64", "bf16", "f16"])
def test_precisions(compute: str) -> None:
    """Sizes are those of the dtypes; masters, and gradients added up in them, are of another one."""
    master = "f64" if compute == "f64" else "f32"
    exact(example("gpt", f"{SMALL} dp=2 zero=2 microbatches=2", Precision(compute, master)).program, 1)
    options = f"{SMALL} dp=2 zero=2"
    half = example("gpt", options, Precision(compute, master)).program
    whole, roles = (memory_use(p)[0][FIRST].roles for p in (example("gpt", options).program, half))
    assert roles["weight"] == (2 if compute == "f64" else 1) * whole["weight"]
    assert (roles["activation"] < whole["activation"]) == (compute != "f64")


def judge(cell: Cell) -> str:
    """ "exact", the refusal's codes, or what is wrong."""
    try:
        program = cell.compile(None).program
    except ParcError as e:
        return ", ".join(sorted({d.code for d in e.diagnostics}))
    try:
        exact(program, 1)
    except AssertionError as e:
        return str(e)
    return "exact"


def judged(chosen: list[Cell]) -> None:
    outcomes = list(zip(chosen, by_all_cores(judge, chosen)))
    wrong = [f"{c}: {o}" for c, o in outcomes if o != expected(c).replace("proved", "exact")]
    assert not wrong, "\n".join(wrong)


def test_pairs_that_have_each_tactic() -> None:
    """In the examples' own precisions."""
    judged(each_once(cells(2)))


@pytest.mark.nightly
def test_all_tactics_and_pairs() -> None:
    judged([*cells(1), *cells(2)])


@pytest.mark.nightly
def test_some_triples() -> None:
    judged(spread(cells(3), 20))


REPEATED = """\
use std.optimizers (sgd)
model line {
  dim b = 8, d = 4
  input x : f32[b]
  weight w[d] ~ ones
  loss mean(x * x * sum(w))
}
strategy s for line {
  mesh (dp = 2)
  split b on dp
  microbatches 2 over b
}
job fit {
  train line using s
  optimizer sgd(lr = 0.1)
}
"""


def test_a_gradient_that_repeats_one_number() -> None:
    """It is a view of a scalar, to which the second micro-batch cannot add: its sum needs room of its own."""
    compiled = compile_job(evaluate(Source("line.par", REPEATED)))
    assert memory_use(compiled.program)[0][FIRST].roles["gradient"] == 4 * 4
    exact(compiled.program)
    assert prove(compiled.training, compiled.program, 1, executor=RankExecutor).ok


LOCAL = """\
use std.optimizers (sgd)
model cut {
  dim b = 8, d = 8
  input x : f32[b,d]
  y = x
  repeat 6 as block {
    weight w[d] ~ normal(0.1)
    y = tanh(y * w)
  }
  loss LOSS
}
strategy s for cut {
  mesh (pp = 2, dp = 2)
  RULES
}
job fit {
  train cut using s
  optimizer sgd(lr = 0.1)
}
"""
CUTS = {
    "chunks": "split d on dp in block[0..5]\n  "
    "pipeline block on pp, schedule interleaved(microbatches = 2, chunks = 3)",
    "two passes": "split b on dp\n  pipeline block on pp, schedule gpipe\n  microbatches 4 over b, two passes",
    "two passes of one stage": "split b on dp\n  split d on pp\n  microbatches 2 over b, two passes",
}


@pytest.mark.parametrize("kind", CUTS)
def test_what_is_cut_off_where_it_stands(kind: str) -> None:
    """No other device takes part (`shard`, `only_first`), so nothing waits: what a piece is cut from goes when the
    program says so, and not when the piece is read."""
    loss = "mean(y * sum(y, over b))" if "two passes" in CUTS[kind] else "mean(y * y)"
    program = compile_job(evaluate(Source("cut.par", LOCAL.replace("RULES", CUTS[kind]).replace("LOSS", loss)))).program
    exact(program)


def test_kinds() -> None:
    """What a state weighs is known: a replicated GPT in float32 with two moments; ZeRO-1 halves the moments."""
    whole = memory_use(example("gpt", SMALL + " dp=2 microbatches=4").program)[0][FIRST].roles
    assert whole["optimizer"] == 2 * whole["weight"] == 2 * whole["gradient"]
    shared = memory_use(example("gpt", SMALL + " dp=2 zero=1 microbatches=4").program)[0][FIRST].roles
    assert shared["optimizer"] == whole["optimizer"] // 2 and shared["weight"] == whole["weight"]
    assert set(whole) <= {*STATIC, "gradient", "loss", "statistic", "metric", "saved", "activation", "message", "input"}


def test_nothing_is_unrolled() -> None:
    """Of a thousand layers and micro-batches each is counted: weights by layers, what is saved by layers in flight."""
    small, large = (memory_use(program)[1][FIRST].roles for program in (few(), many()))
    assert large["weight"] == 128 * small["weight"]  # 256 layers of this stage instead of 2
    assert large["saved"] == small["saved"]  # of a micro-batch that is 128 times as small
