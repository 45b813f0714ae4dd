"""What running a program needs of *this* machine's memory. (What there is of it: `runtime.available`.)

`stacked`: all devices as one array per value, with size 1 along axes on which it is replicated; 16-bit floats take 32
bits. `serial`: the serial interpreter keeps values while they are needed. Both are estimates, good enough to refuse
what cannot be; small ones are not refused at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from compiler.declared import logical, logical_type
from compiler.graph import Graph, Type, Value
from compiler.layout import TIME, Layout, local_type
from compiler.liveness import liveness
from compiler.memory.action import STATIC, Replay, Where
from compiler.memory.facts import ClassFacts
from compiler.memory.held import Buffer
from compiler.memory.peak import ClassMemory
from compiler.memory.tiers import FILES, FIRST, SLOT
from compiler.model import Model, Training
from compiler.ops.call import Call
from compiler.ops.contract import Contract
from compiler.ops.effects import Input
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import LASTING, DeviceClass, Program
from compiler.walk import graph_values, walk
from runtime.backend import LocalValue
from runtime.numpy import STORAGE
from runtime.stacked.early import added_early
from runtime.stacked.in_pieces import in_pieces


def stored(type: Type) -> int:
    """Bytes of an array of this type."""
    return type.elements * np.dtype(STORAGE[type.dtype]).itemsize


def most_axes() -> int:
    """Of an array, for this numpy."""
    try:
        np.empty((1,) * 64)
    except ValueError:
        return 32
    return 64


def widest(program: Program) -> tuple[str, int]:
    """The value of the program with most dims, and how many axes its array has."""
    lead = sum(a.kind == "mesh" for a in program.axes) + 1  # and one for micro-batches
    values = [(v.name, len(v.type.dims)) for c in program.classes for f in c.functions for v in graph_values(f.body)]
    values += [(s.name, len(s.type.dims)) for c in program.classes for s in c.states]
    name, dims = max(values, key=lambda x: x[1], default=("", 0))
    return name, dims + lead


MICROBATCH = 300
"""Bytes of the objects that executors keep for each micro-batch, by each device that is by itself."""

DEVICE = 50_000
"""Bytes of the objects of a device that is by itself."""


def stacked(program: Program) -> int:
    """Of the executor with all devices as one array: lasting and saved values of all groups, the rest of one; in the
    beginning the logical arrays beside what groups have of them. Batches come in float64."""
    lasting, kept, passing = 0, 0, 0
    for cls in added_early(program).classes:
        memory = _Stacked(program, cls)
        here = [of for (kind, role), of in memory.static.items() if role in LASTING and kind not in FILES]
        lasting += len(cls.groups) * sum(n for of in here for _, n in of)
        for group in cls.groups:
            roles = [r for kind, peak in memory.use(group).items() if kind not in FILES for r in peak.roles.items()]
            mine = sum(n for role, n in roles if role in (*STATIC, Role.GRADIENT, Role.SAVED, Role.INPUT))
            kept += mine
            passing = max(passing, sum(n for _, n in roles) - mine)
    return max(kept + passing, lasting + _logical(program)) + _batch(program) + MICROBATCH * program.microbatches


def private(program: Program) -> int:
    """Of the executor in which every device has its own buffers."""
    each = prod(a.size for a in program.axes if a.kind == "mesh")
    total = 0
    for cls in program.classes:
        memory = ClassMemory(program, cls)
        uses = [memory.use(group).items() for group in cls.groups]
        total += sum(each * peak.bytes for use in uses for kind, peak in use if kind not in FILES)
    return total + _batch(program) + each * program.groups * (DEVICE + MICROBATCH * program.microbatches)


def _logical(program: Program) -> int:
    """Weights and states, each once; those in files are not made as a whole."""
    states = [(s, c) for c in program.classes for s in c.states if s.role in LASTING and s.memory not in FILES]
    return sum({logical(s): stored(logical_type(s, c)) for s, c in states}.values())


def _batch(program: Program) -> int:
    """A batch as it is read or made, before it is delivered."""
    return sum(2 * 8 * i.type.elements for i in program.inputs)


def serial(training: Training) -> int:
    """Of a step of the serial program beside a run: its values, and weights and states before and after."""
    lasting = sum(stored(v.type) for v in (*training.update.inputs, *(s.value for s in training.model.states)))
    values = sum(_values(g) for g in (*(r.graph for r in training.rounds), training.forward, training.backward))
    return 3 * lasting + max(values, _values(training.update))


def compressed(model: Model, watched: bool) -> int:
    """Of rounding the weights that a model stores. watched: it computes batches for that, or to tell the loss.

    Each stored weight stands there whole and twice in its parts, by itself and as it was made; of each layer the
    products of its inputs with each other; of a product its inputs once more, in float64.
    """
    lasting = sum(stored(v.type) for v in (*(w.value for w in model.weights), *(s.value for s in model.states)))
    parts = sum(stored(s.type_of(name)) for s in model.stored for name in s.parts.values())
    needed = lasting + 2 * parts + sum(stored(s.type) for s in model.stored)
    if not watched:
        return needed
    moments = sum(8 * prod(s.type.shape[: s.loops]) * s.count**2 for s in model.stored)
    products = (
        8 * v.type.elements for node, _ in walk(model.graph) if isinstance(node.op, Contract) for v in node.inputs
    )
    batch = sum(2 * 8 * i.value.type.elements for i in model.inputs)
    return needed + moments + batch + max(products, default=0) + _values(model.graph)


def _values(graph: Graph) -> int:
    """The most that values of a graph take at once."""
    most = now = 0
    made: dict[str, int] = {}
    for node, dying in zip(graph.nodes, liveness(graph, len(graph.outputs)).after, strict=True):
        made |= {v.name: stored(v.type) for v in node.outputs}
        now += sum(stored(v.type) for v in node.outputs)
        inside = [node.op.body] if isinstance(node.op, Repeat | Call) else []
        most = max(most, now + sum(map(_values, inside)))
        now -= sum(made.get(name, 0) for name in dying)
    return most


class _WholeReplay(Replay):
    """Counts a value on all devices of a group at once. Nothing is renewed in place there, and what is fused is that
    executor's own affair, but for large attention."""

    fuses = False

    def __init__(self, cls: DeviceClass, sizes: Mapping[str, int], known: ClassFacts | None = None) -> None:
        super().__init__(cls, sizes, known)
        self.reuses = {}

    def _body(self, body: Graph, env: dict[str, Buffer], where: Where, carries: int = 0) -> None:
        super()._body(in_pieces(body, self._local), env, where, carries)

    def _local(self, var: Value) -> LocalValue:
        lead = tuple(n if a in var.layout.axes else 1 for a, n in self.sizes.items() if a != TIME)
        return LocalValue(local_type(var.type, var.layout, self.sizes), lead, var.type, var.layout.dims)

    def _bytes(self, var: Value) -> int:
        return _whole(var.type, var.layout, self.sizes)

    def _declared(self, name: str) -> int:
        decl = self.states[name]
        return _whole(decl.type, decl.layout, self.sizes)


