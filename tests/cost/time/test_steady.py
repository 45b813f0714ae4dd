"""What is left out of a long step is left out exactly: rolled plans against plans of which every segment is played."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields, replace

import pytest

import parc
from compiler.cost.kernels.work import Meet, Part, Post, Vector, Wait, WorkNode
from compiler.cost.price.calibration import of_cluster
from compiler.cost.time import clock
from compiler.cost.time.clock import Clock, Durations, Moments, Timing, evaluate
from compiler.cost.time.order import Plan, plan
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.slow import Variation
from compiler.cost.time.stretch import PlanStep
from compiler.homes import Homes
from compiler.program import FunctionKey, FunctionPhase
from compiler.schedules import CHUNKED, NAMES, Action, ActionLoop, Turn, loops, rolled, visits
from dsl.source import Source
from tests.cost.time.test_every_rank import EXAMPLES, SCHEDULES

F, B, W, U = FunctionPhase.FORWARD, FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS, FunctionPhase.UPDATE
NEVER = 10**9
"""Repetitions that are worth a stretch: none."""
WORK = WorkNode("", Vector(1, 1, 1, 1, "f32"))


class Drawn:
    """A schedule of some groups, with functions that wait for their neighbours; and durations of all of them."""

    def __init__(self, seed: int, kind: str, microbatches: int = 0) -> None:
        r = random.Random(f"{seed} {kind}")
        p = 1 if kind == "sequential" else r.choice([1, 2, 3, 4, 5, 8])
        m = microbatches or r.choice([9, 20, 33, 64, 130, 300])
        if kind == "visits":
            groups = [*(r.randrange(p) for _ in range(r.randint(1, p))), *r.sample(range(p), p)]
            self.homes, chunks = Homes(tuple(groups)), 1
            n = len(groups)
            ahead = {(i, j) for i in range(n) for j in range(i + 1, n) if j == i + 1 or r.random() < 0.1}
            schedules = visits(self.homes, p, m, ahead, {(j, i) for i, j in ahead})
        else:
            chunks = r.randint(1, 3) if kind in CHUNKED else 1
            self.homes = Homes.dealt(p, p * chunks)
            ahead = {(i, i + 1) for i in range(p * chunks - 1)}
            schedules = list(rolled("one_f_one_b" if kind in ("ways", "shuffled") else kind, p, chunks, m))
        turn = Turn(p, self.homes.chunks, m)
        self.rows: list[Sequence[ActionLoop]] = [loops(s, g, turn) for g, s in enumerate(schedules)]
        if kind == "ways":
            self.homes, ahead = Homes((*range(p), *reversed(range(p))), 2), ahead | {(p + i, p + j) for i, j in ahead}
            self.rows = [(*row[:-1], *_back(back[:-1], m), row[-1]) for row, back in zip(self.rows, self.rows[::-1])]
        if kind == "shuffled":
            first = r.choice([0, m])  # forward passes before all backward ones
            self.rows = [_shuffled(r, row[-1], first + p - g, max(1, m // 12)) for g, row in enumerate(self.rows)]
        self.parts = [self._parts(g, p, ahead) for g in range(p)]
        self.random = r

    def _parts(self, group: int, groups: int, ahead: set[tuple[int, int]]) -> dict[FunctionKey, Part]:
        found: dict[FunctionKey, Part] = {}
        for chunk, s in enumerate(self.homes.of(group)):
            before, behind = [a - s for a, b in ahead if b == s], [b - s for a, b in ahead if a == s]
            for phase, name, sources, targets in ((F, "x", before, behind), (B, "g", behind, before)):
                waits = [WorkNode("", Wait(name, way)) for way in sources]
                posts = [WorkNode("", Post(name, way, 1)) for way in targets]
                found[phase, chunk] = Part((*waits, WORK, *posts))
            found[W, chunk] = Part((WORK,))
        meet = [WorkNode("", Meet("norm", tuple(range(groups)), 1))] if groups > 1 else []
        found[U, 0] = Part((WORK, *meet, WORK))
        return found

    def plan(self, least: int) -> Plan:
        return plan(self.rows, range(len(self.rows)), self.parts, self.homes, least)

    def durations(self, of: Plan) -> Durations:
        """From such that everybody waits for links to such that links hardly count; whole numbers that often tie."""
        r = self.random
        work, link = r.choice([3, 10, 1000]), r.choice([1, 10, 1000, 100_000])
        timings = []
        for line in of.lines:
            ps = r.randint(1, work)
            timings.append(Timing(((0, ps),), tuple(((0, r.randint(0, ps)),) for _ in line.posts), ps))
        posts, meets = [r.randint(0, link) for _ in of.routes], [r.randint(0, 50) for _ in of.meets]
        return Durations(timings, posts, meets, r.random() < 0.4)


def _back(row: Sequence[ActionLoop], first: int) -> list[ActionLoop]:
    """The same as chunk 1, on micro-batches from `first` on."""
    return [replace(of, steps=tuple(Action(a.kind, 1, first + a.mb) for a in of.steps)) for of in row]


def _shuffled(r: random.Random, last: ActionLoop, ahead: int, dozens: int) -> list[ActionLoop]:
    """1F1B of a dozen micro-batches at a time, or all forward passes first, in any order within each dozen or a part of
    it: what a group sends comes in another order than it is awaited."""

    def some(kind: FunctionPhase, first: int, count: int) -> list[ActionLoop]:
        size = r.choice([1, 2, 3, 4, 6, 12])
        return [ActionLoop(_mixed(r, kind, 12 * first, size), count * 12 // size, size)] if count > 0 else []

    ahead = min(dozens, ahead)
    both = ActionLoop((*_mixed(r, F, 12 * ahead, 12), *_mixed(r, B, 0, 12)), dozens - ahead, 12)
    middle = [both] if both.count else []
    return [*some(F, 0, ahead), *middle, *some(B, dozens - ahead, ahead), last]


def _mixed(r: random.Random, kind: FunctionPhase, first: int, count: int) -> tuple[Action, ...]:
    return tuple(Action(kind, 0, first + i) for i in r.sample(range(count), count))


def agree(seed: int, kind: str) -> None:
    drawn = Drawn(seed, kind)
    short, whole = drawn.plan(drawn.random.choice([1, 2, 4])), drawn.plan(NEVER)
    assert short.length == whole.length == len(whole.stretches[0].steps)
    durations = drawn.durations(whole)
    found = evaluate(whole, durations)
    assert evaluate(short, durations) == found
    assert evaluate(short, durations, whole=True) == found


KINDS = [*NAMES, "visits", "ways", "shuffled"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_takes_as_long_as_what_is_played(kind: str) -> None:
    for seed in range(40):
        agree(seed, kind)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_many_more(kind: str) -> None:
    for seed in range(1000, 3000):
        agree(seed, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_and_its_pass_do_not_grow_with_the_micro_batches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million micro-batches are played in no more steps than it takes to get into a rhythm."""
    played = 0
    play = Clock.play

    def counted(self: Clock, steps: Sequence[PlanStep], later: int = 0, number: int = 0) -> Moments:
        nonlocal played
        played += len(steps)
        return play(self, steps, later, number)

    monkeypatch.setattr(clock.Clock, "play", counted)
    for seed in range(6):
        drawn = Drawn(seed, kind, 10**6)
        of = drawn.plan(4)
        groups = len(drawn.rows)
        assert of.length >= 10**6 and sum(len(s.steps) for s in of.stretches) <= 100 * (groups + 1) ** 2
        played = 0
        evaluate(of, drawn.durations(of))
        assert played <= 1000 * (groups + 1) ** 2


