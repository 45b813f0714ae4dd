"""Known facts about techniques (design, section 5), read off the golden programs: exactly these collectives.

`block`: in one iteration of the rolled layers; `-`: outside of it. Local operations (cutting, masking) do not count.
"""

from __future__ import annotations

from collections import Counter

import pytest

from compiler.graph import Graph
from compiler.ops.call import Call
from compiler.ops.repeat import Repeat
from compiler.program import Program
from compiler.text import parse_program
from tests.golden.cases import CASES

Facts = dict[tuple[str, str], dict[str, int]]

LOSS = {"all_reduce": 1}  # the mean over the parts of a batch or sequence
EMBEDDING_AND_LOSS = {"all_reduce": 4}  # rows from a part of the table; the maximum, sum and target's logit
WEIGHTS = 14
IN_BLOCK = 13  # of them; the other is the table
READ_BACKWARD = 8  # of them, those that the backward pass reads: matrices and gains, no biases

KNOWN: dict[str, Facts] = {
    # One all-reduce per gradient and step, nothing in a layer; accumulation changes nothing of it.
    "data_parallel": {("F", "-"): LOSS, ("U", "-"): {"all_reduce": WEIGHTS}},
    "accumulation": {("E", "-"): LOSS, ("U", "-"): {"all_reduce": WEIGHTS}},
    # The all-reduce in two halves, around the update of a part.
    "zero_1": {("F", "-"): LOSS, ("U", "-"): {"reduce_scatter": WEIGHTS, "all_gather": WEIGHTS}},
    # Gradients are stored in parts: each is scattered as soon as it is there.
    "zero_2": {
        ("F", "-"): LOSS,
        ("B", "block"): {"reduce_scatter": IN_BLOCK},
        ("B", "-"): {"reduce_scatter": 1},
        ("U", "-"): {"all_gather": WEIGHTS},
    },
    # Weights are gathered where they are read, and again by the backward pass; the update needs nobody else.
    "zero_3": {
        ("F", "block"): {"all_gather": IN_BLOCK},
        ("F", "-"): {"all_gather": 1, **LOSS},
        ("B", "block"): {"all_gather": READ_BACKWARD, "reduce_scatter": IN_BLOCK},
        ("B", "-"): {"all_gather": 1, "reduce_scatter": 1},
    },
    # The same where what is gathered comes from the host's memory: a move is no message. What is recomputed gathers all
    # that the forward pass read, but for the last bias, which nothing of the backward pass needs.
    "offload": {
        ("F", "block"): {"all_gather": IN_BLOCK},
        ("F", "-"): {"all_gather": 1, **LOSS},
        ("B", "block"): {"all_gather": IN_BLOCK - 1, "reduce_scatter": IN_BLOCK},
        ("B", "-"): {"all_gather": 1, "reduce_scatter": 1},
    },
    # Megatron-LM: after attention and after the feed-forward layer, forward and backward: four a layer.
    "tensor_parallel": {
        ("F", "block"): {"all_reduce": 2},
        ("F", "-"): EMBEDDING_AND_LOSS,
        ("B", "block"): {"all_reduce": 2},
        ("B", "-"): {"all_reduce": 1},
    },
    "vocab_parallel": {("F", "-"): EMBEDDING_AND_LOSS, ("B", "-"): {"all_reduce": 1}},
    # With sequence parallelism each becomes a reduce-scatter and an all-gather; the backward pass gathers the inputs
    # of the two column-parallel products again. What only a part of the positions saw is summed in the update: the
    # gains of the two norms and the two biases after a reduction.
    "megatron": {
        ("F", "block"): {"all_gather": 2, "reduce_scatter": 2},
        ("F", "-"): {"all_gather": 4, "reduce_scatter": 4, **LOSS},
        ("B", "block"): {"all_gather": 4, "reduce_scatter": 2},
        ("B", "-"): {"all_gather": 5, "reduce_scatter": 1},
        ("U", "-"): {"all_reduce": 4},
    },
    # To make the layer again costs one more: what comes after attention is an input of the second half; the sum at
    # the end of the layer is not made again.
    "megatron_recompute": {
        ("F", "block"): {"all_gather": 2, "reduce_scatter": 2},
        ("F", "-"): {"all_gather": 4, "reduce_scatter": 4, **LOSS},
        ("B", "block"): {"all_gather": 4, "reduce_scatter": 3},
        ("B", "-"): {"all_gather": 5, "reduce_scatter": 1},
        ("U", "-"): {"all_reduce": 4},
    },
    # Keys and values are gathered, again for the backward pass, and their gradients scattered.
    "context_parallel": {
        ("F", "block"): {"all_gather": 2},
        ("F", "-"): LOSS,
        ("B", "block"): {"all_gather": 2, "reduce_scatter": 2},
        ("U", "-"): {"all_reduce": WEIGHTS},
    },
    # Queries, keys, values and the result change from positions to heads or back. Biases of heads have gradients in
    # parts, so they are gathered.
    "ulysses": {
        ("F", "block"): {"all_to_all": 4},
        ("F", "-"): LOSS,
        ("B", "block"): {"all_to_all": 6},
        ("U", "-"): {"all_reduce": WEIGHTS - 2, "all_gather": 2},
    },
    # By hand: keys, values and their positions go round in the forward pass, gradients of the first two back. Heads are
    # split on another axis by rules: two sums a layer there, as in tensor parallelism; so is the vocabulary.
    "ring": {
        ("F", "turn"): {"shift_across": 3},
        ("F", "block"): {"all_reduce": 2},
        ("F", "-"): {"all_reduce": 5},
        ("B", "turn"): {"shift_across": 2},
        ("B", "block"): {"all_reduce": 2},
        ("B", "-"): {"all_reduce": 1},
        ("U", "-"): {"all_reduce": WEIGHTS},
    },
    # Inputs and outputs of the experts change places, and both gradients; so do the shares (one number per copy), which
    # the backward pass fetches again. The experts' three weights are nobody else's, all others are summed.
    "experts": {
        ("F", "block"): {"all_to_all": 3},
        ("F", "-"): LOSS,
        ("B", "block"): {"all_to_all": 4},
        ("U", "-"): {"all_reduce": 14 - 3},
    },
}

