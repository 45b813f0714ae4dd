"""GELU, SiLU and their derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    """The GELUs and SiLUs that these nodes make, with their derivatives."""
    for node in maps(nodes, "mul"):
        found = forms.activation(of, node)
        if found is None or found.of.type.dtype not in TYPES:
            continue
        u, core = found.of, found.core.output
        if found.fn == "gelu":
            (one,) = [v for v in node.inputs if of.map(v, "add") is not None and of.map(v, "add", 1.0, None) == (core,)]
            inside = {*node.inputs, core, *found.core.inputs}
            back = tuple(_gelu(joint, u, one, node))
        else:
            inside, back = {core}, tuple(_silu(joint, u, core, node))
        put = Put(FusedActivation(found.fn), (u,), (node.output,))
        yield Candidate(node.output.name, put, back, tuple(inside))


def _gelu(of: Reading, u: Value, one: Value, end: Node) -> Iterator[Put]:
    """dy (1 + erf(u/√2)) / 2 + dy u exp(SHIFT - u²/2) / √2 / 2; other sums may stand between."""
    for dy, node in _times(of, one, end):
        first = _scaled(of, node.output)
        if product(of, first, (dy, one)).of(0.5, dy, one):
            yield from _joined(of, first, dy, u, "gelu", lambda v, dy=dy: _is_second(of, v, dy, u))  # type: ignore[misc]


def _silu(of: Reading, u: Value, gate: Value, end: Node) -> Iterator[Put]:
    """dy gate + (t - t gate) where t is dy u gate; other sums may stand between."""
    for dy, node in _times(of, gate, end):

        def is_second(v: Value, dy: Value = dy) -> bool:
            terms = of.map(v, "sub", None, None)
            if terms is None or len(terms) != 2:
                return False
            t, less = (product(of, x, (dy, u, gate)) for x in terms)
            return t.of(1.0, dy, u, gate) and less.of(1.0, dy, u, gate, gate)

        yield from _joined(of, node.output, dy, u, "silu", is_second)


def _times(of: Reading, factor: Value, end: Node) -> Iterator[tuple[Value, Node]]:
    """What a value is multiplied with elsewhere than at the end of the activation, and where."""
    for node in after(of, factor):
        for other, mine in pairs(of, node.output, "mul") if node is not end else ():
            if mine is factor:
                yield other, node


def _joined(
    of: Reading, first: Value, dy: Value, u: Value, fn: str, is_second: Callable[[Value], bool]
) -> Iterator[Put]:
    """The derivative in the place of that one of both terms which is added to something first; the sum in which the
    other is goes without it."""
    readers = of.readers.get(first, [])
    if len(readers) != 1:
        return
    op = FusedActivationBackward(fn)
    up = added(of, first, readers[0], is_second)
    if up is not None:
        yield Put(op, (dy, u), (first,), (up,))
        return
    for second in dict.fromkeys(v for n in after(of, dy) for v in _products(of, n.output) if is_second(v)):
        mine = of.readers.get(second, [])
        down = added(of, second, mine[0], lambda v: v is first) if len(mine) == 1 else None
        if down is not None:
            yield Put(op, (dy, u), (second,), (down,))
            return


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
    """The products that a value is a factor of, and differences of such."""
    yield v
    for n in after(of, v):
        if any(of.map(n.output, fn) is not None for fn in ("mul", "div", "sub")):
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
