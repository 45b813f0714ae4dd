"""A model's positions by themselves beside all of them at once: both as serial programs, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.evaluate import evaluate
from compiler.incremental.derive import incremental
from compiler.model import Init, Model
from compiler.passes.inference import inference
from dsl.source import NOWHERE, Source
from runtime.numpy import STORAGE
from runtime.prove.serial import run_graph

Array = np.ndarray[Any, np.dtype[Any]]

HEAD = """\
use std.layers (attention, cross_entropy, embedding, grouped_attention, gru, latent_attention, layer_norm, linear, lstm)
use std.layers (mlp, moe, rms_norm, softmax, swiglu)

model net(batch, seq, width) {
  dim b = batch, s = seq, d = width, v = 11
  input tokens : int32[b,s] in 0..v
MORE  x = embedding(tokens, over v, over d)
"""


def model_of(body: str, seq: int = 8, width: int = 8, more: str = "") -> Model:
    """The model whose body this is, from `x[b,s,d]` to the output `y`; more: statements before `x`."""
    serve = f"job serve {{\n  infer net(2, {seq}, {width})\n  precision f64\n}}\n"
    job = evaluate(Source("net.par", f"{HEAD.replace('MORE', more)}{body}\n  output y\n}}\n{serve}"))
    return inference(job.model, job.span)


def drawn(model: Model, seed: int) -> dict[str, Array]:
    """Data and weights, by their names."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for i in model.inputs:
        t = i.value.type
        whole = t.dtype == "int32"
        found[i.value.name] = rng.integers(i.low or 0, i.high or 5, t.shape) if whole else rng.normal(size=t.shape)
    for w in model.weights:
        found[w.name] = rng.normal(size=w.value.type.shape) * 0.5
    return found


def begun(init: Init, shape: tuple[int, ...], dtype: str) -> Array:
    value = init.args[0] if init.args else 0.0
    return np.full(shape, value, STORAGE[dtype])


def by_positions(model: Model, env: dict[str, Array], split: Sequence[int], dim: str = "s") -> list[Array]:
    """The outputs, made of so many positions at a time and put together."""
    states: dict[str, Array] = {}
    parts, at = [], 0
    whole = {i.value.name: i.value.type for i in model.inputs}
    for length in split:
        part = incremental(model, dim, length, NOWHERE, begun=at > 0)
        if not states:
            states = {s.name: begun(s.init, s.value.type.shape, s.value.type.dtype) for s in part.states}
        assert states.keys() == {s.name for s in part.states}
        given = {w.name: env[w.name] for w in part.weights} | states
        for i in part.inputs:
            name = i.value.name.removesuffix(".next")
            t = whole[name]
            rows = range(at, at + length)
            given[i.value.name] = np.take(env[name], rows, t.index(dim)) if t.has(dim) else env[name]
        found = run_graph(part.graph, given)
        parts.append(found[: len(part.outputs)])
        states = {s.name: x for s, x in zip(part.states, found[len(part.outputs) :], strict=True)}
        at += length
    axes = [v.type.index(dim) if v.type.has(dim) else None for v in model.of_outputs]
    return [p[-1] if axis is None else np.concatenate(p, axis) for axis, p in zip(axes, zip(*parts))]


def apart(model: Model, split: Sequence[int], seed: int = 0) -> float:
    """The largest difference from the whole forward pass, relative to its largest value."""
    env = drawn(model, seed)
    whole = run_graph(model.graph, env)
    found = by_positions(model, env, split)
    assert all(np.isfinite(w).all() for w in whole)
    return max(float(np.abs(w - f).max() / np.abs(w).max()) for w, f in zip(whole, found))