STAGES: dict[str, list[Facts]] = {
    # Activations to the right, gradients to the left; the table is used at both ends: one sum in the update.
    name: [
        {("F", "-"): {"send": 1}, ("B", "-"): {"recv": 1}, ("U", "-"): {"stage_reduce": 1}},
        {("F", "-"): {"recv": 1}, ("B", "-"): {"send": 1}, ("U", "-"): {"stage_reduce": 1}},
    ]
    for name in ("one_f_one_b", "zero_bubble")
} | {
    # What counts is known to the stage with the loss alone, and agreed on once; so is what a metric is made of. Loss
    # and two metrics are added up over the devices for each micro-batch, gradients of six weights once.
    "counted": [
        {("F", "-"): {"send": 1}, ("B", "-"): {"recv": 1}, ("U", "-"): {"stage_reduce": 1, "all_reduce": 6}},
        {
            ("S", "-"): {"all_reduce": 1},
            ("F", "-"): {"recv": 1},
            ("B", "-"): {"send": 1},
            ("E", "-"): {"all_reduce": 4},
            ("U", "-"): {"stage_reduce": 1, "all_reduce": 6},
        },
    ]
}

LOCAL = {"shard", "only_first", "mask_pad"}
BETWEEN = {"send", "recv", "stage_reduce"}


def communication(program: Program, c: int) -> Facts:
    """What a class of devices sends, by function and by whether it stands in the layers' loop."""
    found: dict[tuple[str, str], Counter[str]] = {}

    def walk(name: str, body: Graph, place: str) -> None:
        for i in body.nodes:
            if isinstance(i.op, Repeat):
                walk(name, i.op.body, i.op.label)
            elif isinstance(i.op, Call):
                walk(name, i.op.body, place)
            elif i.op.mnemonic in BETWEEN or (getattr(i.op, "axes", ()) and i.op.mnemonic not in LOCAL):
                found.setdefault((name, place), Counter())[i.op.mnemonic] += 1

    for f in program.classes[c].functions:
        walk(f.phase, f.body, "-")
    return {k: dict(v) for k, v in found.items()}


def golden(name: str) -> Program:
    return parse_program(next(c for c in CASES if c.name == name).path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", KNOWN)
def test_exactly_these_collectives(name: str) -> None:
    program = golden(name)
    assert len(program.classes) == 1
    weights = [s.name for s in program.classes[0].states if s.role == "weight"]
    assert len(weights) == (WEIGHTS if name != "experts" else 14)
    assert communication(program, 0) == KNOWN[name]


@pytest.mark.parametrize("name", STAGES)
def test_exactly_these_messages(name: str) -> None:
    program = golden(name)
    assert [communication(program, c) for c in range(len(program.classes))] == STAGES[name]
    assert [c.groups for c in program.classes] == [(0,), (1,)]


def test_every_technique_has_its_facts() -> None:
    assert {*KNOWN, *STAGES} == {c.name for c in CASES if c.axes}
