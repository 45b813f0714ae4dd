"""Fused regions: neighbouring nodes of a body that run as one, so that what lies between them never stands in memory.

One rule for all: the pass that finds them (`passes.fuse`), the verifier, the accounting of memory, and the executor
that measures it. A region is computed in blocks of its rows: pieces along the dims that every result has and no
reduction takes away. What is computed of a block and read inside only is gone with the block. So a region

- is made of ops that give pieces of results for pieces of operands (`Op.fuses`), in the memory where devices compute;
- grows by what is made in it: every instruction but the first reads some of it, and has no dims but the first one's;
- has dims that every result has, its rows: reductions (and products of rows with rows) take away the same dims each
  time, never the outermost one, and nothing has fewer dims than they leave;
- gives no views, and leaves something out: at least one value is read inside only.

Nothing here looks at sizes: programs in other sizes have the same regions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from compiler.graph import Graph, Node, Value, names_of
from compiler.in_place import reuses
from compiler.memory.tiers import FIRST
from compiler.ops.base import Movement, Op
from compiler.ops.call import Call
from compiler.ops.contract import Contract
from compiler.ops.effects import Effect
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass
from compiler.regions.region import RegionKind
from dsl.data import dataclass, fix


@dataclass(frozen=True, slots=True)
class FusedNodes(Op):
    """`nodes` as one, in a body as it is run (`as_run`). rows: the dims along which it is computed piece by piece.

    takes: for each result the operands whose memory it may take, where nothing needs them any more: each piece of them
    is read before the piece of the result is written.
    """

    nodes: tuple[Node, ...]
    rows: tuple[str, ...]
    takes: tuple[tuple[int, ...], ...]

    def taken(self, free: Collection[int]) -> Iterator[int | None]:
        """For each result the operand whose memory it takes, if any: the first that no other has. free: operands that
        nothing else needs any more."""
        left = set(free)
        for operands in self.takes:
            k = next((k for k in operands if k in left), None)
            if k is not None:
                left.remove(k)
            yield k


class Growing:
    """Neighbouring nodes that may become a region, as they are added."""

    def __init__(self, first: Node) -> None:
        (out,) = first.outputs
        self.names = frozenset(n for v in (out, *first.inputs) for n in v.type.names)
        self.rows = frozenset(out.type.names)
        self.gone = _gone(first)
        self.made = {out.name}

    def reads(self, node: Node) -> bool:
        """Whether it reads what is made in the region."""
        return any([v.name in self.made for v in node.inputs])

    def lacks(self, node: Node) -> bool:
        """Whether it has not all rows."""
        return not self.rows.issubset(node.outputs[0].type.names)

    def takes(self, node: Node) -> str:
        """Why the node cannot be added; "" if it can. It is `piecewise`."""
        if not self.reads(node):
            return "it reads nothing that is made in the region"
        gone = _gone(node)
        if gone and self.gone and gone != self.gone:
            return "it takes away other dims than the region's first reduction"
        rows = self.rows.difference(gone)
        if not rows or not rows.issubset(node.outputs[0].type.names):
            return "no dim is left that all results of the region have"
        if not all([self.names.issuperset(v.type.names) for v in (*node.outputs, *node.inputs)]):
            return "it has dims that the region's first instruction has not"
        return ""

    def add(self, node: Node) -> None:
        gone = _gone(node)
        if gone:
            self.gone |= gone
            self.rows -= gone
        self.made.add(node.outputs[0].name)


_NONE: frozenset[str] = frozenset()


def _gone(node: Node) -> frozenset[str]:
    """The dims that a reduction takes away."""
    if node.op.pointwise or not isinstance(node.op, (Reduce, Contract)):
        return _NONE
    return frozenset(node.inputs[0].type.names).difference(node.outputs[0].type.names)


def by_column(node: Node) -> bool:
    """Whether it is a reduction that takes away the outermost dim: whole only when all rows are done."""
    gone = _gone(node)
    return bool(gone) and node.inputs[0].type.names[0] in gone


def renewed_of(cls: DeviceClass) -> set[int]:
    """Identities of the nodes whose results take the memory of states (or would, in a step of one micro-batch), but
    for those that renew rows, which are in no region anyway."""
    kept = any(s.role is Role.STATE or s.memory != FIRST for s in cls.states)
    return {key[0] for key in reuses(cls, 1)} if kept else set()


def piecewise(node: Node, renewed: Collection[int]) -> str:
    """Why a node can be in no region; "" if it can be in one. renewed: identities of nodes whose result takes the
    memory of a state."""
    op, ins = node.op, node.inputs
    rows = not isinstance(op, Contract) or set(ins[0].type.names) == set(ins[1].type.names)
    if not op.fuses or not ins or not rows:
        return "it is no element-wise op or reduction"
    for v in (*ins, *node.outputs):
        if v.memory != FIRST:
            return "its values lie in another memory"
    return "its result takes the memory of a state" if id(node) in renewed else ""


def is_view(node: Node) -> bool:
    """Whether the node computes nothing."""
    return node.op.movement is Movement.VIEW


def readers(body: Graph) -> dict[str, int]:
    """By value, the number of the last node that reads it; that of all nodes where it leaves the body."""
    last = {v.name: i for i, node in enumerate(body.nodes) for v in node.inputs}
    last.update((v.name, len(body.nodes)) for v in body.outputs)
    return last


def wrong(nodes: Sequence[Node], leaving: Collection[str]) -> str:
    """What speaks against neighbouring nodes, which have grown to a region; "" if nothing does. leaving: values that
    are read outside, among others."""
    left = [node for node in nodes if node.outputs[0].name in leaving]
    if any(map(is_view, left)):
        return "a view that it makes is read outside"
    if is_view(nodes[0]):
        return "it begins with a view"
    if not left:
        return "nothing that it makes is read outside"
    computing = sum(not is_view(node) for node in nodes)
    return "" if computing > len(left) else "nothing that it makes is read inside only"


def as_run(body: Graph) -> Graph:
    """The body with each of its fused regions as one node, in the place of the region's nodes. Itself if it has none.
    Made once for a body: its nodes are the same for whoever asks."""
    if not any([r.kind is RegionKind.FUSED for r in body.regions]):
        return body
    if body.run is None:
        fix(body, run=Graph(body.name, body.inputs, tuple(_as_run(body)), body.outputs))
    assert body.run is not None
    return body.run


def stretches(body: Graph) -> Iterator[tuple[int, int]]:
    """The first and the last node of each fused region of the body, by their numbers, in their order. Marks of nodes
    that do not stand side by side (any more) are none."""
    at = {node.outputs[0].name: i for i, node in enumerate(body.nodes) if node.outputs}
    for region in body.regions:
        if region.kind is RegionKind.FUSED and all([v in at for v in region.values]):
            places = [at[v] for v in region.values]
            if places == list(range(places[0], places[0] + len(places))):
                yield places[0], places[-1]


def _as_run(body: Graph) -> Iterator[Node]:
    last, at = readers(body), 0
    own: set[str] = set()  # values in memory that was made for them in this body
    for first, end in sorted(stretches(body)):
        for node in body.nodes[at:first]:
            own |= _own(node)
            yield node
        at = end + 1
        made = _one(body.nodes[first:at], at, last, own)
        own.update(names_of(made.outputs))
        yield made
    yield from body.nodes[at:]


def _own(node: Node) -> set[str]:
    op = node.op
    shares = op.movement is Movement.VIEW or op.message or isinstance(op, (Effect, Repeat, Call))
    return set() if shares else set(names_of(node.outputs))


def _one(nodes: Sequence[Node], end: int, last: dict[str, int], own: Collection[str]) -> Node:
    made = {v.name for node in nodes for v in node.outputs}
    inputs = tuple({v.name: v for node in nodes for v in node.inputs if v.name not in made}.values())
    outputs = tuple(v for node in nodes for v in node.outputs if last.get(v.name, -1) >= end)
    rows = [n for n in nodes[0].outputs[0].type.names if all([v.type.has(n) for node in nodes for v in node.outputs])]
    return Node(FusedNodes(tuple(nodes), tuple(rows), _takes(inputs, outputs, own)), inputs, outputs, nodes[0].span)


def _takes(inputs: Sequence[Value], outputs: Sequence[Value], own: Collection[str]) -> tuple[tuple[int, ...], ...]:
    mine = [(k, v) for k, v in enumerate(inputs) if v.name in own]
    return tuple(
        tuple(k for k, v in mine if v.type == out.type and v.layout == out.layout and v.memory == out.memory)
        for out in outputs
    )
