"""Gradients against central differences and PyTorch; what is saved for them; names and shapes of the graphs."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import Dim, Names, Type, Value
from compiler.model import Model
from compiler.ops.create import Full, Iota, Random
from compiler.ops.elementwise import Broadcast, Cast, StopGradient, Transpose
from compiler.ops.reduce import TopK
from compiler.ops.repeat import Repeat
from compiler.walk import graph_values
from tests.passes.checks import agrees_with_differences, differentiated, gradients, saved_bytes
from tests.passes.models import Maker, data_for, gpt, repeats, run_graph

B, D, E, L, K = Dim("b", 3), Dim("d", 4), Dim("e", 5), Dim("layer", 3), Dim("inner", 2)


def rnn(*, unused_carry: bool = False) -> Model:
    """Two carries of different shapes that feed each other; the loss reads one of them; weights shared by all steps."""
    m = Maker()
    x, w, u = m.input("x", B, D), m.weight("w", D, E), m.weight("u", E, D)
    h = m.dot(x, w, "b", "e", name="h")
    counter = m.add(Full(1.0, "f64", (B,)))

    def body(mk: Maker, cs: list[Value], ss: list[Value], fs: list[Value]) -> tuple[list[Value], list[Value]]:
        a, c, *rest = cs
        new = mk.map("tanh", mk.dot(a, fs[0], "b", "e"))
        back = mk.map("add", a, mk.map("sin", mk.dot(c, fs[1], "b", "d")))
        return [back, mk.map("add", new, c), *(mk.map("mul", r, 2.0) for r in rest)], []

    _, h, *_ = m.repeat("layer", 3, [x, h, *([counter] if unused_carry else [])], [], [w, u], body)
    return m.model(m.mean(m.map("mul", h, h)))


def nested() -> Model:
    """A loop in a loop: weights stacked over both, over the inner one, and shared; a result stack of the inner one."""
    m = Maker()
    x = m.input("x", B, D)
    both, inner, shared = m.weight("both", L, K, D), m.weight("inner", K, D), m.weight("shared", D, E)

    def deep(mk: Maker, cs: list[Value], ss: list[Value], fs: list[Value]) -> tuple[list[Value], list[Value]]:
        y = mk.map("tanh", mk.map("mul", cs[0], mk.map("add", ss[0], ss[1])))
        z = mk.dot(y, fs[0], "b", "e", name="z")
        return [mk.map("add", y, mk.mean(z, "e"))], [mk.map("mul", z, z)]

    def body(mk: Maker, cs: list[Value], ss: list[Value], fs: list[Value]) -> tuple[list[Value], list[Value]]:
        out, squares = mk.repeat("inner", 2, [cs[0]], [ss[0], fs[0]], [fs[1]], deep)
        return [mk.map("add", out, mk.mean(squares, "inner", "e"))], []

    (y,) = m.repeat("layer", 3, [x], [both], [inner, shared], body)
    return m.model(m.mean(y))


@pytest.mark.parametrize(
    "model",
    [gpt(), gpt(dropout=True), gpt(layers=1), rnn(), rnn(unused_carry=True), nested()],
    ids=["gpt", "dropout", "one-layer", "rnn", "unused-carry", "nested"],
)
def test_gradients_are_the_slopes(model: Model) -> None:
    agrees_with_differences(model)


def test_loops_stay_rolled_and_backward_runs_in_reverse() -> None:
    d = differentiated(gpt())
    (loop,) = repeats(d.backward)
    assert isinstance(loop.op, Repeat)
    assert loop.op.reverse and loop.op.count == 3
    few, many = (sum(1 for _ in graph_values(differentiated(gpt(layers=n)).backward)) for n in (2, 200))
    assert few == many


def test_a_reversed_loop_is_reversed_again() -> None:
    """Scan from the right: the derivative runs from the left."""
    m = Maker()
    x, w = m.input("x", B), m.weight("w", L, B)
    forward = Maker(names=m.names)
    c, s = forward.b.value("c", x.type), forward.b.value("s", Type("f64", (B,)))
    after = forward.map("tanh", forward.map("add", forward.map("mul", c, s), 0.5))
    body = forward.b.graph("layer", (c, s), (after,))
    (y,) = m.b.add_many(Repeat("layer", 3, body, 1, 1, True), x, w)
    model = m.model(m.mean(y))
    agrees_with_differences(model)
    (loop,) = repeats(differentiated(model).backward)
    assert isinstance(loop.op, Repeat) and not loop.op.reverse


def test_unused_carries_and_results_leave_no_trace() -> None:
    with_it, without = differentiated(rnn(unused_carry=True)), differentiated(rnn())
    assert len(list(graph_values(with_it.backward))) == len(list(graph_values(without.backward)))
    assert len(list(graph_values(with_it.forward))) == len(list(graph_values(without.forward)))


def test_weights_without_influence_have_zero_gradients() -> None:
    m = Maker()
    x, w, _, stopped = m.input("x", B), m.weight("w", B), m.weight("idle", D), m.weight("stopped", B)
    y = m.map("mul", m.map("mul", x, w), m.add(StopGradient(), stopped))
    model = m.model(m.mean(y))
    given = data_for(model)
    _, g_idle, g_stopped = gradients(differentiated(model), given)
    assert not g_idle.any() and not g_stopped.any()
    assert g_idle.shape == (4,)


def test_equal_gradients_are_two_values() -> None:
    """d(v + w) is one cotangent for both; the optimizer wants one value each."""
    m = Maker()
    v, w, x = m.weight("v", B), m.weight("w", B), m.input("x", B)
    model = m.model(m.sum(m.map("mul", m.map("add", v, w), x)))
    d = differentiated(model)
    given = data_for(model)
    first, second = gradients(d, given)
    assert np.array_equal(first, given["x"]) and np.array_equal(second, given["x"])


def test_the_gradient_of_a_scalar_weight_as_the_loss_is_one() -> None:
    m = Maker()
    w = m.weight("w")
    model = m.model(w)
    (gradient,) = gradients(differentiated(model), data_for(model))
    assert gradient == 1.0


def test_a_weight_read_twice_sums_its_gradients() -> None:
    m = Maker()
    x, w = m.input("x", B), m.weight("w", B)
    y = m.map("mul", m.map("exp", w), m.map("mul", w, x))
    agrees_with_differences(m.model(m.sum(m.map("add", y, w))))


def test_several_results_of_an_op() -> None:
    m = Maker()
    x, w = m.input("x", B, D), m.weight("w", D)
    values, indices = m.b.add_many(TopK("d", Dim("top", 2)), m.map("mul", x, w))
    weighted = m.map("mul", values, m.map("add", m.add(Cast("f64"), indices), 1.0))
    agrees_with_differences(m.model(m.mean(m.map("tanh", weighted))))


# --- what is saved -----------------------------------------------------------------------------------


def names(model: Model) -> set[str]:
    return {v.name for v in differentiated(model).saved}


def test_weights_and_their_casts_are_read_again() -> None:
    model = gpt(dtype="f32", compute="bf16")
    saved = names(model)
    assert not [n for n in saved if "cast" in n]
    d = differentiated(model)
    assert {"block.attention.wq", "block.mlp.w2", "wte"} <= {v.name for v in d.backward.inputs}
    assert all(g.type.dtype == "f32" for g in d.gradients)


def test_masks_and_data_are_not_saved() -> None:
    saved = names(gpt())
    assert not [n for n in saved if "mask" in n or "iota" in n or "hot" in n]
    assert not saved & {"tokens", "targets"}


def test_a_random_mask_is_saved_rather_than_the_numbers() -> None:
    d = differentiated(gpt(dropout=True))
    masks = [v for v in d.saved if "dropped" in v.name]
    assert [v.type.dtype for v in masks] == ["bool"]
    assert not [n for n in d.backward.nodes if isinstance(n.op, Random)]


def test_views_share_their_source() -> None:
    m = Maker()
    x, w, g = m.input("x", B, D), m.weight("w", D, E), m.weight("g", E)
    y = m.map("exp", m.dot(x, w, "b", "e"), name="y")
    turned = m.add(Transpose(("e", "b")), y, name="turned")
    wide = m.add(Broadcast((*turned.type.dims, D)), turned, name="wide")
    z = m.map("mul", m.map("sin", wide), m.map("mul", turned, g))
    model = m.model(m.mean(z))
    assert names(model) == {"y", "sin", "mul"}  # neither `turned` nor `wide`
    agrees_with_differences(model)


def test_of_a_chain_of_casts_the_smallest_is_saved() -> None:
    """Only the wide result of a cast is needed: its narrow operand is kept, and cast again."""
    m = Maker("f32")
    x, w = m.input("x", B, D), m.weight("w", D)
    narrow = m.add(Cast("bf16"), m.map("mul", x, w), name="narrow")
    wide = m.add(Cast("f32"), m.map("relu", narrow, name="kept"), name="wide")
    model = m.model(m.mean(m.map("sin", wide)))
    d = differentiated(model)
    assert {v.name for v in d.saved} == {"kept"}
    assert saved_bytes(d) == 3 * 4 * 2


def test_scaling_is_done_again() -> None:
    """sin(2u) needs 2u, and exp(u)'s neighbour u itself is saved already."""
    m = Maker()
    x, w = m.input("x", B), m.weight("w", B)
    u = m.map("exp", m.map("mul", x, w), name="u")
    twice = m.map("mul", u, 2.0, name="twice")
    model = m.model(m.sum(m.map("mul", m.map("sin", twice), u)))
    assert names(model) == {"u", "sin"}
    agrees_with_differences(model)


