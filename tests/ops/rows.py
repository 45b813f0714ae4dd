"""Sample instances of every op: what the generated tests run over. A new op needs rows here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.graph import Dim, Type
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Normal, Random
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.functions import FUNCTIONS
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.move import Move
from compiler.ops.packed import Dequantise, Expand, Integers, Pack
from compiler.ops.reduce import ArgMax, Cumsum, Reduce, TopK
from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from compiler.ops.shape import Concat, Flip, Merge, Pad, Rename, Shift, Slice, Split
from compiler.ops.window import Fold, Window
from compiler.ops.zigzag import ZigZag
from runtime.numpy import STORAGE, CallContext, Env, LocalValue, plan, quiet


def T(dtype: str = "f64", **sizes: int) -> Type:
    return Type(dtype, D(**sizes))


def D(**sizes: int) -> tuple[Dim, ...]:
    return tuple(Dim(n, s) for n, s in sizes.items())


@dataclass(frozen=True)
class Row:
    """An op on operands of these types. data: `positive` floats; `high`: integers lie in [low, high)."""

    op: Op
    ins: tuple[Type, ...]
    positive: bool = False
    low: int = -2
    high: int = 9
    outs: tuple[Type, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outs", self.op.infer(*self.ins))

    def __str__(self) -> str:
        name = self.op.fn if isinstance(self.op, Map) else self.op.mnemonic
        return f"{name}-{'-'.join('x'.join(map(str, t.names)) for t in self.ins)}"

    def data(self, seed: int = 0, integers: bool = False) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [self._data(rng, t, integers) for t in self.ins]

    def _data(self, rng: np.random.Generator, t: Type, integers: bool) -> np.ndarray:
        if t.dtype == "bool":
            return rng.random(t.shape) < 0.5
        if not t.is_float:
            return rng.integers(self.low, self.high, t.shape).astype(STORAGE[t.dtype])
        if integers:
            return rng.integers(1 if self.positive else -4, 5, t.shape).astype(STORAGE[t.dtype])
        x = rng.standard_normal(t.shape)
        return np.asarray(np.abs(x) + 0.5 if self.positive else x).astype(STORAGE[t.dtype])


def run(op: Op, ins: tuple[Type, ...], arrays: list[Any], outs: tuple[Type, ...] | None = None) -> list[np.ndarray]:
    """The op's kernel on whole arrays; a list of results."""
    outs = outs or op.infer(*ins)
    kernel = plan(op, [LocalValue.whole(t) for t in ins], [LocalValue.whole(t) for t in outs], Env())
    with quiet():
        result = kernel(CallContext(seed=5), *arrays)
    return list(result) if isinstance(result, tuple) else [result]


BSD = T(b=4, s=6, d=2)


UNARY = [f.name for f in FUNCTIONS.values() if f.operands == 1 and f.takes != ("bool",)]
BINARY = [f.name for f in FUNCTIONS.values() if f.operands == 2 and not f.test]
COMPARE = [f.name for f in FUNCTIONS.values() if f.operands == 2 and f.test and f.takes != ("bool",)]


