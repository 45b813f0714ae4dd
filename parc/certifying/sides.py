"""Sides of a model's products, and where a device may be left with one position of one: then a product is one with a
vector, for which nothing follows from what other numbers of rows or devices take (`docs/plan.md`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from compiler.graph import Graph
from compiler.model import Job
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast
from compiler.ops.repeat import Repeat
from compiler.walk import bodies

if TYPE_CHECKING:
    from parc.certifying.counting import StatedSpace
    from parc.certifying.layers import LayerRules

Side = tuple[frozenset[str], int, bool]
"""The dims of a side; how many positions they have, those of the batch not counted; whether the batch is among them."""


def sides_of(job: Job, batch: str) -> tuple[Side, ...]:
    """Of all products of the model: what each operand alone has, and what is summed, if that is more than one."""
    found = set()
    for side in (s for body in bodies(job.model.graph) for node in body.nodes for s in _sides(node)):
        if prod(side.values()) > 1:
            found.add((frozenset(side), prod(n for name, n in side.items() if name != batch), batch in side))
    return tuple(found)


def told_apart(job: Job, batch: str, splits: Mapping[str, Sequence[str]]) -> tuple[Side, ...]:
    """A side of which every device has less than two positions, where a product is of something that goes with the rows
    and something made of weights that does not: with another number of rows it may be another of its dims that an axis
    cuts, for that goes by bytes; so that nothing follows from those."""
    cut = {d for kind in ("inner", "experts") for d in splits[kind]}
    every = cut | {*splits["positions"]}

    def mixed(body: Graph, weights: set[str]) -> bool:
        for node in body.nodes:
            names = [v.name for v in node.inputs]
            if isinstance(node.op, Repeat):
                inside = [v.name for v in node.op.body.inputs]
                fixed = range(node.op.carries, len(names))
                if mixed(node.op.body, {inside[i] for i in fixed if names[i] in weights}):
                    return True
            if isinstance(node.op, Cast) and names[0] in weights:
                weights = weights | {node.outputs[0].name}
            if not isinstance(node.op, Contract):
                continue
            of = [{*v.type.names} for v in node.inputs]
            made = [dims for name, dims in zip(names, of, strict=True) if name not in weights and batch not in dims]
            if any(batch in dims for dims in of) and len((of[0] | of[1]) & every) > 1 and any(d & cut for d in made):
                return True
        return False

    return ((frozenset(), 0, False),) if mixed(job.model.graph, {w.value.name for w in job.model.weights}) else ()


def _sides(node: object) -> Iterator[Mapping[str, int]]:
    op = getattr(node, "op", None)
    if not isinstance(op, Contract):
        return
    left, right = ({d.name: d.size for d in value.type.dims} for value in node.inputs)  # type: ignore[attr-defined]
    yield {name: size for name, size in left.items() if name not in right}
    yield {name: size for name, size in right.items() if name not in left}
    yield {name: size for name, size in left.items() if name in right and name not in op.dims}


def single(space: StatedSpace, inside: Mapping[str, int], rows: int, rules: LayerRules) -> bool:
    """Whether a device that has so many rows may have one position of a side. inside: the axes that split layers;
    rules: along, heads, tables, by."""
    along, heads, _, by = rules
    splits = space.splits
    may: dict[str, set[str]] = {}
    for name, kind, dim in space.axes:
        if kind == "inner":
            may[name] = {*splits["inner"], along}
        elif kind == "experts":
            may[name] = {*splits["experts"]}
        elif kind == "positions":
            may[name] = {dim, *(splits["heads"] if heads else ())}
    everywhere = {name for name, kind, _ in space.axes if kind == "positions"} if by else set()
    for dims, each, batched in space.sides:
        pieces = [n for name, n in inside.items() if name in everywhere or not may.get(name, set()).isdisjoint(dims)]
        if each * (rows if batched else 1) < 2 * prod(pieces):
            return True
    return False
