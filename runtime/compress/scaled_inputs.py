"""Where the inputs of products can be scaled, number by number, without a change of what the model computes: products
take the inverse into their weights, and the weights that the inputs are linear in (a norm's gain and bias, the product
before) take the scale. Found by what ops say of themselves: no layer is known."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.graph import Graph, Node, Value
from compiler.model import Model
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.weight_format import WORDS
from dsl.data import dataclass

Dims = Mapping[str, str]
"""Dims along which something is scaled, as they are called where it is read -> as they are called here."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """A weight that takes part: its dims, in the order of the input's."""

    weight: str
    dims: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScaledInput:
    """dims: those that are scaled, as the products' input calls them, and their sizes. readers: weights of the
    products, which are multiplied by what the makers are divided by."""

    dims: tuple[str, ...]
    sizes: tuple[int, ...]
    readers: tuple[Scaled, ...]
    makers: tuple[Scaled, ...]


def scaled_inputs(model: Model) -> list[ScaledInput]:
    """All of a model some of whose weights are stored, in the order of computation. A weight reads in one at most."""
    words = {s.parts[WORDS]: s.name for s in model.stored}
    loops = {w.name: len(w.loops) for w in model.weights}
    loops |= {s.name: s.loops for s in model.stored}
    weights = {w.value: w.name for w in model.weights if w.name not in words}
    packed = {w.value: words[w.name] for w in model.weights if w.name in words}
    found: list[ScaledInput] = []
    _look(model.graph, weights, packed, {s.name for s in model.stored}, found)
    return [f for f in found if len({loops[s.weight] for s in (*f.readers, *f.makers)}) == 1]


def _look(
    graph: Graph, weights: Mapping[Value, str], packed: Mapping[Value, str], stored: set[str], found: list[ScaledInput]
) -> None:
    """Those of a graph and of its loops. weights: inputs that are weights of the model; packed: words of such."""
    within = _Within(graph, weights, packed)
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            inside = range(node.op.carries, node.op.carries + node.op.stacks)
            params = {node.op.body.inputs[i]: node.inputs[i] for i in inside}
            body = [{p: of[v] for p, v in params.items() if v in of} for of in (weights, packed)]
            _look(node.op.body, body[0], body[1], stored, found)
            continue
        for x in node.outputs:
            readers = within.readers(x)
            if not readers or not any(r in stored for r in readers):
                continue
            dims = {n: n for n in x.type.names if all(n in d for d in readers.values())}
            made = within.makers(x, dims) if dims else None
            if made is None:
                continue
            kept = tuple(n for n in x.type.names if n in dims and all(n in d for d in made.values()))
            if kept and made.keys().isdisjoint(readers):
                scaled = tuple(Scaled(r, kept) for r in readers)
                makers = tuple(Scaled(m, tuple(d[n] for n in kept)) for m, d in made.items())
                found.append(ScaledInput(kept, tuple(x.type.size(n) for n in kept), scaled, makers))


class _Within:
    """A graph: who reads what, and which values are weights."""

    def __init__(self, graph: Graph, weights: Mapping[Value, str], packed: Mapping[Value, str]) -> None:
        self.by: dict[Value, list[Node]] = {}
        self.of = {v: node for node in graph.nodes for v in node.outputs}
        self.ends = set(graph.outputs)
        for node in graph.nodes:
            for v in dict.fromkeys(node.inputs):
                self.by.setdefault(v, []).append(node)
        self.leaves = {v: name for v, name in weights.items() if v in graph.inputs}
        for node in graph.nodes:
            if node.op.unpacks and node.inputs[0] in packed:
                self.leaves[node.output] = packed[node.inputs[0]]

    def readers(self, x: Value) -> dict[str, tuple[str, ...]]:
        """The weights whose products alone read it, with the dims that those sum over; none where something else reads
        it."""
        found: dict[str, tuple[str, ...]] = {}
        for node in self.by.get(x, ()):
            others = [v for v in node.inputs if v is not x]
            if not isinstance(node.op, Contract) or len(others) != 1 or others[0] not in self.leaves:
                return {}
            w = others[0]
            if not self.alone(w) or self.leaves[w] in found:
                return {}
            found[self.leaves[w]] = tuple(n for n in w.type.names if x.type.has(n) and n not in node.op.dims)
        return {} if x in self.ends else found

    def alone(self, v: Value) -> bool:
        """Whether one node reads it, once."""
        by = self.by.get(v, ())
        return len(by) == 1 and v not in self.ends and sum(v is x for x in by[0].inputs) == 1

    def makers(self, v: Value, dims: Dims) -> dict[str, Dims] | None:
        """Weights in which a value is linear, along dims (some of them): divided by numbers they divide it by these.
        None where there are none."""
        if v in self.leaves:
            own = {n: here for n, here in dims.items() if v.type.has(here)}
            return {self.leaves[v]: own} if own and self.alone(v) else None
        node = self.of.get(v)
        if node is None or isinstance(node.op, Repeat) or len(node.outputs) != 1:
            return None
        types = [x.type for x in node.inputs]
        loops = node.op.loops(types, [v.type])
        best: dict[str, Dims] | None = None
        most = 0
        for group in node.op.linear(len(node.inputs)):
            made: dict[str, Dims] | None = {}
            for i in sorted(group):
                there = {loop.outs[0]: loop.ins[i] for loop in loops if loop.kind == "pass" and loop.outs}
                kept = {n: at for n, here in dims.items() if (at := there.get(here)) is not None}
                operand = node.inputs[i]
                one = self.makers(operand, kept) if kept and (operand in self.leaves or self.alone(operand)) else None
                if one is None or made is None or not made.keys().isdisjoint(one):
                    made = None
                    break
                made |= one
            if made:
                common = sum(all(n in d for d in made.values()) for n in dims)
                if common > most:
                    best, most = made, common
        return best