def _maps() -> list[Row]:
    x = T(b=4, d=6)
    rows = [Row(Map(fn, (None,)), (x,), FUNCTIONS[fn].positive) for fn in UNARY]
    for fn in BINARY:
        positive = FUNCTIONS[fn].positive
        if fn in ("floordiv", "mod"):
            i = T("int32", b=4, d=6)
            rows += [Row(Map(fn, (None, None)), (i, T("int32", d=6)), low=1), Row(Map(fn, (None, 3)), (i,))]
            continue
        rows.append(Row(Map(fn, (None, None)), (x, x), positive))
        rows.append(Row(Map(fn, (None, None)), (T(d=6), x), positive))
        rows.append(Row(Map(fn, (None, None)), (T(b=4, s=2), T(d=6, b=4)), positive))
        rows.append(Row(Map(fn, (None, 2.5)), (x,), positive))
        rows.append(Row(Map(fn, (0.5, None)), (x,), positive))
    rows += [Row(Map("pow", (None, p)), (x,), positive=p == 0.5) for p in (2, 3, 0.5)]
    for fn in COMPARE:
        rows += [
            Row(Map(fn, (None, None)), (T("int32", b=4, d=6), T("int32", d=6)), high=1),
            Row(Map(fn, (None, 0.0)), (x,)),
        ]
    m = T("bool", b=4, d=6)
    rows += [Row(Map("and", (None, None)), (m, T("bool", d=6))), Row(Map("or", (None, None)), (T("bool", b=4), m))]
    rows += [Row(Map("and", (None, True)), (m,)), Row(Map("or", (False, None)), (m,))]
    rows += [Row(Map("not", (None,)), (m,)), Row(Map("where", (None, None, None)), (m, x, T(d=6)))]
    rows += [
        Row(Map("where", (None, None, 0.0)), (T("bool", d=6), x)),
        Row(Map("where", (None, 1.5, None)), (m, T(b=4))),
    ]
    rows += [
        Row(Map("add", (None, None)), (T("int32", b=4), T("int32", d=6))),
        Row(Map("mul", (None, 3)), (T("int32", b=4),)),
    ]
    return rows


def _contractions() -> list[Row]:
    def row(dims: str, a: Type, c: Type) -> Row:
        return Row(Contract(tuple(dims.split())), (a, c))

    heads, keys = T(b=2, h=2, s=4, k=2), T(b=2, h=2, t=6, k=2)
    return [
        row("b s f", BSD, T(d=2, f=4)),
        row("f b s", BSD, T(d=2, f=4)),
        row("b f s", BSD, T(f=4, d=2)),
        row("d f", BSD, T(b=4, s=6, f=2)),
        row("b h s k", BSD, T(d=2, h=2, k=4)),
        row("b h s t", heads, keys),
        row("b s h k", T(b=2, h=2, s=4, t=6), T(b=2, t=6, h=2, k=2)),
        row("d", BSD, T(d=2, s=6, b=4)),
        row("b s", BSD, BSD),
        row("", T(d=6, b=4), T(b=4, d=6)),
        row("b d", T(b=4), T(d=6)),
        row("d b", T(b=4, d=6), T(d=6)),
        row("d", T(b=4, s=6), T(d=2, e=4)),
        row("b s d", T(b=4, s=6, k=2, d=2), T(k=2, d=2)),
        row("s b", T(b=4, s=6, k=2), T(k=2)),
        row("e", T(e=4, b=2), T(b=2)),
        Row(Contract(("b",)), (T("int32", b=4, d=6), T("int32", d=6, e=2))),
    ]


