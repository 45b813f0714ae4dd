"""The marks of a program, as price and memory ask for them. Nothing is searched for: `passes.mark_regions` has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from compiler.graph import Graph, Node, Value
from compiler.ops.contract import Contract
from compiler.program import FunctionPhase, Program
from compiler.regions.region import Region, RegionKind
from compiler.regions.routing import Copies
from compiler.regions.sunk import mark_sunk
from compiler.walk import bodies
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


def marked(body: Graph) -> Iterator[tuple[Region, list[Node]]]:
    """Each region of the body, with its nodes in their order."""
    if body.regions:
        at = {node.outputs[0].name: node for node in body.nodes if node.outputs}
        for region in body.regions:
            yield region, [at[name] for name in region.values if name in at]


def regions_of(program: Program, read: Callable[[Graph], Regions] | None = None) -> Regions:
    """Reads the marks of a program but for its updates, which have no losses and no attention. Linear in the length of
    its text. read: `function_regions`, from somebody who knows what it gave before."""
    every = (f for cls in program.classes for f in cls.functions if f.phase is not FunctionPhase.UPDATE)
    functions = {id(f): f for f in every}.values()
    found = [(read or function_regions)(f.body) for f in functions]
    attention: dict[Node, Region] = {}
    routing: dict[Node, Copies] = {}
    sunk: dict[int, set[str]] = {}
    for of in found:
        attention |= of.attention
        routing |= of.routing
        sunk |= of.sunk
    losses = tuple([region for of in found for region in of.losses])
    return Regions(attention, losses, frozenset[Value]().union(*[of.wide for of in found]), routing, sunk)


def function_regions(of: Graph) -> Regions:
    """The same of a function's body."""
    attention: dict[Node, Region] = {}
    losses: list[Region] = []
    wide: set[Value] = set()
    routing: dict[Node, Copies] = {}
    sunk: dict[int, set[str]] = {}
    mark_sunk(of, set(), sunk)
    for body in bodies(of):
        for region, nodes in marked(body):
            if region.kind is RegionKind.ATTENTION:
                attention.update(dict.fromkeys(nodes, region))
            elif region.kind is RegionKind.ROUTING:
                routing.update(dict.fromkeys(nodes, Copies(region.copies, region.places)))
            elif region.kind is RegionKind.LOSS:
                losses.append(region)
                wide |= _wide(body, nodes, region)
    return Regions(attention, tuple(losses), frozenset(wide), routing, sunk)


def _wide(body: Graph, nodes: list[Node], region: Region) -> set[Value]:
    """Values of a loss, and of the products that it begins with, with the dims that its softmax is taken of."""
    read = {v for node in nodes for v in node.inputs}
    first = [n for n in body.nodes if isinstance(n.op, Contract) and any(v in read for v in n.outputs)]
    return {v for node in (*nodes, *first) for v in node.outputs if v.type.names in region.over}
