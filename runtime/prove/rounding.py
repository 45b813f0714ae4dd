"""How far rounding may move what a graph computes: by the types and the number of terms, and as measured.

*By the types*: along every path a sum of n terms adds n u^2 to the square of the relative error, u the unit roundoff
of its dtype: errors add up like independent ones (Higham and Mary, "A new approach to probabilistic rounding error
analysis", SIAM J. Sci. Comput. 41, 2019). That is cheap, and right where nothing cancels.

*As measured*: where things do cancel, or a rounding decides (which expert, which side of a ReLU), the serial program is
run again with every result moved at random by about what rounding it costs (Parker, "Monte Carlo arithmetic", 1997).
The error of a sum of n terms x_k, added in random order, is u sqrt(n r^2 / 3 + n sum(x_k^2) / 6) for the result r: its
partial sums are k/n r on the average, with the variance of a bridge between 0 and r. So a sum that cancels has the
error of its terms (n counts those that are not 0). In 16 bits devices round their parts: u sqrt(r^2 + sum(x_k^2)).

`added`: how often a sum over devices is rounded on its way, where it is made in 16 bits: an engine's network adds one
device's part after the other to it (emulators add in f32). By the types that is so many more roundings; as measured,
the error of a sum of n = added + 1 terms more, whose squares add up to about those of all terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from compiler.graph import Graph, Node, Type
from compiler.model import Training
from compiler.ops.call import Call
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from runtime.numpy import STORAGE, CallContext, Env, Kernel, LocalValue, plan, quiet, rounded
from runtime.numpy.create import fractions, hashed
from runtime.prove.serial import SerialGradients, serial_gradients

Array = np.ndarray[Any, np.dtype[Any]]

UNIT = {"f64": 2.0**-53, "f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff: half the distance from 1 to the next number."""

MOST = {"f64": 1e-9, "f32": 1e-4, "f16": 2.0**-7, "bf16": 2.0**-4}
"""A relative error beyond this is never believed to be rounding because of the number of terms; it must be measured."""

MARGIN = 16.0
"""Times the expected error, for the largest of many elements and for functions that are a few units off."""

RUNS, SPREAD = 4, 4.0
"""How often the serial program is run with other rounding, and how far beyond the largest difference equal goes."""

NARROW = ("f16", "bf16")

Variances = dict[str, tuple[float, str]]
"""By a value's name: the square of its relative error, and the coarsest dtype that it went through."""


# --- by the types ----------------------------------------------------------------------------------


def tolerance(variance: tuple[float, str]) -> float:
    """The relative error that equal values may have."""
    square, dtype = variance
    return min(MOST[dtype], MARGIN * sqrt(square)) if dtype in MOST else 0.0


def variances(training: Training, added: int = 0) -> tuple[Variances, Variances]:
    """Of all values before the update; of the update's, whose gradients and states count as exact."""
    found: Variances = {}
    for graph in (training.forward, training.backward):
        _spread(graph, found, added)
    updated: Variances = {}
    _spread(training.update, updated, added)
    return found, updated


def _spread(graph: Graph, known: Variances, added: int) -> None:
    for v in graph.inputs:
        known.setdefault(v.name, (0.0, ""))
    for node in graph:
        inputs = [known[v.name] for v in node.inputs]
        square, dtype = max((s for s, _ in inputs), default=0.0), _coarsest(d for _, d in inputs)
        if isinstance(node.op, Call):
            function: Variances = {p.name: known[v.name] for p, v in zip(node.op.body.inputs, node.inputs, strict=True)}
            _spread(node.op.body, function, added)
            known |= {v.name: function[r.name] for v, r in zip(node.outputs, node.op.body.outputs, strict=True)}
            continue
        if isinstance(node.op, Repeat):
            body: Variances = {v.name: (0.0, "") for v in node.op.body.inputs}
            _spread(node.op.body, body, added)
            outs = [body[v.name] for v in node.op.body.outputs]
            round_ = max((s for s, _ in outs[: node.op.carries]), default=0.0)
            for v, (own, d) in zip(node.outputs, outs, strict=True):
                known[v.name] = (square + (node.op.count - 1) * round_ + own, _coarsest((dtype, d)))
            continue
        for v in node.outputs:
            own = _terms(node, added) * UNIT[v.type.dtype] ** 2 if v.type.is_float and not _exact(node) else 0.0
            known[v.name] = (square + own, _coarsest((dtype, v.type.dtype)) if own else dtype)


def _coarsest(dtypes: Iterable[str]) -> str:
    return max((d for d in dtypes if d in UNIT), key=lambda d: UNIT[d], default="")


def _terms(node: Node, added: int) -> float:
    """Roundings on the way of a term to the result. In 16 bits devices round their parts, and the result; the sum
    itself is in f32."""
    n = node.op.terms(*_types(node))
    if n > 1 and node.outputs[0].type.dtype in NARROW:
        return 2 + added + n * (UNIT["f32"] / UNIT[node.outputs[0].type.dtype]) ** 2
    return max(n, 1)


def _exact(node: Node) -> bool:
    return node.op.exact(*_types(node))


def _types(node: Node) -> tuple[list[Type], list[Type]]:
    return [v.type for v in node.inputs], [v.type for v in node.outputs]


# --- as measured -----------------------------------------------------------------------------------


