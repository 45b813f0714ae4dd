"""What a function's body says, whatever the numbers of its regions: what work is found again by."""

from __future__ import annotations

from compiler.graph import Graph
from compiler.ops.repeat import Repeat
from compiler.regions.region import RegionKind


class Said:
    """What a body says, to be looked up by: texts are long, so that it is not gone through each time."""

    __slots__ = ("hash", "text")

    def __init__(self, text: tuple[object, ...]) -> None:
        self.text, self.hash = text, hash(text)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Said) and self.text == other.text)


def said(body: Graph) -> tuple[Said, tuple[float, ...]]:
    """The text of a body, and the numbers of its regions."""
    numbers: list[float] = []
    return Said(_text(body, numbers)), tuple(numbers)


def _text(body: Graph, numbers: list[float]) -> tuple[object, ...]:
    """What a body says, but for numbers of its regions, which are appended to `numbers`: by identity of its nodes."""
    nodes: list[object] = []
    for node in body.nodes:
        op = node.op
        if isinstance(op, Repeat):
            of = op.count, op.carries, op.stacks, op.reverse, op.scan, op.label
            nodes.append((_text(op.body, numbers), of, tuple(map(id, node.inputs)), tuple(map(id, node.outputs))))
        else:
            nodes.append(id(node))
    regions = []
    for r in body.regions:
        regions.append((r.kind, r.values, r.over, r.copies, r.places))
        if r.kind is RegionKind.ATTENTION:
            numbers += (r.kept, r.most)
    ends = tuple(map(id, body.inputs)), tuple(map(id, body.outputs))
    return (body.name, tuple(nodes), tuple(regions), *ends)
