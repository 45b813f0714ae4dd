"""`store weights as …`: the model whose matrices rest in fewer bits, and are unpacked where products take them.

What is stored of a weight w are weights themselves, `w.words` and `w.scale` (`w.zero`; of 2:4 sparsity `w.kept`): they
lie, travel and are saved as all weights are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from compiler.graph import Dim, Graph, Names, Node, Type, Value
from compiler.model import Init, Model, Weight
from compiler.ops.contract import Contract
from compiler.ops.packed import Dequantise, Expand
from compiler.ops.repeat import Repeat
from compiler.origin import Origin, within
from compiler.strategy import StoreRule, Strategy
from compiler.walk import graph_values
from compiler.weight_format import (
    BITS,
    KEPT,
    SCALE,
    SPARSE,
    WORDS,
    ZERO,
    PackedWeight,
    WeightFormat,
    levels,
    replaced,
    unit,
)
from dsl.diagnostics import fail
from dsl.source import NOWHERE, Span


def stored(model: Model, rules: Sequence[StoreRule], parts: dict[str, Value], like: Model) -> Model:
    """The model with what the rules say of its matrices: weights that products alone take. parts: values by name that
    models of one job share. like: the model before anything of it was written by hand, which says what products take.

    Raises ParcError: E0471 for a rule that finds trained ones only, or one that does not divide into words or groups,
    E0472 for a rule of some layers of a loop, E0473 for a part whose name is taken, E0542 for one that finds no matrix.
    """
    products = {v.name: inputs for v, inputs in products_of(like.graph).items()}
    chosen: dict[Value, PackedWeight] = {}
    useful: set[StoreRule] = set()
    trained: dict[StoreRule, Weight] = {}  # the first that each finds, and leaves as it is
    names = {v.name: "value" for v in graph_values(model.graph)}
    names |= {s.name: "state" for s in model.states} | {w.name: "weight" for w in model.weights}
    for weight in model.weights:
        found = [r for r in rules if r.scope is None or within(weight.name, r.scope)]
        if weight.trained and len(weight.value.type.dims) > len(weight.loops) + 1:
            trained = {r: weight for r in found} | trained
        if not found or weight.trained or weight.name not in products:
            continue
        useful.update(found)
        made = chosen[weight.value] = _stored(weight, found[-1], products[weight.name])
        for part, name in made.parts.items():
            if name in names:
                message = (
                    f"the {part} of the stored weight `{weight.name}` and a {names[name]} are both called `{name}`"
                )
                help = f"call the {names[name]} something else, or leave `{weight.name}` out with `in SCOPE`"
                raise fail("E0473", message, found[-1].by or found[-1].span, help=help)
    for rule in rules:
        if rule not in useful:
            if rule in trained:
                help = "a job that infers trains none; `frozen` weights of a job that trains can be stored, too"
                message = f"`{trained[rule].name}` is trained, which takes more bits than `{rule.format.code}` has"
                raise fail("E0471", message, rule.by or rule.span, help=help)
            where = f"in `{model.with_numbers(rule.scope)}`" if rule.scope is not None else f"in `{model.name}`"
            message = f"there is no matrix {where} that products alone take"
            help = "tables of which rows are taken, biases and scales of norms stay as they are"
            raise fail("E0542", message, rule.by or rule.span, help=help)
    return _Storing(model, chosen, parts).model() if chosen else model


def products_of(graph: Graph) -> dict[Value, tuple[str, ...]]:
    """The values that products take and nothing else does (whole weights), with the dims that these sum over."""
    taken: dict[Value, set[tuple[str, ...]]] = {}
    others: set[Value] = set(graph.outputs)

    def look(graph: Graph, of: dict[Value, Value]) -> None:
        for node in graph.nodes:
            if isinstance(node.op, Repeat):
                look(node.op.body, {p: of.get(v, v) for p, v in zip(node.op.body.inputs, node.inputs)})
                others.update(of.get(v, v) for v in node.inputs[: node.op.carries])
                others.update(of.get(v, v) for v in node.op.body.outputs)
                continue
            for v in node.inputs:
                if not isinstance(node.op, Contract):
                    others.add(of.get(v, v))
                elif inputs := tuple(n for n in v.type.names if n not in node.op.dims):
                    taken.setdefault(of.get(v, v), set()).add(inputs)
                else:
                    others.add(of.get(v, v))

    look(graph, {})
    return {v: next(iter(found)) for v, found in taken.items() if v not in others and len(found) == 1}


def _stored(weight: Weight, rule: StoreRule, inputs: tuple[str, ...]) -> PackedWeight:
    own, span = weight.value.type, rule.by or rule.span
    return packed_weight(weight.name, own, len(weight.loops), inputs, rule.format, span)


def packed_weight(
    name: str, type: Type, loops: int, inputs: tuple[str, ...], format: WeightFormat, span: Span = NOWHERE
) -> PackedWeight:
    """What is stored of a weight of this name and type. loops: so many of its dims come from loops; inputs: those over
    which products with it sum. Raises ParcError: E0471 where it does not divide into words or groups."""
    own = type.dims[loops:]
    size = unit(format.code)
    candidates = [*reversed([d for d in own if d.name in inputs]), *reversed([d for d in own if d.name not in inputs])]
    if format.code == SPARSE:
        candidates = candidates[:1]  # each four inputs are neighbours
    dim = next((d for d in candidates if d.size % size == 0), None)
    if dim is None:
        message = f"no dim of `{name}`, {type}, is a multiple of {size}, which is what `{format.code}` packs"
        if format.code == SPARSE:
            message = f"`{candidates[0].name}` of `{name}`, the last dim of its inputs, is no multiple of {size}"
        raise fail("E0471", message, span, help="choose another format there, or leave it out with `in SCOPE`")
    if format.code == SPARSE:
        kept = Type(type.dtype, replaced(type.dims, dim.name, 1, 2))
        return PackedWeight(name, type, format, dim.name, inputs, kept, _named(name, WORDS, KEPT), loops)
    group = format.group
    total = prod(d.size for d in own if d.name in inputs)
    if not group or group >= total:
        group = 0
    scale = Type(type.dtype, (*type.dims[:loops], *_scales(name, own, inputs, group, span)))
    parts = _named(name, WORDS, SCALE, *([ZERO] if format.zeros else []))
    return PackedWeight(name, type, replace(format, group=group), dim.name, inputs, scale, parts, loops)


def _named(name: str, *parts: str) -> dict[str, str]:
    return {part: f"{name}.{part}" for part in parts}


def _scales(name: str, own: Sequence[Dim], inputs: tuple[str, ...], group: int, span: Span) -> tuple[Dim, ...]:
    """The dims of a weight's scales: of its inputs, in their order, so many in a row share one."""
    left, found = group, []
    for d in reversed(own):
        if d.name not in inputs:
            found.append(d)
        elif not group:
            continue
        elif left == 1:
            found.append(d)
        elif left % d.size == 0:
            left //= d.size
        elif d.size % left == 0:
            found.append(Dim(d.name, d.size // left))
            left = 1
        else:
            sizes = " x ".join(str(d.size) for d in own if d.name in inputs)
            message = f"groups of {group} inputs do not fill the {sizes} of `{name}`"
            raise fail("E0471", message, span, help="choose a `group` that divides, or is a multiple")
    return tuple(reversed(found))


BELOW_TWO = 0xBFBFBFBF
"""The bits of words of fp8 that are set in numbers below 2 alone: so none is NaN."""
FIRST_TWO = 0x33333333
"""Of each four elements the first two are there."""
SPREAD = {"fp8": 0.45}
"""The deviation of what random bits are, where they are no integers."""


def _beginnings(of: PackedWeight, init: Init) -> dict[str, Init]:
    """How the parts begin: random bits, scaled so that the weight's numbers spread as it says."""
    code = of.format.code
    if code == SPARSE:
        return {WORDS: Init("constant", (float(FIRST_TWO),)), KEPT: init}
    count = 1 << BITS[code]
    spread = SPREAD.get(code, (count**2 / 12) ** 0.5)
    low, high = init.args if init.kind == "uniform" else (0.0, 0.0)
    deviation = init.args[0] if init.kind == "normal" else (high - low) / 12**0.5 or 0.02
    mask = BELOW_TWO if code == "fp8" else 2**32 - 1
    found = {WORDS: Init("bits", (float(mask),)), SCALE: Init("constant", (deviation / spread,))}
    return {**found, ZERO: Init("constant", (float(-levels(code)[0]),))} if of.format.zeros else found


class _Storing:
    """A model on its way: weights that are stored become their parts."""

    def __init__(self, model: Model, chosen: dict[Value, PackedWeight], shared: dict[str, Value]) -> None:
        self.whole, self.chosen, self.shared = model, chosen, shared
        self.names = Names(v.name for v in graph_values(model.graph))
        self.parts: dict[Value, tuple[Value, ...]] = {}

    def model(self) -> Model:
        weights: list[Weight] = []
        for w in self.whole.weights:
            of = self.chosen.get(w.value)
            if of is None:
                weights.append(w)
                continue
            begin = _beginnings(of, w.init)
            found = []
            for part, name in of.parts.items():
                value = self.value(name, of.type_of(name), w.value)
                found.append(value)
                weights.append(Weight(value, begin[part], w.loops, False))
            self.parts[w.value] = tuple(found)
        graph = self.graph(self.whole.graph, {w: (self.chosen[w], parts) for w, parts in self.parts.items()})
        there = {w.name for w in self.whole.weights}
        stored = tuple(self.chosen[v] for v in self.parts if v.name in there)
        return replace(self.whole, weights=tuple(weights), graph=graph, stored=stored)

    def value(self, name: str, type: Type, of: Value) -> Value:
        """A part of a value: the same in all models of the job."""
        made = Value(name, type, of.span, Origin(name))
        found = self.shared.setdefault(name, made)
        return found if found.type == type else made

    def graph(self, graph: Graph, known: dict[Value, tuple[PackedWeight, tuple[Value, ...]]]) -> Graph:
        """The graph whose inputs are parts. known: values that are parts now."""
        nodes: list[Node] = []
        unpacked: dict[Value, Value] = {}
        for node in graph.nodes:
            if isinstance(node.op, Repeat):
                nodes.append(self.loop(node, node.op, known))
                continue
            for v in node.inputs:
                if v in known and v not in unpacked:
                    unpacked[v] = v
                    nodes.append(self.unpack(v, *known[v]))
            nodes.append(node)
        inputs = tuple(p for v in graph.inputs for p in (known[v][1] if v in known else (v,)))
        return replace(graph, inputs=inputs, nodes=tuple(nodes))

    def unpack(self, v: Value, of: PackedWeight, parts: tuple[Value, ...]) -> Node:
        """What makes the value of its parts: it is no input any more."""
        op = Expand(of.dim) if of.format.code == SPARSE else Dequantise(of.dim, of.format.code)
        return Node(op, parts, (v,), v.span)

    def loop(self, node: Node, op: Repeat, known: dict[Value, tuple[PackedWeight, tuple[Value, ...]]]) -> Node:
        """The loop that takes parts."""
        inside: dict[Value, tuple[PackedWeight, tuple[Value, ...]]] = {}
        operands: list[Value] = []
        stacks = op.stacks
        for i, (v, param) in enumerate(zip(node.inputs, op.body.inputs, strict=True)):
            if v not in known:
                operands.append(v)
                continue
            of, parts = known[v]
            stacked = op.carries <= i < op.carries + op.stacks
            stacks += stacked * (len(parts) - 1)
            found = []
            for part, word in zip(parts, of.parts, strict=True):
                type = Type(part.type.dtype, part.type.dims[1:]) if stacked else part.type
                name = self.names.fresh(f"{param.name}.{word}")
                found.append(self.value(name, type, param))
            inside[param] = of, tuple(found)
            operands += parts
        body = self.graph(op.body, inside)
        return Node(replace(op, body=body, stacks=stacks), tuple(operands), node.outputs, node.span)


def unpacked_in(graph: Graph, names: Mapping[str, str] | None = None) -> dict[str, str]:
    """What is made of stored parts, in the graph and in its loops: name of the value -> name of the words' weight."""
    known = {v.name: v.name for v in graph.inputs} if names is None else names
    found: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            inside = zip(node.op.body.inputs, node.inputs)
            found |= unpacked_in(node.op.body, {p.name: known[v.name] for p, v in inside if v.name in known})
        elif node.op.unpacks and node.inputs[0].name in known:
            found[node.output.name] = known[node.inputs[0].name]
    return found


def of_parts(strategy: Strategy, stored: Sequence[PackedWeight]) -> Strategy:
    """The strategy, which says of the parts of weights what it says of these: by `layout`, and by hand."""
    parts = {s.name: tuple(s.parts.values()) for s in stored}
    layouts = (replace(r, tensor=name) for r in strategy.layouts for name in parts.get(r.tensor, (r.tensor,)))
    by_hand = (
        replace(r, weights=tuple((name, dims) for w, dims in r.weights for name in parts.get(w, (w,))))
        for r in strategy.implementations
    )
    return replace(strategy, layouts=tuple(layouts), implementations=tuple(by_hand))
