"""`run … on host`: what is computed on the hosts' processors, and what is moved for that.

A node computes in the memory in which its results lie: that of the devices, or that of the hosts. Messages, and effects
on buffers of the devices, stay with the devices. What is wanted elsewhere than it lies is moved there once, where it is
first wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.memory.tiers import FIRST, HOST
from compiler.ops.comm import Comm
from compiler.ops.effects import Effect, Read, Write
from compiler.ops.index import Take
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.passes.copying import away, here
from compiler.walk import graph_values


class MovedValues:
    """What stands for values in other memories, made as it is wanted."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.made: dict[tuple[Value, str], Value] = {}

    def at(self, value: Value, memory: str, nodes: list[Node]) -> Value:
        """The value in a memory; nodes: get the move that brings it there, unless it is there already."""
        if value.memory == memory:
            return value
        found = self.made.get((value, memory))
        if found is None:
            found = here(value, self.names) if memory == FIRST else away(value, memory, self.names)
            self.made[value, memory] = found
            nodes.append(Node(Move(value.memory, memory), (value,), (found,)))
        return found


def moves_with(node: Node) -> bool:
    """Whether it can be computed on the hosts: no effect, and no message to other devices."""
    return not isinstance(node.op, Effect | Move) and not (isinstance(node.op, Comm) and node.op.message)


def on_host(body: Graph, given: Sequence[str], results: Sequence[str | None], names: Names | None = None) -> Graph:
    """A function that computes on the hosts. given: where its parameters lie; results: where its results are wanted
    (None: wherever they are). names: those of the function that the body stands in."""
    names = Names(v.name for v in graph_values(body)) if names is None else names
    env = {v: replace(v, memory=memory) for v, memory in zip(body.inputs, given, strict=True)}
    copies, nodes = MovedValues(names), list[Node]()
    for node in body.nodes:
        computed_there(node, env, copies, nodes)
    outputs = []
    for v, memory in zip(body.outputs, results, strict=True):
        made = env.get(v, v)
        outputs.append(made if memory is None else copies.at(made, memory, nodes))
    inputs = tuple(env[v] for v in body.inputs)
    return replace(body, inputs=inputs, nodes=tuple(_moved_early(inputs, nodes)), outputs=tuple(outputs))


def _moved_early(inputs: Sequence[Value], nodes: Sequence[Node]) -> Iterator[Node]:
    """The nodes; what is moved is so as soon as it is there, beside what is computed meanwhile."""
    moves: dict[Value, list[Node]] = {}
    for node in nodes:
        if isinstance(node.op, Move):
            moves.setdefault(node.inputs[0], []).append(node)
    for v in dict.fromkeys(inputs):
        yield from moves.get(v, ())
    for node in nodes:
        if not isinstance(node.op, Move):
            yield node
            for v in node.outputs:
                yield from moves.get(v, ())


def computed_there(node: Node, env: dict[Value, Value], copies: MovedValues, nodes: list[Node]) -> None:
    """Append the node, on the hosts where it can be, and what it needs for that. env: gets its results."""
    op, inputs = node.op, [env.get(v, v) for v in node.inputs]
    place = HOST if moves_with(node) else FIRST
    if isinstance(op, Comm) and not op.message:  # a part of what is there: cut off before it is moved
        place = inputs[0].memory if inputs[0].memory in (FIRST, HOST) else HOST
    own = [place] * len(inputs)
    if op.reaches is not None and inputs[op.reaches].memory != FIRST:
        own[op.reaches] = inputs[op.reaches].memory
    wanted = tuple(copies.at(v, memory, nodes) for v, memory in zip(inputs, own, strict=True))
    made = own[op.reaches] if op.reaches is not None and op.renews == op.reaches else place
    outputs = tuple(replace(v, memory=made) for v in node.outputs)
    if isinstance(op, Repeat):
        body = on_host(op.body, [HOST] * len(inputs), [HOST] * len(outputs), copies.names)
        op = replace(op, body=body)
    nodes.append(replace(node, op=op, inputs=wanted, outputs=outputs))
    env.update(zip(node.outputs, outputs, strict=True))


def between(nodes: Sequence[Node], owned: Collection[str]) -> frozenset[Node]:
    """What of an update leads from the contents of these buffers to new ones, but for effects and messages."""
    forward: set[Value] = set()
    found: set[Node] = set()
    for node in nodes:
        mine = isinstance(node.op, Read) and node.op.name in owned
        if mine or not forward.isdisjoint(node.inputs):
            forward.update(node.outputs)
            found.add(node)
    needed: set[Value] = set()
    kept: set[Node] = set()
    for node in reversed(nodes):
        mine = isinstance(node.op, Write) and node.op.name in owned
        if mine or not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.add(node)
    return frozenset(n for n in found & kept if moves_with(n))


def taken_there(nodes: Sequence[Node], tables: Collection[Value], names: Names) -> list[Node]:
    """The nodes, in which the hosts take rows of tables that rest in their memory."""
    copies, found = MovedValues(names), list[Node]()
    for node in nodes:
        if isinstance(node.op, Take) and node.inputs[0] in tables:
            table, index = node.inputs
            taken = replace(node.output, name=names.fresh(f"{node.output.name}.there"), memory=HOST)
            found.append(replace(node, inputs=(table, copies.at(index, HOST, found)), outputs=(taken,)))
            found.append(Node(Move(HOST, FIRST), (taken,), node.outputs, node.span))
        else:
            found.append(node)
    return found
