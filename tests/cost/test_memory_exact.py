"""The predicted peak is what devices with private buffers measure, to the byte: all examples, many compositions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from compiler.cost.memory import memory_use
from compiler.cost.replay import FIRST, STATIC
from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate, evaluate_file
from dsl.source import Source
from runtime.data.synthetic import synthetic
from runtime.private import PrivateExecutor

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = "layers=4 hidden=16 heads=4 vocab=24 seq=8 batch=8"
TINY = SMALL + " dp=1 tp=1 pp=1 microbatches=1 zero=0"


def example(name: str, options: str = "", **replacements: str) -> Compiled:
    """The example, smaller by `options`; pieces of its text are exchanged first."""
    overrides = dict(o.split("=", 1) for o in options.split())
    path = EXAMPLES / f"{name}.par"
    if not replacements:
        return compile_job(evaluate_file(path.as_posix(), overrides).job)
    text = path.read_text(encoding="utf-8")
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return compile_job(evaluate(Source(path.name, text), overrides))


def exact(compiled: Compiled) -> None:
    """Two steps on private buffers; every device of every group, every memory."""
    program = compiled.program
    run = PrivateExecutor(program)
    for step in range(2):
        run.step(synthetic(program.inputs, 0, step))
    use = memory_use(program)
    assert use.keys() == run.peaks.keys()
    for group, devices in run.peaks.items():
        for measured in devices:
            assert measured == {memory: peak.bytes for memory, peak in use[group].items()}
        for peak in use[group].values():
            assert sum(peak.roles.values()) == peak.bytes


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
]


@pytest.mark.parametrize(("name", "options"), EVERY, ids=lambda v: v.replace(" ", ","))
def test_every_example(name: str, options: str) -> None:
    exact(example(name, options))


def test_no_example_is_forgotten() -> None:
    assert {name for name, _ in EVERY} | {"walls"} >= {path.stem for path in EXAMPLES.glob("*.par")}


COMPOSITIONS = [
    "dp=4",
    "tp=4",
    "cp=4",
    "dp=2 zero=1",
    "dp=2 zero=2 microbatches=2",
    "dp=4 zero=3 microbatches=2",
    "dp=2 tp=2 zero=3",
    "cp=2 tp=2 microbatches=4",
    "pp=2 microbatches=8",
    "pp=4 microbatches=2",
    "pp=4 microbatches=8",
    "pp=2 dp=2 zero=1 microbatches=4",
    "pp=2 tp=2 cp=2 zero=2 dp=1 microbatches=4",
    "pp=2 dp=2 zero=3 microbatches=4",
    "pp=3 microbatches=4",
]


@pytest.mark.parametrize("options", COMPOSITIONS)
def test_compositions(options: str) -> None:
    exact(example("gpt", f"{SMALL} {options}"))


SCHEDULES = ["gpipe(", "one_f_one_b(", "interleaved(chunks = 2, "]
RECOMPUTE = ["", "recompute block", "recompute block keep block.attention.out", "recompute block.attention"]


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("options", ["pp=2 microbatches=4 zero=1 dp=2", "pp=2 tp=2 microbatches=4"])
def test_schedules_and_recompute(schedule: str, recompute: str, options: str) -> None:
    changes = {"one_f_one_b(": schedule, "  if pp > 1 {": f"  {recompute}\n  if pp > 1 {{"}
    exact(example("gpt", f"{SMALL} {options}", **changes))


def test_kinds() -> None:
    """What a state weighs is known: a replicated GPT in float32 with two moments; ZeRO-1 halves the moments."""
    whole = memory_use(example("gpt", SMALL + " dp=2 microbatches=4").program)[0][FIRST].roles
    assert whole["optimizer"] == 2 * whole["weight"] == 2 * whole["gradient"]
    shared = memory_use(example("gpt", SMALL + " dp=2 zero=1 microbatches=4").program)[0][FIRST].roles
    assert shared["optimizer"] == whole["optimizer"] // 2 and shared["weight"] == whole["weight"]
    assert set(whole) <= {*STATIC, "gradient", "loss", "metric", "saved", "activation", "message", "input"}


def test_nothing_is_unrolled() -> None:
    """A thousand layers and a thousand micro-batches take as long as few."""
    few = example("gpt", "layers=8 pp=4 microbatches=8 batch=1024").program
    many = example("gpt", "layers=1024 pp=4 microbatches=1024 batch=1024").program
    started = time.process_time()
    memory_use(few)
    middle = time.process_time()
    memory_use(many)
    assert time.process_time() - middle < 3 * (middle - started) + 0.1
