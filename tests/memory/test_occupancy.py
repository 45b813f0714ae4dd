"""Memory over time is what each device measures, action by action, to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from compiler.cost.time.simulate import Simulation
from compiler.memory.occupancy import Occupancy, occupancy
from compiler.memory.peak import memory_use
from compiler.program import Program
from runtime.data.synthetic import synthetic
from runtime.rank.executor import RankExecutor
from runtime.rank.interpreter import Rank
from tests.memory.test_exact import SMALL, example
from tests.runtime.test_memory import program as hand_made


class Recorded(Rank):
    """A device that notes, for each action, the most bytes within it and those that stay, by memory."""

    log: list[tuple[dict[str, int], dict[str, int]]]

    def run(self, action: str, chunk: int, micro: int) -> Any:
        self.ledger.peak = dict(self.ledger.live)
        yield from super().run(action, chunk, micro)
        self.log.append((dict(self.ledger.peak), dict(self.ledger.live)))


def measured(program: Program) -> Iterator[tuple[int, Rank, list[tuple[dict[str, int], dict[str, int]]]]]:
    run = RankExecutor(program)
    for devices in run.devices.values():
        for d in devices:
            d.__class__, d.log = Recorded, []  # type: ignore[attr-defined]
    run.step(synthetic(program.inputs, 0, 0))
    for group, devices in run.devices.items():
        for d in devices:
            yield group, d, d.log  # type: ignore[attr-defined]


def agree(found: Occupancy, log: Sequence[tuple[dict[str, int], dict[str, int]]]) -> None:
    for memory, series in found.items():
        assert [m.peak for m in series.moments] == [peak.get(memory, 0) for peak, _ in log]
        assert [sum(m.after.values()) for m in series.moments] == [live.get(memory, 0) for _, live in log]
        for m in series.moments:
            assert sum(m.at_peak.values()) == m.peak and min([*m.at_peak.values(), *m.after.values()]) > 0


COMPOSITIONS = [
    ("gpt", f"{SMALL} dp=2 tp=2 zero=2 microbatches=4", {}),
    ("gpt", f"{SMALL} pp=2 dp=2 zero=3 microbatches=4", {}),
    ("gpt", f"{SMALL} pp=4 microbatches=8", {"one_f_one_b(": "gpipe("}),
    ("gpt", f"{SMALL} pp=2 microbatches=4", {"one_f_one_b(": "interleaved(chunks = 2, "}),
    ("gpt", f"{SMALL} pp=4 microbatches=8", {"one_f_one_b(": "zero_bubble("}),
    ("recsys", "dp=4 microbatches=2", {}),
    ("towers", "dp=2", {}),
]


@pytest.mark.parametrize(("name", "options", "changes"), COMPOSITIONS, ids=str)
def test_every_action_of_every_device(name: str, options: str, changes: dict[str, str]) -> None:
    program = example(name, options, **changes).program
    found, use = occupancy(program), memory_use(program)
    for group, _, log in measured(program):
        agree(found[group], log)
    for group, memories in found.items():
        assert {m: s.peak for m, s in memories.items()} == {m: p.bytes for m, p in use[group].items()}
        for series in memories.values():
            at = series.fullest
            assert at is None or series.moments[at].peak == series.peak
            assert set(series.roles) >= set(series.before)


def test_memories_are_apart() -> None:
    """What is saved in the memory of the host is moved there and back."""
    backward = "%far: f32[b=4/mb] in host = load s last\n%s: f32[b=4/mb] = move %far from host to hbm\n"
    backward += "%t: f32[b=4/mb] = exp %s"
    forward = "%x: f32[b=4/mb] = input x\n%y: f32[b=4/mb] = exp %x\n"
    forward += "%far: f32[b=4/mb] in host = move %y from hbm to host\nsave %far as s"
    p = hand_made("saved s: f32[b=4/mb] in host", forward, backward, "F[0..4]\nB[0..4]")
    found = occupancy(p)[0]
    for _, _, log in measured(p):
        agree(found, log)
    assert [m.peak for m in found["host"].moments] == [16, 32, 48, 64, 64, 48, 32, 16]
    assert found["host"].before == {} and found["hbm"].before == {"input": 64}


def test_indices_are_those_of_the_simulation() -> None:
    compiled = example("gpt", f"{SMALL} pp=2 dp=2 tp=2 microbatches=4")
    rows = Simulation.of(compiled).groups.rows
    actions = [tuple(action for loop in row for action in loop.actions()) for row in rows]
    for group, memories in occupancy(compiled.program).items():
        assert all(s.actions == actions[group] and len(s.moments) == len(s.actions) for s in memories.values())


def test_one_f_one_b_holds_as_many_micro_batches_as_there_are_stages_left() -> None:
    found = occupancy(example("gpt", f"{SMALL} pp=4 microbatches=8").program)
    held = [max(m.after.get("saved", 0) for m in found[g]["hbm"].moments) for g in (1, 2)]
    assert held[0] * 2 == held[1] * 3  # stages 1 and 2 of 4, alike but for this: 3 and 2 micro-batches in flight


def test_what_repeats_is_one_object() -> None:
    series = occupancy(example("gpt", "layers=8 pp=4 microbatches=256 batch=256").program)[1]["hbm"]
    assert len(series.moments) == 513 and len(set(series.moments)) < 20