def _shapes() -> list[Row]:
    return [
        Row(Cast("f32"), (BSD,)),
        Row(Cast("int32"), (BSD,)),
        Row(Cast("f64"), (T("bool", b=4, d=6),)),
        Row(Broadcast(D(e=2, s=6, d=2, b=4)), (T(b=4, s=6),)),
        Row(Broadcast(D(e=2)), (T(),)),
        Row(Transpose(("d", "b", "s")), (BSD,)),
        Row(StopGradient(), (BSD,)),
        Row(Move("hbm", "host"), (BSD,)),
        Row(Rename((("s", "t"), ("d", "s"))), (BSD,)),
        Row(Split("s", D(h=2, k=3)), (BSD,)),
        Row(Split("s", D(h=6, k=1)), (T(s=6),)),
        Row(Merge(("s", "d"), "e"), (BSD,)),
        Row(Merge(("d", "b"), "d"), (BSD,)),
        Row(Slice("s", 1, 4, "s"), (BSD,)),
        Row(Slice("s", 0, 6, "t"), (BSD,)),
        Row(Slice("s", 1, 6, "s", 2), (BSD,)),
        Row(Slice("s", 0, 5, "t", 3), (BSD,)),
        Row(Slice("s", 2, 4, "t", 5), (BSD,)),
        Row(Shift("s", 1), (BSD,)),
        Row(Shift("s", -4, 1.5), (BSD,)),
        Row(Shift("b", 2, -1), (T("int32", b=4, d=6),)),
        Row(Shift("s", 1, 0.0, True), (BSD,)),
        Row(Shift("b", -3, 0.0, True), (T("int32", b=4, d=6),)),
        Row(Dequantise("d", "int4"), (T("uint32", d=3, f=4), T(f=4)), high=2**32),
        Row(Dequantise("d", "int4"), (T("uint32", d=4, f=4), T(f=4, d=2), T(f=4, d=2)), high=2**32, low=0),
        Row(Dequantise("f", "int8"), (T("uint32", e=2, d=3, f=6), T(e=1, d=3)), low=0, high=2**32),
        Row(Dequantise("d", "int3"), (T("uint32", d=6, f=4), T(d=4, f=4)), low=0, high=2**32),
        Row(Dequantise("d", "fp8"), (T("uint32", d=2, f=4), T(d=2)), low=0, high=0x3F),
        Row(Integers("d", "int8"), (T("uint32", d=4, f=4),), low=0, high=2**32),
        Row(Integers("d", "int3"), (T("uint32", f=2, d=6),), low=0, high=2**32),
        Row(Pack("int8", "d"), (T("int32", d=16, f=4),), low=0, high=256),
        Row(Pack("int3", "d"), (T("int32", f=2, d=64),), low=0, high=8),
        Row(Expand("d"), (T("uint32", f=3, d=2), T(f=3, d=32)), low=0, high=2**32),
        Row(ZigZag("s", 3), (BSD,)),
        Row(ZigZag("s", 1, True), (BSD,)),
        Row(ZigZag("b", 2), (T("int32", b=4, d=6),)),
        Row(ZigZag("b", 2, True), (T(b=8, d=6),)),
        Row(Pad("s", 1, 2, 0.0, "t"), (BSD,)),
        Row(Pad("s", 0, 1, 1.5, "s"), (BSD,)),
        Row(Concat("s", "t"), (BSD, T(b=4, s=1, d=2), BSD)),
        Row(Flip("s"), (BSD,)),
    ]


