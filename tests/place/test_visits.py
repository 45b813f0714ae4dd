"""Places that values come back to: few visits, in an order that is 1F1B where there is but one per place."""

from __future__ import annotations

from random import Random

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.homes import Homes
from compiler.program import FunctionPhase
from compiler.schedules import Edge, actions, find_hang, unroll, visits
from dsl.source import Source
from runtime.prove import prove
from runtime.rank.executor import RankExecutor
from tests.matrix.cells import cells
from tests.stages.playing import played


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_stages_in_a_row_run_1f1b(groups: int, count: int) -> None:
    row = [(s, s + 1) for s in range(groups - 1)]
    found = visits(Homes.dealt(groups, groups), groups, count, row, [(b, a) for a, b in row])
    assert [unroll(s, 0) for s in found] == [list(actions("one_f_one_b", groups, 1, count, g)) for g in range(groups)]


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_stages_in_a_row_run_gpipe(groups: int, count: int) -> None:
    row = [(s, s + 1) for s in range(groups - 1)]
    found = visits(Homes.dealt(groups, groups), groups, count, row, [(b, a) for a, b in row], "gpipe")
    assert [unroll(s, 0) for s in found] == [list(actions("gpipe", groups, 1, count, g)) for g in range(groups)]


@pytest.mark.parametrize("seed", range(60))
def test_nobody_waits_forever(seed: int) -> None:
    """Any stages on any groups, any messages ahead: each pass comes once."""
    rng = Random(seed)
    groups, count = rng.randint(1, 4), rng.choice([1, 2, 3, 7])
    of = [*range(groups), *(rng.randrange(groups) for _ in range(rng.randint(0, 5)))]
    rng.shuffle(of)
    homes, stages = Homes(tuple(of)), range(len(of))
    ahead = [(a, b) for a in stages for b in stages if a < b and rng.random() < 0.4]
    trains = rng.random() < 0.7
    back = [(b, a) for a, b in ahead if rng.random() < 0.8] if trains else None
    name = rng.choice(["one_f_one_b", "interleaved", "gpipe", "zero_bubble"])
    lists = [unroll(s, 0) for s in visits(homes, groups, count, ahead, back, name)]
    f, b, w = FunctionPhase.FORWARD, FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS
    edges = [Edge(x, f, y, f) for x, y in ahead] + [Edge(x, b, y, b) for x, y in back or ()]
    assert find_hang(lists, edges, homes=homes) is None
    for g, mine in enumerate(lists):
        kinds = ((f, b, w) if name == "zero_bubble" else (f, b)) if trains else (f,)
        expected = {(kind, c, i) for kind in kinds for c in range(len(homes.of(g))) for i in range(count)}
        passes = [tuple(a) for a in mine if a.kind in kinds]
        assert set(passes) == expected and len(passes) == len(expected)
        late = [(a.chunk, a.mb) for a in mine if a.kind is w]
        assert all(mine.index((b, *key)) < mine.index((w, *key)) for key in late)  # what is put off comes afterwards


@pytest.mark.parametrize("name", ["one_f_one_b", "zero_bubble"])
@pytest.mark.parametrize("of", [(0, 1, 1, 0), (0, 1, 2, 3, 3, 2, 1, 0), (0, 1, 0), (1, 0, 1, 0, 2), (0, 1, 2) * 3])
def test_the_busiest_waits_at_the_ends_only(name: str, of: tuple[int, ...]) -> None:
    """Where all passes take as long as they are taken to, more micro-batches take no more than their own time."""
    homes, groups = Homes(of), max(of) + 1
    row = [(s, s + 1) for s in range(len(of) - 1)]

    def ends(count: int) -> int:
        found = visits(homes, groups, count, row, [(b, a) for a, b in row], name)
        return played([unroll(s, 0) for s in found], homes, {"F": 1, "B": 1 if name == "zero_bubble" else 2, "W": 1})

    assert ends(41) - ends(29) == 12 * 3 * homes.chunks


def test_visits_are_few() -> None:
    """The encoder and the head at one place, what is between at another: three visits, whatever their numbers."""
    cell = next(c for c in cells(1) if str(c) == "translation-visited")
    assert cell.compile().program.homes.groups == (1, 0, 1)


COUNTED = """
use std.optimizers (sgd)

fn counted(x[b,d]) {
  weight w[d] ~ ones
  state seen : int32
  state usual[d]
  y = tanh(x * w + cast(seen, compute))
  seen = seen + 1
  usual = 0.9 * usual + 0.1 * cast(mean(y, over b), master)
  return y
}

fn alone(x[b,d]) {
  weight w[d] ~ ones
  state seen : int32
  seen = seen + 1
  return x * w
}

model m {
  dim b = 12, d = 4
  input x : compute[b,d]
  h = counted(alone(counted(counted(x) as one) as two) as three) as four
  loss mean(h * h)
}

strategy s for m {
  mesh (at = 3)
  place one on at[1]
  place two on at[0]
  place three on at[1]
  place four on at[0]
  microbatches 3 over b
}

job fit {
  train m using s
  optimizer sgd(lr = 0.1)
  precision f64
}
"""


def test_what_states_become_is_made_where_they_are_read() -> None:
    """Not in the first visit of their place, as what waits for nothing might."""
    compiled = compile_job(evaluate(Source("counted.par", COUNTED)))
    assert compiled.program.homes.groups == (1, 0, 1, 0, 2)
    assert prove(compiled.training, compiled.program, executor=RankExecutor).equal
