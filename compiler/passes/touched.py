"""`touched`: for optimizers that ask which rows of a table a step has taken: how often each, beside its gradient."""

from __future__ import annotations

from compiler.graph import Graph, Names, Node, Type, Value
from compiler.model import Job
from compiler.ops.create import Full
from compiler.ops.elementwise import Map
from compiler.ops.index import ScatterAdd
from compiler.origin import Origin, Phase
from compiler.passes.differentiate import Differentiated
from compiler.passes.sparse import leaves


def touched(job: Job, names: Names, found: Differentiated) -> tuple[dict[str, Value], Differentiated]:
    """By weight, how often a step takes each row: an output of the backward pass behind the gradients.

    None of tables whose gradients are not made of what is taken alone: a step touches all of their rows.
    """
    asked = {u.weight: u.touched for u in job.updates if u.touched is not None}
    made = {v: n for n in found.backward.nodes for v in n.outputs}
    nodes: list[Node] = []
    counts: dict[str, Value] = {}
    for w, g in zip(job.model.trained, found.gradients, strict=True):
        if w.name not in asked:
            continue
        sums, others = leaves(g, made)
        dim = asked[w.name].type.dims[0]
        if others or not all(made[v].op.dim == dim for v, _ in sums):  # type: ignore[attr-defined]
            continue
        origin = Origin(w.value.origin.path, Phase.GRADIENT, w.name)

        def value(word: str, type: Type, origin: Origin = origin, name: str = w.name) -> Value:
            return Value(names.fresh(f"{name}.{word}"), type, origin=origin)

        total: Value | None = None
        for v, _ in sums:
            index = made[v].inputs[1]
            ones = value("ones", index.type)
            part = value("taken", Type("int32", (dim,)))
            nodes.append(Node(Full(1.0, "int32", index.type.dims), (), (ones,)))
            nodes.append(Node(ScatterAdd(dim, (dim.name,)), (ones, index), (part,)))
            if total is not None:
                both = value("taken", part.type)
                nodes.append(Node(Map("add", (None, None)), (total, part), (both,)))
                part = both
            total = part
        if total is not None:
            counts[w.name] = total
    if not counts:
        return counts, found
    before = found.backward
    outputs = (*found.gradients, *counts.values())
    return counts, found._replace(backward=Graph(before.name, before.inputs, (*before.nodes, *nodes), outputs))
