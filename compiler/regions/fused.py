"""Fused regions: neighbouring nodes of a body that run as one, so that what lies between them never stands in memory.

One rule for all: the pass that finds them (`passes.fuse`), the verifier, the accounting of memory, and the executor
that measures it. A region is computed in blocks of its rows: pieces along the dims that every result has and no
reduction takes away. What is computed of a block and read inside only is gone with the block. So a region

- is made of ops that give pieces of results for pieces of operands (`Op.fuses`), in the memory where devices compute:
  element-wise ones, reductions, and the products of an attention, whose scores are such pieces;
- grows by what is made in it: every instruction but the first reads some of it, and has no dims but the first one's;
  in an update there are several beginnings, which later instructions join: a weight and its states are one region; so
  are all instructions of an attention;
- has dims that every result has, its rows: reductions (and products) take away the same dims each time, never the
  outermost one, and nothing has fewer dims than they leave;
- but for sums over its rows (of columns, of a whole tensor, of products for the gradients of keys and values), which
  blocks add to one after the other: nothing in the region reads them;
- gives no views, and leaves something out: at least one value is read inside only.

Nothing here looks at sizes: programs in other sizes have the same regions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from compiler.graph import Graph, Node, names_of
from compiler.memory.tiers import FIRST
from compiler.ops.base import Movement, Op
from compiler.ops.call import Call
from compiler.ops.contract import Contract
from compiler.ops.effects import Effect
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.regions.region import RegionKind
from dsl.data import dataclass, fix


@dataclass(frozen=True, slots=True)
class FusedNodes(Op):
    """`nodes` as one, in a body as it is run (`as_run`). rows: the dims along which it is computed piece by piece.

    fits: for each result the operands whose memory it could take, piece by piece: each piece of them is read before the
    piece of the result is written. takes: those of them that were made for the body, whose memory it takes where
    nothing needs them any more. sums: results that are added up over the blocks.
    """

    nodes: tuple[Node, ...]
    rows: tuple[str, ...]
    fits: tuple[tuple[int, ...], ...]
    takes: tuple[tuple[int, ...], ...]
    sums: frozenset[str]

    def taken(self, free: Collection[int], renews: Mapping[int, int]) -> Iterator[int | None]:
        """For each result the operand whose memory it takes, if any: the state that it renews, or the first that no
        other has. free: operands that nothing else needs any more; renews: by result, the operand that is a state."""
        left = set(free)
        for i, operands in enumerate(self.takes):
            k = renews.get(i)
            if k is None:
                k = next((k for k in operands if k in left), None)
            left.discard(-1 if k is None else k)
            yield k


class Growing:
    """Neighbouring nodes that may become a region, as they are added.

    rows: the dims along which it is computed piece by piece; gone: those that its reductions take away; sums: results
    that are added up over blocks.
    """

    def __init__(self, first: Node, over: frozenset[str]) -> None:
        """over: see `taken_away`."""
        (out,) = first.outputs
        self.first = first
        self.names = frozenset(n for v in (out, *first.inputs) for n in v.type.names)
        self.dims = frozenset(out.type.names)
        self.gone = over if is_product(first) else _gone(first)
        self.rows = self.dims - self.gone
        self.made = {out.name}
        self.sums: set[str] = set()

    def reads(self, node: Node) -> bool:
        """Whether it reads what is made in the region."""
        return any([v.name in self.made or v.name in self.sums for v in node.inputs])

    def lacks(self, node: Node) -> bool:
        """Whether it has not all rows."""
        return not self.rows.issubset(node.outputs[0].type.names)

    def takes(self, node: Node) -> str:
        """Why the node cannot be added; "" if it can. It is `piecewise`."""
        if self.sums and any([v.name in self.sums for v in node.inputs]):
            return "it reads a sum that is whole only when all rows are done"
        if not is_product(node) and not all(
            [self.names.issuperset(v.type.names) for v in (*node.outputs, *node.inputs)]
        ):
            return "it has dims that the region's first instruction has not"
        if self.sums_rows(node):
            return ""
        gone = self._gone(node)
        if gone and self.gone and gone != self.gone:
            return "it takes away other dims than the region's first reduction"
        rows = self.rows.difference(gone)
        if not rows or not rows.issubset(node.outputs[0].type.names):
            return "no dim is left that all results of the region have"
        return "a reduction of the outermost dim is whole only when all rows are done" if self._by_column(node) else ""

    def sums_rows(self, node: Node) -> bool:
        """Whether it adds up rows of what is made in the region: blocks give parts of the sum."""
        if not adds_up(node) or not any([v.name in self.made for v in node.inputs]):
            return False
        gone = self._gone(node)
        rows = self.rows.difference(gone)
        if rows == self.rows:
            return False
        return not rows or self._by_column(node) or bool(self.gone and gone != self.gone)

    def add(self, node: Node) -> None:
        if self.sums_rows(node):
            self.sums.add(node.outputs[0].name)
            return
        gone = self._gone(node)
        if gone:
            self.gone |= gone
            self.rows -= gone
        if is_product(node):
            self.names |= frozenset(node.outputs[0].type.names)
        self.made.add(node.outputs[0].name)

    def _gone(self, node: Node) -> frozenset[str]:
        """Of the first instruction's dims, those that the node takes away."""
        return _gone(node) & self.dims if is_product(node) else _gone(node)

    def _by_column(self, node: Node) -> bool:
        if not is_product(node):
            return by_column(node)
        return self.first.outputs[0].type.names[0] in _gone(node)


