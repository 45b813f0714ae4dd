"""How long iterations last is what playing them says, for each number of them."""

from __future__ import annotations

import pytest

from compiler.cost.time.ahead import gathers_first
from compiler.cost.time.step import play
from parc.planning.guess import SplitLayer
from parc.planning.layers import Layers
from parc.planning.paces import PaceKey, Paces
from parc.planning.pricing import StrategyPricer
from parc.planning.turns import durations
from tests.planning.brute import space_of
from tests.planning.models import job_of


@pytest.mark.parametrize(("ahead", "outer"), [(0.0, 0.3), (0.4, 0.02), (0.4, 10.0), (1.0, 0.3)])
def test_iterations_last_as_long_as_they_are_played(ahead: float, outer: float) -> None:
    job = job_of("transformer", inside=2, outside=4, outer=outer, hidden=64, layers=12, batch=8)
    space, _ = space_of(job)
    paces = Paces(Layers(space, StrategyPricer(job, space.by_hand)))
    seen = set()
    for again in (0, len(space.recomputes) - 1):
        key = PaceKey(SplitLayer((("tp", 2),), again, "", False, ()), 1, 4, 3, "", 1, False)
        of = paces._loops(key)
        assert of is not None
        pricer = paces._pricer(key, of.program)
        for loop in of.loops.values():
            played = []
            for n in range(1, 13):
                rolled = loop.rolled._replace(rounds=n)
                alone = gathers_first(rolled, ahead) if ahead else rolled
                played.append(play(loop.segment._replace(tasks=(alone,), host=0), pricer.streams).duration)
            found = durations(loop.rolled, pricer.streams, 12)
            if ahead:
                turned = gathers_first(loop.rolled._replace(rounds=12), ahead)
                found = found[:1] + durations(turned, pricer.streams, 12)[1:]
            assert found == played
            seen.add(tuple(b - a for a, b in zip(played, played[1:])))
    assert len(seen) >= 2
