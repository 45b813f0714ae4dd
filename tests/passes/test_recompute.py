"""Recomputation: the same bits, fewer of them saved."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from compiler.graph import Graph
from compiler.model import Model
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.strategy import RecomputeRule
from compiler.walk import bodies
from dsl.diagnostics import ParcError
from dsl.source import Span
from tests.passes.checks import agrees_with_differences, differentiated, gradients, saved_bytes
from tests.passes.models import data_for, gpt, repeats
from tests.passes.test_differentiate import nested

RULES: dict[str, tuple[RecomputeRule, ...]] = {
    "everything": (RecomputeRule(),),
    "everything, keep": (RecomputeRule(None, ("block.attention.out", "logits")),),
    "block": (RecomputeRule("block"),),
    "block, keep a value": (RecomputeRule("block", ("block.attention.out",)),),
    "block, keep a scope": (RecomputeRule("block", ("block.attention",)),),
    "block, keep two": (RecomputeRule("block", ("block.mlp.u", "block.attention.softmax")),),
    "attention": (RecomputeRule("block.attention"),),
    "softmax": (RecomputeRule("block.attention.softmax"),),
    "attention, keep softmax": (RecomputeRule("block.attention", ("block.attention.softmax",)),),
    "mlp and head": (RecomputeRule("block.mlp"), RecomputeRule("head")),
    "block and mlp": (RecomputeRule("block"), RecomputeRule("block.mlp", ("block.mlp.u",))),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
def test_gradients_have_the_same_bits(rules: tuple[RecomputeRule, ...], dropout: bool) -> None:
    model = gpt(dropout=dropout)
    given = data_for(model)
    plain, again = differentiated(model), differentiated(model, rules)
    assert saved_bytes(again) < saved_bytes(plain)
    for a, b in zip(gradients(plain, given), gradients(again, given), strict=True):
        assert np.array_equal(a, b)


def saved(model: Model, *rules: RecomputeRule) -> set[str]:
    return {v.name for v in differentiated(model, rules).saved}


def test_of_a_block_only_its_carry_is_saved() -> None:
    blocks = {n for n in saved(gpt(), RecomputeRule("block")) if n.startswith("block")}
    assert blocks == {"block.x.in.saved"}


def test_what_is_kept_is_saved_besides() -> None:
    rule = RecomputeRule("block", ("block.mlp.u", "block.attention"))
    blocks = {n for n in saved(gpt(), rule) if n.startswith("block")}
    assert blocks == {"block.x.in.saved", "block.mlp.u.saved", "block.attention.out.saved"}


def test_kept_values_cut_the_recomputation() -> None:
    """With the result of attention kept, the mlp's part of the closure does not run attention again for it."""
    kept = differentiated(gpt(), [RecomputeRule("block", ("block.attention.out",))])
    without = differentiated(gpt(), [RecomputeRule("block")])
    assert contractions(kept.backward) == contractions(without.backward) - 1


def test_everything_saves_the_loops_results_only() -> None:
    """Each loop's carries and final results; the first value of the model is made of data and weights alone."""
    assert saved(gpt(), RecomputeRule()) == {"block.x.in.saved", "repeat"}


def test_everything_runs_forward_once_more_not_twice() -> None:
    plain, again = (contractions(differentiated(gpt(), r).backward) for r in ((), (RecomputeRule(),)))
    forward = contractions(gpt().graph)
    assert plain < again < plain + forward  # the last products are not needed again


def test_a_path_hides_what_is_inside_and_saves_what_enters() -> None:
    inside = {n for n in saved(gpt(), RecomputeRule("block.attention")) if n.startswith("block.attention")}
    assert inside == set()
    assert "block.ln1.out.saved" in saved(gpt(), RecomputeRule("block.attention"))
    assert "block.mlp.u.saved" in saved(gpt(), RecomputeRule("block.attention"))


def test_clones_are_called_again_and_stay() -> None:
    d = differentiated(gpt(), [RecomputeRule("block")])
    (loop,) = repeats(d.backward)
    assert isinstance(loop.op, Repeat)
    again = [v.name for n in loop.op.body.nodes for v in n.outputs if v.name.endswith(".again")]
    assert {"block.attention.softmax.p.again", "block.mlp.gelu.again", "block.ln1.out.again"} <= set(again)


# --- nested loops ------------------------------------------------------------------------------------

NESTED = {
    "outer": (RecomputeRule("layer"),),
    "inner": (RecomputeRule("layer.inner"),),
    "both": (RecomputeRule("layer"), RecomputeRule("layer.inner")),
    "everything": (RecomputeRule(),),
    "inner, keep": (RecomputeRule("layer.inner", ("layer.inner.z",)),),
    "outer, keep": (RecomputeRule("layer", ("layer.repeat",)),),
}


@pytest.mark.parametrize("rules", NESTED.values(), ids=NESTED)
def test_nested_loops(rules: tuple[RecomputeRule, ...]) -> None:
    model = nested()
    given = data_for(model)
    plain, again = differentiated(model), differentiated(model, rules)
    assert saved_bytes(again) < saved_bytes(plain)
    for a, b in zip(gradients(plain, given), gradients(again, given), strict=True):
        assert np.array_equal(a, b)
    agrees_with_differences(model, *rules)


def loops(graph: Graph) -> Iterator[Repeat]:
    for g in bodies(graph):
        yield from (n.op for n in g.nodes if isinstance(n.op, Repeat))


def test_the_outer_scope_runs_the_inner_loop_again() -> None:
    outer = differentiated(nested(), [RecomputeRule("layer")])
    assert {v.name for v in outer.saved} == {"layer.x.in.saved"}
    assert [op.label for op in loops(outer.backward)].count("inner") == 2  # forward again, and backward
    inner = differentiated(nested(), [RecomputeRule("layer.inner")])
    assert [op.label for op in loops(inner.backward)].count("inner") == 1
    assert {v.name for v in inner.saved} == {"layer.inner.in.in.saved.saved"} or len(inner.saved) == 1


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [RecomputeRule("blok"), RecomputeRule("block", ("block.atention.out",))])
def test_unknown_paths_are_errors_with_a_mend(rule: RecomputeRule) -> None:
    span = Span("main.par", 3, 9)
    with pytest.raises(ParcError) as caught:
        differentiated(gpt(), [RecomputeRule(rule.scope, rule.keep, span)])
    (found,) = caught.value.diagnostics
    assert found.code == "E0404"
    assert found.span == span
    assert found.help in ("did you mean `block`?", "did you mean `block.attention.out`?")


def contractions(graph: Graph) -> int:
    return sum(isinstance(n.op, Contract) for g in bodies(graph) for n in g.nodes)
