"""Rules about some layers, other memories and hosts are mostly drawn where they have something to speak of.

`shard optimizer on dp in block[1..2]` of a loop without weights is refused as what changes nothing (E0542): to
prove that in one draw of twenty would prove little else. Some draws stay as they are.
"""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from tests.property.case import Case, Piece
from tests.property.draw_optimizer import OptimizerCase
from tests.property.drawing import Drawing
from tests.property.sensible import AS_DRAWN, freezes


def with_effect(rng: Random, case: Case, d: Drawing) -> Case:
    """The case without the lines that no trained weight, or no state of the optimizer, gives something to do."""
    if rng.random() < AS_DRAWN:
        return case
    own = [found[1] for p in case.before for line in p.lines if (found := re.match(r"weight (\w+)\[", line))]
    paths = (*(path for path, _ in d.weights), *d.holders, *own)  # tables: they came later than what is drawn
    trained = [path for path in paths if not any(freezes(piece, path) for piece in case.frozen)]
    states = _keeps_states(case)
    rules = [replace(rule, lines=lines) for rule in case.rules if (lines := _lines(rule, trained, states))]
    return replace(case, rules=tuple(rules))


def _lines(rule: Piece, trained: list[str], states: bool) -> tuple[str, ...]:
    return tuple(line for line in rule.lines if _has_effect(line, trained, states))


def _has_effect(line: str, trained: list[str], states: bool) -> bool:
    word, _, rest = line.partition(" ")
    if word not in ("shard", "offload", "run") or line.startswith("offload activations to"):
        return True
    scope = re.search(r" in ([\w.]+)", rest)
    there = [path for path in trained if scope is None or f"{path}.".startswith(f"{scope[1]}.")]
    of_states = line.startswith("offload optimizer to")
    return bool(there) and (states or not of_states)


def _keeps_states(case: Case) -> bool:
    """Whether the optimizer keeps something of a weight between steps."""
    if isinstance(case, OptimizerCase):
        return any(line.startswith("state ") for piece in case.steps for line in piece.lines)
    return not case.optimizer.startswith("sgd(") or "momentum" in case.optimizer
