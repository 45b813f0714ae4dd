"""`fuse`: neighbouring instructions whose intermediates need not stand in memory become regions that run as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from enum import Enum

from compiler.graph import Graph, Node
from compiler.in_place import renewed_of
from compiler.memory.tiers import FIRST
from compiler.ops.call import Call
from compiler.ops.effects import Accumulate, Effect, Save
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass, Function, FunctionPhase, Program
from compiler.regions.fused import (
    Growing,
    Parties,
    by_column,
    is_product,
    is_view,
    piecewise,
    readers,
    refused,
    taken_away,
    wrong,
)
from compiler.regions.marks import marked
from compiler.regions.region import Region, RegionKind

MOVED = 12
"""Instructions between those of a region that are moved out of it, at most."""

CORE_MOVED = 24
"""The same of an attention with its products, around which projections and their gradients stand."""


def fuse(program: Program) -> Program:
    """The program with its fused regions marked in all bodies. Linear in the length of its text; what is fused depends
    on ops and names of dims, not on sizes. Classes that share their functions share them again.

    What stands between the instructions of a region and needs none of them, positions, constants and what is smaller
    than its rows, is made before it; what takes the largest over its rows behind it; nothing else moves. An attention
    (`mark_regions` has found it) is fused with the products that give its scores and those that take what it makes:
    what stands between them moves out of it, be it made of it or not, but for messages of what it makes.
    """
    made: dict[int, tuple[Function, ...]] = {}
    loops: Loops = {}
    for cls in program.classes:
        if id(cls.functions) not in made:
            made[id(cls.functions)] = _functions(cls, loops)
    return program.with_classes(replace(c, functions=made[id(c.functions)]) for c in program.classes)


Loops = dict[tuple[int, bool, frozenset[int]], tuple[Graph, set[int]]]
"""By body of a loop, whether it is of the update, and what renews states: as it is then, and the nodes of regions."""


def _functions(cls: DeviceClass, loops: Loops) -> tuple[Function, ...]:
    """Those of a class. In another order more may take the memory of states (what reads their old contents stands
    before that now): it is in no region then, either. loops: of classes before, which functions may share."""
    renewed = renewed_of(cls)
    while True:
        fuser = _Fuser(renewed, loops)
        functions = tuple(replace(f, body=fuser.body(f.body, f.phase is FunctionPhase.UPDATE)) for f in cls.functions)
        more = fuser.fused & renewed_of(replace(cls, functions=functions))
        if not more:
            return functions
        renewed |= more


class _Fuser:
    def __init__(self, renewed: Collection[int], loops: Loops) -> None:
        self.renewed, self.loops = frozenset(renewed), loops
        self.fused: set[int] = set()  # nodes of regions, by identity
        self.functions: dict[int, Graph] = {}  # that are called, by identity

    def body(self, body: Graph, update: bool) -> Graph:
        nodes = [self.node(n, update) for n in body.nodes]
        fuses = any([n.op.fuses for n in nodes])
        order, regions = found(body, nodes, _Rule(body, self.renewed, update)) if fuses else (nodes, [])
        if not regions and all([a is b for a, b in zip(nodes, body.nodes)]):
            return body
        inside = {name for r in regions for name in r.values}
        self.fused.update([id(n) for n in order if n.outputs and n.outputs[0].name in inside])
        others = body.regions
        if order != nodes and others:
            at = {n.outputs[0].name: i for i, n in enumerate(order) if n.outputs}
            others = tuple(replace(r, values=tuple(sorted(r.values, key=at.__getitem__))) for r in others)
        made = replace(body, nodes=tuple(order))
        return replace(made, regions=(*self.legal(regions, made), *others))

    def loop(self, body: Graph, update: bool) -> Graph:
        """The body of a loop, once for all that have it."""
        key = (id(body), update, self.renewed)
        if key not in self.loops:
            before, self.fused = self.fused, set()
            self.loops[key] = self.body(body, update), self.fused
            self.fused = before
        made, fused = self.loops[key]
        self.fused |= fused
        return made

    def legal(self, regions: Sequence[Region], body: Graph) -> Iterator[Region]:
        """Those of the regions that are such in the body as it is now: what stands beside one, and goes to its other
        side, may leave another without what it was for."""
        at = {v.name: i for i, node in enumerate(body.nodes) for v in node.outputs}
        last = readers(body)
        for region in regions:
            first, end = at[region.values[0]], at[region.values[-1]] + 1
            leaving = {v for v in region.values if last.get(v, -1) >= end}
            if not refused(body.nodes[first:end], self.renewed, leaving)[1]:
                yield region

    def node(self, node: Node, update: bool) -> Node:
        op = node.op
        if not isinstance(op, (Repeat, Call)):
            return node
        if isinstance(op, Repeat):
            body = self.loop(op.body, update)
        else:
            body = self.functions.get(id(op.body)) or self.functions.setdefault(id(op.body), self.body(op.body, update))
        return node if body is op.body else Node(replace(op, body=body), node.inputs, node.outputs, node.span)


def found(body: Graph, nodes: list[Node], rule: _Rule) -> tuple[list[Node], list[Region]]:
    """The nodes of a body in the order in which they are to stand, and its regions."""
    order: list[Node] = []
    regions: list[Region] = []
    _found(nodes, readers(body), rule, order, regions)
    return order, regions


def _found(nodes: list[Node], last: dict[str, int], rule: _Rule, order: list[Node], regions: list[Region]) -> None:
    """Adds those of some nodes of a body. last: by value, the number of the last of these that reads it; that of all of
    these where others do."""
    at = 0
    while at < len(nodes):
        first = nodes[at]
        grown = _Grown(nodes, at, last, rule) if first.op.fuses and rule.begins(first) else None
        if grown is None or not grown.region:
            order.append(first)
            at += 1
            continue
        _beside(nodes, grown.before, last, rule, order, regions)
        order += [nodes[i] for i in grown.region]
        regions.append(Region(RegionKind.FUSED, tuple([nodes[i].outputs[0].name for i in grown.region])))
        _beside(nodes, grown.behind, last, rule, order, regions)
        at = grown.region[-1] + 1


def _beside(
    nodes: list[Node], numbers: list[int], last: dict[str, int], rule: _Rule, order: list[Node], regions: list[Region]
) -> None:
    """Adds what is moved out of a region, which has regions of its own."""
    mine = [nodes[i] for i in numbers]
    if len(mine) < 2:
        order += mine
        return
    at = {i: k for k, i in enumerate(numbers)}
    here = {v.name: at.get(last.get(v.name, -1), len(mine)) for n in mine for v in n.outputs}
    reads = Counter([v.name for n in mine for v in n.inputs])
    here.update((name, len(mine)) for name in here if reads[name] < rule.reads[name])  # others read it, too
    _found(mine, here, rule, order, regions)


class _Put(Enum):
    """Where what stands behind the beginning of a region goes."""

    IN, BEFORE, BEHIND, END = range(4)


class _Grown:
    """The longest region that begins at a node, none if there is none, and what stands between its nodes and is to be
    done before and behind it: numbers of nodes."""

    def __init__(self, nodes: list[Node], at: int, last: dict[str, int], rule: _Rule) -> None:
        self.rule, self.core = rule, rule.cores.get(id(nodes[at]), frozenset[int]())
        self.left = {id(n) for n in nodes[at + 1 :]} & self.core if self.core else set[int]()  # that are still to come
        self.before: list[int] = []
        self.behind: list[int] = []
        self.growing = Growing(nodes[at], rule.over.get(id(nodes[at]), frozenset[str]()))
        self.known, self.late = set[str](), set[str]()
        region, parties = [at], Parties(nodes[at : at + 1]) if rule.update else None
        whole = [1]  # so many of the region hang together, or are of one attention
        moved = CORE_MOVED if self.core else MOVED
        for i in range(at + 1, len(nodes)):
            node = nodes[i]
            if len(self.before) + len(self.behind) > moved or len(region) - whole[-1] > MOVED:
                break
            put = self._put(node)
            self.left.discard(id(node))
            if put is _Put.END:
                break
            if put is _Put.IN:
                self.growing.add(node)
                region.append(i)
                if parties is None or parties.add(node) == 1:
                    whole.append(len(region))
                continue
            of, names = (self.before, self.known) if put is _Put.BEFORE else (self.behind, self.late)
            of.append(i)
            names.update([v.name for v in node.outputs])
        self.region: list[int] = []
        for length in reversed(whole[1:]):  # without what must not leave it, and what comes behind that
            region = region[:length]
            if not wrong([nodes[i] for i in region], self._leaving(nodes, region, last)):
                self.region = region
                self.before, self.behind = ([i for i in of if i < region[-1]] for of in (self.before, self.behind))
                return

    def _put(self, node: Node) -> _Put:
        growing, mine = self.growing, id(node) in self.core
        late = bool(self.late) and any([v.name in self.late for v in node.inputs])
        reads = growing.reads(node)
        if not late and self.rule.inside(node, self.core):
            beside = not reads and (growing.lacks(node) or all([v.name in self.known for v in node.inputs]))
            if beside:
                return _Put.BEFORE
            if (reads or mine or self.rule.update) and not growing.takes(node):
                return _Put.IN
            if reads and (by_column(node) or self._of_sums(node)):
                return _Put.BEHIND
        if late and self.rule.inside(node, self.core) and growing.lacks(node):
            return _Put.BEHIND
        if not self.left:
            return _Put.BEFORE if node.op.leaf and not isinstance(node.op, Effect) else _Put.END
        if isinstance(node.op, (Accumulate, Save)):
            return _Put.BEHIND
        if not (reads or late):
            return _Put.BEFORE if self.rule.moves(node) else _Put.END
        return _Put.END if mine or node.op.message or not self.rule.moves(node) else _Put.BEHIND

    def _of_sums(self, node: Node) -> bool:
        """Whether it goes on with what is whole only when all rows are done, which is small."""
        return self.growing.lacks(node) and any([v.name in self.growing.sums for v in node.inputs])

    def _leaving(self, nodes: list[Node], region: list[int], last: dict[str, int]) -> set[str]:
        found = {v.name for i in self.behind if i < region[-1] for v in nodes[i].inputs}
        for i in region:
            name = nodes[i].outputs[0].name
            if last.get(name, -1) > region[-1]:
                found.add(name)
        return found


class _Rule:
    """What may be in regions of a body.

    reads: by value, how often it is read. update: it is of the optimizer's, where beginnings are joined: results take
    the memory of states there, so that nothing is held for longer by it. By the products that an attention begins with
    (identities): cores: its nodes, and all products around it; over: the dims that its softmax is taken over.
    """

    def __init__(self, body: Graph, renewed: Collection[int], update: bool) -> None:
        self.renewed, self.update = renewed, update
        self.reads = Counter([v.name for n in body.nodes for v in n.inputs])
        self.cores: dict[int, frozenset[int]] = {}
        self.over: dict[int, frozenset[str]] = {}
        if any(region.kind is RegionKind.ATTENTION for region in body.regions):
            products = [n for n in body.nodes if is_product(n)]
            for region, nodes in marked(body):
                if region.kind is RegionKind.ATTENTION:
                    self._core(products, nodes)

    def _core(self, products: list[Node], nodes: list[Node]) -> None:
        inside = set(map(id, nodes))
        made, read = {v.name for n in nodes for v in n.outputs}, {v.name for n in nodes for v in n.inputs}
        first = [n for n in products if n.outputs[0].name in read and id(n) not in inside]
        last = [n for n in products if any([v.name in made for v in n.inputs])]
        core = frozenset(map(id, (*nodes, *first, *last)))
        self.cores.update((id(n), core) for n in first)
        self.over.update((id(n), taken_away(nodes)) for n in first)

    def begins(self, node: Node) -> bool:
        """Whether a region may begin with a node."""
        if is_product(node) and id(node) not in self.cores:
            return False
        return not (piecewise(node, self.renewed) or is_view(node) or (by_column(node) and not is_product(node)))

    def inside(self, node: Node, core: Collection[int]) -> bool:
        """Whether a node may be in a region. core: that of the attention which it begins with."""
        return not piecewise(node, self.renewed) and (not is_product(node) or id(node) in core)

    def moves(self, node: Node) -> bool:
        """Whether a node may be done before or behind an attention that it stands in."""
        op = node.op
        stays = isinstance(op, (Effect, Repeat, Call, Move)) or id(node) in self.renewed
        return not stays and all([v.memory == FIRST for v in (*node.inputs, *node.outputs)])
