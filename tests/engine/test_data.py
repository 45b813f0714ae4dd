"""Data that lie in files, on processes: each reads its own piece, and all see the samples that the emulator sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from parc import compile  # noqa: E402
from runtime.data import open_data  # noqa: E402
from runtime.prove import prove  # noqa: E402
from runtime.stacked import Emulator  # noqa: E402
from runtime.torch.engine import ProcessPool  # noqa: E402
from tests.data.files import job, write_safetensors  # noqa: E402
from tests.data.test_pieces import STRATEGIES  # noqa: E402


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_read_their_pieces(pool: ProcessPool, tmp_path: Path, strategy: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((20, 8, 4, 3)).astype(np.float32)
    write_safetensors(tmp_path / "both.safetensors", image=images, label=rng.integers(0, 10, 20).astype(np.uint8))
    compiled = compile(job(tmp_path, 'arrays("both.safetensors")', *STRATEGIES[strategy]))
    program = compiled.program
    reader = open_data(compiled.job.data, program.inputs)
    ours, theirs = pool.executor(program), Emulator(program)
    for step in range(3):
        batch = reader.batch(program.seed, step)
        assert float(ours.step(batch).loss) == pytest.approx(float(theirs.step(batch).loss), rel=1e-5)
    proof = prove(compiled.training, program, 2, lambda step: reader.batch(program.seed, step), executor=pool.executor)
    assert proof.ok, proof.worst
