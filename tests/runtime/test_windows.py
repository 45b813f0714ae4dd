"""Windows that stay views, sums of fewer multiplications, sums as products: the same as numpy's, however arrays lie."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import runtime.numpy.patches as patches
import runtime.numpy.winograd as winograd
from compiler.graph import Value
from compiler.layout import local_type
from compiler.ops.neighbours import HaloAdd
from compiler.ops.repeat import Repeat
from runtime.data.synthetic import synthetic
from runtime.distribute import Array
from runtime.mesh import Mesh
from runtime.numpy import CallContext, LocalValue
from runtime.numpy.base import quiet
from runtime.numpy.borders import with_borders
from runtime.numpy.sums import TERMS, sum_over
from runtime.numpy.unfolded import Unfolded, unfold
from runtime.prove import prove
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.runtime.test_convolutions import resnet

RNG = np.random.default_rng(0)
CTX = CallContext()


def images(channels: int = 20) -> Array:
    return RNG.standard_normal((2, 3, 10, 14, channels))


def apart(x: Array) -> Array:
    """The same, its fourth axis as two: pieces of devices."""
    shape, steps = [*x.shape], [*x.strides]
    shape[2:3], steps[2:3] = [2, x.shape[2] // 2], [x.strides[2] * (x.shape[2] // 2), x.strides[2]]
    return np.lib.stride_tricks.as_strided(x, shape, steps, writeable=False)


BOTH = sliding_window_view(images(), (3, 3), (2, 3)).transpose(0, 1, 2, 3, 5, 6, 4)
WINDOWS = {
    "two dims": (BOTH, 4, 2),
    "pieces of devices, other order, backwards along one": (apart(BOTH)[..., ::-1, :, :].swapaxes(-1, -2), 5, 2),
    "backwards along both": (BOTH[..., ::-1, ::-1, :], 4, 2),
    "one dim": (sliding_window_view(images(), 3, 3).transpose(0, 1, 2, 3, 5, 4), 4, 1),
    "images that lie the other way round": (BOTH.transpose(0, 3, 2, 1, 6, 5, 4), 4, 2),
}


@pytest.mark.parametrize("block", [500, 20_000, 1 << 17])
@pytest.mark.parametrize("case", WINDOWS)
def test_fewer_multiplications_give_the_same(case: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "BLOCK", block)
    x, places, dims = WINDOWS[case]
    m, k = int(np.prod(x.shape[:places])), int(np.prod(x.shape[places:]))
    rows = winograd.windows_of(x, range(places), range(places, x.ndim), 24)
    assert rows is not None and rows.dims == dims
    y, out = RNG.standard_normal((k, 24)), np.full((m, 24), np.nan)
    winograd.rows_of(CTX, rows, y, out)
    np.testing.assert_allclose(out, x.reshape(m, k) @ y, atol=1e-12)
    inside = x.ndim - places
    turned = x.transpose((*range(places, x.ndim), *range(places)))
    terms = winograd.windows_of(turned, range(inside, x.ndim), range(inside), 24)
    assert terms is not None
    y, out = RNG.standard_normal((m, 24)), np.full((k, 24), np.nan)
    winograd.terms_of(CTX, terms, y, out)
    np.testing.assert_allclose(out, x.reshape(m, k).T @ y, atol=1e-12)


def test_what_each_window_sees_is_all_that_its_sums_depend_on() -> None:
    """A number that is not finite spreads no further than through windows."""
    x = images(16)
    x[0, 0, 4, 5, 3] = np.inf
    seen = sliding_window_view(x, (3, 3), (2, 3)).transpose(0, 1, 2, 3, 5, 6, 4)
    found = winograd.windows_of(seen, range(4), range(4, 7), 16)
    out = np.empty((int(np.prod(seen.shape[:4])), 16))
    assert found is not None
    with np.errstate(invalid="ignore"):
        winograd.rows_of(CTX, found, RNG.standard_normal((144, 16)), out)
    bad = ~np.isfinite(out).reshape(*seen.shape[:4], 16).all(-1)
    want = np.zeros_like(bad)
    want[0, 0, 2:5, 3:6] = True
    np.testing.assert_array_equal(bad, want)


@pytest.mark.parametrize(
    "x",
    [
        sliding_window_view(images(), 3, 3)[..., :11, :, :].transpose(0, 1, 2, 3, 5, 4),
        sliding_window_view(images(), 5, 3).transpose(0, 1, 2, 3, 5, 4),
        sliding_window_view(images(), 5, 3)[..., ::2].transpose(0, 1, 2, 3, 5, 4),
        sliding_window_view(images(), 3, 3)[..., ::2, :, :].transpose(0, 1, 2, 3, 5, 4),
        sliding_window_view(images(8), 3, 3).transpose(0, 1, 2, 3, 5, 4),
        sliding_window_view(images().astype(np.int32), 3, 3).transpose(0, 1, 2, 3, 5, 4),
        np.ascontiguousarray(BOTH),
    ],
    ids=["odd", "of five", "dilated", "two apart", "few channels", "integers", "no windows"],
)
def test_other_products_are_left(x: Array) -> None:
    places = 4
    assert winograd.windows_of(x, range(places), range(places, x.ndim), 24) is None


@pytest.mark.parametrize("axis", range(5))
def test_borders(axis: int) -> None:
    """As numpy pads; where others look into the same memory it is padded, and they are views of it as before."""
    x = sliding_window_view(images(), 3, 2).transpose(0, 1, 2, 5, 3, 4)  # windows along the rows
    at = axis + (axis > 2)
    for part in (x, x[:1], apart(x) if axis > 2 else x):
        i = at + part.ndim - x.ndim
        pads = [(1, 2) if k == i else (0, 0) for k in range(part.ndim)]
        found = with_borders(CTX, part, i, 1, 2, 7.0)
        np.testing.assert_array_equal(found, np.pad(part, pads, constant_values=7.0))
        if axis > 2:
            element = 3 + part.ndim - x.ndim
            assert found.strides[element] == found.strides[element - 1] > 0


@pytest.mark.parametrize(
    "shape", [(4, 3, 1030, 5), (1, 7, 16, 2, 64), (4096, 1, 3), (5000,), (3, 8192), (2, TERMS + 519, 4), (2, 3)]
)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_sums(shape: tuple[int, ...], dtype: str) -> None:
    x = (np.random.default_rng(shape).standard_normal(shape) * 100).astype(dtype)
    error = 0 if dtype == "i4" else 4 * float(np.finfo(dtype).eps)
    for count in range(len(shape) + 1):
        for axes in combinations(range(len(shape)), count):
            for lies in (x, np.copy(x.T).T, np.repeat(x, 2, 0)[::2]):
                with quiet():  # as executors do: products may warn of what stood in a register beside their terms
                    found = sum_over(lies, axes)
                assert found.dtype == x.dtype
                want = x.sum(axis=axes, keepdims=True, dtype="i8" if dtype == "i4" else "g")
                terms = np.abs(x).sum(axis=axes, keepdims=True, dtype="f8")
                assert np.all(np.abs(found - want) <= error * terms)


def noted(f: Callable[..., None], calls: list[str]) -> Callable[..., None]:
    def call(*args: object) -> None:
        calls.append(f.__name__)
        f(*args)

    return call


NETWORKS = [("sp=2",), ("dp=2", "sp=2", "sx=2", "microbatches=2", "zero=3")]


@pytest.mark.parametrize("options", NETWORKS, ids=",".join)
def test_executors_agree_and_are_proved(options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.numpy.contract.LARGE", 1)
    monkeypatch.setattr(winograd, "NARROWEST", 1)
    monkeypatch.setattr(patches, "BLOCK", 500)
    taken: list[str] = []
    for name in ("rows_of", "terms_of"):
        monkeypatch.setattr(f"runtime.numpy.contract.{name}", noted(getattr(winograd, name), taken))
    compiled = resnet(*options)
    stacked, private = Emulator(compiled.program), RankExecutor(compiled.program)
    batch = synthetic(compiled.program.inputs, 0, 0)
    one, two = stacked.step(batch, gradients=True), private.step(batch, gradients=True)
    assert {"rows_of", "terms_of"} <= set(taken)
    assert one.loss == pytest.approx(two.loss, rel=1e-12)
    for name, g in one.gradients.items():
        np.testing.assert_allclose(g, two.gradients[name], rtol=0, atol=1e-12)
    assert prove(compiled.training, compiled.program).ok


def test_borders_are_added_in_the_product() -> None:
    """Where each device has an even piece; a product that is read besides stays as it is."""
    compiled = resnet("sp=2", "sx=2")
    backward = next(f for f in compiled.program.classes[0].functions if f.phase == "B").body
    loop = next(n.op.body for n in backward.nodes if isinstance(n.op, Repeat))
    mesh = Mesh.of(compiled.program)

    def local(v: Value) -> LocalValue:
        lead = mesh.lead_shape(v.layout.axes)
        return LocalValue(local_type(v.type, v.layout, compiled.program.sizes), lead, v.type, v.layout.dims)

    found = unfold(loop, local)
    assert not any(isinstance(n.op, HaloAdd) for n in found.nodes)
    products = [n.op for n in found.nodes if isinstance(n.op, Unfolded)]
    assert len(products) == 2
    assert [[f.joined for f in p.folds] for p in products] == [[("sx",), ("sp",)]] * 2
    assert any(isinstance(n.op, HaloAdd) for n in loop.nodes)
