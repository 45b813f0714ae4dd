"""Classes of devices that differ in nothing but iterations of their loops and their schedule share their text.

    stage 9..14: devices 1152..1919 as 1..8 {
      loop block: 12 of 200 from 8 + 12*g
      schedule { … }
    }

The states and functions are those of the earlier class of the stages 1..8, with each loop and leading dim `block` of as
many iterations as that one has turned into one of 12. So stages of uneven length do not lengthen the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from compiler.graph import Dim, Graph, Node, Value
from compiler.ops.repeat import Repeat
from compiler.origin import Origin
from compiler.program import DeviceClass, LoopRange
from compiler.walk import walk

T = TypeVar("T")
Counts = Mapping[tuple[str, int], int]
"""(loop, iterations in the one class) -> iterations in the other."""


def changed_counts(before: Sequence[LoopRange], after: Sequence[LoopRange]) -> Counts | None:
    """What turns the loops of one class into those of another; None if nothing does."""
    if [(r.dim, r.chunk, r.total) for r in before] != [(r.dim, r.chunk, r.total) for r in after]:
        return None
    found: dict[tuple[str, int], int] = {}
    for old, new in zip(before, after, strict=True):
        if found.setdefault((old.dim, old.count), new.count) != new.count:
            return None
    return {key: count for key, count in found.items() if key[1] != count}


def with_code_of(cls: DeviceClass, other: DeviceClass) -> DeviceClass | None:
    """`cls` with the states and functions of the other class, for its own iterations; None if there are no such."""
    counts = changed_counts(other.ranges, cls.ranges)
    if counts is None:
        return None
    return replace(cls, states=recounted(other.states, counts), functions=recounted(other.functions, counts))


def recounted(part: T, counts: Counts, known: dict[int, Graph] | None = None) -> T:
    """A part of a program in which dims and loops have other sizes; the same object where nothing changes.

    known: functions that are called several times, which stay one, by the identity of what they were.
    """
    known = {} if known is None else known
    if not counts or isinstance(part, (str, int, float, bool, Origin)) or part is None:
        return part
    if isinstance(part, tuple):
        items = tuple(recounted(p, counts, known) for p in part)
        return items if any(a is not b for a, b in zip(items, part, strict=True)) else part  # type: ignore[return-value]
    if isinstance(part, Dim):
        size = counts.get((part.name, part.size), part.size)
        return part if size == part.size else Dim(part.name, size)  # type: ignore[return-value]
    if isinstance(part, Graph):
        if id(part) not in known:
            known[id(part)] = _graph(part, counts, known)
        return known[id(part)]  # type: ignore[return-value]
    if not is_dataclass(part):
        return part
    new = {}
    for f in fields(part):
        old = getattr(part, f.name)
        value = recounted(old, counts, known)
        if value is not old:
            new[f.name] = value
    if isinstance(part, Repeat) and (part.label, part.count) in counts:
        new["count"] = counts[part.label, part.count]
    return replace(part, **new) if new else part  # type: ignore[type-var]


def _graph(graph: Graph, counts: Counts, known: dict[int, Graph]) -> Graph:
    env: dict[Value, Value] = {}

    def value(v: Value) -> Value:
        if v not in env:
            type = recounted(v.type, counts, known)
            env[v] = v if type is v.type else replace(v, type=type)
        return env[v]

    def node(n: Node) -> Node:
        op, inputs, outputs = recounted(n.op, counts, known), tuple(map(value, n.inputs)), tuple(map(value, n.outputs))
        same = op is n.op and all(a is b for a, b in zip((*inputs, *outputs), (*n.inputs, *n.outputs)))
        return n if same else Node(op, inputs, outputs, n.span)

    inputs, nodes = tuple(map(value, graph.inputs)), tuple(map(node, graph.nodes))
    if all(a is b for a, b in zip((*inputs, *nodes), (*graph.inputs, *graph.nodes))):
        return graph
    return replace(graph, inputs=inputs, nodes=nodes, outputs=tuple(map(value, graph.outputs)))


def extent(cls: DeviceClass) -> int:
    """Number of states and instructions, those inside loops too."""
    return len(cls.states) + sum(1 for f in cls.functions for _ in walk(f.body))
