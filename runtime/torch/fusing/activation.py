"""GELU and its derivative."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log, pi, sqrt

from compiler.graph import Node, Value
from compiler.regions import forms
from compiler.regions.reading import Reading
from runtime.torch.fusing.found import Candidate, Fresh, Put, after, close, maps, pairs, product
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
    """dy (1 + erf(u/√2)) / 2 + dy u exp(SHIFT - u²/2) / √2 / 2."""
    for first in after(of, one):
        if first is end:
            continue
        for dy, other in pairs(of, first.output, "mul"):
            if other is not one:
                continue
            for node in _sums(of, first.output):
                for a, b in pairs(of, node.output, "add"):
                    if product(of, a, (dy, one)).of(0.5, dy, one) and _is_second(of, b, dy, u):
                        yield Put(FusedActivationBackward("gelu"), (dy, u), (node.output,))


def _sums(of: Reading, v: Value) -> Iterator[Node]:
    """What a value is added to, a number times it."""
    for node in after(of, v):
        if of.map(node.output, "add", None, None) is not None:
            yield node
        elif len(node.inputs) == 1 and of.map(node.output, "mul") is not None:
            yield from _sums(of, node.output)


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