class Shaken:
    """A `Watch` that moves every result at random by about as much as rounding may.

    What is equal is moved alike (by a hash of its bits), so that ties stay ties; sums of whole numbers are exact, and
    so is what no sum went into: the same function of the same bits.
    """

    def __init__(self, seed: int, inexact: frozenset[str], added: int = 0) -> None:
        self._key = hashed(np.array(seed, np.uint64), 0)
        self._inexact, self._added = inexact, added
        self._number: dict[Node, int] = {}
        self._terms: dict[Node, Callable[[CallContext, Sequence[Array]], tuple[Array, Array]]] = {}

    def __call__(
        self, node: Node, ctx: CallContext, operands: Sequence[Array], results: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        type = node.outputs[0].type
        if node.outputs[0].name not in self._inexact or _exact(node) or _whole(node, operands, results[0]):
            return results
        (result,) = results
        size = self._size(node, ctx, operands, result)
        moved = result + UNIT[type.dtype] * size * self._random(node, result)
        found = np.where(np.isfinite(moved), moved, result).astype(result.dtype)
        return (rounded(found, type.dtype),)

    def _size(self, node: Node, ctx: CallContext, operands: Sequence[Array], result: Array) -> Array:
        """The expected error in units of roundoff."""
        if node.op.terms(*_types(node)) <= 1:
            return np.abs(result)
        if node not in self._terms:
            self._terms[node] = _terms_of(node)
        squares, count = self._terms[node](ctx, operands)
        square = np.square(result)
        if node.outputs[0].type.dtype in NARROW:
            n = self._added + 1 if self._added else 0
            own, terms = 1 + n / 3, np.where(count > 1, (1 + n / 6) * squares, 0.0)
            return np.asarray(np.sqrt(np.where(count > 1, own, 1.0) * square + terms))
        return np.asarray(np.sqrt(np.maximum(count * square / 3 + count * squares / 6, square)))

    def _random(self, node: Node, result: Array) -> Array:
        """Uniform, of variance 1."""
        number = self._number.setdefault(node, len(self._number))
        bits = np.array(result, np.float64, order="C").view(np.uint64)
        return np.asarray(sqrt(3) * (2 * fractions(hashed(self._key, number, bits), "f64") - 1))


def inexact(training: Training) -> frozenset[str]:
    """Names of the values before the update into which a sum of floats went."""
    found: set[str] = set()
    for graph in (training.forward, training.backward):
        _reached(graph, found)
    return frozenset(found)


def _reached(graph: Graph, found: set[str]) -> None:
    for node in graph:
        op, inputs = node.op, [v.name in found for v in node.inputs]
        if isinstance(op, Repeat):
            before = -1
            while len(found) != before:  # a carry may pass it on to others in the next iteration
                before = len(found)
                found.update(p.name for p, moved in zip(op.body.inputs, inputs, strict=True) if moved)
                _reached(op.body, found)
                inner = [v.name in found for v in op.body.outputs]
                carried = zip(op.body.inputs[: op.carries], inner[: op.carries], strict=True)
                found.update(p.name for p, moved in carried if moved)
            found.update(v.name for v, moved in zip(node.outputs, inner, strict=True) if moved)
        elif any(inputs) or (node.outputs[0].type.is_float and node.op.terms(*_types(node)) > 1):
            found.update(v.name for v in node.outputs if v.type.is_float)


def _whole(node: Node, operands: Sequence[Array], result: Array) -> bool:
    """Whether whole numbers were added or multiplied, which is exact in any order."""
    op = node.op
    if isinstance(op, Map) and op.fn not in ("add", "sub", "mul"):
        return False
    most = 1 / UNIT[node.outputs[0].type.dtype]
    return all(bool((x == np.rint(x)).all()) for x in (*operands, result)) and bool((np.abs(result) <= most).all())


def _terms_of(node: Node) -> Callable[[CallContext, Sequence[Array]], tuple[Array, Array]]:
    """The sum of the squares of the terms of each element of the result, and how many are not 0."""
    wide = "f64" if node.outputs[0].type.dtype == "f64" else "f32"

    def local(t: Type) -> LocalValue:
        return LocalValue.whole(t.with_dtype(wide) if t.is_float else t)

    kernel: Kernel = plan(node.op, [local(v.type) for v in node.inputs], [local(node.outputs[0].type)], Env())
    storage = STORAGE[wide]

    def terms(ctx: CallContext, operands: Sequence[Array]) -> tuple[Array, Array]:
        squared = [np.square(x.astype(storage)) if x.dtype.kind == "f" else x for x in operands]
        there = [(x != 0).astype(storage) if x.dtype.kind == "f" else x for x in operands]
        return np.asarray(kernel(ctx, *squared)), np.asarray(kernel(ctx, *there))

    return terms


def measured(
    training: Training,
    weights: Mapping[str, Array],
    states: Mapping[str, Array],
    batch: Mapping[str, Array],
    seed: int,
    serial: SerialGradients,
    added: int = 0,
) -> SerialGradients:
    """The largest difference that rounding made to each element, in `RUNS` runs of the serial step's forward and
    backward pass: arrays like those of `serial`."""
    most: dict[tuple[str, str], Array] = {}
    whole, names = _flat(serial), inexact(training)
    for i in range(RUNS):
        again = _flat(serial_gradients(training, weights, states, batch, seed, Shaken(i, names, added)))
        for name, value in again.items():
            with quiet():
                moved = np.abs(np.asarray(value, np.float64) - np.asarray(whole[name], np.float64))
            moved = np.where(np.isfinite(moved), moved, 0.0)
            most[name] = np.maximum(most[name], moved) if name in most else moved
    return SerialGradients(
        most["loss", ""],
        {n: most["metric", n] for n in serial.metrics},
        {n: most["gradient", n] for n in serial.gradients},
        {n: most["output", n] for n in serial.outputs},
        {n: most["state", n] for n in serial.states},
    )


def _flat(d: SerialGradients) -> dict[tuple[str, str], Array]:
    kinds = {"metric": d.metrics, "gradient": d.gradients, "output": d.outputs, "state": d.states}
    return {("loss", ""): d.loss} | {(kind, n): v for kind, found in kinds.items() for n, v in found.items()}
