"""Mixtures of experts of the table as jobs: who sends what to whom, and what their products are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import prod

import pytest

import parc
from benchmarks.published import machines
from benchmarks.published.facts import Row, load
from benchmarks.published.generate import degrees, job
from compiler.cost.kernels.work import Collective, Part, Product, Work, WorkLoop
from compiler.cost.price.calibration import DEFAULT
from compiler.cost.time.simulate import Simulation
from dsl.source import Source
from tests.published.rows import LATENT

ROWS = {str(row): row for row in load()}


def changed(name: str, **cells: str) -> Row:
    """A row of the table with other facts."""
    return replace(ROWS[name], facts={**ROWS[name].facts, **cells})


MIXTURE = {"arch": "moe", "experts": "8", "topk": "2", "moe_ffn": "1024", "layers": "4", "seq_len": "2048"}
MIXTURE |= {"n_dev": "16", "gbs": "32", "mbs": "1", "zero_stage": "1", "recompute": "none", "attn": "flash"}


@pytest.mark.parametrize(
    "cells, mesh, moved",
    [
        ({"dp": "16", "tp": "1", "ep": "8"}, {"rep": 2, "dp": 8}, {"dp"}),
        ({"dp": "8", "tp": "2", "ep": "8", "sp": "1"}, {"rep": 2, "dp": 4, "tp": 2}, {"dp", "tp"}),
        ({"dp": "8", "tp": "2", "ep": "1", "sp": "1"}, {"dp": 8, "tp": 2}, set()),
        ({"dp": "8", "cp": "2", "ep": "16", "tp": "1", "experts": "16"}, {"dp": 8, "cp": 2}, {"dp", "cp"}),
        ({"dp": "4", "tp": "2", "pp": "2", "ep": "4", "sp": "1"}, {"pp": 2, "rep": 2, "dp": 2, "tp": 2}, {"dp", "tp"}),
    ],
)
def test_experts_and_their_inputs_change_places(cells: dict[str, str], mesh: dict[str, int], moved: set[str]) -> None:
    """All-to-alls along the axes that experts are split on, of all copies of a device's positions: on the way to the
    experts, back, and the same for gradients. What experts got is kept. Each position has two copies."""
    row = changed("korthikanti_t5-0001", **MIXTURE | cells)
    assert {axis: n for axis, n in degrees(row).items() if n > 1} == mesh
    simulation = Simulation.of(parc.compile(Source("row.par", job(row))))
    (forward, backward) = (_exchanges(simulation.features.parts[0][kind, 0]) for kind in "FB")
    split = mesh.get("tp", 1) * mesh.get("cp", 1) if cells.get("sp") or "cp" in cells else 1
    copies = 2 * 2048 * 6144
    of_dp = {axes: [w.elements for w in found] for axes, found in forward.items()}
    assert {axis for axes in forward for axis in axes} == moved
    assert of_dp.get(("dp",), []) == ([copies // split] * 2 if moved else [])
    assert len(backward.get(("dp",), [])) == (2 if moved else 0)
    assert all(w.copies == 2 for found in (forward, backward) for w in found.get(("dp",), []))
    assert simulation.seconds() > 0


def test_copies_for_places_and_then_for_experts() -> None:
    """DeepSeek-V3's experts are in four places at most: 4 copies of a position, and 2 of each; Mixtral's anywhere."""
    for model, places in [("DeepSeek-V3", 4), ("Mixtral", 0)]:
        cells = MIXTURE | {"experts": "16", "topk": "8", "model": model}
        row = changed("korthikanti_t5-0001", **cells, dp="16", tp="1", ep="16")
        simulation = Simulation.of(parc.compile(Source("row.par", job(row))))
        for kind in "FB":
            found = _exchanges(simulation.features.parts[0][kind, 0])["dp",]
            assert [(w.copies, w.places) for w in found] == [(8, places)] * 2


def test_experts_that_do_not_divide_positions() -> None:
    """2 copies of 2,048 positions for 6 experts are 682 each, and 4 of 4,096 go nowhere; still each has two copies."""
    row = changed("korthikanti_t5-0001", **MIXTURE | {"experts": "6"}, dp="16", tp="1", ep="2")
    simulation = Simulation.of(parc.compile(Source("row.par", job(row))))
    (forward, backward) = (_exchanges(simulation.features.parts[0][kind, 0]) for kind in "FB")
    for found in (forward, backward):
        assert [(w.elements, w.copies) for w in found["dp",]] == [(4092 * 6144, 2)] * 2


def test_room_that_experts_do_not_fill_is_no_copy() -> None:
    """With twice the slots half of what is sent is nothing; of what is something each position has two copies still."""
    row = changed("korthikanti_t5-0001", **MIXTURE, dp="16", tp="1", ep="2")
    text = job(row)
    assert "capacity = 1.0" in text
    text = text.replace("capacity = 1.0", "capacity = 2.0")
    simulation = Simulation.of(parc.compile(Source("row.par", text)))
    for kind in "FB":
        found = _exchanges(simulation.features.parts[0][kind, 0])["dp",]
        assert [(w.elements, w.copies, w.places) for w in found] == [(2 * 4096 * 6144, 2, 0)] * 2


def test_products_of_experts_and_what_hides_their_messages() -> None:
    """A device has 4 of 8 experts: all products with their weights are of 4 groups, those of attention of one. What is
    hidden of all-to-alls is a matter of its own."""
    row = changed("korthikanti_t5-0001", **MIXTURE, dp="16", tp="1", ep="2")
    simulation = Simulation.of(parc.compile(Source("row.par", job(row))))
    parts = simulation.features.parts[0]
    products = [w for kind in "FB" for w in _work(parts[kind, 0]) if isinstance(w, Product)]
    assert Counter(w.groups for w in products if 1024 in (w.m, w.n, w.k)) == {4: 9}
    assert {w.groups for w in products if w.core} == {1}
    seconds = [simulation.seconds(DEFAULT.changed(**c)) for c in ({}, {"overlap": 0.5}, {"exchange": 0.5})]
    assert seconds[1] > 0.999 * seconds[0] > seconds[2]


def test_bounded_experts_and_releases_are_software_of_their_own() -> None:
    """gpt-oss before Megatron-Bridge 26.06; and since then experts run as CUDA graphs. Dense models do not care."""
    like = next(r for r in ROWS.values() if r["model"].startswith("gpt-oss") and r["accel"] == "GB200")

    def stack(source: str, **cells: str) -> str:
        return machines.stack(changed(str(like), source=source, **cells), "gb200")

    assert stack("summary 25.11", precision="bf16") == "megatron_core_clamped"
    assert stack("summary 26.06", precision="bf16") == "megatron_core_graphs"
    assert stack("summary 26.06", precision="mxfp8") == "megatron_core_float8_graphs"
    assert stack("summary 25.11", precision="mxfp8", model="Qwen3") == "megatron_core_float8"
    assert stack("summary 26.06", precision="mxfp8", experts="", arch="dense") == "megatron_core_float8"
    assert "bounded = true" in job(like)


def _work(part: Part) -> Iterator[Work]:
    for node in part.nodes:
        if isinstance(node.work, WorkLoop):
            yield from _work(node.work.body)
        else:
            yield node.work


def _exchanges(part: Part) -> dict[tuple[str, ...], list[Collective]]:
    """The large all-to-alls of a part and its loops, by axes."""
    found: dict[tuple[str, ...], list[Collective]] = {}
    for work in _work(part):
        if isinstance(work, Collective) and work.op == "all_to_all" and work.elements > 1e6:
            found.setdefault(work.axes, []).append(work)
    return found


def test_parameters_of_a_mixture_with_latent_attention() -> None:
    cells = LATENT | {"layers": "27", "recompute": "full", "dp": "1", "tp": "1"}
    cells |= {"fsdp_shards": "4", "zero_stage": "3", "mbs": "4", "gbs": "16"}
    found = parc.compile(Source("row.par", job(changed("korthikanti_t5-0001", **cells)))).job
    count = sum(prod(dim.size for dim in weight.value.type.dims) for weight in found.model.weights)
    assert count == pytest.approx(15.7e9, rel=0.01)
