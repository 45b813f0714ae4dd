"""What all tests of stages ask of a file: everything that can be done with one."""

from __future__ import annotations

import numpy as np

import parc
from compiler.driver import Compiled, compile_job
from compiler.model import EVALUATE
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.source import Source
from parc import api
from runtime.prove import prove, prove_evaluation, random_batch
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact

CLUSTER = """\
cluster pod(devices = 1) {
  device gpu = a100_80
  level server = devices gpu over 300 GB/s, 2 us
}
"""


def judged(text: str, priced: bool = False) -> Compiled:
    """Compile the job of a file in f64: legal, equal to the serial program in training and in evaluation, alike on both
    executors, its memory as predicted, its text the program again. priced: it has a cluster, to be priced on."""
    source = Source("main.par", text)
    compiled = parc.compile(source, double=True)
    program = compiled.program
    assert not verify(program)
    assert parse_program(show(program)) == program
    proof = prove(compiled.training, program)
    assert proof.ok, proof.worst
    alone = compile_job(compiled.job, EVALUATE)
    assert not verify(alone.program)
    proof = prove_evaluation(alone.training, alone.program, 1)
    assert proof.ok, proof.worst
    batch = random_batch(program.inputs, 0, 0)
    losses = [float(np.asarray(run(program).step(batch).loss)) for run in (Emulator, RankExecutor)]
    assert np.isclose(*losses, rtol=1e-12)
    exact(program, 1)
    tidy = api.fmt(text)
    assert api.fmt(tidy) == tidy
    assert show(parc.compile(Source("main.par", tidy), double=True).program) == show(program)
    if priced:
        estimate = api.estimate(compiled)
        assert estimate.timeline.step_seconds > 0
        assert api.trace(compiled).as_json() and "<html" in api.report(estimate, "parc report", "strategy")
    return compiled
