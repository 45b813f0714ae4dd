"""Implementations of the standard library compute what the layers do that they replace, alone and with all else."""

from __future__ import annotations

import pytest

from tests.by_hand.files import file
from tests.stages.build import judged

RIGHT = {
    "tensor parallel": ("mlp", "tensor_parallel_mlp(tp)", "tp = 4", ""),
    "sequence parallel": ("mlp", "sequence_parallel_mlp(tp)", "tp = 2", "split s on tp for activations"),
    "two levels": ("mlp", "two_level_mlp(inner, outer)", "outer = 2, inner = 2", ""),
    "gathered": ("attention", "gathered_attention(cp)", "cp = 4", "split s on cp for activations"),
    "ulysses": ("attention", "ulysses_attention(cp)", "cp = 2", "split s on cp for activations"),
    "ring": ("attention", "ring_attention(cp)", "cp = 4", "split s on cp for activations"),
    "blocked": ("attention", "blocked_attention(2)", "dp = 2", "split b on dp\nrecompute block.attention"),
    "experts": ("routed_experts", "dispatched_experts(ep)", "ep = 2", "split b on ep"),
    "banded": ("conv", "banded_conv(sp)", "sp = 3", "split y on sp for activations"),
}


@pytest.mark.parametrize(("layer", "by", "mesh", "rules"), RIGHT.values(), ids=RIGHT)
def test_implementations_compute_what_they_replace(layer: str, by: str, mesh: str, rules: str) -> None:
    judged(file(layer, by, mesh, rules))


WITH = {
    "pipeline": ("pp = 2, ", "pipeline block on pp, schedule one_f_one_b(microbatches = 4)"),
    "interleaved": ("pp = 2, ", "pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 1)"),
    "zero bubble": ("pp = 2, ", "pipeline block on pp, schedule zero_bubble(microbatches = 4)"),
    "zero 1": ("dp = 2, ", "split b on dp\nshard optimizer on dp"),
    "zero 3": ("dp = 2, ", "split b on dp\nshard optimizer, gradients, weights on dp"),
    "recompute": ("", "recompute block"),
    "recompute its scope": ("", "recompute block.LAYER"),
    "micro-batches": ("", "microbatches 2"),
    "width on another axis": ("op = 2, ", "split WIDTH on op"),
    "positions on another axis": ("op = 2, ", "split PLACE on op for activations"),
    "its own axis": ("", "split b on AXIS"),
    "zero on its own axis": ("", "shard optimizer, gradients, weights on AXIS"),
    "all": (
        "pp = 2, dp = 2, ",
        "split b on dp\nshard optimizer, gradients on dp\nrecompute block\n"
        "pipeline block on pp, schedule one_f_one_b(microbatches = 2)",
    ),
}
"""Axes and rules beside an implementation."""

LAYER = {
    "mlp": ("tensor_parallel_mlp(ap)", "f", "s"),
    "attention": ("ring_attention(ap)", "h", "s"),
    "conv": ("banded_conv(ap)", "co", "x"),
}
"""By which implementation, and what else can be split."""


def test_scopes_in_implementations_can_be_computed_again() -> None:
    """Of the turns of a ring what enters each is kept, and no scores."""
    rules = "recompute block.attention.turn"
    text = file("attention", "ring_attention(cp)", "cp = 4", "split s on cp for activations")
    # rules about what is in an implementation stand behind it
    again = text.replace("by ring_attention(cp)\n", f"by ring_attention(cp)\n  {rules}\n")
    kept = [{s.name for s in judged(t).program.classes[0].states if s.role == "saved"} for t in (text, again)]
    scores = [{name for name in of if ".turn.attended." in name} for of in kept]
    assert scores[0] and not scores[1] and any(".turn.key" in name for name in kept[1])


@pytest.mark.parametrize("layer", LAYER)
@pytest.mark.parametrize("other", WITH)
def test_implementations_compose(layer: str, other: str) -> None:
    by, width, place = LAYER[layer]
    axes, rules = WITH[other]
    for word, said in {"LAYER": layer, "AXIS": "ap", "WIDTH": width, "PLACE": place}.items():
        rules = rules.replace(word, said)
    judged(file(layer, by, f"{axes}ap = 2", rules))
