"""`store caches as int8`: the model whose values at earlier positions rest in 8 bits. What a job that decodes keeps of
a position is rounded where it is made, and unpacked where it is read: the whole forward pass computes with the same
numbers, and what is kept is what has the fewest bytes, as ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.graph import Builder, Graph, Names, Node, Value
from compiler.incremental.derive import kept_positions
from compiler.model import Decoding, Model
from compiler.ops.elementwise import Cast, Map
from compiler.ops.packed import Dequantise
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Slice
from compiler.origin import within
from compiler.strategy import StoreRule
from compiler.walk import graph_values
from compiler.weight_format import BITS, levels, unit
from dsl.diagnostics import fail

TINY = 1e-30
"""What is divided by where all numbers of a row are 0, or so small that their scale is."""

LEAST = 8
"""Numbers that share a scale, at least: fewer would not be much smaller."""


def caches_in_bits(
    models: tuple[Model, Model | None], rules: Sequence[StoreRule], decoding: Decoding | None
) -> tuple[Model, Model | None]:
    """The models, as they train and as they infer (None: alike), with what the rules say of what is kept of positions.

    Raises ParcError: E0542 for a rule of a job that does not decode, or that finds nothing which is kept so.
    """
    model = next(m for m in reversed(models) if m is not None)
    kept = kept_positions(model, decoding.dim, decoding.span) if decoding is not None else {}
    chosen: dict[str, tuple[str, str]] = {}
    useful: set[StoreRule] = set()
    for v, dim in kept.items():
        found = [r for r in rules if r.scope is None or within(v.name, r.scope)]
        inner = [d for d in v.type.dims if d.name != dim]
        if found and inner and v.type.is_float:
            size, code = inner[-1].size, found[-1].format.code
            if size % unit(code) == 0 and size >= LEAST:
                chosen[v.name] = inner[-1].name, code
                useful.update(found)
    for rule in rules:
        if rule not in useful:
            where = f"in `{model.with_numbers(rule.scope)}`" if rule.scope is not None else f"of `{model.name}`"
            message = f"nothing {where} is kept of each earlier position, in rows of {LEAST} or more numbers"
            help = "`decode over s` says that a job keeps what later positions need; sums and scans stay as they are"
            raise fail("E0542", message, rule.by or rule.span, help=help)
    own, other = models
    return in_bits(own, chosen), other and in_bits(other, chosen)


def in_bits(model: Model, chosen: Mapping[str, tuple[str, str]]) -> Model:
    """The model in which whoever reads a chosen value reads what its bits stand for."""
    return replace(model, graph=_in_bits(model.graph, chosen, _names(model)))


def _names(model: Model) -> Names:
    return Names(v.name for v in graph_values(model.graph))


def _in_bits(graph: Graph, chosen: Mapping[str, tuple[str, str]], names: Names) -> Graph:
    """The graph in which whoever reads a chosen value reads what its bits stand for. chosen: by name, the dim whose
    numbers share a scale, and the format."""
    nodes: list[Node] = []
    read: dict[Value, Value] = {}
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            node = replace(node, op=replace(node.op, body=_in_bits(node.op.body, chosen, names)))
        nodes.append(replace(node, inputs=tuple(read.get(v, v) for v in node.inputs)))
        for v in node.outputs:
            if v.name in chosen:
                made, read[v] = _rounded(v, *chosen[v.name], names)
                nodes += made
    return replace(graph, nodes=tuple(nodes), outputs=tuple(read.get(v, v) for v in graph.outputs))


def _rounded(v: Value, dim: str, code: str, names: Names) -> tuple[list[Node], Value]:
    """What packs a value, with a scale for all of its numbers along `dim`, and unpacks it."""
    b = Builder(names, v.name)
    low, high = levels(code)
    wide = "f64" if v.type.dtype == "f64" else "f32"
    largest = b.add(Reduce("max", (dim,)), b.add(Map("abs", (None,)), v, name="size"), name="largest", span=v.span)
    scale = b.add(Map("div", (None, float(high))), largest, name="scale", span=v.span)
    x, per = v, scale
    if v.type.dtype != wide:
        x, per = (b.add(Cast(wide), y, name="wide", span=v.span) for y in (v, scale))
    per = b.add(Map("maximum", (None, TINY)), per, name="divisor", span=v.span)
    number = b.add(Map("div", (None, None)), x, per, name="steps", span=v.span)
    number = b.add(Map("floor", (None,)), b.add(Map("add", (None, 0.5 - low)), number, span=v.span), span=v.span)
    number = b.add(Map("maximum", (None, 0.0)), number, span=v.span)
    number = b.add(Map("minimum", (None, float(high - low))), number, name="number", span=v.span)
    words: Value | None = None
    for i in range(unit(code)):
        part = b.add(Slice(dim, i, v.type.size(dim), dim, unit(code)), number, span=v.span)
        bits = b.add(Cast("uint32"), part, name="bits", span=v.span)
        if i:
            bits = b.add(Map("mul", (None, 1 << (BITS[code] * i))), bits, span=v.span)
        words = bits if words is None else b.add(Map("add", (None, None)), words, bits, name="words", span=v.span)
    assert words is not None
    out = b.add(Dequantise(dim, code), words, scale, name="kept", span=v.span)
    return b.nodes, out
