"""Products of windows without the matrix of all patches: the same as with it, in both directions."""

from __future__ import annotations

import numpy as np
import pytest

import runtime.numpy.patches as patches
from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.layout import replicated
from compiler.ops.contract import Contract
from compiler.ops.window import Fold
from runtime.numpy import CallContext, Env, LocalValue, plan, unfold
from runtime.numpy.patches import blocks, by_rows, by_terms, is_matrix
from runtime.numpy.summed import Summed
from runtime.numpy.unfolded import Unfolded
from runtime.prove import prove
from tests.runtime import models

ENV = Env(("p", "q"), {"p": 2, "q": 3})


@pytest.mark.parametrize("sizes", [(5,), (3, 7), (2, 3, 50), (1, 4, 4, 4), (4000,)])
@pytest.mark.parametrize("width", [1, 40, 3000, patches.BLOCK * 2])
def test_blocks_are_all_that_there_is_once(sizes: tuple[int, ...], width: int) -> None:
    x = np.arange(np.prod(sizes)).reshape(sizes)
    end = 0
    for index, start, stop in blocks(sizes, width):
        part = x[index].reshape(-1)
        assert start == end and part.tolist() == list(range(start, stop))
        assert stop - start == 1 or (stop - start) * width <= patches.BLOCK
        end = stop
    assert end == x.size


@pytest.mark.parametrize("block", [64, 700, 1 << 17])
@pytest.mark.parametrize("product", [by_rows, by_terms])
def test_products_in_blocks(product: object, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "BLOCK", block)
    rng = np.random.default_rng(0)
    rows = np.lib.stride_tricks.sliding_window_view(rng.standard_normal((6, 9, 8, 4)), (3, 2), (1, 2))
    x = rows.transpose(0, 1, 2, 4, 5, 3)  # b, y, x | ky, kx, c
    assert not is_matrix(x, 3) and is_matrix(np.ascontiguousarray(x), 3)
    y = rng.standard_normal((24, 5))
    out = np.full((6 * 7 * 7, 5), np.nan)
    product(CallContext(), x, 3, y, out)  # type: ignore[operator]
    np.testing.assert_allclose(out, x.reshape(-1, 24) @ y, rtol=1e-12)


def local(dtype: str, lead: tuple[int, ...], axes: dict[str, tuple[str, ...]], **sizes: int) -> LocalValue:
    type = Type(dtype, tuple(Dim(n, s) for n, s in sizes.items()))
    return LocalValue(type, lead, type, tuple(axes.get(n, ()) for n in sizes))


CASES = [
    # kernel, pad, dilation, size along y; whether pieces keep borders; whether devices add up
    (3, 1, 1, 6, False, False),
    (3, 0, 1, 6, False, False),
    (5, 2, 1, 4, False, True),
    (2, 0, 2, 7, False, False),
    (3, 3, 2, 5, False, False),
    (1, 0, 1, 5, False, True),
    (3, 1, 1, 6, True, False),
]


@pytest.mark.parametrize(("k", "pad", "dilation", "size", "borders", "summed"), CASES)
def test_the_derivative_by_the_input(k: int, pad: int, dilation: int, size: int, borders: bool, summed: bool) -> None:
    wide = (k - 1) * dilation + 1
    n = size if borders else size + 2 * pad - wide + 1
    full = size + wide - 1 if borders else size
    m = 5 + 2 - 3 + 1  # along x: kernel 3, pad 1
    split = {"yo": ("p",), "y": ("p",)} if borders else {}
    lead = (2, 3)
    dy = local("f64", lead, split, b=2, yo=n, xo=m, co=3)
    w = local("f64", (1, 3) if summed else (1, 1), {}, ky=k, kx=3, c=2, co=3)
    p_lead = (2, 1) if summed else lead
    values = {
        "dy": dy,
        "w": w,
        "p": local("f64", p_lead, split, b=2, yo=n, ky=k, xo=m, kx=3, c=2),
        "r": local("f64", p_lead, split, b=2, yo=n, ky=k, x=5, c=2),
        "out": local("f64", p_lead, split, b=2, y=full, x=5, c=2),
    }
    v = {name: Value(name, x.type, layout=replicated(len(x.type.dims))) for name, x in values.items()}
    contract = Contract(("b", "yo", "ky", "xo", "kx", "c"))
    nodes = (
        Node(Summed(contract, (1,)) if summed else contract, (v["dy"], v["w"]), (v["p"],)),
        Node(Fold("xo", "kx", Dim("x", 5), 1, 1), (v["p"],), (v["r"],)),
        Node(Fold("yo", "ky", Dim("y", full), 1, pad, dilation), (v["r"],), (v["out"],)),
    )
    graph = Graph("", (v["dy"], v["w"]), nodes, (v["out"],))
    found = unfold(graph, lambda x: values[x.name])
    assert [type(x.op) for x in found.nodes] == [Unfolded]
    rng = np.random.default_rng(1)
    arrays = {name: rng.standard_normal(values[name].shape) for name in ("dy", "w")}
    results = []
    for g in (graph, found):
        have = dict(arrays)
        for x in g.nodes:
            kernel = plan(x.op, [values[i.name] for i in x.inputs], [values[o.name] for o in x.outputs], ENV)
            have[x.output.name] = kernel(CallContext(), *(have[i.name] for i in x.inputs))
        results.append(have["out"])
    assert np.abs(results[0]).max() > 1
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12, atol=1e-12)


def test_what_another_reads_is_not_unfolded() -> None:
    x, w = Type("f32", (Dim("o", 4), Dim("c", 2))), Type("f32", (Dim("k", 3), Dim("c", 2), Dim("d", 2)))
    product, folded = Type("f32", (Dim("o", 4), Dim("k", 3), Dim("d", 2))), Type("f32", (Dim("x", 4), Dim("d", 2)))
    a, b, p = (Value(n, t, layout=replicated(len(t.dims))) for n, t in (("a", x), ("b", w), ("p", product)))
    out = Value("out", folded, layout=replicated(2))
    nodes = (Node(Contract(("o", "k", "d")), (a, b), (p,)), Node(Fold("o", "k", Dim("x", 4), 1, 1), (p,), (out,)))
    whole = LocalValue.whole
    assert len(unfold(Graph("", (a, b), nodes, (out,)), lambda v: whole(v.type)).nodes) == 1
    assert len(unfold(Graph("", (a, b), nodes, (out, p)), lambda v: whole(v.type)).nodes) == 2
    narrow = [Node(n.op, n.inputs, tuple(Value(v.name, v.type.with_dtype("bf16")) for v in n.outputs)) for n in nodes]
    assert len(unfold(Graph("", (a, b), tuple(narrow), (out,)), lambda v: whole(v.type)).nodes) == 2


@pytest.mark.parametrize("options", ["dp=2", "sp=2", "sp=2 sx=2", "dp=2 sp=2 microbatches=2"])
def test_networks_are_proved(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.numpy.contract.LARGE", 1)
    monkeypatch.setattr(patches, "BLOCK", 500)
    found = resnet(*options.split())
    assert prove(found.training, found.program).ok


def resnet(*options: str) -> models.Compiled:
    path = (models.ROOT / "examples" / "resnet.par").as_posix()
    small = {"layers": "1", "channels": "4", "batch": "4"} | dict(o.split("=", 1) for o in options)
    return models.compile_job(models.evaluate_file(path, small, precision=models.Precision("f64", "f64")).job)
