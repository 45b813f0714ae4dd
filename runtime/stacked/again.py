"""Saved slices that other saved slices give by one sum, product or quotient: computed again where they are read.

Of a softmax the exponentials and their total are saved, and the quotients, too; of a GELU both factors and the
product. Systems compute such again within their kernels. Here the last one stands for an iteration of the backward loop
only, with the same elements: one operation that rounds once gives them on the same operands, wherever it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from compiler.graph import Graph, Node, Value
from compiler.ops.effects import Load, Save
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from dsl.data import dataclass

ROUNDED_ONCE = ("add", "sub", "mul", "div", "neg", "abs", "maximum", "minimum", "relu")
"""Functions whose results depend on nothing but their operands, neither on vectors nor on neighbours."""

LARGE = 1 << 16
"""Elements of a slice, of all devices, from which on it is left out."""


@dataclass(frozen=True)
class _Made:
    """A saved buffer: who saves it, which result of which loop of which function it is, and what makes that there."""

    save: Node
    function: int
    loop: Node
    result: int

    @property
    def maker(self) -> Node | None:
        """The node of the loop's body that makes a slice, and nothing else."""
        assert isinstance(self.loop.op, Repeat)
        name = self.loop.op.body.outputs[self.result].name
        return next((n for n in self.loop.op.body.nodes if [v.name for v in n.outputs] == [name]), None)


@dataclass(frozen=True)
class _Taken:
    """A saved buffer: who loads it, and as which operand of which loop of which function it is read."""

    load: Node
    function: int
    loop: Node
    operand: int

    @property
    def slice(self) -> Value:
        """What an iteration has of it."""
        assert isinstance(self.loop.op, Repeat)
        return self.loop.op.body.inputs[self.operand]


def made_again(functions: Sequence[Graph], sliced: frozenset[str]) -> list[Graph]:
    """The functions of a class without such slices. sliced: buffers that loops make and loops alone read."""
    made = {n: m[0] for n, m in _made(functions, sliced).items() if len(m) == 1}
    taken = {n: t[0] for n, t in _taken(functions, sliced).items() if len(t) == 1}
    by_value = {(id(m.loop), m.loop.op.body.outputs[m.result].name): n for n, m in made.items()}  # type: ignore[attr-defined]
    gone: dict[str, tuple[str, ...]] = {}  # buffer -> those that its maker reads
    for name, m in made.items():
        maker = m.maker
        if name not in taken or any(name in needed for needed in gone.values()) or maker is None:
            continue
        of = [by_value.get((id(m.loop), v.name), "") for v in maker.inputs]
        if _cheap(maker) and all(n in taken and n not in gone and taken[n].loop is taken[name].loop for n in of):
            gone[name] = tuple(of)
    found = list(functions)
    for name, operands in gone.items():
        maker = made[name].maker
        assert maker is not None
        inputs = [taken[n].slice for n in operands]
        found[taken[name].function] = _with(found[taken[name].function], taken[name], maker, inputs)
    for at, body in enumerate(found):
        found[at] = _without(body, {made[n].save.inputs[0].name for n in gone if made[n].function == at}, set(gone))
    return found


def _cheap(maker: Node) -> bool:
    type = maker.output.type
    return isinstance(maker.op, Map) and maker.op.fn in ROUNDED_ONCE and prod(type.shape) >= LARGE


def _made(functions: Sequence[Graph], sliced: frozenset[str]) -> dict[str, list[_Made]]:
    found: dict[str, list[_Made]] = {}
    for at, body in enumerate(functions):
        readers = _readers(body)
        results = {v.name: (n, k) for n in _loops(body) for k, v in enumerate(n.outputs)}
        for n in body.nodes:
            if isinstance(n.op, Save) and n.op.name in sliced and len(readers[n.inputs[0].name]) == 1:
                found.setdefault(n.op.name, []).append(_Made(n, at, *results[n.inputs[0].name]))
    return found


def _taken(functions: Sequence[Graph], sliced: frozenset[str]) -> dict[str, list[_Taken]]:
    found: dict[str, list[_Taken]] = {}
    for at, body in enumerate(functions):
        readers = _readers(body)
        for n in body.nodes:
            if isinstance(n.op, Load) and n.op.name in sliced:
                loops = readers.get(n.output.name, [])
                for loop, i in loops if len(loops) == 1 else [*loops, *loops]:  # read twice: as if there were two
                    found.setdefault(n.op.name, []).append(_Taken(n, at, loop, i))
    return found


def _loops(body: Graph) -> Iterator[Node]:
    return (n for n in body.nodes if isinstance(n.op, Repeat))


def _readers(body: Graph) -> dict[str, list[tuple[Node, int]]]:
    found: dict[str, list[tuple[Node, int]]] = {}
    for n in body.nodes:
        for i, v in enumerate(n.inputs):
            found.setdefault(v.name, []).append((n, i))
    return found


def _with(body: Graph, taken: _Taken, maker: Node, inputs: Sequence[Value]) -> Graph:
    """The function whose loop makes the slice where it is read first."""
    nodes = []
    for n in body.nodes:
        if isinstance(n.op, Repeat) and any(v.name == taken.load.output.name for v in n.inputs):
            at = next(i for i, v in enumerate(n.inputs) if v.name == taken.load.output.name)
            op, inner = n.op, n.op.body
            slice = inner.inputs[at]
            first = next((i for i, x in enumerate(inner.nodes) if slice in x.inputs), len(inner.nodes))
            again = replace(maker, inputs=tuple(inputs), outputs=(slice,))
            inner = replace(
                inner,
                inputs=(*inner.inputs[:at], *inner.inputs[at + 1 :]),
                nodes=(*inner.nodes[:first], again, *inner.nodes[first:]),
            )
            n = replace(
                n, op=replace(op, body=inner, stacks=op.stacks - 1), inputs=(*n.inputs[:at], *n.inputs[at + 1 :])
            )
        nodes.append(n)
    return replace(body, nodes=tuple(nodes))


def _without(body: Graph, stacks: set[str], gone: set[str]) -> Graph:
    """The function without what saves and loads these buffers, and its loops without these results."""
    nodes = []
    for n in body.nodes:
        if isinstance(n.op, Save | Load) and n.op.name in gone:
            continue
        if isinstance(n.op, Repeat) and any(v.name in stacks for v in n.outputs):
            kept = [k for k, v in enumerate(n.outputs) if v.name not in stacks]
            inner = replace(n.op.body, outputs=tuple(n.op.body.outputs[k] for k in kept))
            n = replace(n, op=replace(n.op, body=inner), outputs=tuple(n.outputs[k] for k in kept))
        nodes.append(n)
    return replace(body, nodes=tuple(nodes))
