"""`store activations as int8`: the model whose products with 8-bit weights are products of integers.

What goes into such a product is rounded to integers -127 … 127, with a scale for each of its rows (of each token),
found as it computes: the largest size of the row over 127. Products of integers are added up in 32 bits, and multiplied
by the scales of the row and of the output ("W8A8", dynamic and per token: Dettmers and others 2022, "LLM.int8()"; Xiao
and others 2023, "SmoothQuant"). A row is all inputs that a product sums over, on however many devices they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.graph import Builder, Graph, Names, Node, Value
from compiler.model import Model
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast, Map
from compiler.ops.packed import Dequantise, Integers, Pack
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.origin import within
from compiler.stored import unpacked_in
from compiler.strategy import ImplementRule, StoreRule
from compiler.walk import graph_values
from compiler.weight_format import WORDS, PackedWeight, levels, unit
from dsl.diagnostics import fail

CODE = "int8"
TINY = 1e-30
"""What is divided by where all numbers of a row are 0, or so small that their scale is."""
MOST = (2**31 - 1) // (127 * 128)
"""Inputs of an output, at most: more products might not fit into 32 bits."""

Unpacked = Mapping[Value, tuple[Node, PackedWeight]]


def activations_in_bits(
    model: Model, rules: Sequence[StoreRule], by_hand: Sequence[ImplementRule], infers: bool
) -> Model:
    """The model with products of integers where the rules say so, of weights that rest as int8.

    Args:
        model: some of whose weights are stored.
        by_hand: scopes that are computed as somebody wrote them for one device.
        infers: whether the job does nothing but infer.

    Raises ParcError: E0474 where a product cannot be one of integers, E0542 for a rule that finds no such weight.
    """
    chosen: dict[str, StoreRule] = {}
    useful: set[StoreRule] = set()
    written = {name for rule in by_hand for name, _ in rule.weights}
    scopes = [rule.scope for rule in by_hand]
    for of in model.stored:
        found = [r for r in rules if r.scope is None or within(of.name, r.scope)]
        if found and of.format.code == CODE:
            useful.update(found)
            own = not written.isdisjoint((of.name, *of.parts.values())) or any(within(of.name, s) for s in scopes)
            _require(of, found[-1], infers, own)
            chosen[of.parts[WORDS]] = found[-1]
    for rule in rules:
        if rule not in useful:
            where = f"in `{model.with_numbers(rule.scope)}`" if rule.scope is not None else f"in `{model.name}`"
            message = f"no weight {where} rests as `{CODE}`, whose products could take 8-bit inputs"
            help = f"`store weights as {CODE}`: products of integers are of weights that are integers, too"
            raise fail("E0542", message, rule.by or rule.span, help=help)
    made = unpacked_in(model.graph)
    packed = {s.parts[WORDS]: s for s in model.stored if s.parts[WORDS] in chosen}
    weights = {name: packed[words] for name, words in made.items() if words in packed}
    names = Names(v.name for v in graph_values(model.graph))
    graph = _Rounding(weights, chosen, names).graph(model.graph)
    return replace(model, graph=graph, exact=model.graph)


def _require(of: PackedWeight, rule: StoreRule, infers: bool, by_hand: bool) -> None:
    """Raise E0474 for a weight whose products are no products of integers."""
    span, help = rule.by or rule.span, "leave it out with `in SCOPE`"
    if not infers:
        message = "activations are rounded to 8 bits in a job that infers, and this one trains"
        raise fail("E0474", message, span, help="rounding has no derivative: `infer MODEL(…)` in a job of its own")
    if of.format.zeros or of.format.group:
        has = "zero points" if of.format.zeros else f"a scale for each {of.format.group} of its inputs"
        message = f"`{of.name}` has {has}, and integers that are added up have one scale for each output"
        raise fail("E0474", message, span, help=f"`store weights as {CODE}` without numbers there, or {help}")
    if of.count > MOST:
        message = f"`{of.name}` has {of.count:,} inputs for each output: more than {MOST:,} may not fit into 32 bits"
        raise fail("E0474", message, span, help=help)
    if not any(of.type.size(n) % unit(CODE) == 0 for n in of.inputs):
        sizes = " x ".join(str(of.type.size(n)) for n in of.inputs)
        message = f"of the inputs of `{of.name}`, {sizes}, no dim is a multiple of {unit(CODE)}, which fill a word"
        raise fail("E0474", message, span, help=help)
    if by_hand:
        message = f"`{of.name}` is in a scope that is written by hand, which says itself what a device has of a row"
        raise fail("E0474", message, span, help=f"{help}, or leave out the `implement`")


class _Rounding:
    """A model on its way. weights: those whose products take integers, by what is made of them in the graph."""

    def __init__(self, weights: Mapping[str, PackedWeight], rules: Mapping[str, StoreRule], names: Names) -> None:
        self.weights, self.rules, self.names = weights, rules, names

    def graph(self, graph: Graph) -> Graph:
        nodes: list[Node] = []
        unpacked: dict[Value, Node] = {}
        rows: dict[tuple[Value, tuple[str, ...]], tuple[Value, Value]] = {}
        numbers: dict[Value, Value] = {}
        for node in graph.nodes:
            if isinstance(node.op, Repeat):
                node = replace(node, op=replace(node.op, body=self.graph(node.op.body)))
            if isinstance(node.op, Dequantise) and node.output.name in self.weights:
                unpacked[node.output] = node
                b = Builder(self.names, node.output.name)
                numbers[node.output] = b.add(Integers(node.op.dim, CODE), node.inputs[0], span=node.span)
                nodes += b.nodes
                continue
            of = [v for v in node.inputs if v in unpacked]
            if not of:
                nodes.append(node)
                continue
            nodes += self.product(node, of[0], unpacked[of[0]].inputs[1], numbers, rows)
        return replace(graph, nodes=tuple(nodes))

    def product(
        self,
        node: Node,
        w: Value,
        scale: Value,
        numbers: Mapping[Value, Value],
        rows: dict[tuple[Value, tuple[str, ...]], tuple[Value, Value]],
    ) -> list[Node]:
        """What makes the product's result: of the integers of both, with their scales behind."""
        of = self.weights[w.name]
        (x,) = [v for v in node.inputs if v is not w] or [w]
        assert isinstance(node.op, Contract)
        summed = tuple(n for n in x.type.names if n not in node.op.dims)
        if x in numbers or set(summed) != set(of.inputs):
            rule = self.rules[of.parts[WORDS]]
            message = f"a product with `{of.name}` does not sum over its inputs alone"
            raise fail("E0474", message, rule.by or rule.span, help="leave it out with `in SCOPE`")
        b = Builder(self.names, node.output.name)
        if (x, summed) not in rows:
            own = Builder(self.names, x.name)
            rows[x, summed] = rounded_rows(own, x, summed)
            b.nodes += own.nodes
        quantised, size = rows[x, summed]
        wide = size.type.dtype
        operands = tuple(quantised if v is x else numbers[w] for v in node.inputs)
        found = b.add(Cast(wide), b.add(node.op, *operands, name="sum", span=node.span), span=node.span)
        found = b.add(Map("mul", (None, None)), found, size, span=node.span)
        column = scale if scale.type.dtype == wide else b.add(Cast(wide), scale, name="scale", span=node.span)
        last = Node(Map("mul", (None, None)), (found, column), (node.output,), node.span)
        if node.output.type.dtype != wide:
            found = b.add(last.op, found, column, span=node.span)
            last = Node(Cast(node.output.type.dtype), (found,), (node.output,), node.span)
        return [*b.nodes, last]


def rounded_rows(b: Builder, x: Value, summed: tuple[str, ...]) -> tuple[Value, Value]:
    """Integers of a value (int32, of words in which they lie) and a scale for each row, in f32 or f64: the numbers
    along `summed` have one."""
    span, wide = x.span, "f64" if x.type.dtype == "f64" else "f32"
    if x.type.dtype != wide:
        x = b.add(Cast(wide), x, name="wide", span=span)
    largest = b.add(Reduce("max", summed), b.add(Map("abs", (None,)), x, name="size", span=span), name="largest")
    scale = b.add(Map("div", (None, 127.0)), largest, name="step", span=span)
    per = b.add(Map("maximum", (None, TINY)), scale, name="divisor", span=span)
    number = b.add(Map("round", (None,)), b.add(Map("div", (None, None)), x, per, name="steps", span=span), span=span)
    number = b.add(Map("sub", (None, float(levels(CODE)[0]))), number, name="number", span=span)
    dim = next(n for n in reversed(summed) if x.type.size(n) % unit(CODE) == 0)
    words = b.add(Pack(CODE, dim), number, name="words", span=span)
    return b.add(Integers(dim, CODE), words, name="integers", span=span), per
