"""States of models under every kind of strategy: proved, in training and in evaluation, by both executors; in place."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Vector
from compiler.driver import joined
from compiler.in_place import reuses
from compiler.memory.peak import memory_use
from compiler.model import EVALUATE
from compiler.origin import Role
from compiler.text import parse_program, show
from compiler.verify import verify
from runtime.prove import prove, prove_evaluation, random_batch
from runtime.prove.serial import initial_state
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact
from tests.states.models import STRATEGIES, compile_text, compiled, text


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_is_proved(name: str) -> None:
    found = compiled(name)
    assert not verify(found.program)
    for executor in (Emulator, RankExecutor):
        proof = prove(found.training, found.program, 3, executor=executor)
        assert proof.ok, proof.worst
        rows = {r.name for r in proof.rows if r.kind == "state"}
        assert rows >= {s.name for s in found.training.model.states}


@pytest.mark.parametrize("name", list(STRATEGIES)[::3])
def test_an_evaluation_is_proved(name: str) -> None:
    found = compiled(name, entry=EVALUATE)
    assert not verify(found.program)
    for executor in (Emulator, RankExecutor):
        proof = prove_evaluation(found.training, found.program, 3, executor=executor)
        assert proof.ok, proof.worst


@pytest.mark.parametrize("name", STRATEGIES)
def test_memory_is_what_is_predicted(name: str) -> None:
    exact(compiled(name, None).program, 3)


@pytest.mark.parametrize("name", list(STRATEGIES)[::2])
def test_the_text_reads_back(name: str) -> None:
    program = compiled(name).program
    assert show(parse_program(show(program))) == show(program)
    assert parse_program(show(program)) == program


@pytest.mark.parametrize("name", ["heads", "pipeline", "many_columns"])
@pytest.mark.parametrize("executor", [Emulator, RankExecutor])
def test_entries_share_states(name: str, executor: type[Emulator] | type[RankExecutor]) -> None:
    """An evaluation between two steps renews what the model renews there, and the next step goes on from that."""
    step, alone = compiled(name), compiled(name, entry=EVALUATE)
    both = joined([step.program, alone.program])
    run, training = executor(both), alone.training
    run.step(random_batch(both.inputs, 0, 0))
    before = run.states()
    batch = random_batch(both.inputs, 0, 1)
    run.call(EVALUATE, batch)
    after = run.states()
    own = {s.name for s in training.model.states}
    assert any(not np.array_equal(before[n], after[n]) for n in own)
    assert all(np.array_equal(before[n], after[n]) for n in before.keys() - own)
    other = executor(step.program, initial={**run.weights(), **after})
    other.steps = run.steps
    assert run.step(batch).loss == other.step(batch).loss


def test_a_ring_remembers_what_was_pushed() -> None:
    """Against numpy: the last positions of a stream, at each step."""
    model = """\
model net {
  dim b = 2, s = 3, t = 7
  input x : compute[b,s]
  weight w[s] ~ ones
  state ring : compute[b,t]
  state seen : int32
  ring = push(ring, x, seen, over s, over t)
  seen = seen + s
  output ring
  loss mean(x * w)
}
"""
    found = compile_text(text(model))
    run = Emulator(found.program)
    ring = np.zeros((2, 7))
    for step in range(6):
        x = random_batch(found.program.inputs, 0, step)["x"]
        for i in range(3):
            ring[:, (3 * step + i) % 7] = x[:, i]
        assert np.array_equal(run.step({"x": x}).outputs["ring"], ring)


def test_a_slice_is_read_and_written_where_a_state_says() -> None:
    model = """\
