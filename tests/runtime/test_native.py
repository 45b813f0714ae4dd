"""Chains as C: the same as numpy's, the same bits each time, and files that only their owner can have made."""

from __future__ import annotations

import os
import subprocess
import sys
from math import erf
from pathlib import Path

import numpy as np
import pytest

import runtime.numpy.fused as fused
from compiler.graph import Dim, Graph, Node, Type, Value, names_of
from compiler.layout import replicated
from compiler.model import Precision
from compiler.ops.base import Op
from compiler.ops.elementwise import Cast, Map
from compiler.ops.reduce import Reduce
from runtime.native import NativePlanner
from runtime.native.emit import emitted
from runtime.numpy import CallContext, Env, LocalValue, fuse, plan, quiet
from runtime.numpy.fused import Fused
from runtime.prove import prove
from runtime.stacked import Emulator
from tests.runtime import models
from tests.runtime.cc import needs_compiler, own_cache
from tests.runtime.test_fused import CASES, CHAINS, ENV, body, data, run, same

__all__ = ["own_cache"]  # a fixture

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def planner() -> NativePlanner:
    return NativePlanner()


def computed(
    body: Graph, values: dict[str, LocalValue], arrays: dict[str, np.ndarray], planner: NativePlanner, env: Env
) -> dict[str, np.ndarray]:
    found = dict(arrays)
    with quiet():
        for n in body.nodes:
            kernel = planner(n.op, [values[v.name] for v in n.inputs], [values[o.name] for o in n.outputs], env)
            got = kernel(CallContext(), *(found[v.name] for v in n.inputs))
            found.update(zip(names_of(n.outputs), got if len(n.outputs) > 1 else (got,)))
    return found


@pytest.fixture(scope="module")
def compiled(planner: NativePlanner) -> NativePlanner:
    """The planner with all chains of this file: to compile them together is several times faster."""
    for name in CHAINS:
        for dtype in ("f32", "f64"):
            plain, values = body(CHAINS[name], dtype, [step[0] for step in CHAINS[name]])
            for results in (plain.outputs, plain.outputs[-1:]):
                graph = fuse(
                    Graph(plain.name, plain.inputs, plain.nodes, results), lambda v, values=values: values[v.name]
                )
                for n in graph.nodes:
                    planner(n.op, [values[v.name] for v in n.inputs], [values[o.name] for o in n.outputs], ENV)
    return planner


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_chains_are_as_one_by_one(name: str, dtype: str, layout: str, compiled: NativePlanner) -> None:
    plain, values = body(CHAINS[name], dtype, [step[0] for step in CHAINS[name]])
    arrays = data(dtype, values, layout)
    want = run(plain, values, arrays)
    for results in (plain.outputs, plain.outputs[-1:]):
        graph = fuse(Graph(plain.name, plain.inputs, plain.nodes, results), lambda v: values[v.name])
        for n in graph.nodes:
            if isinstance(n.op, Fused):
                emitted(n.op)  # nothing of this is left to numpy
        got = computed(graph, values, arrays, compiled, ENV)
        for result in names_of(results):
            same(got[result], want[result], dtype)


# --- functions ------------------------------------------------------------------------------------------

WIDE = np.concatenate([np.linspace(-110, 110, 40001), np.linspace(-2, 2, 20001), np.geomspace(1e-42, 1e38, 5000)])
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38])


FlatStep = tuple[str, Op, list[str], str]


def flat(steps: list[FlatStep], operands: dict[str, np.ndarray]) -> Graph:
    """A graph over one dim `n`; steps: name, op, operands, dtype."""
    count = len(next(iter(operands.values())))
    kinds = {"float32": "f32", "float64": "f64", "int32": "int32", "bool": "bool"}
    dims = (Dim("n", count),)
    values = {n: Value(n, Type(kinds[x.dtype.name], dims), layout=replicated(1)) for n, x in operands.items()}
    nodes = []
    for name, op, ins, dtype in steps:
        kept = () if isinstance(op, Reduce) else dims
        values[name] = Value(name, Type(dtype, kept), layout=replicated(len(kept)))
        nodes.append(Node(op, tuple(values[i] for i in ins), (values[name],)))
    inputs = tuple(values[n] for n in operands)
    return Graph("", inputs, tuple(nodes), tuple(values[s[0]] for s in steps))


