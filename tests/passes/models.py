"""Small models built by hand, and a serial interpreter of graphs: the tests' own, thirty lines over the kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compiler.graph import Builder, Dim, Graph, Names, Node, Type, Value
from compiler.model import DataInput, Init, Job, Model, Precision, Weight
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Random
from compiler.ops.elementwise import Cast, Map, Transpose
from compiler.ops.index import Take
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Merge, Rename, Split
from compiler.strategy import SERIAL, RecomputeRule, Strategy
from runtime.numpy import STORAGE, CallContext, Env, LocalValue, plan, quiet

Arrays = dict[str, Any]


def run_graph(graph: Graph, given: Mapping[str, Any], seed: int = 0) -> list[Any]:
    """The outputs, for arrays by the names of the inputs."""
    with quiet():
        return _run(graph, [given[v.name] for v in graph.inputs], seed)


def _run(graph: Graph, inputs: Sequence[Any], seed: int) -> list[Any]:
    env: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        operands = [env[v] for v in node.inputs]
        if isinstance(node.op, Repeat):
            results: Any = _loop(node.op, operands, seed)
        elif isinstance(node.op, Call):
            results = _run(node.op.body, operands, seed)
        else:
            ins = [LocalValue.whole(v.type) for v in node.inputs]
            outs = [LocalValue.whole(v.type) for v in node.outputs]
            got = plan(node.op, ins, outs, Env())(CallContext(seed=seed), *operands)
            results = got if len(outs) > 1 else [got]
        for v, r in zip(node.outputs, results, strict=True):
            assert np.shape(r) == v.type.shape, f"{v} has shape {np.shape(r)}"
            assert np.asarray(r).dtype == STORAGE[v.type.dtype], f"{v} is {np.asarray(r).dtype}"
            env[v] = r
    return [env[v] for v in graph.outputs]


def _loop(op: Repeat, operands: Sequence[Any], seed: int) -> list[Any]:
    carries, stacks = list(operands[: op.carries]), operands[op.carries : op.carries + op.stacks]
    fixed = list(operands[op.carries + op.stacks :])
    made: list[list[Any]] = [[None] * op.count for _ in op.body.outputs[op.carries :]]
    for i in reversed(range(op.count)) if op.reverse else range(op.count):
        out = _run(op.body, [*carries, *(s[i] for s in stacks), *fixed], seed)
        carries = out[: op.carries]
        for stack, result in zip(made, out[op.carries :]):
            stack[i] = result
    return [*carries, *(np.stack(m) for m in made)]


class Maker:
    """Writes models briefly. `scope` prefixes names, as calls do in `.par`."""

    def __init__(self, dtype: str = "f64", names: Names | None = None) -> None:
        self.names = names or Names()
        self.dtype = dtype
        self.b = Builder(self.names)
        self.inputs: list[DataInput] = []
        self.weights: list[Weight] = []
        self.step: Value | None = None

    def scoped(self, scope: str) -> Maker:
        """The same model, deeper: for names only."""
        inner = Maker(self.dtype, self.names)
        inner.b = Builder(self.names, scope)
        inner.inputs, inner.weights, inner.step = self.inputs, self.weights, self.step
        inner.b.nodes = self.b.nodes
        return inner

    def add(self, op: Op, *xs: Value, name: str | None = None) -> Value:
        return self.b.add(op, *xs, name=name)

    def map(self, fn: str, *slots: Value | float | int | bool, name: str | None = None) -> Value:
        literals = tuple(None if isinstance(s, Value) else s for s in slots)
        return self.b.add(Map(fn, literals), *(s for s in slots if isinstance(s, Value)), name=name)

    def dot(self, a: Value, c: Value, *dims: str, name: str | None = None) -> Value:
        return self.b.add(Contract(dims), a, c, name=name)

    def sum(self, x: Value, *dims: str, name: str | None = None) -> Value:
        return self.b.add(Reduce("sum", dims or x.type.names), x, name=name)

    def mean(self, x: Value, *dims: str) -> Value:
        n = np.prod([x.type.size(d) for d in dims or x.type.names])
        return self.map("mul", self.sum(x, *dims), float(1 / n))

    def input(self, name: str, *dims: Dim, dtype: str | None = None, high: int | None = None) -> Value:
        v = self.b.value(name, Type(dtype or self.dtype, dims))
        self.inputs.append(DataInput(v, 0 if high else None, high))
        return v

    def weight(self, name: str, *dims: Dim, loops: tuple[str, ...] = ()) -> Value:
        v = self.b.value(name, Type(self.dtype, dims))
        self.weights.append(Weight(v, Init("normal", (0.3,)), loops))
        return v

    def repeat(
        self,
        label: str,
        count: int,
        carries: Sequence[Value],
        stacks: Sequence[Value],
        fixed: Sequence[Value],
        body: Callable[[Maker, list[Value], list[Value], list[Value]], tuple[list[Value], list[Value]]],
    ) -> list[Value]:
        """body(maker, carries, slices, invariants) -> next carries, results."""
        scope = f"{self.b.scope}.{label}" if self.b.scope else label
        inner = Maker(self.dtype, self.names)
        inner.b = Builder(self.names, scope)
        inner.step = self.step

        def enter(v: Value, sliced: bool) -> Value:
            type = Type(v.type.dtype, v.type.dims[1:]) if sliced else v.type
            return inner.b.value(v.name.split(".")[-1] + ".in", type)

        cs = [enter(v, False) for v in carries]
        ss = [enter(v, True) for v in stacks]
        fs = [enter(v, False) for v in fixed]
        after, results = body(inner, cs, ss, fs)
        graph = inner.b.graph(scope, (*cs, *ss, *fs), (*after, *results))
        return list(self.b.add_many(Repeat(label, count, graph, len(cs), len(ss)), *carries, *stacks, *fixed))

    def model(self, loss: Value, *metrics: Value) -> Model:
        inputs = [i.value for i in self.inputs] + [w.value for w in self.weights]
        inputs += [self.step] if self.step is not None else []
        graph = self.b.graph("model", inputs, (loss, *metrics))
        return Model("model", tuple(self.inputs), tuple(self.weights), graph, tuple(v.name for v in metrics))


def data_for(model: Model, seed: int = 0, integers: bool = False) -> Arrays:
    """Random arrays for the model's inputs and weights (and the step); `integers`: small whole numbers."""
    rng = np.random.default_rng(seed)
    given: Arrays = {}
    for i in model.inputs:
        t = i.value.type
        if t.dtype == "int32":
            given[i.value.name] = rng.integers(i.low or 0, i.high or 4, t.shape).astype(np.int32)
        else:
            given[i.value.name] = rng.normal(size=t.shape).astype(STORAGE[t.dtype])
    for w in model.weights:
        x = rng.integers(-2, 3, w.value.type.shape) if integers else rng.normal(size=w.value.type.shape) * 0.5
        given[w.name] = np.asarray(x).astype(STORAGE[w.value.type.dtype])
    if any(v.name == "step" for v in model.graph.inputs):
        given["step"] = np.asarray(3, np.int32)
    return given


