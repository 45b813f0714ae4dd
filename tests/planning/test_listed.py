"""Bounds of models whose embeddings have lists of rows for gradients."""

from __future__ import annotations

import pytest

from compiler.evaluate import evaluate_file
from dsl.source import Source
from parc.planning.listed import listed
from tests.planning.brute import some
from tests.planning.models import text_of
from tests.planning.test_agreement import BothSides
from tests.planning.test_layers import hold


def untied(optimizer: str) -> str:
    """A transformer with a table of its own for what comes in."""
    text = text_of("transformer", inside=2, outside=1, batch=2, seq=4, hidden=64, layers=1)
    text = text.replace("take(wte, tokens, over v)", "take(table, tokens, over v)")
    text = text.replace("  weight wte", "  weight table[v,d] ~ normal(0.02)\n  weight wte", 1)
    return text.replace("adamw", optimizer)


@pytest.mark.parametrize(("optimizer", "is_listed"), [("sgd", True), ("adamw", False)])
def test_a_table_of_which_rows_are_taken_has_a_list_if_others_stay_as_they_are(optimizer: str, is_listed: bool) -> None:
    found = listed(evaluate_file(Source("job.par", untied(optimizer))).job)
    assert ("table" in found) == is_listed


def test_no_bound_has_the_whole_gradient_of_such_a_table() -> None:
    sides = BothSides(untied("sgd"))
    of = some(sides.space, 16, 3)
    assert hold(sides.space, sides.bounds, sides.search.pricer, of) > 8
    mine = {w.tables: w.elements for w in sides.bounds.model.weights}
    theirs = {w["tables"]: w["elements"] for w in sides.floors.model["weights"]}
    assert mine[True] == theirs[True] == 0