model net {
  dim b = 2, s = 3, t = 7, d = 2
  input x : compute[b,s,d]
  weight w[s] ~ ones
  state kept : compute[b,t,d]
  state seen : int32
  kept = dynamic_update_slice(kept, x, seen, over s, over t)
  part[b,s,d] = dynamic_slice(kept, seen - 1, over t, over s)
  seen = seen + 2
  output part
  loss mean(x * w)
}
"""
    found = compile_text(text(model))
    run = Emulator(found.program)
    kept = np.zeros((2, 20, 2))
    for step in range(5):
        x = random_batch(found.program.inputs, 0, step)["x"]
        at = 2 * step
        kept[:, at : at + 3] = x
        kept[:, 7:] = 0  # beyond the end
        want = np.concatenate([np.zeros((2, 1, 2)), kept], axis=1)[:, at : at + 3]
        assert np.array_equal(run.step({"x": x}).outputs["part"], want)


@pytest.mark.parametrize(("name", "count"), [("alone", 4), ("accumulation", 4), ("pipeline", 4), ("interleaved", 8)])
def test_nothing_is_there_twice(name: str, count: int) -> None:
    """Every layer's slice of keys and of values is renewed in the buffer: no stack of new ones, no new slice."""
    program = compiled(name).program
    for cls in program.classes:
        states = {s.name: s for s in cls.states if s.role is Role.STATE and s.type.dims}
        found = reuses(cls, program.microbatches)
        scatters = [n for f in cls.functions for n in f.body.nodes if any((id(n), k) in found for k in range(9))]
        assert len(found) >= count and scatters and states
        assert not any(p.copied for p in found.values())


LARGE = """\
model net {
  dim b = 2, t = 5000, d = 4
  input x : compute[b,d]
  weight w[d] ~ ones
  state cache : compute[b,t,d]
  state at : int32
  y = x * w
  OLD
  cache = scatter(cache, y, at, over t)
  at = at + 1
  loss mean(take(cache, at - 1, over t) * y) + mean(take(cache, at - 2, over t)) + mean(old * y)
}
"""


@pytest.mark.parametrize(("table", "times"), [("cache", 1), ("flip(cache, over t)", 2)])
def test_a_large_state_is_there_once(table: str, times: int) -> None:
    """A copy is made only by what needs one (here: to turn it round), and for as long as that does."""
    found = compile_text(text(LARGE.replace("OLD", f"old = take({table}, at, over t)")), None, EVALUATE)
    exact(found.program, 3)
    state = 2 * 5000 * 4 * 4
    assert times * state < memory_use(found.program)[0]["hbm"].bytes < 1.02 * times * state


def test_old_contents_that_are_needed_later_are_kept() -> None:
    """What is renewed while its old contents are still to be read is copied first."""
    model = """\
model net {
  dim b = 2, t = 6, d = 4
  input x : compute[b,d]
  weight w[d] ~ ones
  state cache : compute[b,t,d] ~ normal(1.0)
  state at : int32
  before = cache
  cache = scatter(cache, x * w, at, over t)
  at = at + 1
  output before
  loss mean(before * w) + mean(cache * before)
}
"""
    found = compile_text(text(model))
    exact(found.program, 3)
    for executor in (Emulator, RankExecutor):
        proof = prove(found.training, found.program, 3, executor=executor)
        assert proof.ok, proof.worst


def test_states_begin_as_declared() -> None:
    found = compiled("heads")
    _, states = initial_state(found.training)
    for executor in (Emulator, RankExecutor):
        run = executor(found.program)
        for name, value in states.items():
            assert np.array_equal(run.states()[name], value)
        given = {name: np.full_like(value, 2) for name, value in states.items()}
        run.put(given)
        assert all(np.array_equal(run.states()[name], value) for name, value in given.items())


def test_the_price_is_that_of_the_rows() -> None:
    """To read and to renew a row moves no more bytes, however large the state; to turn it round moves all of it."""

    def moved(table: str, size: int) -> int:
        given = LARGE.replace("OLD", f"old = take({table}, at, over t)").replace("5000", str(size))
        parts = features(compile_text(text(given), None, EVALUATE).program).parts
        works = (node.work for of in parts for part in of.values() for node, _ in part.each())
        return sum(work.bytes for work in works if isinstance(work, Vector))

    assert moved("cache", 5000) == moved("cache", 500) < 1000
    assert moved("flip(cache, over t)", 5000) > 2 * 5000 * 8 * 4