class _Stacked(ClassMemory):
    replay = _WholeReplay

    def __init__(self, program: Program, cls: DeviceClass) -> None:
        super().__init__(program, cls)
        self.static = {}
        for s in cls.states:
            if s.role in STATIC:
                times = self.sizes[TIME] if TIME in s.layout.split_axes else 1
                size = times * _whole(s.type, s.layout, self.sizes)
                self.static.setdefault((s.memory, s.role), []).append((s.name, size))
                if s.cache is not None:  # which rows each device would have there
                    size = s.cache.rows * SLOT * prod(a.size for a in program.axes if a.kind == "mesh")
                    self.static.setdefault((FIRST, s.role), []).append((s.name, size))
        inputs = {
            (i.op.name, i.outputs[0].layout): i.outputs[0]
            for f in cls.functions
            for i, _ in walk(f.body)
            if isinstance(i.op, Input)
        }
        for (name, layout), var in inputs.items():
            times = self.sizes[TIME] if TIME in layout.axes else 1
            size = times * _whole(var.type, layout, self.sizes)
            self.static.setdefault((FIRST, Role.INPUT), []).append((name, size))


def _whole(type: Type, layout: Layout, sizes: Mapping[str, int]) -> int:
    pieces = prod(sizes[a] for a in layout.axes if a != TIME)
    return pieces * stored(local_type(type, layout, sizes))
