"""`renumbered`: a marked program for other sizes of axes, whose regions are the same but for their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.graph import Graph, Node
from compiler.ops.repeat import Repeat
from compiler.program import Function, Program
from compiler.regions.marks import marked
from compiler.regions.region import Region, RegionKind

Numbers = Mapping[int, tuple[float, float]]
"""By identity of a node of a region of attention: `kept` and `most` of that."""


def renumbered(program: Program, numbers: Numbers) -> Program:
    """The program with these numbers. Classes that share their functions share them again."""
    made: dict[int, tuple[Function, ...]] = {}
    for cls in program.classes:
        if id(cls.functions) not in made:
            made[id(cls.functions)] = tuple(_function(f, numbers) for f in cls.functions)
    return program.with_classes(replace(c, functions=made[id(c.functions)]) for c in program.classes)


def _function(f: Function, numbers: Numbers) -> Function:
    body = _body(f.body, numbers)
    return f if body is f.body else Function(f.phase, f.chunk, body)


def _body(body: Graph, numbers: Numbers) -> Graph:
    nodes = [_loop(n, n.op, numbers) if isinstance(n.op, Repeat) else n for n in body.nodes]
    regions = tuple([_region(region, inside, numbers) for region, inside in marked(body)])
    same = all([a is b for a, b in zip(nodes, body.nodes)])
    if same and all([a is b for a, b in zip(regions, body.regions)]):
        return body
    return replace(body, nodes=body.nodes if same else tuple(nodes), regions=regions)


def _loop(node: Node, op: Repeat, numbers: Numbers) -> Node:
    body = _body(op.body, numbers)
    return node if body is op.body else Node(replace(op, body=body), node.inputs, node.outputs, node.span)


def _region(region: Region, inside: list[Node], numbers: Numbers) -> Region:
    if region.kind is not RegionKind.ATTENTION:
        return region
    found = next((numbers[id(node)] for node in inside if id(node) in numbers), None)
    return region if found is None else replace(region, kept=found[0], most=found[1])
