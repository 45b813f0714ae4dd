"""Kernels and derivatives against PyTorch, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compiler.graph import Dim, Type
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast, Map
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.reduce import Cumsum, Reduce, TopK
from compiler.ops.shape import Concat, Flip, Merge, Pad, Shift, Slice, Split
from compiler.ops.window import Fold, Window
from compiler.ops.zigzag import ZigZag

from .rows import BINARY, UNARY, D, T, run
from .test_ops_derivative import gradients

torch = pytest.importorskip("torch")

BD, BSD = T(b=4, d=6), T(b=4, s=6, d=2)
NAMES = {"div": "divide", "neg": "neg"}


def _map(fn: str) -> Callable[..., Any]:
    return getattr(torch, NAMES.get(fn, fn))  # type: ignore[no-any-return]


INDEX = np.random.default_rng(0).integers(0, 6, (4, 2)).astype(np.int32)
LONG = torch.tensor(INDEX, dtype=torch.long)


def _last_rows(index: Any, rows: Any) -> tuple[tuple[Any], Any]:
    """Each number once, with the last of its rows: PyTorch promises no order."""
    flat = index.reshape(-1).tolist()
    kept = [k for k, n in enumerate(flat) if n not in flat[k + 1 :]]
    return (index.reshape(-1)[kept],), rows.reshape(len(flat), -1)[kept]


CASES: list[tuple[Op, tuple[Type, ...], Callable[..., Any]]] = [
    *((Map(fn, (None,)), (BD,), _map(fn)) for fn in UNARY),
    *((Map(fn, (None, None)), (BD, BD), _map(fn)) for fn in BINARY if fn not in ("floordiv", "mod")),
    (Map("add", (None, None)), (T(d=6), BD), lambda x, y: x + y),
    (Contract(("b", "s", "f")), (BSD, T(d=2, f=3)), lambda x, w: x @ w),
    (Contract(("b", "f", "s")), (BSD, T(f=3, d=2)), lambda x, w: torch.einsum("bsd,fd->bfs", x, w)),
    (Contract(("s",)), (BSD, BSD), lambda x, y: (x * y).sum((0, 2))),
    (Reduce("sum", ("b", "d")), (BSD,), lambda x: x.sum((0, 2))),
    (Reduce("max", ("b", "d")), (BSD,), lambda x: x.amax((0, 2))),
    (Cumsum("s"), (BSD,), lambda x: x.cumsum(1)),
    (TopK("s", Dim("j", 3)), (BSD,), lambda x: torch.topk(x, 3, 1)[0]),
    (Split("s", D(h=2, k=3)), (BSD,), lambda x: x.reshape(4, 2, 3, 2)),
    (Merge(("s", "b"), "e"), (BSD,), lambda x: x.transpose(0, 1).reshape(24, 2)),
    (Slice("s", 1, 4, "s"), (BSD,), lambda x: x[:, 1:4]),
    (Slice("s", 1, 6, "s", 2), (BSD,), lambda x: x[:, 1:6:2]),
    (Shift("s", 2, 0.0, True), (BSD,), lambda x: torch.roll(x, 2, 1)),
    (Shift("s", 2, 3.0), (BSD,), lambda x: torch.nn.functional.pad(x[:, :-2], (0, 0, 2, 0), value=3.0)),
    (ZigZag("s", 3), (BSD,), lambda x: x[:, [0, 5, 1, 4, 2, 3]]),
    (ZigZag("s", 3, True), (BSD,), lambda x: x[:, [0, 2, 4, 5, 3, 1]]),
    (Pad("s", 1, 2, 3.0, "s"), (BSD,), lambda x: torch.nn.functional.pad(x, (0, 0, 1, 2), value=3.0)),
    (Concat("s", "s"), (BSD, BSD), lambda x, y: torch.cat((x, y), 1)),
    (Flip("s"), (BSD,), lambda x: x.flip(1)),
    (Window("d", Dim("o", 3), Dim("k", 3), 2, 1), (BD,), lambda x: torch.nn.functional.pad(x, (1, 1)).unfold(1, 3, 2)),
    (
        Fold("o", "k", Dim("d", 6), 2, 1),
        (T(b=4, o=3, k=3),),
        lambda x: torch.nn.functional.fold(x.transpose(1, 2), (1, 6), (1, 3), padding=(0, 1), stride=(1, 2))[:, 0, 0],
    ),
    (
        Window("d", Dim("o", 4), Dim("k", 3), 1, 1, 0.0, 2),
        (BD,),
        lambda x: torch.nn.functional.unfold(x[:, None, None], (1, 3), (1, 2), (0, 1)).transpose(1, 2),
    ),
    (Take("v"), (T(v=6, d=2), T("int32", b=4, s=2)), lambda x, i: x[i]),
    (
        Scatter("v"),
        (T(v=8, d=2), T(b=4, s=2, d=2), T("int32", b=4, s=2)),
        lambda x, y, i: x.index_put(*_last_rows(i, y)),
    ),
    (
        ScatterAdd(Dim("v", 6), ("v", "d")),
        (T(b=4, s=2, d=2), T("int32", b=4, s=2)),
        lambda x, i: torch.zeros(6, 2, dtype=x.dtype).index_add(0, i.reshape(-1), x.reshape(8, 2)),
    ),
]


@pytest.mark.parametrize(("op", "ins", "reference"), CASES, ids=[getattr(c[0], "fn", c[0].mnemonic) for c in CASES])
def test_values_and_gradients(op: Op, ins: tuple[Type, ...], reference: Callable[..., Any]) -> None:
    rng = np.random.default_rng(1)
    values = [np.abs(rng.standard_normal(t.shape)) + 0.1 if t.is_float else INDEX for t in ins]
    tensors = [torch.tensor(v, requires_grad=True) if v.dtype == np.float64 else LONG for v in values]
    want = reference(*tensors)
    got = run(op, ins, list(values))[0]
    np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-12, atol=1e-14)
    cotangent = rng.standard_normal(got.shape)
    found = gradients(op, list(values), ins, [cotangent])
    floats = [(t, g) for t, g in zip(tensors, found) if t.requires_grad]
    expected = torch.autograd.grad(want, [t for t, _ in floats], torch.tensor(cotangent), allow_unused=True)
    for (t, g), e in zip(floats, expected):
        zero = np.zeros(t.shape)
        np.testing.assert_allclose(zero if g is None else g, zero if e is None else e.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "theirs"), [("bf16", "bfloat16"), ("f16", "float16")])
def test_narrow_floats_round_as_theirs(dtype: str, theirs: str) -> None:
    x = (np.random.default_rng(2).standard_normal(1000) * 100).astype(np.float32)
    x[:4] = [np.inf, -np.inf, 1e30, 1e-8]
    (got,) = run(Cast(dtype), (Type("f32", (Dim("d", 1000),)),), [x])
    np.testing.assert_array_equal(got, torch.tensor(x).to(getattr(torch, theirs)).float().numpy())
    y = np.nan_to_num(got, posinf=1.0, neginf=1.0).clip(-1e3, 1e3)
    operands = Type(dtype, (Dim("d", 1000),))
    (product,) = run(Map("mul", (None, None)), (operands, operands), [y, y[::-1]])
    ours = [torch.tensor(a.copy()).to(getattr(torch, theirs)) for a in (y, y[::-1])]
    np.testing.assert_array_equal(product, (ours[0] * ours[1]).float().numpy())
