"""Stages wait for activations, not for gradients that another stage reduces, nor for weights that it gathers ahead."""

from __future__ import annotations

import pytest

from parc.planning.guess import kin
from parc.planning.layers import Layers
from parc.planning.paces import Paces
from parc.planning.pricing import StrategyPricer
from parc.planning.space import STAGES
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, space_of
from tests.planning.models import job_of

FAST = {"inside": 4, "outside": 1, "inner": 50, "outer": 5, "flops": 5, "batch": 2}
SLOW = {"inside": 2, "outside": 4, "inner": 0.5, "outer": 0.02, "flops": 0.05, "batch": 8}


@pytest.mark.parametrize("sizes", [FAST, SLOW], ids=["launches", "links"])
def test_stages_with_messages_beside_their_passes_are_not_waited_for(sizes: dict[str, float]) -> None:
    """All that is known of loops, held to prices: where messages end soon after a pass, and where they last longer."""
    job = job_of("transformer", layers=4, hidden=64, **sizes)
    space, bounds = space_of(job)
    pricer = StrategyPricer(job, space.by_hand)
    layers = Layers(space, pricer)
    paces = Paces(layers)
    sharded = [c for c in candidates(space) if c.mesh.size(STAGES) in (2, 4) and c.rules.zero > 1]
    closer = 0
    for of in sharded[:: -(-len(sharded) // 24)]:
        pricer.needed(strategy_of(space, of))
        price, mine = pricer.price(), kin(space, of.mesh, of.rules)
        while layers.closer(mine, True):
            pass
        while paces.closer(of, mine):
            pass
        layer, pace = layers.best(mine), paces.best(of, mine)
        assert layer is not None and bounds.seconds(of, layer, pace) <= price.seconds, of
        closer += pace is not None and bounds.seconds(of, layer, pace) > bounds.seconds(of, layer)
    assert closer, "no loop says more than its layers"


def test_a_micro_batch_goes_through_all_stages_and_back() -> None:
    """Interleaved stages that have fewer micro-batches than there are stages wait for each other."""
    job = job_of("transformer", layers=8, hidden=64, inside=4, outside=2, inner=50, outer=5, flops=0.05, batch=4)
    space, bounds = space_of(job)
    pricer = StrategyPricer(job, space.by_hand)
    layers = Layers(space, pricer)
    idle = [
        of
        for of in candidates(space)
        if of.rules.schedule == "interleaved" and of.mesh.size(STAGES) == 4 and of.mesh.microbatches in (1, 2)
    ]
    close = 0
    for of in idle[:: -(-len(idle) // 24)]:
        pricer.needed(strategy_of(space, of))
        price, mine = pricer.price().seconds, kin(space, of.mesh, of.rules)
        layers.look(mine.layer, mine.rows)
        for layer in (None, layers.best(mine)):
            assert bounds.seconds(of, layer) <= price, of
        close += bounds.seconds(of, layers.best(mine)) > 0.8 * price  # their work alone is at most half of it
    assert close >= 6
