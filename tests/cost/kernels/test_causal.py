"""Attention that sees no later position, cut by position: what the price has against what the devices multiply."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parc
from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Product
from compiler.cost.price.calibration import of_cluster
from compiler.cost.time.simulate import Simulation
from compiler.graph import Node, Value
from compiler.ops.contract import Contract
from compiler.program import Program
from compiler.walk import walk
from dsl.source import Source
from runtime.backend import Kernel
from runtime.data.synthetic import synthetic
from runtime.rank.blocks import BlockedRegion
from runtime.rank.executor import RankExecutor
from runtime.rank.interpreter import Rank

GPT = (Path(__file__).parents[3] / "examples" / "gpt.par").read_text()
SEQ = 120


def program(rules: str, devices: int, **params: int) -> Program:
    uses = "use std.implementations (ring_attention)\n" if "ring_attention" in rules else ""
    text = uses + GPT + f"strategy drawn for gpt {{\n{rules}\n}}\n"
    sizes = {"layers": 1, "hidden": 16, "heads": 4, "batch": 2, "seq": SEQ, "dp": devices, **params}
    return parc.compile(Source("drawn.par", text), params=sizes, strategy="drawn").program


def priced(p: Program) -> Product:
    """The product of the shares and the values."""
    nodes = (node for part in features(p).parts[0].values() for node, _ in part.each())
    (found,) = [node.work for node in nodes if node.name == "block.attention.mixed"]
    assert isinstance(found, Product)
    return found


def counted(p: Program, monkeypatch: pytest.MonkeyPatch, name: str = r"block\.attention\.mixed") -> list[int]:
    """Per device, how many multiplications of a share that is not 0 there are in that product, in a real step."""
    found: Counter[tuple[tuple[str, int], ...]] = Counter()
    compute, planned = Rank._compute, BlockedRegion._planned

    def add(at: Mapping[str, int], instr: Node, left: Any) -> None:
        if isinstance(instr.op, Contract) and re.fullmatch(name, instr.outputs[0].name):
            width = instr.outputs[0].type.dims[-1].size  # of a head
            found[tuple(at.items())] += int(np.count_nonzero(left)) * width

    def count(rank: Rank, instr: Node, scope: Mapping[str, Value], arrays: Sequence[Any]) -> Sequence[Any]:
        add(rank.at, instr, arrays[0] if arrays else None)
        return compute(rank, instr, scope, arrays)

    def count_blocks(region: BlockedRegion, block: Mapping[str, slice]) -> list[Kernel]:
        def counting(instr: Node, kernel: Kernel) -> Kernel:
            def run(ctx: Any, *arrays: Any) -> Any:
                add(region.position.coords, instr, arrays[0])
                return kernel(ctx, *arrays)

            return run

        return list(map(counting, region.op.nodes, planned(region, block)))

    monkeypatch.setattr(Rank, "_compute", count)
    monkeypatch.setattr(BlockedRegion, "_planned", count_blocks)
    run = RankExecutor(p)
    run.step(synthetic(p.inputs, 1, 0))
    return list(found.values())


@pytest.mark.parametrize("cp", [2, 3, 4, 5])
def test_the_last_of_the_pieces_is_priced(cp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """(2n-1)/n of the mean, but for the position that each sees of itself."""
    p = program(f"  mesh (cp = {cp})\n  split s on cp for activations", cp)
    work, found = priced(p), counted(p, monkeypatch)
    assert len(found) == cp
    itself = 1 / (2 * SEQ)
    assert work.flops / 2 * (work.most + itself) == pytest.approx(max(found))
    assert work.flops / 2 * (work.kept + itself) == pytest.approx(sum(found) / cp)
    assert work.most / work.kept == pytest.approx((2 * cp - 1) / cp)


@pytest.mark.parametrize("cp", [2, 3, 4, 5])
def test_in_zigzag_order_all_pieces_are_priced_alike(cp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the mean, where in order the last has (2n-1)/n of it."""
    p = program(f"  mesh (cp = {cp})\n  split s on cp zigzag for activations", cp)
    work, found = priced(p), counted(p, monkeypatch)
    assert len(found) == cp and max(found) == min(found)
    assert work.flops / 2 * (work.kept + 1 / (2 * SEQ)) == pytest.approx(max(found))
    assert work.most in (0.0, pytest.approx(work.kept))


