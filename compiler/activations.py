"""`store activations as int8`: the model whose products with 8-bit weights are products of integers.

What goes into such a product is rounded to integers -127 … 127, with a scale for each of its rows (of each token),
found as it computes: the largest size of the row over 127. Products of integers are added up in 32 bits, and multiplied
by the scales of the row and of the output ("W8A8", dynamic and per token: Dettmers and others 2022, "LLM.int8()"; Xiao
and others 2023, "SmoothQuant"). A row is all inputs that a product sums over, on however many devices they lie; where a
scope is written by hand, it is what one device sums over, as it is written there, in the serial program too. Of a loop
whose layers differ in that, by a rule of some of them, the serial program has each way in its body, and takes that of
the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from math import prod

from compiler.activation_rows import CODE, LayerRows, pieces_by_hand, rows_of_layers, rule_of
from compiler.graph import Builder, Dim, Graph, Names, Node, Type, Value
from compiler.model import Model
from compiler.ops.contract import Contract
from compiler.ops.create import Iota
from compiler.ops.elementwise import Cast, Map, Transpose
from compiler.ops.packed import Dequantise, Integers, Pack
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename, Split
from compiler.origin import within
from compiler.stored import unpacked_in
from compiler.strategy import ImplementRule, MeshAxis, StoreRule
from compiler.walk import bodies, graph_values
from compiler.weight_format import WORDS, PackedWeight, levels, unit
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail

TINY = 1e-30
"""What is divided by where all numbers of a row are 0, or so small that their scale is."""
MOST = (2**31 - 1) // (127 * 128)
"""Inputs of an output, at most: more products might not fit into 32 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class UnpackedValue:
    """What is made of a stored weight, or of a piece: its parts, the dim of its words, and those that products sum."""

    of: PackedWeight
    words: Value
    scale: Value
    dim: str
    inputs: tuple[str, ...]


def activations_in_bits(
    model: Model,
    rules: Sequence[StoreRule],
    by_hand: Sequence[ImplementRule],
    infers: bool,
    mesh: Sequence[MeshAxis] = (),
    serial: bool = False,
    cut: Model | None = None,
) -> Model:
    """The model with products of integers where the rules say so, of weights that rest as int8.

    Args:
        model: some of whose weights are stored.
        by_hand: scopes that are computed as somebody wrote them for one device.
        infers: whether the job does nothing but infer.
        mesh: the axes, with their sizes.
        serial: whether the model is as it was before anything of it was written by hand.
        cut: the model with loops in parts, in which the rules name scopes, where this one has them whole.

    Raises ParcError: E0474 where a product cannot be one of integers, E0542 for a rule that finds no such weight.
    """
    useful: set[StoreRule] = set()
    for of in (cut or model).stored:
        if (rule := rule_of(of, rules)) is not None:
            useful.update(r for r in rules if r.scope is None or within(of.name, r.scope))
            _require(of, rule, infers)
    for rule in rules:
        if rule not in useful:
            where = f"in `{model.with_numbers(rule.scope)}`" if rule.scope is not None else f"in `{model.name}`"
            message = f"no weight {where} rests as `{CODE}`, whose products could take 8-bit inputs"
            help = f"`store weights as {CODE}`: products of integers are of weights that are integers, too"
            raise fail("E0542", message, rule.by or rule.span, help=help)
    pieces = pieces_by_hand(by_hand, mesh)
    if cut is not None:
        ways = rows_of_layers(cut, rules, by_hand if serial else (), mesh)
    else:
        words_of = {of.parts[WORDS]: rule_of(of, rules) for of in model.stored}
        ways = {
            words: (LayerRows(None, rule, pieces.get(words, {}) if serial else {}),) for words, rule in words_of.items()
        }
    chosen = {words: layers for words, layers in ways.items() if any(one.rule for one in layers)}
    made = unpacked_in(model.graph)
    packed = {s.parts[WORDS]: s for s in model.stored if s.parts[WORDS] in chosen}
    weights = {name: packed[words] for name, words in made.items() if words in packed}
    names = Names(v.name for v in graph_values(model.graph))
    devices = {d.name for of_dim in pieces.values() for dims in of_dim.values() for d in dims}
    graph = _Rounding(weights, chosen, names, devices).graph(model.graph)
    return replace(model, graph=graph, exact=model.graph)


