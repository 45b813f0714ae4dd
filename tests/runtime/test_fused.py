"""Fused kernels against the same steps one by one: every pattern, both precisions, odd layouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from compiler.graph import Dim, Graph, Node, Type, Value, names_of
from compiler.layout import replicated
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient
from compiler.ops.reduce import Reduce
from runtime.numpy import CallContext, Env, Into, LocalValue, fuse, plan, quiet
from runtime.numpy.fused import Fused

SIZES = {"b": 24, "s": 10, "d": 96, "p": 3, "q": 2}
MESH = ("p", "q")
Step = tuple[str, Op, Sequence[str], str]
"""Name, op, operands, dims of the result (a letter each; mesh axes too)."""


def local(dtype: str, letters: str) -> LocalValue:
    """The value of these dims; `p` and `q` are lead axes."""
    type = Type(dtype, tuple(Dim(n, SIZES[n]) for n in letters if n not in MESH))
    lead = tuple(SIZES[a] if a in letters else 1 for a in MESH)
    return LocalValue(type, lead, type, ((),) * len(type.dims))


def m(fn: str, *slots: float | None) -> Map:
    return Map(fn, slots)


LAYER_NORM: list[Step] = [
    ("sum", Reduce("sum", ("d",)), ["x"], "pqbs"),
    ("mean", m("div", None, 96.0), ["sum"], "pqbs"),
    ("centred", m("sub", None, None), ["x", "mean"], "pqbsd"),
    ("square", m("mul", None, None), ["centred", "centred"], "pqbsd"),
    ("total", Reduce("sum", ("d",)), ["square"], "pqbs"),
    ("moved", m("add", None, 1e-5), ["total"], "pqbs"),
    ("r", m("rsqrt", None), ["moved"], "pqbs"),
    ("normal", m("mul", None, None), ["centred", "r"], "pqbsd"),
    ("out", m("mul", None, None), ["normal", "gain"], "pqbsd"),
]
SOFTMAX: list[Step] = [
    ("most", Reduce("max", ("d",)), ["x"], "pqbs"),
    ("still", StopGradient(), ["most"], "pqbs"),
    ("sub", m("sub", None, None), ["x", "still"], "pqbsd"),
    ("e", m("exp", None), ["sub"], "pqbsd"),
    ("sum", Reduce("sum", ("d",)), ["e"], "pqbs"),
    ("out", m("div", None, None), ["e", "sum"], "pqbsd"),
]
COLUMNS: list[Step] = [  # sums over what is walked block by block
    ("dot", Contract(("d",)), ["x", "y"], "pqd"),
    ("z", m("mul", None, None), ["x", "y"], "pqbsd"),
    ("sum", Reduce("sum", ("b", "s")), ["z"], "pqd"),
    ("rows", Contract(("b", "s")), ["x", "z"], "pqbs"),
    ("out", m("add", None, None), ["z", "rows"], "pqbsd"),
]
REPEATED: list[Step] = [
    ("n", m("neg", None), ["row"], "pbs"),
    ("wide", Broadcast(tuple(Dim(n, SIZES[n]) for n in "bsd")), ["row"], "pqbsd"),
    ("z", m("mul", None, None), ["wide", "x"], "pqbsd"),
    ("out", m("sub", None, None), ["z", "wide"], "pqbsd"),
]
CHOICE: list[Step] = [
    ("c", m("gt", None, None), ["x", "y"], "pqbsd"),
    ("w1", m("where", None, None, None), ["c", "x", "y"], "pqbsd"),
    ("w2", m("where", None, None, 0.0), ["c", "w1", ], "pqbsd"),
    ("w3", m("where", None, 0.0, None), ["c", "w2"], "pqbsd"),
    ("w4", m("where", None, None, -3.0), ["c", "gain"], "pqbsd"),
    ("out", m("add", None, None), ["w3", "w4"], "pqbsd"),
]  # fmt: skip
CASTS: list[Step] = [
    ("i", Cast("int32"), ["x"], "pqbsd"),
    ("t", m("mul", None, 3), ["i"], "pqbsd"),
    ("c", Cast("bool"), ["t"], "pqbsd"),
    ("f", Cast("f32"), ["c"], "pqbsd"),
    ("out", m("add", None, 0.5), ["f"], "pqbsd"),
]
MERGED: list[Step] = [  # two chains that meet
    ("a", m("exp", None), ["x"], "pqbsd"),
    ("a1", m("add", None, 1.0), ["a"], "pqbsd"),
    ("c", m("tanh", None), ["y"], "pqbsd"),
    ("c1", m("mul", None, 2.0), ["c"], "pqbsd"),
    ("out", m("mul", None, None), ["a1", "c1"], "pqbsd"),
]
UNARY = ("neg", "exp", "tanh", "sigmoid", "erf", "sin", "cos", "abs", "sign", "floor", "relu")
CHAINS: dict[str, list[Step]] = {
    "layer_norm": LAYER_NORM,
    "softmax": SOFTMAX,
    "columns": COLUMNS,
    "repeated": REPEATED,
    "choice": CHOICE,
    "casts": CASTS,
    "merged": MERGED,
}
CHAINS |= {
    f"unary-{fn}": [("a", m(fn, None), ["x"], "pqbsd"), ("out", m("mul", None, 2.0), ["a"], "pqbsd")] for fn in UNARY
}
CHAINS |= {
    f"literal-{fn}": [("a", m(fn, None, 0.5), ["x"], "pqbsd"), ("out", m(fn, 1.5, None), ["a"], "pqbsd")]
    for fn in ("add", "sub", "mul", "div", "maximum", "minimum")
}
CHAINS |= {
    f"power-{p}": [
        ("a", m("abs", None), ["x"], "pqbsd"),
        ("c", m("pow", None, p), ["a"], "pqbsd"),
        ("out", m("add", None, None), ["c", "a"], "pqbsd"),
    ]
    for p in (2, 3, 0.5, 1.5)
}
OPERANDS = {"x": "pqbsd", "y": "pqbsd", "gain": "d", "row": "pbs"}


def body(chain: Sequence[Step], dtype: str, results: Sequence[str]) -> tuple[Graph, dict[str, LocalValue]]:
    """The chain as a body, and the local value of each name."""
    values = {n: local(dtype, letters) for n, letters in OPERANDS.items()}
    for name, op, _, letters in chain:
        bool_ = isinstance(op, Map) and op.fn == "gt"
        own = op.dtype if isinstance(op, Cast) else "bool" if bool_ else "int32" if name == "t" else dtype
        if chain is CASTS and name in ("f", "out"):
            own = "f32"
        values[name] = local(own, letters)

    def var(name: str) -> Value:
        return Value(name, values[name].type, layout=replicated(len(values[name].type.dims)))

    instrs = tuple(Node(op, tuple(map(var, ins)), (var(name),)) for name, op, ins, _ in chain)
    return Graph("", tuple(map(var, OPERANDS)), instrs, tuple(map(var, results))), values


def data(dtype: str, values: dict[str, LocalValue], layout: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    found = {}
    for name in OPERANDS:
        shape = values[name].shape
        x = rng.standard_normal(shape).astype({"f32": np.float32, "f64": np.float64}[dtype])
        if layout == "transposed":  # the same elements, in memory in the opposite order
            x = np.ascontiguousarray(x.T).T
        elif layout == "strided":
            wide = np.repeat(x, 2, axis=-1)
            x = wide[..., ::2]
        elif layout == "same":  # alike on all devices, and held once
            x = x[:1, :1]
        found[name] = x
    return found


def run(body: Graph, values: dict[str, LocalValue], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found, ctx = dict(arrays), CallContext()
    with quiet():
        for instr in body.nodes:
            kernel = plan(
                instr.op, [values[v.name] for v in instr.inputs], [values[o.name] for o in instr.outputs], ENV
            )
            got = kernel(ctx, *(found[v.name] for v in instr.inputs))
            found.update(zip((o.name for o in instr.outputs), got if len(instr.outputs) > 1 else (got,)))
    return found


ENV = Env(MESH, {a: SIZES[a] for a in MESH})


def same(got: np.ndarray, want: np.ndarray, dtype: str) -> None:
    tolerance = 2e-5 if dtype == "f32" else 1e-12
    assert got.dtype == want.dtype
    a, b = np.broadcast_arrays(got, want)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * 50)


# A contraction takes each operand at the lead that its layout states, so "same" is for the elementwise chains only.
CASES = [(n, at) for n in CHAINS for at in ("plain", "transposed", "strided", "same") if (n, at) != ("columns", "same")]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_fused_is_as_one_by_one(name: str, dtype: str, layout: str) -> None:
    chain = CHAINS[name]
    plain, values = body(chain, dtype, [step[0] for step in chain])
    arrays = data(dtype, values, layout)
    want = run(plain, values, arrays)
    for results in (plain.outputs, plain.outputs[-1:]):  # all that is computed, and only the end
        fused = fuse(Graph(plain.name, plain.inputs, plain.nodes, results), lambda v: values[v.name])
        groups = [i for i in fused.nodes if isinstance(i.op, Fused)]
        assert groups and len(fused.nodes) < len(plain.nodes)
        got = run(fused, values, arrays)
        for result in names_of(results):
            same(got[result], want[result], dtype)


def test_chains_that_meet_are_one_kernel() -> None:
    plain, values = body(MERGED, "f32", ["out"])
    fused = fuse(plain, lambda v: values[v.name])
    assert [type(i.op) for i in fused.nodes] == [Fused]


def test_same_bits_each_time() -> None:
    plain, values = body(LAYER_NORM, "f32", ["out"])
    fused, arrays = fuse(plain, lambda v: values[v.name]), data("f32", values, "plain")
    assert run(fused, values, arrays)["out"].tobytes() == run(fused, values, arrays)["out"].tobytes()


def test_operands_stay_as_they_are() -> None:
    for chain in CHAINS.values():
        plain, values = body(chain, "f64", ["out"])
        arrays = data("f64", values, "plain")
        for x in arrays.values():
            x.flags.writeable = False
        run(fuse(plain, lambda v, values=values: values[v.name]), values, arrays)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["layer_norm", "softmax", "columns"])
def test_results_go_where_they_are_wanted(name: str) -> None:
    plain, values = body(CHAINS[name], "f32", ["out"])
    fused, arrays = fuse(plain, lambda v: values[v.name]), data("f32", values, "plain")
    (instr,) = [i for i in fused.nodes if isinstance(i.op, Fused)]
    kernel = plan(instr.op, [values[v.name] for v in instr.inputs], [values[o.name] for o in instr.outputs], ENV)
    assert isinstance(kernel, Into)
    places = tuple(np.full(values[o.name].shape, np.nan, np.float32) for o in instr.outputs)
    operands = [arrays[v.name] for v in instr.inputs]
    got = kernel.run(CallContext(), *operands, out=places)
    results = got if isinstance(got, tuple) else (got,)
    want = kernel(CallContext(), *operands)
    for place, result, other in zip(places, results, want if isinstance(want, tuple) else (want,)):
        assert result is place and np.array_equal(place, other)


def test_an_operand_that_differs_where_it_should_not() -> None:
    """Then the steps go one by one, and the result differs too."""
    plain, values = body(LAYER_NORM, "f64", ["out"])
    fused, arrays = fuse(plain, lambda v: values[v.name]), data("f64", values, "plain")
    arrays["gain"] = np.random.default_rng(1).standard_normal((3, 2, 96))
    same(run(fused, values, arrays)["out"], run(plain, values, arrays)["out"], "f64")