@pytest.mark.parametrize("cp", [2, 3, 5])
def test_a_ring_of_pieces_in_zigzag_order_multiplies_what_is_seen(cp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device as much as the mean; but for those of its own blocks that the mask crosses, nothing besides."""
    rules = f"  mesh (cp = {cp})\n  split s on cp zigzag for activations\n"
    p = program(f"{rules}  implement block.attention by ring_attention(cp)", cp)
    found = counted(p, monkeypatch, r"block\.attention\.(.*\.)?more(_\d+)?")
    assert len(found) == cp and max(found) == min(found)
    assert sum(found) == 2 * SEQ * (SEQ + 1) // 2 * 16  # samples, pairs, of all heads together
    forward = next(f for f in p.entries[0].classes[0].functions if f.phase.name == "FORWARD")
    products = [
        node.op.flops([v.type for v in node.inputs]) * times
        for node, times in walk(forward.body)
        if isinstance(node.op, Contract) and re.fullmatch(r"block\.attention\.(.*\.)?more(_\d+)?", node.output.name)
    ]
    block = 2 * 2 * 16 * (SEQ // (2 * cp)) ** 2  # of 4 cp² in all; those that are seen are 2 cp² + cp
    assert sum(products) / cp == (2 * cp + 1) * block


@pytest.mark.parametrize(("axes", "rows", "there"), [("cp = 7", 18, 12), ("cp = 16", 8, 0), ("cp = 2, cq = 7", 9, 6)])
def test_of_uneven_pieces_the_one_with_most_is_priced(
    axes: str, rows: int, there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has time for as many rows as any other; those behind the last position see all of them."""
    names = [axis.split()[0] for axis in axes.split(", ")]
    rules = "".join(f"  split s on {name} for activations pad\n" for name in names)
    p = program(f"  mesh ({axes})\n{rules}", prod(int(axis.split()[-1]) for axis in axes.split(", ")))
    work, found = priced(p), counted(p, monkeypatch)
    itself = there / rows / (2 * SEQ)
    assert work.flops / 2 * (work.most + itself) == pytest.approx(max(found), rel=1e-3)


@pytest.mark.parametrize("rules", ["  mesh (dp = 2)\n  split b on dp", "  mesh (cp = 2)\n  ulysses(cp)"])
def test_heads_and_samples_are_even(rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = program(rules, 2)
    work, found = priced(p), counted(p, monkeypatch)
    assert work.most == 0 and max(found) == min(found)
    assert work.flops / 2 * (work.kept + 1 / (2 * SEQ)) == pytest.approx(max(found))


def test_software_that_deals_positions_out_is_priced_as_even() -> None:
    p = parc.compile(
        Source("drawn.par", GPT + "strategy drawn for gpt {\n  mesh (cp = 4)\n  context_parallel(cp)\n}\n"),
        params={"layers": 2, "hidden": 256, "seq": 4096, "batch": 2, "dp": 4},
        strategy="drawn",
    )
    s = Simulation.of(p)
    fused = of_cluster(s.cluster).changed(fused_attention=1.0)
    names = ["block.attention.scores", "block.attention.mixed"]
    for name in names:
        (node,) = [n for part in s.features.parts[0].values() for n, _ in part.each() if n.name == name]
        ordered, even = (s.pricer(fused.changed(balanced=x, launch=0.0)).price(node.work).ps for x in (0.0, 1.0))
        assert ordered == pytest.approx(7 / 4 * even, rel=1e-3)


@pytest.mark.parametrize("device", ["a100_80", "gb200"])
def test_of_a_device_without_a_stack_the_job_says_how_pieces_lie(device: str) -> None:
    """In order the last has (2n-1)/n of the mean; zig-zag pieces are even."""
    rules = "".join(
        f"strategy {name} for gpt {{\n  mesh (cp = 4)\n  split s on cp {name}for activations\n}}\n"
        for name in ("", "zigzag ")
    ).replace("strategy  for", "strategy ordered for")
    times = []
    for name in ("ordered", "zigzag"):
        source = Source("drawn.par", GPT.replace("ascend910", device) + rules)
        params = {"layers": 2, "hidden": 256, "seq": 4096, "batch": 2, "dp": 4}
        s = Simulation.of(parc.compile(source, params=params, strategy=name))
        (node,) = [n for n in s.features.parts[0].values() for n, _ in n.each() if n.name == "block.attention.scores"]
        times.append(s.pricer(of_cluster(s.cluster).changed(launch=0.0)).price(node.work).ps)
    assert times[0] == pytest.approx(7 / 4 * times[1], rel=1e-3)
