"""Each implementation of the library beside each other thing that a strategy can say."""

from __future__ import annotations

import pytest

import parc
from compiler.verify import verify
from dsl.source import Source
from runtime.prove import prove
from tests.by_hand.files import PATHS, file
from tests.by_hand.test_right import RIGHT
from tests.some import some_pairs

WITH = {
    "micro-batches": ("", "microbatches 2"),
    "1F1B": ("pp = 2, ", "pipeline block on pp, schedule one_f_one_b(microbatches = 4)"),
    "interleaved": ("pp = 2, ", "pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 2)"),
    "zero bubble": ("pp = 2, ", "pipeline block on pp, schedule zero_bubble(microbatches = 4)"),
    "data parallel": ("dp = 2, ", "split b on dp"),
    "data parallel within": ("AXES, dp = 2", "split b on dp"),
    "data parallel in micro-batches": ("dp = 2, ", "split b on dp\nmicrobatches 2"),
    "zero 1": ("dp = 2, ", "split b on dp\nshard optimizer on dp"),
    "zero 2": ("dp = 2, ", "split b on dp\nshard optimizer, gradients on dp\nmicrobatches 2"),
    "zero 3": ("dp = 2, ", "split b on dp\nshard optimizer, gradients, weights on dp"),
    "zero on its own axis": ("", "shard optimizer, gradients, weights on AXIS"),
    "its own axis": ("", "split b on AXIS"),
    "recompute": ("", "recompute block"),
    "recompute its scope": ("", "recompute SCOPE"),
    "recompute in micro-batches": ("", "recompute block\nmicrobatches 2"),
    "width on another axis": ("op = 2, ", "split WIDTH on op"),
    "width on another axis within": ("AXES, op = 2", "split WIDTH on op"),
    "positions on another axis": ("op = 2, ", "split PLACE on op for activations"),
    "weights on the host": ("", "offload weights to host"),
    "optimizer on the host": ("", "offload optimizer to host"),
    "activations on the host": ("", "offload activations, weights to host\nmicrobatches 2"),
    "some layers": ("", "in block[0..3]"),
    "other layers of a pipeline": (
        "pp = 2, ",
        "pipeline block on pp, schedule one_f_one_b(microbatches = 4)\nin block[1..3]",
    ),
    "all": (
        "pp = 2, dp = 2, ",
        "split b on dp\nshard optimizer, gradients, weights on dp\nrecompute block\n"
        "pipeline block on pp, schedule one_f_one_b(microbatches = 2)",
    ),
}
"""Axes and rules beside an implementation; `in …`: of these layers only."""

WIDTH = {"attention": "h", "grouped_attention": "h", "conv": "co"}
PLACE = {"conv": "x"}
LARGER = {
    "repeat 2 as": "repeat 4 as",
    "b = 4": "b = 16",
    "b = 8": "b = 16",
    "s = 4": "s = 8",
    "d = 8": "d = 16",
    "x = 4, c = 4": "x = 6, c = 4",
    "sp = 3": "sp = 2",
    "attention(y, 4": "attention(y, 8",
    "(y, 8, 2)": "(y, 8, 4)",
    "lr = 0.1": "lr = 0.1, momentum = 0.9",
    "z * cast(busy, compute)": "z",  # a product of sums over the batch is nothing that a micro-batch could have
}


@pytest.mark.parametrize(("other", "name"), some_pairs(WITH, [*RIGHT], 11))
def test_implementations_compose(other: str, name: str) -> None:
    layer, by, mesh, own = RIGHT[name]
    axes, rules = WITH[other]
    axes = axes.replace("AXES", mesh) if "AXES" in axes else axes + mesh
    if mesh.startswith("dp") and "dp" in WITH[other][0]:  # it has that axis already
        axes, own = axes.replace("dp = 2, ", "", 1), own.replace("split b on dp\n", "")
    where = f"block.{PATHS.get(layer, layer)}"
    said = {"AXIS": mesh.split(" ")[0], "SCOPE": where, "WIDTH": WIDTH.get(layer, "f"), "PLACE": PLACE.get(layer, "s")}
    for word, instead in said.items():
        rules = rules.replace(word, instead)
    *_, last = rules.split("\n")
    some = last.removeprefix("in ") if last.startswith("in ") else ""
    lines = [*own.split("\n"), *(rules.removesuffix(last) if some else rules).split("\n")]
    text = file(layer, by, axes, "\n".join(dict.fromkeys(lines)))
    if some:
        text = text.replace("implement block.", f"implement {some}.")
    for small, larger in LARGER.items():
        text = text.replace(small, larger)
    compiled = parc.compile(Source("main.par", text), double=True)
    assert not verify(compiled.program)
    proof = prove(compiled.training, compiled.program)
    assert proof.ok, proof.worst
