"""Small jobs built by hand, for tests of placement and lowering."""

from __future__ import annotations

from compiler.graph import Builder, Dim, Names, Type, Value
from compiler.model import DataInput, Init, Job, Model, Precision, State, Weight, WeightUpdate
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Map
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.strategy import Strategy


def momentum(w: Weight, dtype: str) -> WeightUpdate:
    """SGD with momentum for one weight."""
    b = Builder(Names())
    step = b.value("step", Type(dtype))
    weight = b.value("w", w.value.type)
    g = b.value("g", w.value.type)
    m = State(Value(f"{w.name}.m", w.value.type), Init("zeros"), "optimizer", w.name)
    old = b.value("m", w.value.type)
    new = b.add(Map("add", (None, None)), b.add(Map("mul", (0.9, None)), old), g)
    moved = b.add(Map("sub", (None, None)), weight, b.add(Map("mul", (0.1, None)), new))
    return WeightUpdate(w.name, (m,), b.graph("update", (step, weight, g, old), (moved, new)))


def mlp(strategy: Strategy, layers: int = 3, dtype: str = "f64", clip: float | None = None) -> Job:
    """x[b,s,d] -> layers of x + tanh(x @ w1) @ w2 -> mean of squares against a target."""
    b = Builder(Names())
    bd, sd, dd, fd = Dim("b", 8), Dim("s", 4), Dim("d", 6), Dim("f", 8)
    x = b.value("x", Type(dtype, (bd, sd, dd)))
    y = b.value("y", Type(dtype, (bd, sd, dd)))
    lead = Dim("block", layers)
    w1 = b.value("block.w1", Type(dtype, (lead, dd, fd)))
    w2 = b.value("block.w2", Type(dtype, (lead, fd, dd)))
    inner = Builder(b.names, "block")
    h = inner.value("x", x.type)
    a = inner.value("w1.slice", Type(dtype, (dd, fd)))
    c = inner.value("w2.slice", Type(dtype, (fd, dd)))
    u = inner.add(Map("tanh", (None,)), inner.add(Contract(("b", "s", "f")), h, a, name="u"))
    out = inner.add(Map("add", (None, None)), h, inner.add(Contract(("b", "s", "d")), u, c, name="o"))
    body = inner.graph("block", (h, a, c), (out,))
    (z,) = b.add_many(Repeat("block", layers, body, 1, 2), x, w1, w2, name="z")
    diff = b.add(Map("sub", (None, None)), z, y)
    square = b.add(Map("mul", (None, None)), diff, diff)
    total = b.add(Reduce("sum", ("b", "s", "d")), square)
    loss = b.add(Map("mul", (None, 1.0 / square.type.elements)), total, name="loss_value")
    weights = (Weight(w1, Init("normal", (0.3,)), ("block",)), Weight(w2, Init("normal", (0.3,)), ("block",)))
    model = Model("mlp", (DataInput(x), DataInput(y)), weights, b.graph("mlp", (x, y, w1, w2), (loss,)))
    updates = tuple(momentum(w, dtype) for w in weights)
    return Job("test", model, strategy, Precision(dtype, dtype), updates, clip=clip)
