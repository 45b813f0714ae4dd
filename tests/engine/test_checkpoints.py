"""Runs on an engine are saved and go on, bit for bit, and jobs that infer are proved there; emulators take their
checkpoints, and they those of emulators."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from compiler.driver import compile_job  # noqa: E402
from compiler.evaluate import evaluate  # noqa: E402
from compiler.model import INFER  # noqa: E402
from runtime.checkpoints.reading import Checkpoint, resumed  # noqa: E402
from runtime.prove import prove_evaluation, random_batch  # noqa: E402
from runtime.stacked import Emulator  # noqa: E402
from runtime.torch.engine import ProcessPool  # noqa: E402
from tests.checkpoints.models import arrays, program, saved  # noqa: E402
from tests.entries.test_evaluate import STRATEGIES, source  # noqa: E402
from tests.some import one_in  # noqa: E402

RESUMED = [
    *("serial", "uneven", "states of turns", "all in bf16"),
    *(pytest.param(name, marks=pytest.mark.nightly) for name in ("zero 3", "interleaved", "all")),  # parts of the last
]


@pytest.mark.parametrize("name", RESUMED)
def test_resuming_is_bit_for_bit(pool: ProcessPool, name: str, tmp_path: Path) -> None:
    of = program(name)
    batches = [random_batch(of.inputs, 0, step) for step in range(4)]
    run = pool.executor(of)
    for batch in batches[:2]:
        run.step(batch)
    saved(run, tmp_path)
    found = Checkpoint.latest(tmp_path)
    again = pool.executor(of, initial=resumed(found, of))
    again.steps = found.manifest.moment.step
    for batch in batches[2:]:
        assert run.step(batch).loss.tobytes() == again.step(batch).loss.tobytes()
    have = arrays(again)
    assert all(x.tobytes() == have[n].tobytes() for n, x in arrays(run).items())


@pytest.mark.parametrize("name", ["zero 3", "all"])
def test_engines_take_each_others_checkpoints(pool: ProcessPool, name: str, tmp_path: Path) -> None:
    of = program(name)
    ours = Emulator(of)
    ours.step(random_batch(of.inputs, 0, 0))
    one = saved(ours, tmp_path / "1")
    theirs = pool.executor(of, initial=resumed(Checkpoint.latest(one), of))
    theirs.steps = ours.steps
    two = saved(theirs, tmp_path / "2")
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


@pytest.mark.parametrize("strategy", one_in(2, list(STRATEGIES)[::2]))
def test_inference_is_proved(pool: ProcessPool, strategy: str) -> None:
    found = compile_job(evaluate(source(strategy)), INFER)
    proof = prove_evaluation(found.training, found.program, 2, executor=pool.executor, beside=Emulator)
    assert proof.ok and {r.kind for r in proof.rows} == {"output"}
