"""Forward and backward graph of a model, with an explicit interface between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from compiler.graph import Builder, Graph, Names, Node, Value
from compiler.model import Model, RecomputeRule
from compiler.ops.create import Full
from compiler.ops.elementwise import Cast
from compiler.origin import outer
from compiler.passes.copying import graph_values
from compiler.passes.prune import prune, prune_nodes
from compiler.passes.recompute import Recompute
from compiler.passes.residuals import Closing, Context
from compiler.passes.simplify import anything, merge_equal, simplify
from compiler.passes.sum_in_own_type import sum_in_own_type
from compiler.passes.transpose import Label, cotangent, transpose


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


def differentiate(
    model: Model,
    recomputes: Sequence[RecomputeRule] = (),
    *,
    names: Names | None = None,
    scale: Value | float = 1.0,
    apart: bool = False,
    cut: str | None = None,
    written: Graph | None = None,
) -> Differentiated:
    """Reverse mode. The gradients are multiplied by `scale` (a number, or a scalar that backward takes as an input).

    `names` must know all names of the model's graph; left out, they are collected. Raises ParcError where a recompute
    rule speaks of something that the model does not have. `apart`: scopes share no computation, for they may be on
    different devices: a stage would wait for what it could have computed itself. `cut`: label of the loop that is cut
    into stages; `written`: the graph that recompute rules speak of, if it is not the model's.
    """
    names = names or Names(v.name for v in graph_values(model.graph))
    forward = simplify(model.graph)
    recompute = Recompute(model.graph, recomputes, cut, written)
    weights = [w.value for w in model.trained]
    loss = forward.outputs[0]
    labels: dict[Value, Label] = {}
    owners: dict[Value, list[str]] = {}
    cotangents: dict[str, str] = {}

    b = Builder(Names())
    seed = _seed(b, loss, scale, labels)
    nodes, found = transpose(forward.nodes, {loss: seed}, weights, labels, owners)
    nodes = [*b.nodes, *nodes]

    def scope(node: Node) -> str | None:
        return outer(_label(labels, node.outputs[0]).origin.path) if apart else None

    merged, env = merge_equal(nodes, anything, scope)
    grads = [_gradient(merged, w, None if g is None else env.get(g, g)) for w, g in zip(weights, found, strict=True)]
    _distinct(merged, grads)
    merged = sum_in_own_type(merged, grads, labels)
    live = prune_nodes(merged, grads)

    # Gradients have their names by right; whatever else would like them comes after.
    of = [cotangent(w) for w in weights]
    reserved = {g: Value(names.fresh(c.name), g.type, c.span, c.origin) for g, c in zip(grads, of, strict=True)}

    def name(v: Value) -> Value:
        label = _label(labels, v)
        named = reserved.get(v) or Value(names.fresh(label.name), v.type, v.span, label.origin)
        cotangents.update(dict.fromkeys(owners.get(v, ()), named.name))
        return named

    static = frozenset(forward.inputs) - frozenset(w.value for w in model.weights)
    closing = Closing(Context(names, recompute, name), None, forward.inputs, forward.nodes, 0, static)
    if isinstance(scale, Value):
        closing.env[scale] = scale
    gradients = closing.close(live, grads)
    saved = tuple(closing.saved)
    wide = Graph(forward.name, forward.inputs, tuple(closing.early), (*forward.outputs, *saved))
    taken = [v for v in (*weights, *forward.inputs) if v in closing.read]
    inputs = dict.fromkeys((*saved, *taken, *((scale,) if isinstance(scale, Value) else ())))
    backward = Graph(f"{forward.name}.grad", tuple(inputs), tuple(closing.nodes), gradients)
    return Differentiated(prune(wide), backward, saved, gradients, cotangents)


def _label(labels: Mapping[Value, Label], value: Value) -> Label:
    return labels.get(value) or Label(value.name, value.origin)


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
