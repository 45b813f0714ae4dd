"""Dims with a run-time size: a model gives what it gives with that very size, whatever lies beyond; refusals."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.model import EVALUATE
from compiler.verify import verify
from dsl.diagnostics import ParcError
from runtime.prove import prove, prove_evaluation
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact
from tests.states.models import compile_text, text

MODEL = """\
model net {
  dim b = 4, d = 4, v = 9, r = 3, s = 5
  input count : int32 in 1..7
  dim t = COUNT
  input x : compute[b,t,d]
  input word : int32[b,t] in 0..v
  input which : int32[b,r]
  weight w[d] ~ ones
  weight table[v,d] ~ normal(1.0)
  h = layer_norm(x + take(table, word, over v)) * w
  shares = softmax(sum(h * rename(h, t -> u), over d), u)
  y[b,t,d] = shares @ rename(h, t -> u)
  seen = cumsum(y, over t)
  late = log_softmax(sum(y, over d), t)
  picked = take(y, which, over t)
  placed = scatter(y, 2.0 * picked, which, over t)
  added = scatter_add(y, word // 2, t -> s)
  metric largest = max(seen)
  metric least = min(y)
  z = mean(y * y) + mean(max(seen, over t)) + mean(mean(late, over t)) + mean(sum(y, over t))
  loss z + 0.1 * mean(added * added) + mean(picked) + mean(placed * placed)
}
"""


def data(count: int, size: int, garbage: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    x, word = rng.normal(size=(4, 6, 4)), rng.integers(0, 9, (4, 6)).astype(np.int32)
    x[:, count:] = garbage
    word[:, count:] = 8 if garbage else 0
    which = np.array([[0, 2, 5], [1, 0, 6], [4, 3, 0], [-1, 2, 1]], np.int32)
    return {"count": np.int32(count), "x": x[:, :size], "word": word[:, :size], "which": which}


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("garbage", [0.0, 7.0, np.nan])
def test_the_size_is_the_count(count: int, garbage: float) -> None:
    bounded = Emulator(compile_text(text(MODEL.replace("COUNT", "count <= 6"))).program)
    stated = Emulator(compile_text(text(MODEL.replace("COUNT", str(count)))).program)
    found = bounded.step(data(count, 6, garbage), gradients=True)
    want = stated.step(data(count, count), gradients=True)
    assert found.loss == pytest.approx(want.loss, rel=1e-12)
    for name in want.metrics:
        assert found.metrics[name] == pytest.approx(want.metrics[name], rel=1e-12)
    for name, gradient in want.gradients.items():
        np.testing.assert_allclose(found.gradients[name], gradient, rtol=1e-10, atol=1e-13)


POLES = (
    "log(x * x * w)",
    "sqrt(abs(x * w))",
    "1.0 / (x * w)",
    "pow(x * x * w, 0.5)",
    "x * w * rsqrt(sum(x * x * w, over d))",
    "x * w / sqrt(sum(x * x, over d))",
)


@pytest.mark.parametrize("each", POLES)
def test_a_pole_beyond_the_count_is_not_seen(each: str) -> None:
    """The derivative there is no number, and no gradient has a part of it."""
    model = f"""\
model net {{
  dim b = 4, d = 4
  input count : int32 in 1..7
  dim t = COUNT
  input x : compute[b,t,d]
  weight w[d] ~ ones
  loss mean({each})
}}
"""
    bounded = Emulator(compile_text(text(model.replace("COUNT", "count <= 6"))).program)
    stated = Emulator(compile_text(text(model.replace("COUNT", "3"))).program)
    found, want = bounded.step(data(3, 6), gradients=True), stated.step(data(3, 3), gradients=True)
    assert found.loss == pytest.approx(want.loss, rel=1e-12)
    np.testing.assert_allclose(found.gradients["w"], want.gradients["w"], rtol=1e-10)


def test_a_count_beyond_the_bound_is_the_bound() -> None:
    model = """\
model net {
  dim b = 4, d = 4
  input count : int32
  dim t = count <= 6
  input x : compute[b,t,d]
  weight w[d] ~ ones
  loss mean(x * w)
}
"""
    run = compile_text(text(model)).program
    assert Emulator(run).step(data(20, 6)).loss == pytest.approx(data(20, 6)["x"].mean(), rel=1e-12)
    assert Emulator(run).step(data(-3, 6)).loss == 0


RULES = {
    "data": ("dp = 2", ("split b on dp", "microbatches 2 over b")),
    "positions": ("cp = 2", ("split t, u on cp",)),
    "uneven": ("cp = 4", ("split t on cp pad",)),
    "width": ("dp = 2, tp = 2", ("split b on dp", "split d on tp", "recompute")),
}


@pytest.mark.parametrize("name", RULES)
def test_it_is_proved(name: str) -> None:
    found = compile_text(text(MODEL.replace("COUNT", "count <= 6"), *RULES[name]))
    assert not verify(found.program)
    for executor in (Emulator, RankExecutor):
        proof = prove(found.training, found.program, 3, executor=executor)
        assert proof.ok, proof.worst
    exact(found.program, 2)


def test_a_cache_that_grows() -> None:
    """The size is a state: a cache to which each step appends, of which only what is there counts."""
    model = """\
model net {
  dim b = 2, s = 2, d = 4
  input x : compute[b,s,d]
  weight w[d] ~ ones
  state seen : int32
  held = minimum(seen + 2, 7)
  dim t = held <= 7
  state cache : compute[b,t,d]
  cache = dynamic_update_slice(cache, x * w, seen, over s, over t)
  average = mean(cache, over t)
  output average, cache
  seen = held
  loss mean(average * average)
}
"""
    found = compile_text(text(model, "dp = 2", ("split b on dp",)), entry=EVALUATE)
    for executor in (Emulator, RankExecutor):
        assert prove_evaluation(found.training, found.program, 5, executor=executor).ok
    run, rng, kept = Emulator(found.program), np.random.default_rng(0), np.zeros((2, 0, 4))
    for _ in range(5):
        x = rng.normal(size=(2, 2, 4))
        kept = np.concatenate([kept, x], axis=1)[:, :7]
        outputs = run.step({"x": x}).outputs
        np.testing.assert_allclose(outputs["average"], kept.mean(axis=1), rtol=1e-12)
        np.testing.assert_array_equal(outputs["cache"][:, : kept.shape[1]], kept)
        assert not outputs["cache"][:, kept.shape[1] :].any()


WRONG = {
    "flip(x, over t)": "E0220",
    "slice(x, t -> r, 0..2)": "E0220",
    "shift(x, t)": "E0220",
    "split(x, t -> (p, q))": "E0220",
    "rename(x, t -> d)": "E0220",
    "rename(x, t -> o)": "E0220",
    "sum(rename(z, p -> t), over t)": "E0220",
    "concat(sum(x, over t), sum(x, over t), over b -> t)": "E0220",
    "x / t": "E0220",
    "x * (t + 1)": "E0220",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_masked_is_refused(wrong: str) -> None:
    model = f"""\
model net {{
  dim b = 4, d = 4, p = 2, q = 3
  input count : int32 in 1..7
  dim t = count <= 6
  input x : compute[b,t]
  weight w[b] ~ ones
  z = zeros(b, p)
  last = rename(z, p -> o)
  y = {wrong}
  loss mean(y) + mean(w)
}}
"""
    with pytest.raises(ParcError) as found:
        compile_text(text(model))
    assert {d.code for d in found.value.diagnostics} == {WRONG[wrong]}
    assert all(d.span is not None and d.help for d in found.value.diagnostics)