def _require(of: PackedWeight, rule: StoreRule, infers: bool) -> None:
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


class _Rounding:
    """A model on its way. weights: those whose products take integers, by what is made of them in the graph; ways: how
    these take them, by words; devices: the names of dims of devices."""

    def __init__(
        self,
        weights: Mapping[str, PackedWeight],
        ways: Mapping[str, tuple[LayerRows, ...]],
        names: Names,
        devices: Set[str],
    ) -> None:
        self.weights, self.ways, self.names, self.devices = weights, ways, names, devices
        self.loops = {one.piece.of for layers in ways.values() for one in layers if one.piece is not None}
        """Loops whose layers differ."""

    def wrong(self, of: PackedWeight, message: str) -> ParcError:
        """A product that is none of integers."""
        rule = next(one.rule for one in self.ways[of.parts[WORDS]] if one.rule is not None)
        return fail("E0474", message, rule.by or rule.span, help="leave it out with `in SCOPE`")

    def graph(
        self, graph: Graph, known: Mapping[Value, UnpackedValue] | None = None, at: Mapping[str, Value] | None = None
    ) -> Graph:
        """known: inputs that are parts now, which are among the inputs; at: of loops whose layers differ, by their
        labels, which iteration it is."""
        nodes: list[Node] = []
        unpacked: dict[Value, UnpackedValue] = dict(known or {})
        rows: dict[tuple[Value, tuple[str, ...]], tuple[Value, Value]] = {}
        numbers: dict[tuple[Value, tuple[str, ...]], Value] = {}
        for node in graph.nodes:
            if isinstance(node.op, Repeat):
                nodes += self.loop(node, node.op, unpacked, at or {})
            elif isinstance(node.op, Dequantise) and node.output.name in self.weights:
                of, (words, scale) = self.weights[node.output.name], node.inputs
                unpacked[node.output] = UnpackedValue(of, words, scale, node.op.dim, of.inputs)
            elif not (taken := [v for v in node.inputs if v in unpacked]):
                nodes.append(node)
            elif isinstance(node.op, Contract):
                x, w = node.inputs[node.inputs[0] is taken[0]], taken[0]
                if x in unpacked or {n for n in x.type.names if n not in node.op.dims} != set(unpacked[w].inputs):
                    name = unpacked[w].of.name
                    raise self.wrong(unpacked[w].of, f"a product with `{name}` does not sum over its inputs alone")
                nodes += self.by_layers(node, x, w, unpacked[w], numbers, rows, at or {})
            else:
                nodes += self.moved(node, unpacked[taken[0]], unpacked)
        for v in graph.outputs:
            if v in unpacked:
                raise self.wrong(
                    unpacked[v].of, f"`{unpacked[v].of.name}` is given on as it is, to others than products"
                )
        return replace(graph, nodes=tuple(nodes))

    def loop(
        self, node: Node, op: Repeat, unpacked: Mapping[Value, UnpackedValue], at: Mapping[str, Value]
    ) -> list[Node]:
        """The loop, which takes parts of what all of its iterations read, and the number of the iteration where its
        layers differ."""
        inputs, params = list[Value](), list[Value]()
        known: dict[Value, UnpackedValue] = {}
        for i, (v, param) in enumerate(zip(node.inputs, op.body.inputs, strict=True)):
            whole = unpacked.get(v)
            if whole is None:
                inputs.append(v)
                params.append(param)
                continue
            if i < op.carries + op.stacks:
                raise self.wrong(whole.of, f"`{whole.of.name}` goes from one iteration of a loop to the next")
            b = Builder(self.names, param.name)
            own = (b.value("words", whole.words.type, param.span), b.value("scale", whole.scale.type, param.span))
            known[param] = UnpackedValue(whole.of, *own, whole.dim, whole.inputs)
            inputs += [whole.words, whole.scale]
            params += own
        b, inside = Builder(self.names, op.label), dict[str, Value]()
        wanted, stacks = self.differing(op.body, known), op.stacks
        for label in sorted(wanted & at.keys()):
            inside[label] = b.value("number", at[label].type, node.span)
            inputs.append(at[label])
            params.append(inside[label])
        if op.label in wanted:
            numbers = b.add(Iota(Dim(op.label, op.count)), name="numbers", span=node.span)
            inside[op.label] = b.value("number", Type("int32"), node.span)
            inputs.insert(op.carries + stacks, numbers)
            params.insert(op.carries + stacks, inside[op.label])
            stacks += 1
        body = self.graph(replace(op.body, inputs=tuple(params)), known, inside)
        return [*b.nodes, replace(node, op=replace(op, body=body, stacks=stacks), inputs=tuple(inputs))]

    def differing(self, body: Graph, known: Mapping[Value, UnpackedValue]) -> set[str]:
        """The labels of loops in whose layers products of this body take their inputs in several ways."""
        made = (v.name for g in bodies(body) for n in g.nodes if isinstance(n.op, Dequantise) for v in n.outputs)
        of = [*(self.weights[name] for name in made if name in self.weights), *(u.of for u in known.values())]
        return {one.piece.of for w in of for one in self.ways[w.parts[WORDS]] if one.piece is not None}

    def moved(self, node: Node, x: UnpackedValue, unpacked: dict[Value, UnpackedValue]) -> list[Node]:
        """What does to the parts of a weight what is done to it: whatever is written by hand for one device begins with
        a piece."""
        op, b = node.op, Builder(self.names, node.output.name)
        inputs = x.inputs
        if isinstance(op, Split):
            whole, parts = x.words.type.size(op.dim), op.into
            if op.dim == x.dim:
                per = prod(d.size for d in parts[:-1])
                if whole % per:
                    size = f"{parts[-1].size} of `{op.dim}`"
                    raise self.wrong(x.of, f"a piece of `{x.of.name}` has {size}, which are no words of {unit(CODE)}")
                parts = (*parts[:-1], Dim(parts[-1].name, whole // per))
            words = b.add(Split(op.dim, parts), x.words, name="words", span=node.span)
            there = x.scale.type.has(op.dim)
            scale = b.add(Split(op.dim, op.into), x.scale, name="scale", span=node.span) if there else x.scale
            own = tuple(d.name for d in op.into if d.name not in self.devices)
            inputs = tuple(n for i in inputs for n in (own if i == op.dim else (i,)))
            dim = parts[-1].name if op.dim == x.dim else x.dim
        elif isinstance(op, Rename):
            new = dict(op.pairs)
            words = b.add(op, x.words, name="words", span=node.span)
            pairs = tuple((old, to) for old, to in op.pairs if x.scale.type.has(old))
            scale = b.add(Rename(pairs), x.scale, name="scale", span=node.span) if pairs else x.scale
            inputs, dim = tuple(new.get(n, n) for n in inputs), new.get(x.dim, x.dim)
        elif isinstance(op, Transpose):
            words, scale, dim = b.add(op, x.words, name="words", span=node.span), x.scale, x.dim
        else:
            message = f"`{x.of.name}` is taken by `{op.mnemonic}`, by hand, before a product takes it"
            raise self.wrong(x.of, message)
        unpacked[node.output] = UnpackedValue(x.of, words, scale, dim, inputs)
        return b.nodes

    def by_layers(
        self,
        node: Node,
        x: Value,
        w: Value,
        of: UnpackedValue,
        numbers: dict[tuple[Value, tuple[str, ...]], Value],
        rows: dict[tuple[Value, tuple[str, ...]], tuple[Value, Value]],
        at: Mapping[str, Value],
    ) -> list[Node]:
        """What makes the product's result: in each of the ways in which layers take x, and of these the layer's own."""
        first, *others = layers = self.ways[of.of.parts[WORDS]]
        if not others:
            return self.product(node, x, w, of, first.pieces, numbers, rows)
        b, ways = Builder(self.names, node.output.name), list[tuple[LayerRows, Value]]()
        for layer in layers:
            if any(layer.alike(other) for other, _ in ways):
                continue
            way = b.value("way", node.output.type, node.span)
            ways.append((layer, way))
            if layer.rule is not None:
                b.nodes += self.product(replace(node, outputs=(way,)), x, w, of, layer.pieces, numbers, rows)
            else:
                whole = b.add(Dequantise(of.dim, CODE), of.words, of.scale, name="whole", span=node.span)
                operands = tuple(v if v is x else whole for v in node.inputs)
                b.nodes.append(replace(node, inputs=operands, outputs=(way,)))
        found = next(way for other, way in ways if layers[-1].alike(other))
        for layer in reversed(layers[:-1]):
            assert layer.piece is not None
            own = next(way for other, way in ways if layer.alike(other))
            if own is not found:
                before = Map("lt", (None, float(layer.piece.first + layer.piece.count)))
                here = b.add(before, at[layer.piece.of], name="here", span=node.span)
                found = b.add(Map("where", (None, None, None)), here, own, found, name="chosen", span=node.span)
        last = b.nodes.pop()
        return [*b.nodes, replace(last, outputs=(node.output,))]

    def product(
        self,
        node: Node,
        x: Value,
        w: Value,
        of: UnpackedValue,
        pieces: Mapping[str, tuple[Dim, ...]],
        numbers: dict[tuple[Value, tuple[str, ...]], Value],
        rows: dict[tuple[Value, tuple[str, ...]], tuple[Value, Value]],
    ) -> list[Node]:
        """What makes the product's result: of the integers of both, with their scales behind."""
        op = node.op
        assert isinstance(op, Contract)
        summed = tuple(n for n in x.type.names if n not in op.dims)
        b, own = Builder(self.names, node.output.name), Builder(self.names, w.name)
        cut = {d: pieces[d] for d in of.inputs if d in pieces}
        devices = tuple(d.name for of_dim in cut.values() for d in of_dim)
        if (w, devices) not in numbers:
            words = _cut(own, of.words, cut)
            numbers[w, devices] = own.add(Integers(of.dim, CODE), words, span=node.span)
        b.nodes += own.nodes
        key = (x, (*devices, *summed))
        if key not in rows:
            own = Builder(self.names, x.name)
            row = _cut(own, x, cut)
            if not any(row.type.size(n) % unit(CODE) == 0 for n in summed):
                sizes = " x ".join(f"{n}={row.type.size(n)}" for n in summed)
                message = f"what a device has of the inputs of `{of.of.name}`, {sizes}, fills no words of {unit(CODE)}"
                raise self.wrong(of.of, message)
            rows[key] = rounded_rows(own, row, summed)
            b.nodes += own.nodes
        quantised, size = rows[key]
        wide = size.type.dtype
        operands = tuple(quantised if v is x else numbers[w, devices] for v in node.inputs)
        contract = replace(op, dims=(*devices, *op.dims))
        found = b.add(Cast(wide), b.add(contract, *operands, name="sum", span=node.span), span=node.span)
        found = b.add(Map("mul", (None, None)), found, size, span=node.span)
        if devices:
            found = b.add(Reduce("sum", devices), found, name="pieces", span=node.span)
        scale = of.scale
        column = scale if scale.type.dtype == wide else b.add(Cast(wide), scale, name="scale", span=node.span)
        last = Node(Map("mul", (None, None)), (found, column), (node.output,), node.span)
        if node.output.type.dtype != wide:
            found = b.add(last.op, found, column, span=node.span)
            last = Node(Cast(node.output.type.dtype), (found,), (node.output,), node.span)
        return [*b.nodes, last]


def _cut(b: Builder, x: Value, pieces: Mapping[str, tuple[Dim, ...]]) -> Value:
    """The value with dims of devices, along which its inputs are in pieces."""
    for dim, devices in pieces.items():
        size = x.type.size(dim) // prod(d.size for d in devices)
        x = b.add(Split(dim, (*devices, Dim(dim, size))), x, name="piece", span=x.span)
    return x


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
