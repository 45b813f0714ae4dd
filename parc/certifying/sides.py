"""Sides of a model's products, and where a device may be left with one position of one: then a product is one with a
vector, for which nothing follows from what other numbers of rows or devices take (`docs/plan.md`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

from compiler.model import Job
from compiler.ops.contract import Contract
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
