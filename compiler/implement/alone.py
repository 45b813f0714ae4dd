"""What a scope computes, as a model of its own: the scope as it is written, and as it is implemented."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Builder, Graph, Names, Node, Value
from compiler.model import DataInput, Init, Job, Model, Weight
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast, Map
from compiler.origin import within
from compiler.passes.prune import prune_nodes
from compiler.strategy import ImplementRule
from compiler.walk import bodies, graph_values
from dsl.data import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class ScopeAlone:
    """A scope by itself, as it is written and as it is implemented.

    Both models have the same inputs (integers, and what each result is multiplied by before all are summed to the loss)
    and weights (all other operands); their outputs are the scope's results.
    """

    rule: ImplementRule
    written: Model
    implemented: Model


def alone(job: Job) -> Iterator[ScopeAlone]:
    """Each scope that the job's strategy implements, with whole activations: what rounds them was put in behind."""
    before, after = job.cut or job.serial.model, job.by_hand or job.model
    for rule in job.strategy.implementations:
        pair = [_part(m.exact or m.graph, rule.scope) for m in (before, after)]
        if None in pair:
            continue
        (old, _), (new, results) = (p for p in pair if p is not None)
        new = prune_nodes(new, results)
        old = prune_nodes(_with_values(old, (*results, *_operands(new))), results)
        operands = list(dict.fromkeys((*_operands(old), *_operands(new))))
        known = {i.value.name: i for i in before.inputs}
        written, implemented = (_model(rule.scope, nodes, operands, results, known) for nodes in (old, new))
        yield ScopeAlone(rule, written, implemented)


def _part(graph: Graph, scope: str) -> tuple[tuple[Node, ...], tuple[Value, ...]] | None:
    """The nodes of a scope, all in one graph, and what of them others read. Weights in fewer bits are unpacked before
    it: what numbers at random stand for there would drive functions to where they say nothing."""
    for body in bodies(graph):
        inside = [n for n in body.nodes if within(n.outputs[0].origin.path, scope) and not n.op.unpacks]
        if inside:
            made, own = {v for n in inside for v in n.outputs}, set(inside)
            outside = [v for n in body.nodes if n not in own for v in n.inputs]
            results = dict.fromkeys(v for v in (*outside, *body.outputs) if v in made)
            return tuple(inside), tuple(results)
    return None


def _with_values(nodes: Sequence[Node], values: Sequence[Value]) -> tuple[Node, ...]:
    """The nodes with these values in the place of those of their names and types: where rules are of some layers, both
    graphs were evaluated by themselves, and share no value."""
    known = {(v.name, v.type): v for v in values}

    def of(found: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(known.get((v.name, v.type), v) for v in found)

    return tuple(replace(n, inputs=of(n.inputs), outputs=of(n.outputs)) for n in nodes)


def _operands(nodes: Sequence[Node]) -> list[Value]:
    made = {v for n in nodes for v in n.outputs}
    return list(dict.fromkeys(v for n in nodes for v in n.inputs if v not in made))


def _model(
    name: str,
    nodes: Sequence[Node],
    operands: Sequence[Value],
    results: Sequence[Value],
    known: Mapping[str, DataInput],
) -> Model:
    """loss = the sum of all results that are floats (of others, if none is: nothing is derived from them), each
    multiplied element by element by an input of its own. known: the job's inputs, by name: their integers stay in
    their bounds."""
    names = Names(v.name for v in graph_values(Graph(name, tuple(operands), tuple(nodes), ())))
    b = Builder(names)
    whole = [v for v in operands if not v.type.is_float]
    floats = [v for v in operands if v.type.is_float]
    factors, total = [], None
    summed = [v for v in results if v.type.is_float]
    for i, v in enumerate(summed or [b.add(Cast("f64"), v) for v in results]):
        factor = b.value(f"factor_{i}", v.type)
        factors.append(factor)
        part = b.add(Cast("f64"), b.add(Contract(()), v, factor))
        total = part if total is None else b.add(Map("add", (None, None)), total, part)
    assert total is not None
    inputs = (*whole, *factors, *floats)
    graph = Graph(name, inputs, (*nodes, *b.nodes), (total, *results))
    weights = tuple(Weight(v, Init("normal", (1.0,))) for v in floats)
    data = tuple(replace(known[v.name], value=v) if v.name in known else DataInput(v) for v in (*whole, *factors))
    return Model(name, data, weights, graph, (), tuple(v.name for v in results))
