"""Routing: copies in what an all-to-all moves. A position goes to each of its experts, and what they give is added up
again.

Systems that know of this send a position once to each device, or each node, and add up before they send
(`price.collectives.level_seconds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from fractions import Fraction
from typing import NamedTuple

from compiler.graph import Graph, Node, Value
from compiler.layout import local_type
from compiler.ops import comm
from compiler.ops.base import Op
from compiler.ops.effects import Effect, Load, Read, Save, Write
from compiler.ops.elementwise import Broadcast, Map
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Pad, Slice
from compiler.program import DeviceClass, FunctionKey
from compiler.walk import bodies
from dsl.data import dataclass

ALL = Fraction(1)


class Copies(NamedTuple):
    """How many elements of a message hang on one element of what it is made from, or of the sum that is made of it; and
    how many of those there were before the last step in which they were made (after the first sum), 0 in one step."""

    number: int
    places: int


ONE = Copies(1, 0)
"""Of what holds none."""


class _Relevant(NamedTuple):
    """Of a body: the nodes on which shares of indices hang, and its all-to-alls."""

    nodes: list[Node]
    exchanges: list[Node]


Relevant = dict[int, _Relevant]
"""Those of bodies, by their identity."""


def routing(
    cls: DeviceClass, sizes: Mapping[str, int], known: Relevant | None = None
) -> list[tuple[FunctionKey, Graph, Node, Copies]]:
    """Of the all-to-alls of a class's functions, with their bodies. sizes: of the mesh. known: for who asks again of
    the same class."""
    way = _Walk(sizes, {} if known is None else known)
    found = []
    if exchanges(cls):
        for f in cls.functions:
            way.found = []
            way.body(f.body)
            found += [(f.key, *each) for each in way.found]
    return found


def exchanges(cls: DeviceClass) -> bool:
    """Whether there are all-to-alls. What functions share is looked at once."""
    found = {id(body): body for f in cls.functions for body in bodies(f.body)}
    return any([_is_exchange(node) for body in found.values() for node in body.nodes])


def _is_exchange(node: Node) -> bool:
    return isinstance(node.op, comm.Comm) and node.op.pattern is comm.Pattern.DIRECT


def _tells(op: Op) -> bool:
    """Whether a node of it can give an index of which not all can be rows of a table, or hands one on."""
    if isinstance(op, Effect):
        return isinstance(op, (Load, Read, Save, Write))
    return isinstance(op, (Repeat, Take, Map)) or _reorders(op)


def _reorders(op: Op) -> bool:
    """Whether it makes no new values: elements are there more often or not at all, in another order or type."""
    return op.selects() or isinstance(op, Pad)


@dataclass(slots=True)
class _Walk:
    """Through a class's functions, in order. filled: of an index, the part that can be rows of a table at most, where
    not all can; slots: the same of what functions save, for those that load it."""

    sizes: Mapping[str, int]
    known: Relevant
    filled: dict[Value, Fraction] = field(default_factory=dict)
    slots: dict[str, Fraction] = field(default_factory=dict)
    found: list[tuple[Graph, Node, Copies]] = field(default_factory=list)

    def body(self, body: Graph) -> None:
        of = self.known.get(id(body))
        if of is None:
            nodes = [n for n in body.nodes if _tells(n.op)]
            of = self.known[id(body)] = _Relevant(nodes, [n for n in body.nodes if _is_exchange(n)])
        for node in of.nodes:
            op = node.op
            if isinstance(op, Repeat):
                for outer, inner in zip(node.inputs[op.carries :], op.body.inputs[op.carries :], strict=True):
                    self.note(inner, self.share(outer))
                self.body(op.body)
                for v, result in zip(node.outputs, op.body.outputs, strict=True):
                    self.note(v, self.share(result))
            elif isinstance(op, (Read, Load)):
                self.note(node.output, self.slots.get(op.name, ALL))
            elif isinstance(op, (Save, Write)):
                self.slots[op.name] = self.share(node.inputs[0])
            else:
                share = self.index(node)
                for v in node.outputs:
                    self.note(v, share)
        if of.exchanges:
            made = {v: node for node in body.nodes for v in node.outputs}
            self.found += [(body, node, self.copies(node, made, body)) for node in of.exchanges]

    def note(self, value: Value, share: Fraction) -> None:
        if share is not ALL:
            self.filled[value] = share
        elif self.filled:
            self.filled.pop(value, None)  # of another function, which has the same body

    def share(self, value: Value) -> Fraction:
        return self.filled.get(value, ALL)

    def elements(self, value: Value) -> int:
        """Of a device's piece."""
        assert value.layout is not None
        return local_type(value.type, value.layout, self.sizes).elements

    def index(self, node: Node) -> Fraction:
        """The part of an index that can be rows at most: what is taken of fewer rows leaves places empty."""
        if isinstance(node.op, Take):
            rows, places = self.elements(node.inputs[0]), max(self.elements(node.output), 1)
            return Fraction(rows, places) if rows < places else ALL
        return min([self.filled[v] for v in node.inputs if v in self.filled], default=ALL)

    def copies(self, moved: Node, made: Mapping[Value, Node], body: Graph) -> Copies:
        """`made`: value -> the node of the body that gives it."""
        whole = self.elements(moved.inputs[0])
        sizes = min(self.spread(moved, made), self.gathered(moved, body), key=lambda sizes: sizes[-1])
        least = max(ALL, sizes[-1])
        between = [size for size in sizes if least < size < whole]
        return Copies(max(1, round(whole / least)), round(between[-1] / least) if between else 0)

    def spread(self, moved: Node, made: Mapping[Value, Node]) -> list[Fraction]:
        """Elements, back over what only repeats them."""
        value: Value | None = moved.inputs[0]
        sizes, share = [Fraction(self.elements(moved.inputs[0]))], ALL
        while value is not None and value in made:
            node = made[value]
            value = _same(node)
            if value is not None:
                share /= self.kept(node)
                if self.elements(value) * share < sizes[-1]:
                    sizes.append(self.elements(value) * share)
        return sizes

    def gathered(self, moved: Node, body: Graph) -> list[Fraction]:
        """Elements, on to sums of them, as long as nothing else reads them."""
        value = moved.outputs[0]
        sizes, share = [Fraction(self.elements(value))], ALL
        while True:
            readers = [node for node in body.nodes if value in node.inputs]
            if len(readers) != 1 or value in body.outputs:
                return sizes
            (reader,) = readers
            if isinstance(reader.op, Reduce) and reader.op.fn == "sum":
                sizes.append(self.elements(reader.outputs[0]) * share)
            elif isinstance(reader.op, ScatterAdd) and reader.inputs[0] is value:
                share /= self.share(reader.inputs[1])
                sizes.append(self.elements(reader.outputs[0]) * share)
            elif _same(reader) is not value or isinstance(reader.op, Broadcast):
                return sizes
            share *= self.kept(reader)
            value = reader.outputs[0]

    def kept(self, node: Node) -> Fraction:
        """What a slice leaves and a pad adds, as a share: neither are copies. Nor is room that no index fills."""
        if isinstance(node.op, Take):
            return self.share(node.inputs[1])
        if not isinstance(node.op, (Slice, Pad)):
            return ALL
        return Fraction(self.elements(node.inputs[0]), self.elements(node.outputs[0]))


def _same(node: Node) -> Value | None:
    """The operand of which the result holds nothing but elements (and zeros, where a mask says so)."""
    if _reorders(node.op) or isinstance(node.op, Take):
        return node.inputs[0]
    if isinstance(node.op, Map) and node.op.fn == "where" and len(node.inputs) == 2:
        mask, kept = node.inputs
        return kept if node.op.slots[0] is None and mask.type.dtype == "bool" else None
    return None