def test_a_result_that_the_loop_puts_out_anyway_is_not_put_out_twice() -> None:
    m = Maker()
    x, w = m.input("x", B), m.weight("w", L, B)

    def body(mk: Maker, cs: list[Value], ss: list[Value], fs: list[Value]) -> tuple[list[Value], list[Value]]:
        y = mk.map("tanh", mk.map("mul", cs[0], ss[0]), name="y")
        return [y], [y]

    y, ys = m.repeat("layer", 3, [x], [w], [], body)
    model = m.model(m.map("add", m.sum(y), m.sum(ys)))
    d = differentiated(model)
    (loop,) = repeats(d.forward)
    assert len(loop.outputs) == 3  # final y, stack of y, stack of the carry
    agrees_with_differences(model)


def test_dead_code_of_the_model_goes() -> None:
    m = Maker()
    x, w = m.input("x", B), m.weight("w", B)
    m.map("exp", x, name="dead")
    loss = m.mean(m.map("mul", x, w))
    d = differentiated(m.model(loss))
    assert "dead" not in {v.name for v in graph_values(d.forward)}


# --- the seed ----------------------------------------------------------------------------------------


def test_the_scale_multiplies_every_gradient() -> None:
    model = gpt()
    given = data_for(model)
    plain = gradients(differentiated(model), given)
    fixed = gradients(differentiated(model, scale=1024.0), given)
    assert all(np.array_equal(a * 1024.0, b) for a, b in zip(plain, fixed, strict=True))

    known = Names(v.name for v in graph_values(model.graph))
    scale = Value(known.fresh("scale"), Type("f32"))
    d = differentiated(model, names=known, scale=scale)
    assert d.backward.inputs[-1] is scale
    moving = gradients(d, given, scale=np.asarray(1024.0, np.float32))
    assert all(np.array_equal(a, b) for a, b in zip(fixed, moving, strict=True))