def both(graph: Graph, operands: dict[str, np.ndarray], planner: NativePlanner) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each result: as C, and by numpy one by one."""
    values = {v.name: LocalValue.whole(v.type) for v in graph.inputs}
    values |= {v.name: LocalValue.whole(v.type) for n in graph.nodes for v in n.outputs}
    chain = fuse(graph, lambda v: values[v.name])
    assert [type(n.op) for n in chain.nodes] == [Fused]
    emitted(chain.nodes[0].op)
    got, want = computed(chain, values, operands, planner, Env()), one_by_one(graph, values, operands)
    return [(got[v.name], want[v.name]) for v in graph.outputs]


def one_by_one(graph: Graph, values: dict[str, LocalValue], operands: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = dict(operands)
    with quiet():
        for n in graph.nodes:
            kernel = plan(n.op, [values[v.name] for v in n.inputs], [values[o.name] for o in n.outputs], Env())
            found[n.output.name] = kernel(CallContext(), *(found[v.name] for v in n.inputs))
    return found


EXACT = {  # in float64
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": np.vectorize(erf),
}


@pytest.mark.parametrize("fn", EXACT)
def test_functions_of_float32(fn: str, planner: NativePlanner) -> None:
    x = np.concatenate([WIDE, SPECIAL]).astype(np.float32)
    steps: list[FlatStep] = [
        ("y", Map(fn, (None,)), ["x"], "f32"),
        ("z", Map("neg", (None,)), ["y"], "f32"),
    ]
    got = both(flat(steps, {"x": x}), {"x": x}, planner)[0][0]
    with quiet():
        want = EXACT[fn](x.astype(np.float64))
        rounded = want.astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(rounded)) and np.array_equal(np.isinf(got), np.isinf(rounded))
    usual = np.isfinite(rounded) & (np.abs(rounded) > 1e-37)
    assert np.abs(got[usual] / want[usual] - 1).max() < 5e-7
    tiny = np.isfinite(rounded) & ~usual
    assert np.abs(got[tiny].astype(np.float64) - want[tiny]).max(initial=0) < (3e-39 if fn == "sigmoid" else 1e-43)


def test_whole_numbers_and_bools(planner: NativePlanner) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-50, 50, 20000).astype(np.int32)
    y = rng.integers(-7, 8, 20000).astype(np.int32)
    x[:4], y[:4] = [-(2**31), -(2**31), 2**31 - 1, 5], [-1, 0, -1, 0]
    steps: list[FlatStep] = [
        (fn, Map(fn, (None, None)), ["x", "y"], "int32")
        for fn in ("add", "sub", "mul", "maximum", "minimum", "floordiv", "mod")
    ]
    steps += [(fn, Map(fn, (None, None)), ["x", "y"], "bool") for fn in ("lt", "le", "gt", "ge", "eq", "ne")]
    steps += [("abs", Map("abs", (None,)), ["x"], "int32"), ("sign", Map("sign", (None,)), ["x"], "int32")]
    steps += [
        ("and", Map("and", (None, None)), ["lt", "ne"], "bool"),
        ("or", Map("or", (None, None)), ["lt", "eq"], "bool"),
    ]
    steps += [("not", Map("not", (None,)), ["lt"], "bool"), ("w", Map("where", (None, None, 7)), ["lt", "x"], "int32")]
    steps += [
        ("f", Cast("f32"), ["x"], "f32"),
        ("i", Cast("int32"), ["f"], "int32"),
        ("b", Cast("bool"), ["x"], "bool"),
    ]
    steps += [("total", Reduce("sum", ("n",)), ["mul"], "int32")]
    operands = {"x": x, "y": y}
    for got, want in both(flat(steps, operands), operands, planner):
        assert got.dtype == want.dtype and np.array_equal(got, want)


def test_nan_goes_through_maxima_and_comparisons(planner: NativePlanner) -> None:
    x = np.resize(np.concatenate([SPECIAL, [1.5, -2.5]]), 30000).astype(np.float32)
    y = np.roll(x, 3)
    steps: list[FlatStep] = [
        ("most", Map("maximum", (None, None)), ["x", "y"], "f32"),
        ("least", Map("minimum", (None, 0.5)), ["x"], "f32"),
        ("relu", Map("relu", (None,)), ["x"], "f32"),
        ("sign", Map("sign", (None,)), ["x"], "f32"),
        ("lt", Map("lt", (None, None)), ["x", "y"], "bool"),
        ("ne", Map("ne", (None, None)), ["x", "y"], "bool"),
        ("all", Reduce("max", ("n",)), ["x"], "f32"),
    ]
    operands = {"x": x, "y": y}
    for got, want in both(flat(steps, operands), operands, planner):
        np.testing.assert_array_equal(got, want)


def test_sixteen_bits_are_rounded(planner: NativePlanner) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 600)).astype(np.float32)
    bits = x.view(np.uint32) & np.uint32(0xFFFF0000)
    x = bits.view(np.float32)
    value = LocalValue.whole(Type("bf16", (Dim("b", 40), Dim("d", 600))))
    row = LocalValue.whole(Type("bf16", (Dim("b", 40),)))
    values = {"x": value, "y": value, "z": value, "m": row, "out": value}
    v = {n: Value(n, x.type, layout=replicated(len(x.type.dims))) for n, x in values.items()}
    nodes = (
        Node(Map("mul", (None, 1.7)), (v["x"],), (v["y"],)),
        Node(Map("tanh", (None,)), (v["y"],), (v["z"],)),
        Node(Reduce("max", ("d",)), (v["z"],), (v["m"],)),
        Node(Map("sub", (None, None)), (v["z"], v["m"]), (v["out"],)),
    )
    graph = Graph("", (v["x"],), nodes, (v["y"], v["m"], v["out"]))
    got = computed(fuse(graph, lambda u: values[u.name]), values, {"x": x}, planner, Env())
    want = one_by_one(graph, values, {"x": x})
    for name in ("y", "m", "out"):
        assert not (got[name].view(np.uint32) & np.uint32(0xFFFF)).any()
        np.testing.assert_allclose(got[name], want[name], rtol=1e-2, atol=1e-2)
    assert np.array_equal(got["y"], want["y"])


def test_what_repeats_itself_is_read_once(planner: NativePlanner) -> None:
    wide = LocalValue.whole(Type("f32", (Dim("b", 200), Dim("d", 300))))
    values = {n: wide for n in ("x", "y", "z", "out")}
    v = {n: Value(n, x.type, layout=replicated(2)) for n, x in values.items()}
    nodes = (
        Node(Map("exp", (None,)), (v["x"],), (v["z"],)),
        Node(Map("add", (None, None)), (v["z"], v["y"]), (v["out"],)),
    )
    graph = fuse(Graph("", (v["x"], v["y"]), nodes, (v["out"],)), lambda u: values[u.name])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 300)).astype(np.float32)
    for shape in ((1, 300), (200, 1), (1, 1)):
        y = np.broadcast_to(rng.standard_normal(shape).astype(np.float32), (200, 300))
        got = computed(graph, values, {"x": x, "y": y}, planner, Env())["out"]
        np.testing.assert_allclose(got, np.exp(x) + y, rtol=1e-6, atol=1e-6)


# --- programs -------------------------------------------------------------------------------------------

PLANS = [(), ("dp=2", "tp=2"), ("dp=2", "cp=2", "zero=3"), ("pp=2", "microbatches=2", "dp=2")]


@pytest.mark.parametrize("options", PLANS, ids=",".join)
def test_programs_are_proved(options: tuple[str, ...], planner: NativePlanner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SMALLEST", 1)  # these are small
    found = models.gpt(*options)
    proof = prove(
        found.training, found.program, executor=lambda p, initial=None: Emulator(p, initial=initial, planner=planner)
    )
    assert proof.ok


def test_a_program_of_sixteen_bits(planner: NativePlanner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SMALLEST", 1)
    found = models.gpt("dp=2", precision=Precision("bf16", "f32"))
    proof = prove(
        found.training, found.program, executor=lambda p, initial=None: Emulator(p, initial=initial, planner=planner)
    )
    assert proof.ok


def bits(folder: Path) -> bytes:
    """Losses and weights of a run in a process of its own."""
    text = (
        "import runtime.numpy.fused as f; f.SMALLEST = 1\n"
        "from runtime.native import NativePlanner\n"
        "from runtime.stacked import Emulator\n"
        "from runtime.data.synthetic import synthetic\n"
        "from tests.runtime import models\n"
        "p = models.gpt('dp=2', 'tp=2').program\n"
        "e = Emulator(p, planner=NativePlanner())\n"
        "import sys\n"
        "for step in range(3): sys.stdout.buffer.write(e.step(synthetic(p.inputs, 1, step)).loss.tobytes())\n"
        "for w in e.weights().values(): sys.stdout.buffer.write(w.tobytes())\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, cwd=models.ROOT, check=True
    )
    return done.stdout


def test_the_same_bits_from_run_to_run(tmp_path: Path) -> None:
    first = bits(tmp_path)
    made = sorted((tmp_path / "parc" / "kernels").iterdir())
    times = [p.stat().st_mtime_ns for p in made]
    assert len(first) > 1000 and made
    assert bits(tmp_path) == first  # of what is kept
    assert [p.stat().st_mtime_ns for p in made] == times and sorted((tmp_path / "parc" / "kernels").iterdir()) == made
