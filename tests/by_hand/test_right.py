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
    "banded": ("conv", "banded_conv(sp)", "sp = 3", "split y on sp for activations"),
}


@pytest.mark.parametrize(("layer", "by", "mesh", "rules"), RIGHT.values(), ids=RIGHT)
def test_implementations_compute_what_they_replace(layer: str, by: str, mesh: str, rules: str) -> None:
    judged(file(layer, by, mesh, rules))