# --- against PyTorch ---------------------------------------------------------------------------------


def test_gpt_against_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model = gpt()
    given = data_for(model)
    t = {k: torch.tensor(v, requires_grad=v.dtype == np.float64) for k, v in given.items()}
    x = t["wte"][t["tokens"].long()] + t["wpe"]
    for i in range(3):
        w = {k.removeprefix("block."): v[i] for k, v in t.items() if k.startswith("block.")}
        y = functional.layer_norm(x, (8,), w["ln1.gain"], w["ln1.bias"], 1e-5)
        q, k, v = ((y @ w[f"attention.{n}"]).reshape(2, 4, 2, 4).transpose(1, 2) for n in ("wq", "wk", "wv"))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(2, 4, 8) @ w["attention.wo"]
        y = functional.layer_norm(x, (8,), w["ln2.gain"], w["ln2.bias"], 1e-5)
        x = x + functional.gelu(y @ w["mlp.w1"]) @ w["mlp.w2"] + w["mlp.out_bias"]
    logits = functional.layer_norm(x, (8,), t["ln.gain"], t["ln.bias"], 1e-5) @ t["wte"].T
    loss = functional.cross_entropy(logits.reshape(-1, 11), t["targets"].long().reshape(-1))
    loss.backward()
    d = differentiated(model)
    assert abs(float(run_graph(d.forward, given)[0]) - float(loss.detach())) < 1e-12
    for w, gradient in zip(model.weights, gradients(d, given), strict=True):
        expected = t[w.name].grad.numpy()
        assert np.allclose(gradient, expected, rtol=1e-9, atol=1e-12), w.name


def test_iota_slices_are_made_again_in_the_backward_loop() -> None:
    """The index of the iteration is a constant: not saved."""
    d = differentiated(gpt(dropout=True))
    assert not [v for v in d.saved if v.type.dtype == "int32"]
    assert [n for n in gpt(dropout=True).graph.nodes if isinstance(n.op, Iota)]
