"""Pieces: distribute and collect are inverse; the stacked and the plain way cut alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.graph import Dim, Type
from compiler.layout import TIME, Layout, local_type
from compiler.model import Init
from compiler.program import Affine, DeviceClass, LoopRange, StateDecl
from dsl.diagnostics import ParcError
from runtime.distribute import assemble, collect, distribute, own_part, piece_of
from runtime.mesh import Mesh

AXES = ("a", "b", "c")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Type, Layout, Mesh]:
    """A type of up to 3 dims and a layout of it, uneven ones too."""
    sizes = {a: draw(st.integers(1, 3)) for a in AXES} | {TIME: draw(st.integers(1, 3))}
    rank = draw(st.integers(0, 3))
    type = Type("f64", tuple(Dim(f"d{i}", draw(st.integers(1, 7))) for i in range(rank)))
    dims: list[list[str]] = [[] for _ in range(rank)]
    pending = []
    for a in draw(st.permutations([*AXES, TIME])):
        place = draw(st.integers(-2, rank - 1))
        if place >= 0:
            dims[place].append(a)
        elif place == -2 and a != TIME:
            pending.append((a, draw(st.sampled_from(["sum", "max"]))))
    return type, Layout(tuple(map(tuple, dims)), tuple(sorted(pending))), Mesh(AXES, sizes)


@given(cases(), st.integers(0, 1000))
def test_pieces_of_both_executors_are_the_same(case: tuple[Type, Layout, Mesh], seed: int) -> None:
    type, layout, mesh = case
    x = np.random.default_rng(seed).integers(1, 99, type.shape).astype(np.float64)
    stacked = distribute(x, type, layout, mesh, time=True)
    assert stacked.shape[mesh.lead + 1 :] == local_type(type, layout, mesh.sizes).shape
    assert stacked.shape[1 : mesh.lead + 1] == mesh.lead_shape(layout.axes)
    for mb in range(mesh.sizes[TIME]):
        for at in mesh.devices:
            index = [mb if stacked.shape[0] > 1 else 0]
            index += [at[a] if stacked.shape[i + 1] > 1 else 0 for i, a in enumerate(AXES)]
            np.testing.assert_array_equal(stacked[tuple(index)], piece_of(x, type, layout, mesh, {**at, TIME: mb}))


@given(cases(), st.integers(0, 1000))
def test_collect_undoes_distribute(case: tuple[Type, Layout, Mesh], seed: int) -> None:
    type, layout, mesh = case
    if TIME in layout.axes:
        return
    x = np.random.default_rng(seed).integers(1, 99, type.shape).astype(np.float64)
    stacked = distribute(x, type, layout, mesh)
    np.testing.assert_array_equal(collect(stacked, type, layout, mesh), x)
    full = np.broadcast_to(stacked, mesh.shape + stacked.shape[mesh.lead :])  # as private buffers give it
    np.testing.assert_array_equal(collect(full, type, layout, mesh), x)


def test_replicas_that_differ_are_found() -> None:
    mesh = Mesh(("a",), {"a": 2})
    with pytest.raises(ParcError, match="E0703"):
        collect(np.array([[1.0], [2.0]]), Type("f64", (Dim("d", 1),)), Layout(((),)), mesh, "w")


def classes(*parts: tuple[int, int]) -> list[tuple[StateDecl, DeviceClass, int]]:
    """One class per part (first layer, layers) of a loop of 5 layers, one group each."""
    found: list[tuple[StateDecl, DeviceClass, int]] = []
    for g, (first, count) in enumerate(parts):
        decl = StateDecl(
            "w", "weight", Type("f64", (Dim("block", count), Dim("d", 2))), Layout(((), ())), 0, Init("zeros")
        )
        ranges = (LoopRange("block", 0, Affine(first), count, 5),)
        found.append((decl, DeviceClass((g,), ranges, (decl,), (), ()), g))
    return found


def test_stages_assemble_to_all_layers() -> None:
    x = np.arange(10.0).reshape(5, 2)
    held: list[Any] = [(d, c, g, own_part(x, d, c, g)) for d, c, g in classes((0, 2), (2, 2), (4, 1))]
    assert [p[3].shape[0] for p in held] == [2, 2, 1]
    np.testing.assert_array_equal(assemble(held, add=False), x)


def test_layers_held_twice_add_up_or_must_agree() -> None:
    x = np.arange(10.0).reshape(5, 2)
    held: list[Any] = [(d, c, g, own_part(x, d, c, g)) for d, c, g in classes((0, 3), (2, 3))]
    np.testing.assert_array_equal(assemble(held, add=False), x)
    total = x.copy()
    total[2] *= 2
    np.testing.assert_array_equal(assemble(held, add=True), total)
    other = [held[0], (*held[1][:3], held[1][3] + 1)]
    with pytest.raises(ParcError, match="E0703"):
        assemble(other, add=False)
