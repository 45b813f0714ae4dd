"""What rests on the servers' disks lies in a file: read and written by parts, never mapped, gone with the process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

import runtime.numpy.disk as disk
from dsl.diagnostics import ParcError
from runtime.numpy.disk import DiskArray

ROOT = Path(__file__).parent.parent.parent


def test_views_are_those_of_numpy() -> None:
    """Drawn shapes, orders in memory, indices: what is read, and what is written through a view."""
    rng, values = Random(1), np.random.default_rng(1)
    for _ in range(200):
        shape = [rng.randint(1, 4) for _ in range(rng.randint(1, 4))]
        order = rng.sample(range(len(shape)), len(shape))
        x = values.normal(size=[shape[i] for i in order]).astype(np.float32).transpose(np.argsort(order))
        there = DiskArray.of(x, rng.randrange(len(shape)))
        here = x.copy()
        assert there.shape == here.shape and there.nbytes == here.nbytes
        np.testing.assert_array_equal(there.read(), here)
        for _ in range(3):
            index = tuple(
                rng.choice([slice(None), slice(rng.randint(0, n), None), rng.randrange(n), slice(0, n)])
                for n in shape[: rng.randint(1, len(shape))]
            )
            index = (*index, ...) if rng.random() < 0.3 else index
            new = values.normal(size=here[index].shape).astype(np.float32)
            there[index] = new
            here[index] = new
            np.testing.assert_array_equal(there[index].read(), here[index])
            np.testing.assert_array_equal(np.asarray(there), here)


def test_contents_lie_in_memory_as_they_did() -> None:
    """Sums go through them in the same order, then."""
    x = np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0)
    for found in (DiskArray.of(x).read(), DiskArray.of(np.zeros(x.shape)).over(x).read()):
        np.testing.assert_array_equal(found, x)
        assert np.argsort(found[0].strides).tolist() == np.argsort(x[0].strides).tolist()


def test_what_nobody_refers_to_is_used_again() -> None:
    def end() -> int:
        return disk._file().end

    kept = DiskArray.empty((1000,), np.float32)
    before = end()
    for _ in range(10):
        part = DiskArray.empty((1000,), np.float32)[3:5]
        part.write(np.ones(2, np.float32))
        del part
    assert end() == before + 4000
    kept.fill(2.0)
    assert kept.read().sum() == 2000


def test_a_disk_without_room_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ParcError) as raised:
        DiskArray.of(np.zeros(4))
    (found,) = raised.value.diagnostics
    assert found.code == "E0910" and "No space" in found.message and found.help and "TMPDIR" in found.help


JOB = """
use std.optimizers (adamw)

model wide {
  dim b = 2, d = 512, e = 512
  input x : f32[b,d]
  h = x
  repeat 48 as block {
    weight w[d,e] ~ normal(0.02)
    u[b,e] = h @ w
    h = tanh(rename(u, e -> d))
  }
  loss mean(h * h)
}

strategy paged for wide {
  mesh (dp = 1)
  split b on dp
  offload optimizer, weights to nvme
}

job fit {
  train wide using paged
  optimizer adamw(lr = 0.01)
}
"""
"""Weights of 48 MiB: with both states there are 144 on the disk."""

RUN = """
import resource, sys
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.memory.peak import memory_use
from dsl.source import Source
from runtime.data.synthetic import synthetic
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator

program = compile_job(evaluate(Source("t.par", sys.stdin.read()))).program
batch = synthetic(program.inputs, 0, 0)
use = {kind: peak.bytes for kind, peak in memory_use(program)[0].items()}
resting, gradients = use["nvme"], use["hbm"]
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = now + resting - (8 << 20)
assert gradients < resting - (16 << 20), (gradients, resting)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run = {"stacked": Emulator, "private": RankExecutor}[sys.argv[1]](program)
print(*(run.step(batch).loss for _ in range(2)), flush=True)
sys.stdin.close()
if len(sys.argv) > 2:
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


def step(executor: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TMPDIR": str(folder), "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUN, executor, *more],
        input=JOB, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300,
    )  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the address space is told by Linux")
@pytest.mark.parametrize("executor", ["stacked", "private"])
def test_states_may_be_larger_than_the_address_space(executor: str, tmp_path: Path) -> None:
    """With room for less than what rests on the disk, steps are run, and they learn."""
    done = step(executor, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = map(float, done.stdout.split())
    assert second != first and np.isfinite([first, second]).all()


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")
def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    """However the process ends."""
    done = step("stacked", tmp_path, "killed")
    assert done.returncode == -signal.SIGKILL and len(done.stdout.split()) == 2
    assert list(tmp_path.iterdir()) == []
