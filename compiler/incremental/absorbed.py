"""Latent attention as it is decoded: queries absorb the projection of keys, and what is mixed is projected afterwards.

`q @ (latents @ wk)` is `(q @ wk) @ latents`, and `p @ (latents @ wv)` is `(p @ latents) @ wv`: then latents are what is
kept of earlier positions, and neither keys nor values (DeepSeek-V2, section 2.1.2). Any two products in a row are
turned so where it pays: what is found is products, not attention.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.incremental.positions import Positions
from compiler.incremental.rewriting import in_loop, rewritten
from compiler.model import Model
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Transpose
from compiler.ops.shape import Rename
from dsl.data import dataclass

PAYS = 4
"""How many times as many bytes what is made of something has to have, for that to be kept in its place: scores of
latents take more operations than those of keys."""


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A value that is looked at from other positions: the product `of @ by`, whose dims are called otherwise there."""

    of: Value
    by: Value
    called: Mapping[str, str]
    at: str


def absorbed(model: Model, dim: str) -> Model:
    """The model with products turned, where that leaves much less to keep of earlier positions along `dim`."""
    positions = Positions(model, dim)
    return rewritten(model, lambda graph, names: _graph(graph, positions, names))


def _graph(graph: Graph, positions: Positions, names: Names) -> Graph:
    made = {v: node for node in graph.nodes for v in node.outputs}
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    found = {v: x for v in made if (x := _looked_at(v, made, positions)) is not None}
    kept = {v for v in found if v not in graph.outputs and all(_turns(n, v, found[v]) for n in readers.get(v, ()))}
    bytes: dict[Value, int] = {}
    for v in kept:
        bytes[found[v].of] = bytes.get(found[v].of, 0) + v.type.bytes * bool(readers.get(v))
    turned = {v: found[v] for v in kept if bytes[found[v].of] >= PAYS * found[v].of.type.bytes}
    nodes: list[Node] = []
    changed = False
    for written in graph.nodes:
        node = in_loop(written, lambda body: _graph(body, positions, names))
        changed |= node is not written
        sides = [i for i, v in enumerate(node.inputs) if v in turned]
        if len(sides) == 1 and isinstance(node.op, Contract):
            _turn(nodes, names, node, node.inputs[1 - sides[0]], turned[node.inputs[sides[0]]])
            changed = True
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes)) if changed else graph


def _looked_at(v: Value, made: Mapping[Value, Node], positions: Positions) -> _Made | None:
    """Of a product of what has positions with what has none, whose positions are called otherwise behind it."""
    called = {n: n for n in v.type.names}  # names of the value's dims -> those of what it is a view of
    x = v
    while (node := made.get(x)) is not None and isinstance(node.op, (Rename, Transpose)):
        if isinstance(node.op, Rename):
            before = {new: old for old, new in node.op.pairs}
            called = {n: before.get(at, at) for n, at in called.items()}
        x = node.inputs[0]
    if node is None or not isinstance(node.op, Contract):
        return None
    here = [n for n, at in called.items() if n != at and n in positions.of(v)]
    sides = [i for i, y in enumerate(node.inputs) if positions.of(y)]
    if len(here) != 1 or len(sides) != 1:
        return None
    of, by = node.inputs[sides[0]], node.inputs[1 - sides[0]]
    if positions.of(of) != (called[here[0]],) or not set(of.type.names) - set(x.type.names):
        return None
    return _Made(of, by, {at: n for n, at in called.items()}, here[0])


def _turns(node: Node, v: Value, made: _Made) -> bool:
    """Whether it is a product in which the value can be put together otherwise."""
    if not isinstance(node.op, Contract) or node.inputs[0] is node.inputs[1]:
        return False
    (other,) = (x for x in node.inputs if x is not v)
    inner = {n for n in made.of.type.names if n not in made.called}
    taken = {*other.type.names, *v.type.names, *node.op.dims}
    return inner.isdisjoint(taken) and other.type.dtype == v.type.dtype


def _turn(nodes: list[Node], names: Names, node: Node, other: Value, made: _Made) -> None:
    """The product of `other` with what was made, as two in the other order."""
    op = node.op
    assert isinstance(op, Contract)

    def add(op: Op, *operands: Value, like: Value, name: str) -> Value:
        (type,) = op.infer(*(x.type for x in operands))
        value = Value(names.fresh(f"{like.name}.{name}"), type, like.span, like.origin)
        nodes.append(Node(op, operands, (value,), node.span))
        return value

    def called(x: Value) -> Value:
        pairs = tuple((n, to) for n in x.type.names if (to := made.called.get(n, n)) != n)
        return add(Rename(pairs), x, like=x, name="seen") if pairs else x

    of, by = called(made.of), called(made.by)
    first, last = (by, of) if made.at in op.dims else (of, by)
    wanted: Collection[str] = {*op.dims, *last.type.names}
    dims = dict.fromkeys(n for n in (*other.type.names, *first.type.names) if n in wanted)
    between = add(Contract(tuple(dims)), other, first, like=node.output, name="absorbed")
    nodes.append(Node(op, (between, last), node.outputs, node.span))