@pytest.mark.parametrize("schedule", [*SCHEDULES, ""])
def test_all_figures_are_those_of_the_whole_step(schedule: str) -> None:
    """Of programs, on devices that are alike and of which one is slow: what is waited for, bubbles, events."""
    for seed in range(3):
        r = random.Random(f"{seed} {schedule}")
        pp, dp, tp, m = r.choice([2, 3]) if schedule else 1, r.choice([1, 2]), r.choice([1, 2]), r.choice([20, 37])
        lines = [f"  mesh ({f'pp = {pp}, ' if schedule else ''}dp = {dp}, tp = {tp})"]
        lines += ["  data_parallel(dp)", "  megatron(tp)"]
        over = SCHEDULES[schedule].format(m=m) if schedule else ""
        lines.append(f"  pipeline block on pp, schedule {over}" if schedule else f"  microbatches {m} over b")
        text = (EXAMPLES / "gpt.par").read_text() + "\n".join(["strategy drawn for gpt {", *lines, "}", ""])
        params = {"dp": pp * dp * tp, "layers": r.choice([2 * pp, 2 * pp + 1]), "hidden": 64, "batch": 2 * m}
        compiled = parc.compile(Source("drawn.par", text), params=params, strategy="drawn")
        short, whole = Simulation.of(compiled), Simulation.of(compiled)
        groups = whole.groups
        every = plan(groups.rows, groups.of_class, groups.features.parts, whole.program.homes, NEVER)
        assert len(every.stretches) == 1 < len(short.groups.plan.stretches)
        groups.__dict__["plan"] = every
        cal = of_cluster(short.cluster).changed(host=r.choice([0.0, 1e-5]), blocking_sends=r.choice([0.0, 1.0]))
        for slow in ({}, {r.randrange(pp * dp * tp): r.choice([1.25, 3.0])}):
            variation = Variation(slow, {"pod": r.choice([1.0, 100.0, 10_000.0])})
            a, b = short.run(cal, variation), whole.run(cal, variation)
            for field in fields(a):
                if field.name != "events":
                    assert getattr(a, field.name) == getattr(b, field.name), (seed, field.name)
            assert tuple(a.events) == tuple(b.events)
