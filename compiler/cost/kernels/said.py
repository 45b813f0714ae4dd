"""What a function's body says, whatever the numbers of its regions: what work is found again by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compiler.graph import Graph, Node
from compiler.ops.effects import Accumulate, Load, Read, Save, Write
from compiler.ops.repeat import Repeat
from compiler.program import StateDecl
from compiler.regions.region import RegionKind

Numbers = tuple[float, ...]


class Said:
    """What a body says, to be looked up by: texts are long, so that it is not gone through each time."""

    __slots__ = ("hash", "text")

    def __init__(self, text: tuple[object, ...]) -> None:
        self.text, self.hash = text, hash(text)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Said) and self.text == other.text)


def said(
    body: Graph, states: Mapping[str, StateDecl] | None, loop: Callable[[Graph], tuple[Said, Numbers]]
) -> tuple[Said, Numbers]:
    """The text of a function's body, and the numbers of its regions: by identity of its nodes; with the states of its
    class by what they do, so that chunks say the same that do the same to other buffers. loop: `said_in_loop`, from
    somebody who knows what it gave before."""
    return _said(body, lambda node: id(node) if states is None else _does(node, states), loop, states is None)


def said_in_loop(body: Graph) -> tuple[Said, Numbers]:
    """The same of a loop's body: by identity of its nodes."""
    return _said(body, id, said_in_loop, True)


def _said(
    body: Graph, node: Callable[[Node], object], loop: Callable[[Graph], tuple[Said, Numbers]], by_identity: bool
) -> tuple[Said, Numbers]:
    numbers: list[float] = []
    nodes: list[object] = []
    for n in body.nodes:
        op = n.op
        if not isinstance(op, Repeat):
            nodes.append(node(n))
            continue
        text, inside = loop(op.body)
        numbers += inside
        of = op.count, op.carries, op.stacks, op.reverse, op.scan, op.label
        nodes.append((text, of, tuple(map(id, (*n.inputs, *n.outputs))) if by_identity else _values(n)))
    regions = []
    for r in body.regions:
        regions.append((r.kind, r.values, r.over, r.copies, r.places))
        if r.kind is RegionKind.ATTENTION:
            numbers += (r.kept, r.most)
    ends = tuple(map(id, body.inputs)), tuple(map(id, body.outputs))
    return Said((body.name, tuple(nodes), tuple(regions), *ends)), tuple(numbers)


NAMING = (Accumulate, Load, Read, Save, Write)
"""Ops that speak of a buffer."""


def _does(node: Node, states: Mapping[str, StateDecl]) -> tuple[object, ...]:
    """All that work and memory hang on of a node in a function: not which buffer it is, but what is in it."""
    op = node.op
    if not isinstance(op, NAMING):
        return (op, *_values(node))
    decl = states.get(op.name)
    buffer = decl and (decl.role, decl.type, decl.layout, decl.memory, decl.cache)
    return (type(op), isinstance(op, Load) and op.last, buffer, *_values(node))


def _values(node: Node) -> tuple[object, ...]:
    outputs = [(v.name, v.type, v.layout, v.memory, v.origin.phase) for v in node.outputs]
    return tuple([v.name for v in node.inputs]), tuple(outputs)
