"""What is one call in passes of which nothing is derived: attention to what is kept of earlier positions, and GELU by
the hyperbolic tangent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import pi, sqrt

from compiler.graph import Node, Value
from compiler.ops.contract import Contract
from compiler.ops.create import Iota
from compiler.regions import forms
from compiler.regions.forms import Attention
from compiler.regions.reading import Reading, pairs
from runtime.torch.fusing.found import Candidate, Fresh, Put, maps, product
from runtime.torch.fusing.ops import FusedActivation, FusedPlacedAttention

TYPES = ("f32", "f64")
CUBED = 0.044715
"""GELU by tanh is u (1 + tanh(√(2/π) (u + CUBED u³))) / 2 (Hendrycks and Gimpel, arXiv 1606.08415)."""


def placed_attentions(of: Reading, joint: Reading, nodes: Sequence[Node], fresh: Fresh) -> Iterator[Candidate]:
    """Attention of positions that data or a state says, to keys up to them."""
    for last in [n for n in nodes if isinstance(n.op, Contract)]:
        found = forms.attention(of, last)
        places = _places(of, found) if found is not None else None
        if found is None or places is None or found.softmax.of.type.dtype not in TYPES:
            continue
        if any(v.type.dtype not in TYPES for v in (found.query, found.key, found.value, last.output)):
            continue
        probability = next(v for v in last.inputs if v is not found.value)
        common, s, t = found.common, found.s, found.t
        orders = (
            (*common, *found.free, s, found.depth),
            (*common, t, found.depth),
            (*common, t, found.width),
            (*common, *found.free, s, found.width),
        )
        put = Put(FusedPlacedAttention(orders), (found.query, found.key, found.value, places), (last.output,))
        inside = (found.first.output, found.softmax.core.output, probability)
        yield Candidate(last.output.name, put, (), inside)


def _places(of: Reading, found: Attention) -> Value | None:
    """At which positions the queries are, if they see all keys up to there and no others."""
    pair = of.map(found.softmax.keep, "ge", None, None) if found.softmax.keep is not None else None
    if pair is None or len(pair) != 2 or found.causal or pair[1].layout.dims[-1]:
        return None
    places, key = pair[0], of.made.get(pair[1])
    if key is None or key.inputs or key.op != Iota(key.output.type.dims[0]) or key.output.type.names != (found.t,):
        return None
    if found.query.type.size(found.depth) != found.value.type.size(found.width):
        return None
    return places if places.type.names in ((found.s,), (found.common[0], found.s)) else None


def tanh_gelus(of: Reading, joint: Reading, nodes: Sequence[Node], fresh: Fresh) -> Iterator[Candidate]:
    """The GELUs of this form that these nodes make."""
    for node in maps(nodes, "mul"):
        for half, rest in pairs(of, node.output, "mul"):
            one = of.map(rest, "add", 1.0, None)
            bell = of.map(one[0], "tanh") if one else None
            inner = product(of, bell[0]) if bell else None
            if inner is None or len(inner.values) != 1 or abs(inner.factor / sqrt(2 / pi) - 1) > 1e-6:
                continue
            for u, cubed in pairs(of, inner.values[0], "add"):
                if u.type.dtype in TYPES and product(of, cubed).of(CUBED, u, u, u) and product(of, half).of(0.5, u):
                    put = Put(FusedActivation("gelu_tanh"), (u,), (node.output,))
                    yield Candidate(node.output.name, put, (), (half, rest, inner.values[0], cubed))
