"""Whole steps against AdamW written out in numpy: clipping, loss scale, skipped steps, the step counter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.driver import run_passes
from compiler.graph import Dim, Names, Type, Value
from compiler.model import Init, Job, Model, Precision, State, Training, WeightUpdate
from compiler.ops.elementwise import Cast
from compiler.passes.training import SCALE_PATIENCE, SCALE_START
from compiler.strategy import RecomputeRule
from compiler.verify import verify_graphs
from compiler.walk import graph_values
from runtime.numpy import STORAGE
from tests.passes.checks import differentiated, gradients
from tests.passes.models import Arrays, Maker, data_for, gpt, job_for, run_graph

RATE, FIRST, SECOND, EPS, DECAY = 0.01, 0.9, 0.95, 1e-8, 0.1


def adamw(model: Model) -> list[WeightUpdate]:
    """One update graph per weight, with names that repeat from weight to weight."""
    found = []
    for w in model.weights:
        m = Maker(w.value.type.dtype, Names())
        step = m.b.value("step", Type("f64"))
        weight, gradient = m.b.value("w", w.value.type), m.b.value("g", w.value.type)

        def past(beta: float, m: Maker = m, step: Value = step) -> Value:
            """1 - beta ** step, in f64 up to here."""
            return m.b.add(Cast(m.dtype), m.map("sub", 1.0, m.map("pow", beta, step)))

        mean, square = m.b.value("m", w.value.type), m.b.value("v", w.value.type)
        new_mean = m.map("add", m.map("mul", mean, FIRST), m.map("mul", gradient, 1 - FIRST))
        squared = m.map("mul", gradient, gradient)
        new_square = m.map("add", m.map("mul", square, SECOND), m.map("mul", squared, 1 - SECOND))
        first = m.map("div", new_mean, past(FIRST))
        second = m.map("div", new_square, past(SECOND))
        change = m.map("div", first, m.map("add", m.map("sqrt", second), EPS))
        total = m.map("add", change, m.map("mul", weight, DECAY))
        new = m.map("sub", weight, m.map("mul", total, RATE))
        graph = m.b.graph("adamw", (step, weight, gradient, mean, square), (new, new_mean, new_square))
        states = tuple(
            State(Value(f"{w.name}.{n}", w.value.type), Init("zeros"), "optimizer", w.name) for n in ("m", "v")
        )
        found.append(WeightUpdate(w.name, states, graph))
    return found


def numpy_adamw(weight: Any, gradient: Any, mean: Any, square: Any, step: int) -> tuple[Any, Any, Any]:
    mean = FIRST * mean + (1 - FIRST) * gradient
    square = SECOND * square + (1 - SECOND) * gradient**2
    first, second = mean / (1 - FIRST**step), square / (1 - SECOND**step)
    return weight - RATE * (first / (np.sqrt(second) + EPS) + DECAY * weight), mean, square


class Run:
    """The serial program, step by step."""

    def __init__(self, job: Job, seed: int = 0) -> None:
        self.t: Training = run_passes(job, "update").training
        assert verify_graphs(self.t.graphs) == ()
        self.memory: Arrays = data_for(job.model, seed)
        self.memory.pop("step", None)
        for s in self.t.states:
            value = s.init.args[0] if s.init.kind == "constant" else 0.0
            self.memory[s.name] = np.full(s.value.type.shape, value, STORAGE[s.value.type.dtype])
        self.reports: Arrays = {}

    def step(self, **given: Any) -> list[Any]:
        """One step; returns the (scaled) gradients."""
        known = self.memory | given
        made = dict(zip((v.name for v in self.t.forward.outputs), run_graph(self.t.forward, known)))
        grads = run_graph(self.t.backward, known | made)
        self.update(grads)
        return grads

    def update(self, grads: list[Any]) -> None:
        t = self.t
        out = run_graph(t.update, self.memory | dict(zip((g.name for g in t.gradients), grads)))
        names = [*(w.name for w in t.model.weights), *(s.name for s in t.states)]
        assert len(out) == len(names) + len(t.reports)
        self.memory |= dict(zip(names, out))
        self.reports = dict(zip(t.reports, out[len(names) :]))


def expected(model: Model, seed: int, steps: int, clip: float | None) -> tuple[Arrays, list[float]]:
    """Weights and moments after some steps, and the norms, by numpy on the gradients of `differentiate`."""
    memory = data_for(model, seed)
    d = differentiated(model)
    moments = {w.name: (np.zeros(w.value.type.shape), np.zeros(w.value.type.shape)) for w in model.weights}
    norms = []
    for step in range(1, steps + 1):
        grads = gradients(d, memory)
        norms.append(float(np.sqrt(sum((g**2).sum() for g in grads))))
        factor = 1.0 if clip is None else min(1.0, clip / norms[-1])
        for w, g in zip(model.weights, grads, strict=True):
            new, *moments[w.name] = numpy_adamw(memory[w.name], g * factor, *moments[w.name], step)  # type: ignore
            memory[w.name] = new
    for name, (mean, square) in moments.items():
        memory |= {f"{name}.m": mean, f"{name}.v": square}
    return memory, norms


@pytest.mark.parametrize("clip", [None, 0.05, 1e6], ids=["no-clip", "clipped", "below-the-limit"])
@pytest.mark.parametrize("scale", [None, 256.0, "dynamic"], ids=["", "static", "dynamic"])
def test_steps_equal_numpy(clip: float | None, scale: float | str | None) -> None:
    model = gpt()
    run = Run(job_for(model, adamw(model), clip=clip, precision=Precision("f64", "f64", scale)))
    for _ in range(3):
        run.step()
    memory, norms = expected(model, 0, 3, clip)
    for name, want in memory.items():
        if name in run.memory:
            assert np.allclose(run.memory[name], want, rtol=1e-10, atol=1e-14), name
    assert run.memory["step"] == 3
    assert ("grad_norm" in run.reports) == (clip is not None)
    if clip is not None:
        assert np.isclose(run.reports["grad_norm"], norms[-1], rtol=1e-10)
        assert (norms[0] > clip) == (clip < 1)


def test_below_the_limit_clipping_changes_no_bit() -> None:
    model = gpt(layers=2)
    plain, clipped = Run(job_for(model, adamw(model))), Run(job_for(model, adamw(model), clip=1e6))
    plain.step()
    clipped.step()
    assert all(np.array_equal(plain.memory[w.name], clipped.memory[w.name]) for w in model.weights)


def test_recompute_rules_of_the_strategy_count() -> None:
    model = gpt()
    run = Run(job_for(model, adamw(model), [RecomputeRule("block")]))
    assert {v.name for v in run.t.saved if v.name.startswith("block")} == {"block.x.in.saved"}


def test_the_static_scale_multiplies_what_backward_puts_out() -> None:
    model = gpt(layers=2)
    plain = Run(job_for(model, adamw(model))).step()
    scaled = Run(job_for(model, adamw(model), precision=Precision("f64", "f64", 512.0))).step()
    assert all(np.array_equal(a * 512, b) for a, b in zip(plain, scaled, strict=True))


# --- the dynamic loss scale --------------------------------------------------------------------------


def dynamic(model: Model, clip: float | None = None) -> Run:
    return Run(job_for(model, adamw(model), clip=clip, precision=Precision("f64", "f64", "dynamic")))


def test_the_dynamic_scale_is_a_state_that_seeds_backward() -> None:
    run = dynamic(gpt(layers=1))
    assert [s.name for s in run.t.states[:3]] == ["step", "loss_scale", "good_steps"]
    assert all(s.role == "counter" and s.of is None for s in run.t.states[:3])
    assert run.t.backward.inputs[-1] is run.t.states[1].value
    run.step()
    assert run.reports["loss_scale"] == SCALE_START
    assert run.memory["good_steps"] == 1 and run.memory["loss_scale"] == SCALE_START


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_with_gradients_that_are_not_finite_is_skipped(bad: float, clip: float | None) -> None:
    run = dynamic(gpt(layers=1), clip)
    run.step()
    before = dict(run.memory)
    grads = [np.zeros(g.type.shape) for g in run.t.gradients]
    grads[3].flat[0] = bad
    run.update(grads)
    assert run.memory["loss_scale"] == SCALE_START / 2
    assert run.memory["good_steps"] == 0
    for name, old in before.items():
        if name not in ("loss_scale", "good_steps"):
            assert np.array_equal(run.memory[name], old), name


def test_after_enough_good_steps_the_scale_doubles() -> None:
    run = dynamic(gpt(layers=1))
    run.memory["good_steps"] = np.asarray(SCALE_PATIENCE - 2, np.int32)
    run.step()
    assert run.memory["loss_scale"] == SCALE_START
    run.step()
    assert run.memory["loss_scale"] == 2 * SCALE_START
    assert run.memory["good_steps"] == 0
    assert run.memory["step"] == 2


# --- the graph ---------------------------------------------------------------------------------------


def test_the_step_of_random_numbers_and_the_counter_are_one_value() -> None:
    model = gpt(dropout=True)
    t = run_passes(job_for(model, adamw(model)), "update").training
    (step,) = (v for v in t.forward.inputs if v.name == "step")
    assert t.states[0].value is step and step in t.update.inputs


def test_the_update_takes_gradients_weights_and_states() -> None:
    model = gpt()
    t = run_passes(job_for(model, adamw(model), clip=1.0), "update").training
    weights = tuple(w.value for w in model.weights)
    assert t.update.inputs == (*t.gradients, *weights, *(s.value for s in t.states))
    assert [v.type for v in t.update.outputs[: len(weights)]] == [w.type for w in weights]
    assert t.gradients == t.backward.outputs
    assert t.reports == ("grad_norm",)


def test_the_norm_is_a_chain_of_scalar_sums_in_the_weights_order() -> None:
    model = gpt()
    t = run_passes(job_for(model, adamw(model), clip=1.0), "update").training
    made = {v: n for n in t.update.nodes for v in n.outputs}
    total = made[next(v for v in made if v.name == "grad_norm")].inputs[0]
    order = []
    while made[total].op.default_name(()) == "add":
        total, part = made[total].inputs
        order.append(part.name)
    order.append(total.name)
    assert order[::-1] == [f"{w.name}.grad.square.sum" for w in model.weights]


def test_what_depends_on_the_step_alone_is_computed_once() -> None:
    model = gpt()
    t = run_passes(job_for(model, adamw(model)), "update").training
    powers = [n for n in t.update.nodes if n.op.default_name(()) == "pow"]
    assert len(powers) == 2
    assert all(n.output.name.startswith("update.") for n in powers)


def test_weights_without_an_update_stay() -> None:
    """A frozen weight has no optimizer."""
    model = gpt(layers=1)
    updates = adamw(model)[1:]
    run = Run(job_for(model, updates))
    before = run.memory["wte"]
    run.step()
    assert run.memory["wte"] is before
    assert not np.array_equal(run.memory["wpe"], data_for(model)["wpe"])


def test_master_weights_are_updated_in_master_precision() -> None:
    model = gpt(dtype="f32", compute="bf16")
    run = Run(job_for(model, adamw(model), precision=Precision("bf16", "f32", 8.0)))
    assert all(g.type.dtype == "f32" for g in run.t.gradients)
    run.step()
    assert run.memory["wte"].dtype == np.float32
    values = list(graph_values(run.t.update))
    assert {v.type.dtype for v in values if v.type.dims} == {"f32"}
    assert {v.type.dtype for v in values} == {"f32", "int32", "f64"}  # what depends on the step alone


def test_a_scalar_weight_has_a_norm_too() -> None:
    m = Maker()
    x, w = m.input("x", Dim("b", 3)), m.weight("w")
    model = m.model(m.mean(m.map("mul", x, w)))
    run = Run(job_for(model, adamw(model), clip=1e-3))
    (gradient,) = run.step()
    assert np.isclose(run.reports["grad_norm"], abs(gradient))
