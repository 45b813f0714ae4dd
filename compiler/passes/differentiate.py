"""Forward and backward graph of a model, with an explicit interface between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from compiler.graph import Builder, Graph, Names, Node, Value
from compiler.model import Model
from compiler.ops.create import Full
from compiler.ops.elementwise import Cast
from compiler.origin import outer
from compiler.passes.prune import prune, prune_nodes
from compiler.passes.recompute import Recompute
from compiler.passes.residuals import Closing, ResidualContext
from compiler.passes.simplify import anything, merge_equal, simplify
from compiler.passes.sum_in_own_type import sum_in_own_type
from compiler.passes.transpose import Label, OpenRepeat, cotangent, transpose
from compiler.strategy import RecomputeRule
from compiler.walk import graph_values
from dsl.data import dataclass


class Differentiated(NamedTuple):
    """forward: inputs = data, weights; outputs = loss, metrics, saved.
    backward: inputs = saved, then what it needs of weights and data, the scale; outputs = gradients of trained weights.
    cotangents: name of a forward value -> of its cotangent in backward, where that is a value of its own.
    """

    forward: Graph
    backward: Graph
    saved: tuple[Value, ...]
    gradients: tuple[Value, ...]
    cotangents: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Derivative:
    """Reverse mode on its way. `nodes` compute the cotangents, and read values of `forward` freely; `gradients` of the
    trained weights, in their order. labels: what values are called in the end; owners: cotangent -> names
    of the values that it is of; scale: what the gradients are multiplied by (a number, or an input of backward).
    """

    model: Model
    forward: Graph
    nodes: tuple[Node, ...]
    gradients: tuple[Value | None, ...]
    """None, before `merge`: zero."""
    labels: dict[Value, Label]
    owners: dict[Value, list[str]]
    scale: Value | float

    @property
    def graph(self) -> Graph:
        """What there is of the backward graph, to be looked at: its values under the names that they are to have."""
        names = Names(v.name for v in graph_values(self.forward))
        env: dict[Value, Value] = {}

        def define(v: Value) -> Value:
            label = self.label(v)
            env[v] = Value(names.fresh(label.name), v.type, v.span, label.origin)
            return env[v]

        def named(nodes: Iterable[Node]) -> tuple[Node, ...]:
            return tuple(map(node, nodes))

        def node(n: Node) -> Node:
            op, inputs = n.op, tuple(env.get(v, v) for v in n.inputs)
            if isinstance(op, OpenRepeat):
                params, body = tuple(map(define, op.body.inputs)), named(op.body.nodes)
                results = tuple(env.get(v, v) for v in op.body.outputs)
                op = replace(op, body=Graph(op.body.name, params, body, results))
            return Node(op, inputs, tuple(map(define, n.outputs)), n.span)

        return Graph(f"{self.forward.name}.grad", (), named(self.nodes), tuple(env.get(v, v) for v in self.made))

    @property
    def made(self) -> tuple[Value, ...]:
        """The gradients that are there."""
        return tuple(g for g in self.gradients if g is not None)

    def label(self, value: Value) -> Label:
        """Name and origin that a value of `nodes` has in the end."""
        return self.labels.get(value) or Label(value.name, value.origin)


def differentiate(
    model: Model,
    recomputes: Sequence[RecomputeRule] = (),
    *,
    names: Names | None = None,
    scale: Value | float = 1.0,
) -> Differentiated:
    """Reverse mode, up to `close`. The gradients are multiplied by `scale` (a number, or an input of backward).

    `names` must know all names of the model's graph; left out, they are collected. Raises ParcError where a recompute
    rule speaks of something that the model does not have.
    """
    names = names or Names(v.name for v in graph_values(model.graph))
    found = add_in_own_type(merge(transposed(model, simplify(model.graph), scale)))
    return close(without_dead_code(found), Recompute(model.graph, recomputes), names)


def transposed(model: Model, forward: Graph, scale: Value | float = 1.0) -> Derivative:
    """The cotangents of everything that the loss depends on, from the last node to the first."""
    loss, weights = forward.outputs[0], [w.value for w in model.trained]
    labels: dict[Value, Label] = {}
    owners: dict[Value, list[str]] = {}
    b = Builder(Names())
    seed = _seed(b, loss, scale, labels)
    nodes, found = transpose(forward.nodes, {loss: seed}, weights, labels, owners)
    return Derivative(model, forward, (*b.nodes, *nodes), tuple(found), labels, owners, scale)


def merge(given: Derivative, apart: bool = False) -> Derivative:
    """What is computed twice, once. `apart`: scopes share no computation, for they may be on different devices: a stage
    would wait for what it could have computed itself."""

    def scope(node: Node) -> str | None:
        return outer(given.label(node.outputs[0]).origin.path) if apart else None

    nodes, env = merge_equal(given.nodes, anything, scope)
    pairs = zip(given.model.trained, given.gradients, strict=True)
    grads = [_gradient(nodes, w.value, None if g is None else env.get(g, g)) for w, g in pairs]
    _distinct(nodes, grads)
    return replace(given, nodes=tuple(nodes), gradients=tuple(grads))


def add_in_own_type(given: Derivative) -> Derivative:
    """Gradients added up in the type of their weights (`sum_in_own_type`)."""
    return replace(given, nodes=tuple(sum_in_own_type(given.nodes, given.made, given.labels)))


def without_dead_code(given: Derivative) -> Derivative:
    """Only what the gradients need."""
    return replace(given, nodes=prune_nodes(given.nodes, given.made))


def close(
    given: Derivative, recompute: Recompute, names: Names, never_again: frozenset[Value] = frozenset()
) -> Differentiated:
    """The two graphs, with an interface between them: what backward needs of forward is saved or computed again.

    `names` must know all names of the model's graph. `never_again`: what is saved whatever the rules say.
    """
    forward, grads, weights = given.forward, given.made, [w.value for w in given.model.trained]
    cotangents: dict[str, str] = {}
    # Gradients have their names by right; whatever else would like them comes after.
    of = [cotangent(w) for w in weights]
    reserved = {g: Value(names.fresh(c.name), g.type, c.span, c.origin) for g, c in zip(grads, of, strict=True)}

    def name(v: Value) -> Value:
        label = given.label(v)
        named = reserved.get(v) or Value(names.fresh(label.name), v.type, v.span, label.origin)
        cotangents.update(dict.fromkeys(given.owners.get(v, ()), named.name))
        return named

    # What a state contains is gone when the backward pass runs: it cannot be read there again.
    states = frozenset(s.value for s in given.model.states)
    static = frozenset(forward.inputs) - frozenset(w.value for w in given.model.weights) - states
    lasting = [v for v in forward.inputs if v not in states]
    context = ResidualContext(names, recompute, name, never_again)
    closing = Closing(context, None, lasting, forward.nodes, 0, static, states)
    scale = (given.scale,) if isinstance(given.scale, Value) else ()
    closing.env.update((v, v) for v in scale)
    gradients = closing.close(given.nodes, grads)
    saved = tuple(closing.saved)
    wide = Graph(forward.name, forward.inputs, tuple(closing.early), (*forward.outputs, *saved))
    taken = [v for v in (*weights, *forward.inputs) if v in closing.read]
    inputs = dict.fromkeys((*saved, *taken, *scale))
    backward = Graph(f"{forward.name}.grad", tuple(inputs), tuple(closing.nodes), gradients)
    return Differentiated(prune(wide), backward, saved, gradients, cotangents)


def _seed(b: Builder, loss: Value, scale: Value | float, labels: dict[Value, Label]) -> Value:
    if isinstance(scale, Value):
        seed = b.add(Cast(loss.type.dtype), scale)
    else:
        seed = b.add(Full(float(scale), loss.type.dtype, loss.type.dims))
    labels[seed] = Label.gradient(loss)
    return seed


def _gradient(nodes: list[Node], weight: Value, found: Value | None) -> Value:
    """The weight's gradient, zeros where the loss does not depend on it."""
    if found is not None:
        return found
    b = Builder(Names())
    zero = b.add(Full(0.0, weight.type.dtype, weight.type.dims))
    nodes += b.nodes
    return zero


def _distinct(nodes: list[Node], grads: list[Value]) -> None:
    """One value per gradient: where two weights share one, or it is not computed by a node, add a copy."""
    made = {v for n in nodes for v in n.outputs}
    seen: set[Value] = set()
    for i, g in enumerate(grads):
        if g in seen or g not in made:
            b = Builder(Names())
            grads[i] = b.add(Cast(g.type.dtype), g)
            nodes += b.nodes
        seen.add(grads[i])