# --- models ----------------------------------------------------------------------------------------


def layer_norm(m: Maker, x: Value, gain: Value, bias: Value) -> Value:
    centred = m.map("sub", x, m.mean(x, "d"), name="centred")
    scale = m.map("rsqrt", m.map("add", m.mean(m.map("mul", centred, centred), "d"), 1e-5), name="scale")
    normal = m.map("mul", centred, scale, name="normal")
    return m.map("add", m.map("mul", normal, gain), bias, name="out")


def softmax(m: Maker, x: Value, dim: str) -> Value:
    top = m.add(Reduce("max", (dim,)), x)
    e = m.map("exp", m.map("sub", x, top))
    return m.map("div", e, m.sum(e, dim), name="p")


def attention(m: Maker, x: Value, wq: Value, wk: Value, wv: Value, wo: Value, heads: int) -> Value:
    seq, width = x.type.size("s"), wq.type.dims[1].size
    into = (Dim("h", heads), Dim("k", width // heads))
    q, k, v = (m.add(Split("e", into), m.dot(x, w, "b", "s", "e")) for w in (wq, wk, wv))
    k, v = (m.add(Rename((("s", "t"),)), y) for y in (k, v))
    scores = m.map("mul", m.dot(q, k, "b", "h", "s", "t"), float(into[1].size) ** -0.5, name="scores")
    rows, columns = m.add(Iota(Dim("s", seq))), m.add(Iota(Dim("t", seq)))
    mask = m.map("ge", rows, columns, name="mask")
    p = softmax(m.scoped(f"{m.b.scope}.softmax"), m.map("where", mask, scores, -1e30), "t")
    mixed = m.add(Merge(("h", "k"), "e"), m.dot(p, v, "b", "s", "h", "k"))
    return m.dot(mixed, wo, "b", "s", "d", name="out")


def mlp(m: Maker, x: Value, w1: Value, w2: Value) -> Value:
    u = m.dot(x, w1, "b", "s", "f", name="u")
    cdf = m.map("mul", m.map("add", m.map("erf", m.map("mul", u, 0.5**0.5)), 1.0), 0.5, name="cdf")
    return m.dot(m.map("mul", u, cdf, name="gelu"), w2, "b", "s", "d", name="out")


def cross_entropy(m: Maker, logits: Value, targets: Value, dim: str) -> Value:
    top = m.add(Reduce("max", (dim,)), logits)
    shifted = m.map("sub", logits, top)
    total = m.map("log", m.sum(m.map("exp", shifted), dim))
    hot = m.map("eq", targets, m.add(Iota(next(d for d in logits.type.dims if d.name == dim))), name="hot")
    right = m.sum(m.map("where", hot, shifted, 0.0), dim)
    return m.mean(m.map("sub", total, right))


def gpt(
    layers: int = 3,
    batch: int = 2,
    seq: int = 4,
    width: int = 8,
    heads: int = 2,
    vocab: int = 11,
    dtype: str = "f64",
    compute: str | None = None,
    dropout: bool = False,
) -> Model:
    """Fifteen weights, one rolled loop. `compute`: weights are cast to that dtype where they are used."""
    m = Maker(dtype)
    b, s, d, v = Dim("b", batch), Dim("s", seq), Dim("d", width), Dim("v", vocab)
    e, f, block = Dim("e", width), Dim("f", 4 * width), Dim("block", layers)
    tokens = m.input("tokens", b, s, dtype="int32", high=vocab)
    targets = m.input("targets", b, s, dtype="int32", high=vocab)
    wte, wpe = m.weight("wte", v, d), m.weight("wpe", s, d)
    shapes: dict[str, tuple[Dim, ...]] = {
        "ln1.gain": (d,),
        "ln1.bias": (d,),
        "attention.wq": (d, e),
        "attention.wk": (d, e),
        "attention.wv": (d, e),
        "attention.wo": (e, d),
        "ln2.gain": (d,),
        "ln2.bias": (d,),
        "mlp.w1": (d, f),
        "mlp.w2": (f, d),
        "mlp.out_bias": (d,),
    }
    stacked = [m.weight(f"block.{n}", block, *dims, loops=("block",)) for n, dims in shapes.items()]
    final = [m.weight("ln.gain", d), m.weight("ln.bias", d)]
    if dropout:
        m.step = m.b.value("step", Type("int32"))

    def used(mk: Maker, w: Value) -> Value:
        return w if compute is None else mk.add(Cast(compute), w, name=f"{w.name.split('.')[-1]}.cast")

    def body(mk: Maker, cs: list[Value], ss: list[Value], fs: list[Value]) -> tuple[list[Value], list[Value]]:
        (x,), index = cs, ss[len(stacked) :]
        g1, c1, q, k, vv, o, g2, c2, w1, w2, ob = (used(mk, w) for w in ss[: len(stacked)])
        y = attention(mk.scoped("block.attention"), layer_norm(mk.scoped("block.ln1"), x, g1, c1), q, k, vv, o, heads)
        if dropout:
            r = mk.add(Random("block", y.type.dtype, y.type.dims), fs[0], index[0])
            y = mk.map("where", mk.map("lt", r, 0.3, name="dropped"), 0.0, mk.map("div", y, 0.7))
        x = mk.map("add", x, y, name="x")
        z = mlp(mk.scoped("block.mlp"), layer_norm(mk.scoped("block.ln2"), x, g2, c2), w1, w2)
        return [mk.map("add", x, mk.map("add", z, ob), name="x")], []

    table = used(m, wte)
    x = m.map("add", m.add(Take("v"), table, tokens), used(m, wpe), name="x")
    extra = [m.add(Iota(block))] if dropout else []
    fixed = [m.step] if dropout and m.step is not None else []
    (x,) = m.repeat("block", layers, [x], [*stacked, *extra], fixed, body)
    gain, bias = (used(m, w) for w in final)
    logits = m.dot(layer_norm(m.scoped("head"), x, gain, bias), table, "b", "s", "v", name="logits")
    if compute is not None:
        logits = m.add(Cast(dtype), logits)
    return m.model(cross_entropy(m.scoped("loss"), logits, targets, "v"))


def job_for(model: Model, updates: Sequence[Any] = (), recomputes: Sequence[RecomputeRule] = (), **options: Any) -> Job:
    precision = options.pop("precision", Precision("f64", "f64"))
    strategy = SERIAL if not recomputes else Strategy("recomputing", recomputes=tuple(recomputes))
    return Job("job", model, strategy, precision, tuple(updates), **options)


def repeats(graph: Graph) -> list[Node]:
    """The `Repeat` nodes at the top."""
    return [n for n in graph.nodes if isinstance(n.op, Repeat)]


__all__ = ["Full", "Maker", "Transpose", "data_for", "gpt", "job_for", "repeats", "run_graph"]
