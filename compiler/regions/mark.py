"""The pass that finds a program's regions, once; price and memory read its marks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from compiler.graph import Graph, Node, Value
from compiler.ops.base import Movement
from compiler.ops.effects import Accumulate, Read
from compiler.ops.elementwise import Cast
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass, FunctionPhase, Program
from compiler.regions.attention import attention
from compiler.regions.loss import backward, loss
from compiler.regions.region import Region
from compiler.regions.routing import Copies, routing
from compiler.regions.sunk import is_grouped, sunk_values
from dsl.data import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Of a program: `attention`: of each node inside of one; `losses`: those of the loss; `wide`: the values of those
    that are as large as what the softmax is taken of; `routing`: of all-to-alls, what of them are copies;
    `sunk`: by identity of a body, names of values that are only added to gradients or written."""

    attention: Mapping[Node, Region]
    losses: tuple[Region, ...]
    wide: frozenset[Value]
    routing: Mapping[Node, Copies]
    sunk: Mapping[int, set[str]]


def mark(program: Program) -> Regions:
    """Linear in the length of the program's text."""
    inside: dict[Node, Region] = {}
    losses: list[Region] = []
    copies: dict[Node, Copies] = {}
    sunk: dict[int, set[str]] = {}
    for cls in program.classes:
        weights = {s.name for s in cls.states if s.role is Role.WEIGHT}
        for function in cls.functions:
            _sunk(function.body, set(), sunk)
            if function.phase is not FunctionPhase.UPDATE:
                _attentions(function.body, weights, (), sunk, inside)
        losses += _losses(cls)
        copies |= routing(cls, program.sizes)
    return Regions(inside, tuple(losses), frozenset(v for region in losses for v in region.wide), copies, sunk)


def _sunk(body: Graph, results: set[int], found: dict[int, set[str]]) -> None:
    """Of a body and its loops. results: indices of those that are only added to gradients."""
    mine = found[id(body)] = sunk_values(body, results)
    for node in body.nodes:
        if isinstance(node.op, Repeat):
            carries = node.op.carries
            _sunk(node.op.body, {i for i, v in enumerate(node.outputs) if i >= carries and v.name in mine}, found)


def _attentions(
    body: Graph,
    states: Collection[str],
    given: Collection[Value],
    sunk: Mapping[int, set[str]],
    found: dict[Node, Region],
) -> None:
    """Of a body and its loops. states: those that are weights; given: its inputs that are."""
    weights = set(given)
    for node in body.nodes:
        op = node.op
        if isinstance(op, Repeat):
            inner = [p for v, p in zip(node.inputs, op.body.inputs) if v in weights]
            _attentions(op.body, states, inner, sunk, found)
        elif isinstance(op, Read):
            weights.update(node.outputs if op.name in states else ())
        elif isinstance(op, (Cast, Move)) or op.movement is not Movement.NO or is_grouped(op):
            weights.update(node.outputs if node.inputs[0] in weights else ())
    for region in attention(body, weights, sunk[id(body)]):
        found.update(dict.fromkeys(region.nodes, region))


def _losses(cls: DeviceClass) -> list[Region]:
    """Of the passes forward that add to the loss, and of those backward."""
    states = {s.name for s in cls.states if s.role is Role.LOSS}
    found: list[Region] = []
    for f in cls.functions:
        ends = [n.inputs[0] for n in f.body.nodes if isinstance(n.op, Accumulate) and n.op.name in states]
        region = loss(f.body, ends) if ends else None
        if region is not None:
            found.append(region)
            others = [g for g in cls.functions if g.chunk == f.chunk and g.phase.before is not None]
            found += [backward(g.body, f.body, region) for g in others]
    return found
