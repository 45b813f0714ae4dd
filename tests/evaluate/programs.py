"""Helpers: small models from their bodies, and their tensors computed by the serial interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from textwrap import dedent, indent
from typing import Any

import numpy as np

from compiler.evaluate import Evaluation, evaluate_file
from compiler.graph import Graph, Value
from compiler.model import Job, Model
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from dsl.source import Source
from runtime.prove.serial import run_graph

JOB = "job fit {\n  train m()\n  optimizer sgd(lr = 0.1)\n  precision PRECISION\n}\n"


def job(text: str, **options: Any) -> Job:
    """The (only) job of a text."""
    return evaluation(text, **options).job


def evaluation(text: str, **options: Any) -> Evaluation:
    return evaluate_file(Source("main.par", dedent(text)), **options)


def model(body: str, *, use: str = "", functions: str = "", precision: str = "f32") -> Model:
    """The model whose body is given; `use` are names of std.layers."""
    head = "use std.optimizers (sgd)\n" + (f"use std.layers ({use})\n" if use else "")
    text = head + dedent(functions) + "model m() {\n" + indent(dedent(body).strip("\n"), "  ") + "\n}\n"
    return job(text + JOB.replace("PRECISION", precision)).model


def program(test: Callable[..., None]) -> Callable[..., None]:
    """The test's docstring is the program; the test gets its job."""

    @wraps(test)
    def run() -> None:
        assert test.__doc__
        text = dedent(test.__doc__)
        if "job " not in text:
            text = "use std.optimizers (sgd)\n" + text + JOB.replace("PRECISION", "f32")
        test(job(text))

    del run.__wrapped__  # type: ignore[attr-defined]  # or pytest would ask for a fixture
    return run


def values(graph: Graph) -> dict[str, Value]:
    """All values by name, bodies of loops included."""
    found = {v.name: v for v in graph.inputs}
    for node in graph:
        found |= {v.name: v for v in node.outputs}
        if isinstance(node.op, Repeat):
            found |= values(node.op.body)
    return found


def ops(graph: Graph) -> list[str]:
    """Mnemonics of the nodes, with the function of maps."""
    return [getattr(n.op, "fn", n.op.mnemonic) for n in graph]


def reduced(m: Model, arrays: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The tensor that the loss sums (`loss sum(y)`), for these inputs and weights; `step` is 1."""
    reduce = [n for n in m.graph if isinstance(n.op, Reduce)][-1]
    graph = Graph("part", m.graph.inputs, m.graph.nodes, (reduce.inputs[0],))
    (out,) = run_graph(graph, {"step": np.int32(1), **arrays})
    return out


def random_arrays(m: Model, seed: int = 0) -> dict[str, Any]:
    """Normal numbers for all inputs and weights (integers: uniform in their range)."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for i in m.inputs:
        t = i.value.type
        made[i.value.name] = (
            rng.standard_normal(t.shape).astype(np.float64 if t.dtype == "f64" else np.float32)
            if t.is_float
            else rng.integers(i.low or 0, i.high or 2, t.shape).astype(np.int32)
        )
    for w in m.weights:
        dtype = np.float64 if w.value.type.dtype == "f64" else np.float32
        made[w.name] = rng.standard_normal(w.value.type.shape).astype(dtype)
    return made
