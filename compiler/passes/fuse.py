"""`fuse`: neighbouring instructions whose intermediates need not stand in memory become regions that run as one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from compiler.graph import Graph, Node
from compiler.ops.call import Call
from compiler.ops.effects import Effect
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass, Function, Program
from compiler.regions.fused import Growing, by_column, is_view, piecewise, readers, renewed_of, wrong
from compiler.regions.region import Region, RegionKind

MOVED = 12
"""Instructions between those of a region that are moved out of it, at most."""


def fuse(program: Program) -> Program:
    """The program with its fused regions marked in all bodies. Linear in the length of its text; what is fused depends
    on ops and names of dims, not on sizes. Classes that share their functions share them again.

    What stands between the instructions of a region and needs none of them, positions, constants and what is smaller
    than its rows, is made before it; sums over its rows behind it; nothing else moves.
    """
    made: dict[int, tuple[Function, ...]] = {}
    for cls in program.classes:
        if id(cls.functions) not in made:
            made[id(cls.functions)] = _functions(cls)
    return program.with_classes(replace(c, functions=made[id(c.functions)]) for c in program.classes)


def _functions(cls: DeviceClass) -> tuple[Function, ...]:
    """Those of a class. In another order more may take the memory of states (what reads their old contents stands
    before that now): it is in no region then, either."""
    renewed = renewed_of(cls)
    while True:
        fuser = _Fuser(renewed)
        functions = tuple(replace(f, body=fuser.body(f.body)) for f in cls.functions)
        more = fuser.fused & renewed_of(replace(cls, functions=functions))
        if not more:
            return functions
        renewed |= more


class _Fuser:
    def __init__(self, renewed: Collection[int]) -> None:
        self.renewed = renewed
        self.fused: set[int] = set()  # nodes of regions, by identity
        self.functions: dict[int, Graph] = {}  # that are called, by identity

    def body(self, body: Graph) -> Graph:
        nodes = [self.node(n) for n in body.nodes]
        fuses = any([n.op.fuses for n in nodes])
        order, regions = found(nodes, readers(body), self.renewed) if fuses else (nodes, [])
        if not regions and all([a is b for a, b in zip(nodes, body.nodes)]):
            return body
        inside = {name for r in regions for name in r.values}
        self.fused.update([id(n) for n in order if n.outputs and n.outputs[0].name in inside])
        others = body.regions
        if order != nodes and others:
            at = {n.outputs[0].name: i for i, n in enumerate(order) if n.outputs}
            others = tuple(replace(r, values=tuple(sorted(r.values, key=at.__getitem__))) for r in others)
        return replace(body, nodes=tuple(order), regions=(*regions, *others))

    def node(self, node: Node) -> Node:
        op = node.op
        if not isinstance(op, (Repeat, Call)):
            return node
        if isinstance(op, Repeat):
            body = self.body(op.body)
        else:
            body = self.functions.get(id(op.body)) or self.functions.setdefault(id(op.body), self.body(op.body))
        return node if body is op.body else Node(replace(op, body=body), node.inputs, node.outputs, node.span)


def found(nodes: list[Node], last: dict[str, int], renewed: Collection[int]) -> tuple[list[Node], list[Region]]:
    """The nodes of a body in the order in which they are to stand, and its regions. last: see `readers`."""
    order: list[Node] = []
    regions: list[Region] = []
    at = 0
    while at < len(nodes):
        first = nodes[at]
        begins = first.op.fuses and not (piecewise(first, renewed) or is_view(first) or by_column(first))
        grown = _Grown(nodes, at, last, renewed) if begins else None
        if grown is None or not grown.region:
            order.append(first)
            at += 1
            continue
        order += [nodes[i] for i in (*grown.before, *grown.region, *grown.behind)]
        regions.append(Region(RegionKind.FUSED, tuple([nodes[i].outputs[0].name for i in grown.region])))
        at = grown.region[-1] + 1
    return order, regions


class _Grown:
    """The longest region that begins at a node, none if there is none, and what stands between its nodes and is to be
    done before and behind it: numbers of nodes."""

    def __init__(self, nodes: list[Node], at: int, last: dict[str, int], renewed: Collection[int]) -> None:
        self.region: list[int] = []
        self.before: list[int] = []
        self.behind: list[int] = []
        growing, known, late = Growing(nodes[at]), set[str](), set[str]()
        region = [at]
        for i in range(at + 1, len(nodes)):
            node = nodes[i]
            if len(self.before) + len(self.behind) > MOVED:
                break
            if not node.op.fuses:
                if not node.op.leaf or isinstance(node.op, Effect):
                    break
                self.before.append(i)
                known.add(node.outputs[0].name)
                continue
            if piecewise(node, renewed) or (late and any([v.name in late for v in node.inputs])):
                break
            reads = growing.reads(node)
            if not reads and (growing.lacks(node) or all([v.name in known for v in node.inputs])):
                self.before.append(i)
                known.add(node.outputs[0].name)
            elif reads and by_column(node):
                self.behind.append(i)
                late.add(node.outputs[0].name)
            elif growing.takes(node):
                break
            else:
                growing.add(node)
                region.append(i)
        while len(region) > 1:  # without what must not leave it, and what comes behind that
            if not wrong([nodes[i] for i in region], self._leaving(nodes, region, last)):
                self.region = region
                self.before, self.behind = ([i for i in of if i < region[-1]] for of in (self.before, self.behind))
                return
            region.pop()

    def _leaving(self, nodes: list[Node], region: list[int], last: dict[str, int]) -> set[str]:
        found = {v.name for i in self.behind if i < region[-1] for v in nodes[i].inputs}
        for i in region:
            name = nodes[i].outputs[0].name
            if last.get(name, -1) > region[-1]:
                found.add(name)
        return found
