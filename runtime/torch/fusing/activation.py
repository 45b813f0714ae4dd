"""GELU and its derivative."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log, pi, sqrt

from compiler.graph import Node, Value
from compiler.regions import forms
from compiler.regions.reading import Reading, close, pairs
from runtime.torch.fusing.found import Candidate, Fresh, Put, added, after, maps, product
from runtime.torch.fusing.ops import FusedActivation, FusedActivationBackward

TYPES = ("f32", "f64")
SHIFT = log(2 / sqrt(pi))
"""The derivative of erf(x) is exp(SHIFT - x²)."""


def activations(of: Reading, joint: Reading, nodes: Sequence[Node], fresh: Fresh) -> Iterator[Candidate]:
    """The GELUs that these nodes make, with their derivatives."""
    for node in maps(nodes, "mul"):
        found = forms.activation(of, node)
        if found is None or found.fn != "gelu" or found.of.type.dtype not in TYPES:
            continue
        u, bell = found.of, found.core.output
        (one,) = [v for v in node.inputs if of.map(v, "add") is not None and of.map(v, "add", 1.0, None) == (bell,)]
        inside = {v for v in (*node.inputs, bell, *found.core.inputs)}
        put = Put(FusedActivation("gelu"), (u,), (node.output,))
        yield Candidate(node.output.name, put, tuple(_backward(joint, u, one, node)), tuple(inside))


def _backward(of: Reading, u: Value, one: Value, end: Node) -> Iterator[Put]:
    """dy (1 + erf(u/√2)) / 2 + dy u exp(SHIFT - u²/2) / √2 / 2; other sums may stand between."""
    for node in after(of, one):
        for dy, other in pairs(of, node.output, "mul") if node is not end else ():
            first = _scaled(of, node.output)
            if other is not one or not product(of, first, (dy, one)).of(0.5, dy, one):
                continue
            found = _joined(of, first, dy, u)
            if found is not None:
                begins, alias = found
                yield Put(FusedActivationBackward("gelu"), (dy, u), (begins,), (alias,))


def _joined(of: Reading, first: Value, dy: Value, u: Value) -> tuple[Value, tuple[Value, Value]] | None:
    """That one of both terms which is added to something first, and the sum in which the other is, with and without."""
    readers = of.readers.get(first, [])
    if len(readers) != 1:
        return None
    up = added(of, first, readers[0], lambda v: _is_second(of, v, dy, u))
    if up is not None:
        return first, up
    for second in [v for n in after(of, dy) for v in _products(of, n.output) if _is_second(of, v, dy, u)]:
        mine = of.readers.get(second, [])
        down = added(of, second, mine[0], lambda v: v is first) if len(mine) == 1 else None
        if down is not None:
            return second, down
    return None


def _scaled(of: Reading, v: Value) -> Value:
    """The value times all numbers that it is multiplied with before anything else."""
    while True:
        readers = of.readers.get(v, [])
        node = readers[0] if len(readers) == 1 else None
        if node is None or len(node.inputs) != 1 or len(node.outputs) != 1:
            return v
        if of.map(node.output, "mul") is None and of.map(node.output, "div") is None:
            return v
        v = node.output


def _products(of: Reading, v: Value) -> Iterator[Value]:
    """The products that a value is a factor of."""
    yield v
    for n in after(of, v):
        if of.map(n.output, "mul") is not None or of.map(n.output, "div") is not None:
            yield from _products(of, n.output)


def _is_second(of: Reading, v: Value, dy: Value, u: Value) -> bool:
    found = product(of, v, (dy, u))
    rest = [x for x in found.values if x is not dy and x is not u]
    if len(found.values) != 3 or len(rest) != 1 or not found.of(sqrt(0.5) / 2, dy, u, rest[0]):
        return False
    power = of.map(rest[0], "exp")
    less = of.map(power[0], "sub") if power else None
    if power is None or less is None or len(less) != 1 or of.map(power[0], "sub", SHIFT, None) is None:
        return False
    return close(of.literal(power[0]), SHIFT) and product(of, less[0], (u,)).of(0.5, u, u)
