"""Attention: a softmax over scores, its derivative, and what is recomputed of them, between products of activations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from compiler.graph import Graph, Node, Value
from compiler.ops.base import Movement
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Random
from compiler.ops.elementwise import Map
from compiler.ops.reduce import Reduce
from compiler.regions.asked import RegionQuestions
from compiler.regions.masks import kept
from compiler.regions.region import FoundRegion, RegionKind


def attention(
    body: Graph, weights: Collection[Value], gradients: Collection[str], mesh: RegionQuestions
) -> Iterator[FoundRegion]:
    """The regions of a body. weights: values that are weights, or only move or cast some; gradients: names of those
    that are only added to gradients; mesh: sizes of axes.

    A region lies between a product of activations and the next: element-wise work and reductions, one of which sums
    over a dim of the product that only one of its operands has (the positions that are attended to). A norm has
    products with weights around it; a mixture of experts has such between its sums. What is made of kept values, or of
    nothing, with all dims that the scores have, and is read there alone (probabilities that are cast again, the bits of
    a dropout), is of the region too: systems' kernels make it block by block.
    """
    of_data = [n for n in body.nodes if _is_product(n, weights) and n.outputs[0].name not in gradients]
    scores = {node: _free(node) for node in of_data}
    made = {v: node for node in body.nodes for v in node.outputs}
    read = {v for node in scores for v in node.inputs}
    between = [n for n in body.nodes if _joins(n)]
    wanted: set[Node] = set()  # a product of activations takes what it leads to
    for node in reversed(between):
        if any(v in read for v in node.outputs):
            wanted.add(node)
            read.update(node.inputs)
    before: dict[Node, frozenset[Node]] = {}  # products from which something leads to it
    for node in between:
        if node in wanted:
            makers = [made[v] for v in node.inputs if v in made]
            found = [before.get(maker, frozenset({maker} if maker in scores else ())) for maker in makers]
            if reached := frozenset[Node]().union(*found):
                before[node] = reached
    if not before:
        return
    names = {v.name: node for v, node in made.items()}
    readers: dict[Value, list[Node]] = {}
    for node in body.nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    for nodes in _together([node for node in between if node in before], made):
        if any(summed(node) & scores[p] for node in nodes for p in before[node]):
            first = {p for node in nodes for v in node.inputs if (p := made.get(v)) in scores}
            wide = {frozenset(p.outputs[0].type.names) for p in first}
            nodes += _beside(body.nodes, before, wide, set(nodes) | scores.keys(), readers)
            values = {v for node in nodes for v in node.outputs}
            last = {reader for v in values for reader in readers.get(v, ()) if reader in scores}
            full = max(len(v.type.dims) for v in values)
            wheres = [n for n in nodes if _is_where(n) and len(n.outputs[0].type.dims) == full]
            share, most = mesh.ask(partial(kept, wheres, names), wheres[0]) if wheres else (1.0, 0.0)
            yield FoundRegion(RegionKind.ATTENTION, frozenset(nodes), frozenset(first | last), kept=share, most=most)


def _beside(
    all_nodes: Sequence[Node],
    led: Collection[Node],
    wide: Collection[frozenset[str]],
    inside: Collection[Node],
    readers: Mapping[Value, Sequence[Node]],
) -> list[Node]:
    """What no product of the body leads to and only the region reads. led: nodes to which one does; wide: dims of the
    products before the region; inside: the nodes that may read it."""
    found: list[Node] = []
    mine = set(inside)
    for node in reversed(all_nodes):
        beside = (_joins(node) or isinstance(node.op, (Full, Iota, Random))) and node not in led
        if not beside or frozenset(node.outputs[0].type.names) not in wide:
            continue
        if all(reader in mine for v in node.outputs for reader in readers.get(v, ())):
            found.append(node)
            mine.add(node)
    return found


def _joins(node: Node) -> bool:
    return node.op.joins or node.op.movement is not Movement.NO or is_sum(node)


def _is_product(node: Node, weights: Collection[Value]) -> bool:
    """Whether it multiplies matrices, both of which are made of data."""
    return isinstance(node.op, Contract) and not is_sum(node) and not any(v in weights for v in node.inputs)


def is_sum(node: Node) -> bool:
    """Whether it is a contraction that adds up products of elements: one of its matrices is a vector."""
    if not isinstance(node.op, Contract):
        return False
    left, right = ({d.name for d in v.type.dims if d.size > 1} for v in node.inputs)
    result = set(node.outputs[0].type.names)
    return not ((left - right) & result and (right - left) & result)


def _free(node: Node) -> set[str]:
    """Dims of a product's result that only one operand has."""
    left, right = (set(v.type.names) for v in node.inputs)
    return (left ^ right) & set(node.outputs[0].type.names)


def summed(node: Node) -> set[str]:
    """Dims that a reduction, or a sum of products, sums over."""
    if not isinstance(node.op, (Reduce, Contract)):
        return set()
    return {n for v in node.inputs for n in v.type.names} - {n for v in node.outputs for n in v.type.names}


def _is_where(node: Node) -> bool:
    return isinstance(node.op, Map) and node.op.fn == "where"


def _together(nodes: Sequence[Node], made: dict[Value, Node]) -> list[list[Node]]:
    """The nodes that hang together, directly or through others of them."""
    party: dict[Node, list[Node]] = {}
    for node in nodes:
        mine = [node]
        party[node] = mine
        for v in node.inputs:
            other = party.get(made[v]) if v in made else None
            if other is not None and other is not mine:
                other += mine
                party.update(dict.fromkeys(mine, other))
                mine = other
    return list({id(of): of for of in party.values()}.values())