def _others() -> list[Row]:
    index = T("int32", b=4, s=2)
    return [
        Row(Reduce("sum", ("s",)), (BSD,)),
        Row(Reduce("sum", ("b", "d")), (BSD,)),
        Row(Reduce("sum", ()), (T(),)),
        Row(Reduce("sum", ("b",)), (T("int32", b=4, d=6),)),
        Row(Reduce("max", ("d", "b")), (BSD,)),
        Row(Reduce("max", ("s",)), (BSD,)),
        Row(Cumsum("s"), (BSD,)),
        Row(Cumsum("s", reverse=True), (BSD,)),
        Row(ArgMax("s"), (BSD,)),
        Row(ArgMax("d"), (T("int32", b=4, d=6),)),
        Row(TopK("s", Dim("j", 2)), (BSD,)),
        Row(TopK("d", Dim("d", 3)), (T(b=4, d=6),)),
        Row(Take("v"), (T(v=6, d=2), index), low=0, high=6),
        Row(Take("v"), (T(v=6, d=2), index)),
        Row(Take("v"), (T(d=4, v=6), T("int32"))),
        Row(Take("v"), (T(e=2, v=6, b=4), index)),
        Row(ScatterAdd(Dim("v", 6), ("v", "d")), (T(b=4, s=2, d=2), index), low=0, high=6),
        Row(ScatterAdd(Dim("v", 6), ("d", "v")), (T(b=4, d=2, s=2), index)),
        Row(ScatterAdd(Dim("v", 6), ("b", "v")), (T(b=4, s=2), index)),
        Row(ScatterAdd(Dim("v", 6), ("d", "b", "v")), (T(d=4, s=2, b=4), index)),
        Row(ScatterAdd(Dim("v", 80), ("v", "d")), (T(b=4, s=2, d=2), index)),
        Row(Scatter("v"), (T(v=6, d=2), T(b=4, s=2, d=2), index), low=0, high=6),
        Row(Scatter("v"), (T(v=6, d=2), T(d=2, b=4, s=2), index)),
        Row(Scatter("v"), (T(d=4, b=4, v=6), T(b=4, s=2, d=4), index)),
        Row(Scatter("v"), (T("int32", v=6), T("int32"), T("int32"))),
        Row(UniqueRows(Dim("v", 6), Dim("o", 6), 1, ("o", "d")), (T(b=4, s=2, d=2), index)),
        Row(
            UniqueRows(Dim("v", 6), Dim("o", 6), 1, ("d", "o")),
            (T(b=4, s=2, d=2), index, T(d=2, c=3), T("int32", c=3)),
        ),
        Row(UniqueRows(Dim("v", 6), Dim("o", 6), 2, ("o",)), (T(b=4, s=2), index), low=0, high=6),
        Row(ReadRows("v", 1, 1), (T(v=6, d=2), T("int32", o=4))),
        Row(ReadRows("v", 2, 1), (T(d=2, v=6), T("int32", o=4)), low=0, high=6),
        Row(WriteRows("v", 1), (T(v=6, d=2), T(o=4, d=2), T("int32", o=4))),
        Row(WriteRows("v", 1), (T(d=2, v=6), T(o=4, d=2), T("int32", o=4)), low=0, high=6),
        Row(Take("v"), (T(d=4, v=6, b=4), T("int32", s=3)), low=-1, high=7),
        Row(Iota(Dim("t", 6)), ()),
        Row(Iota(Dim("t", 6)), (T("int32"),)),
        Row(Full(1.5, "f32", D(b=4, d=6)), ()),
        Row(Full(2, "int32", ()), ()),
        Row(Random("a.uniform", "f64", D(b=4, d=6)), (T("int32"), T("int32"))),
        Row(Random("a.uniform", "bf16", D(b=4)), (T("int32"),)),
        Row(Normal("a.normal", "f64", D(b=4, d=6)), (T("int32"), T("int32"))),
        Row(Normal("a.normal", "bf16", D(b=4)), (T("int32"),)),
        Row(Window("s", Dim("o", 6), Dim("k", 3), pad=2, dilation=2), (BSD,)),
        Row(Window("s", Dim("o", 2), Dim("k", 3), stride=2, pad=1, dilation=2, fill=0.5), (BSD,)),
        Row(Fold("o", "k", Dim("s", 6), pad=2, dilation=2), (T(b=4, o=6, d=2, k=3),)),
        Row(Fold("o", "k", Dim("s", 6), stride=2, pad=1, dilation=2), (T(b=4, o=2, k=3),)),
        Row(Window("s", Dim("o", 6), Dim("k", 3), pad=1), (BSD,)),
        Row(Window("s", Dim("o", 6), Dim("k", 3), pad=2), (BSD,)),
        Row(Window("s", Dim("o", 4), Dim("k", 3)), (BSD,)),
        Row(Window("s", Dim("o", 3), Dim("k", 2), stride=2, fill=-1.5), (BSD,)),
        Row(Window("s", Dim("o", 2), Dim("k", 2), stride=3), (BSD,)),
        Row(Window("s", Dim("o", 3), Dim("k", 3), stride=2, pad=1), (BSD,)),
        Row(Fold("o", "k", Dim("s", 6), pad=1), (T(b=4, o=6, d=2, k=3),)),
        Row(Fold("o", "k", Dim("s", 6)), (T(k=3, b=4, o=4),)),
        Row(Fold("o", "k", Dim("s", 6), stride=2), (T(b=4, o=3, k=2),)),
        Row(Fold("o", "k", Dim("s", 6), stride=3), (T(b=4, o=2, k=2),)),
        Row(Fold("o", "k", Dim("s", 6), stride=2, pad=1), (T(b=4, o=3, k=3),)),
    ]


ROWS: list[Row] = [*_maps(), *_contractions(), *_shapes(), *_others()]