_NONE: frozenset[str] = frozenset()


def taken_away(nodes: Iterable[Node]) -> frozenset[str]:
    """The dims that reductions of these take away, where the first is a product: of which its scores are rows."""
    found = (_gone(node) for node in nodes if not is_product(node))
    return next((gone for gone in found if gone), _NONE)


def grown(nodes: Sequence[Node]) -> Growing:
    """A region of these."""
    made = Growing(nodes[0], taken_away(nodes))
    for node in nodes[1:]:
        made.add(node)
    return made


def _gone(node: Node) -> frozenset[str]:
    """The dims that a reduction or a product takes away."""
    if node.op.pointwise or not isinstance(node.op, (Reduce, Contract)):
        return _NONE
    return frozenset(n for v in node.inputs for n in v.type.names).difference(node.outputs[0].type.names)


def adds_up(node: Node) -> bool:
    """Whether it sums what it takes away."""
    return isinstance(node.op, Contract) or (isinstance(node.op, Reduce) and node.op.fn == "sum")


def is_product(node: Node) -> bool:
    """Whether it multiplies what has other dims each: matrices, and not rows with rows."""
    if type(node.op) is not Contract:
        return False
    left, right = (v.type.names for v in node.inputs)
    return left != right and set(left) != set(right)


def by_column(node: Node) -> bool:
    """Whether it is a reduction that takes away the outermost dim: whole only when all rows are done."""
    gone = _gone(node)
    return bool(gone) and node.inputs[0].type.names[0] in gone


def piecewise(node: Node, renewed: Collection[int]) -> str:
    """Why a node can be in no region; "" if it can be in one. renewed: identities of nodes whose result takes the
    memory of a state."""
    if not node.op.fuses or not node.inputs:
        return "it is no element-wise op, reduction or product"
    for v in (*node.inputs, *node.outputs):
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


def refused(nodes: Sequence[Node], renewed: Collection[int], leaving: Collection[str]) -> tuple[int | None, str]:
    """What speaks against a region of neighbouring nodes, and at which of them, if at one; "" if nothing does.

    renewed: nodes that renew states, by identity; leaving: as of `wrong`.
    """
    growing: Growing | None = None
    for i, node in enumerate(nodes):
        why = piecewise(node, renewed)
        if not why and growing is None and by_column(node):
            why = "a sum over the outermost dim is whole only when all rows are done"
        if not why and growing is not None:
            why = growing.takes(node)
        if why:
            return i, why
        if growing is None:
            growing = Growing(node, taken_away(nodes))
        else:
            growing.add(node)
    return None, wrong(nodes, leaving)


class Parties:
    """Nodes, as they are added, by what hangs together of them: what one makes and others read."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.head: dict[str, str] = {}  # by value made, one that hangs together with it
        self.number = 0
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> int:
        """How many parties there are then."""
        out = node.outputs[0].name
        self.head[out] = out
        self.number += 1
        for v in node.inputs:
            if v.name in self.head and (head := self._find(v.name)) != out:
                self.head[head] = out
                self.number -= 1
        return self.number

    def _find(self, name: str) -> str:
        while self.head[name] != name:
            name = self.head[name]
        return name


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
            own.update(names_of(node.outputs) if makes_own(node) else ())
            yield node
        at = end + 1
        made = _one(body.nodes[first:at], at, last, own)
        own.update(names_of(made.outputs))
        yield made
    yield from body.nodes[at:]


def makes_own(node: Node) -> bool:
    """Whether its results lie in memory that is made for them."""
    op = node.op
    return not (op.movement is Movement.VIEW or op.message or isinstance(op, (Effect, Repeat, Call)))


def _one(nodes: Sequence[Node], end: int, last: dict[str, int], own: Collection[str]) -> Node:
    made = {v.name for node in nodes for v in node.outputs}
    inputs = tuple({v.name: v for node in nodes for v in node.inputs if v.name not in made}.values())
    outputs = tuple(v for node in nodes for v in node.outputs if last.get(v.name, -1) >= end)
    growing = grown(nodes)
    rows = tuple(n for n in nodes[0].outputs[0].type.names if n in growing.rows)
    like = [(v.type, v.layout, v.memory) for v in inputs]
    fits = tuple(
        tuple(
            k for k, of in enumerate(like) if of == (out.type, out.layout, out.memory) and out.name not in growing.sums
        )
        for out in outputs
    )
    takes = tuple(tuple(k for k in found if inputs[k].name in own) for found in fits)
    op = FusedNodes(tuple(nodes), rows, fits, takes, frozenset(growing.sums))
    return Node(op, inputs, outputs, nodes[0].span)
