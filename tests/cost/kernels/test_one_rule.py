"""What runs as one in programs (`fuse { … }`) and in prices (kernels): the same, but for what is listed here and in
docs/costs.md. Every value that one of two instructions makes and the other reads is looked at, in all examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.cost.kernels import group
from compiler.cost.kernels import program as features_of
from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.graph import Graph, Node, Value, names_of
from compiler.ops.call import Call
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass
from compiler.regions.fused import by_column, grown, is_product, piecewise, stretches
from compiler.regions.region import Region, RegionKind

EXAMPLES = Path(__file__).parents[3] / "examples"

# What is one kernel in the price, and not one region of the program.
BETWEEN = "something stands between that neither is fused nor moves: a message, an effect, a product, a loop"
BEGINNING = "another beginning stands between, of a chain that is joined later; of updates alone they are regions"
ROWS = "no rows are left for blocks: numbers, what is smaller or larger than the first instruction, two sums of columns"
STANDS = "what one makes for the other is read elsewhere, too: it stands in memory in any case"
OTHER = "an op of which there are no pieces, a matrix times a vector, another memory, or what renews a state"

# What is one region of the program, and not one kernel of the price.
FREE = "it is free in the price: a view, a constant, a cast of a weight"
PRODUCT = "a product of attention: a kernel with a share of its own, where the stack has no fused one"
ELSEWHERE = "its kernel is that of its last operand, or of one that is as large"


def regions_in(body: Graph) -> dict[int, int]:
    """By identity of a node the number of its region."""
    return {id(n): k for k, (first, last) in enumerate(stretches(body)) for n in body.nodes[first : last + 1]}


def with_marks(cls: DeviceClass, body: Graph, expanded: Any = features_of._expanded) -> Graph:
    """An update with what it calls in its place, as prices have it, and the regions of that."""
    made = expanded(cls, body)
    nodes, found = list(made.nodes), list(body.regions)
    at = 0
    for node in body.nodes:
        inner = node.op.body if isinstance(node.op, Call) else None
        if inner is None:
            at += 1
            continue
        end = at + len(inner.nodes)
        nodes[at:end] = [marked_again(a, b) for a, b in zip(inner.nodes, nodes[at:end], strict=True)]
        found += again(inner, nodes[at:end])
        at = end
    assert at == len(nodes)
    return Graph(made.name, made.inputs, tuple(nodes), made.outputs, tuple(found))


def again(body: Graph, nodes: Sequence[Node]) -> list[Region]:
    """The regions of a body in copies of its nodes."""
    places = ([n.outputs[0].name for n in nodes[first : last + 1]] for first, last in stretches(body))
    return [Region(RegionKind.FUSED, tuple(names)) for names in places]


def marked_again(node: Node, copy: Node) -> Node:
    """The copy of a loop with the regions of the loop."""
    if not isinstance(node.op, Repeat) or not isinstance(copy.op, Repeat):
        return copy
    inner = tuple(map(marked_again, node.op.body.nodes, copy.op.body.nodes))
    body = replace(copy.op.body, nodes=inner, regions=tuple(again(node.op.body, inner)))
    return replace(copy, op=replace(copy.op, body=body))


class Watched:
    """What the price made of the bodies of a program."""

    def __init__(self) -> None:
        self.why: dict[str, list[str]] = {}
        self.both = 0

    def body(self, lift: Any) -> None:
        nodes = lift.body.nodes
        kernels = {id(n): k for k, d in enumerate(lift.drafts) if d.work is None for n in d.instrs}
        regions, at = regions_in(lift.body), {id(n): i for i, n in enumerate(nodes)}
        made = {v.name: n for n in nodes for v in n.outputs}
        read = {v.name for n in nodes for v in n.inputs} | set(names_of(lift.body.outputs))
        for reader in nodes:
            for v in reader.inputs if read.intersection(names_of(reader.outputs)) else ():
                maker = made.get(v.name)
                if maker is None:
                    continue
                kernel, region = (
                    id(maker) in of and of[id(maker)] == of.get(id(reader), -1) for of in (kernels, regions)
                )
                if kernel and region:
                    self.both += 1
                elif kernel:
                    between = nodes[at[id(maker)] + 1 : at[id(reader)]]
                    region_of = [n for n in nodes if regions.get(id(n), -1) == regions.get(id(maker), -2)] or [maker]
                    why = not_fused(region_of, reader, between)
                    if not why and any(
                        v in n.inputs and not_fused(region_of, n, nodes[at[id(maker)] + 1 : i])
                        for i, n in enumerate(nodes)
                        if n is not reader
                    ):
                        why = STANDS
                    self.add(why or STANDS * (v in lift.body.outputs or leaves(nodes, v, kernels)), maker, reader)
                elif region:
                    self.add(not_a_kernel(maker, reader, kernels), maker, reader)

    def add(self, why: str, maker: Node, reader: Node) -> None:
        self.why.setdefault(why, []).append(f"{maker.outputs[0].name} -> {', '.join(names_of(reader.outputs))}")


def leaves(nodes: Sequence[Node], value: Value, kernels: dict[int, int]) -> bool:
    """Whether a value is read by another kernel."""
    return len({kernels.get(id(n), -1) for n in nodes if value in n.inputs}) > 1


def not_fused(of: list[Node], reader: Node, between: tuple[Node, ...]) -> str:
    """Why two instructions of a kernel are not in a region. of: the region of the first, or itself."""
    if any(piecewise(n, ()) or is_product(n) for n in (of[-1], reader)):
        return OTHER
    growing = grown(of)
    for node in (*between, reader):
        if not node.op.leaf and (piecewise(node, ()) or is_product(node)):
            return BETWEEN
        if growing.reads(node) and growing.takes(node):
            return ROWS
        if not (node.op.leaf or growing.lacks(node) or growing.reads(node)):
            return BEGINNING
    return ROWS if by_column(of[0]) or not growing.rows else ""


def not_a_kernel(maker: Node, reader: Node, kernels: dict[int, int]) -> str:
    """Why two instructions of a region are not in a kernel."""
    if id(maker) not in kernels or id(reader) not in kernels:
        products = [n for n in (maker, reader) if n.op.mnemonic == "contract"]
        return PRODUCT if products else FREE
    return ELSEWHERE


JOBS: dict[str, dict[str, str]] = {
    "distill": {},
    "gpt": {"dp": "2", "tp": "2"},
    "llama": {},
    "lora": {},
    "mamba": {},
    "megatron_175b": {},
    "pangu_200b": {},
    "recsys": {},
    "resnet": {},
    "schedules": {},
    "serving": {},
    "streaming": {},
    "towers": {},
    "unet": {"dp": "2", "sp": "2"},
    "distil_serving": {"job": "distil"},
    "embeddings_10tb": {"job": "on_hosts"},
    "gpt_serving": {"job": "on_two"},
    "one_card": {"job": "disk"},
    "walls": {"job": "pretrain"},
}


def test_every_example_is_here() -> None:
    assert set(JOBS) == {p.stem for p in EXAMPLES.glob("*.par")}


@pytest.mark.parametrize("name", JOBS)
def test_programs_and_prices_differ_for_the_listed_reasons_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Watched()
    part = group._Lift.part

    def watched(lift: Any) -> Any:
        made = part(lift)
        found.body(lift)
        return made

    monkeypatch.setattr(group._Lift, "part", watched)
    monkeypatch.setattr(features_of, "_expanded", with_marks)
    params = dict(JOBS[name])
    job = params.pop("job", None)
    program = compile_job(evaluate_file(EXAMPLES / f"{name}.par", params, job).job).program
    features_of.features(program)
    assert not found.why.get(""), found.why[""]
    apart = {why: len(pairs) for why, pairs in found.why.items()}
    assert found.both >= 2 * sum(apart.values()), apart
    assert found.both >= 10 * sum(apart.get(why, 0) for why in (BEGINNING, STANDS, OTHER)), apart
