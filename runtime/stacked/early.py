"""Pending sums that are resolved as they are made, where nobody reads them before they are added up.

What each device adds to a sum would stand once per device: of the gradient of a weight on 4,096 devices, 4,096 times.
Where everything that reads a pending sum adds it up over some mesh axes first, or is linear and is itself read so only,
the op that makes it adds up (`Summed`): a product over all devices' rows at once. A buffer that is accumulated and then
only read so is kept added up, too.

The same sums in another order: not for 16 bits, of which each device rounds its own addend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.layout import Layout
from compiler.ops.base import Op
from compiler.ops.comm import AllReduce, Comm, ReduceScatter, Shard
from compiler.ops.contract import Contract
from compiler.ops.effects import Accumulate, Effect, Read, StageReduce, Write
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.program import LASTING, Function, Program, StateDecl
from compiler.walk import graph_values, walk
from runtime.mesh import Mesh
from runtime.numpy.summed import Summed
from runtime.straight_line import without_calls

Axes = frozenset[str]
NONE: Axes = frozenset()

NARROW = ("bf16", "f16")

MAKERS = (Contract, ScatterAdd, Take, Reduce)
"""Ops that add up what they make."""


def added_early(program: Program) -> Program:
    """The program with its sums resolved as they are made, for executors that hold a value of all devices at once.

    Functions that classes share are shared again. Functions that are called stand where they are called.
    """
    mesh = Mesh.of(program).axes
    bodies: dict[int, list[Graph]] = {}
    for cls in program.classes:
        if id(cls.functions) not in bodies:
            bodies[id(cls.functions)] = [without_calls(f.body) for f in cls.functions]
    joined = _joined([_Early(bodies[id(c.functions)], c.states, mesh, {}) for c in program.classes])
    made: dict[int, tuple[Function, ...]] = {}
    classes = []
    for cls in program.classes:
        early = _Early(bodies[id(cls.functions)], cls.states, mesh, joined)
        if id(cls.functions) not in made:
            pairs = zip(cls.functions, bodies[id(cls.functions)])
            made[id(cls.functions)] = tuple(replace(f, body=early.rewritten(body)) for f, body in pairs)
        states = tuple(map(early.shown, cls.states))
        classes.append(replace(cls, functions=made[id(cls.functions)], states=states))
    return program.with_classes(classes)


def _joined(classes: Sequence[_Early]) -> dict[str, Axes]:
    """Over which axes sums between groups of devices can be added up before: for all groups, or for none."""
    found: dict[str, Axes] = {}
    for early in classes:
        for body in early.functions:
            for node in body.nodes:
                if isinstance(node.op, StageReduce):
                    axes = early.wanted(body).get(node.output.name, NONE) if node.op.fn == "sum" else NONE
                    found[node.op.key] = found.get(node.op.key, axes) & axes
    return found


class _Early:
    """Of a class of devices, what is added up early. `states`: buffers that are kept so -> over which axes.

    joined: the same of sums between groups of devices.
    """

    def __init__(
        self,
        functions: Sequence[Graph],
        states: Sequence[StateDecl],
        mesh: Sequence[str],
        joined: Mapping[str, Axes],
    ) -> None:
        self.functions, self.mesh, self.joined = functions, tuple(mesh), joined
        self.states: dict[str, Axes] = {}
        self._wanted: dict[int, dict[str, Axes]] = {}
        for body in functions:
            self._look(body, ())
        self.states = self._kept(functions, states)
        for body in functions if self.states else ():
            self._look(body, ())

    def shown(self, decl: StateDecl) -> StateDecl:
        """The declaration of what is in the buffer: without the sums that are not pending there."""
        found = self.states.get(decl.name, NONE)
        return replace(decl, layout=_without(decl.layout, found)) if found else decl

    def rewritten(self, body: Graph) -> Graph:
        """A function's body with its sums added up early."""
        return _Rewriting(self, body, (), Names(v.name for v in graph_values(body))).graph()

    # --- what is wanted

    def pending(self, v: Value) -> Axes:
        """The mesh axes over which a sum of the value is pending. (Single numbers cost nothing.)"""
        if not v.layout.pending or not v.type.dims or v.type.dtype in NARROW:
            return NONE
        return frozenset(a for a, fn in v.layout.pending if fn == "sum" and a in self.mesh)

    def wanted(self, body: Graph) -> Mapping[str, Axes]:
        """Of each value of the body, over which axes it can be added up as it is made."""
        return self._wanted[id(body)]

    def _kept(self, functions: Sequence[Graph], states: Sequence[StateDecl]) -> dict[str, Axes]:
        found = {s.name: [NONE] for s in states if s.role in LASTING}
        for body in functions:
            for node, _ in walk(body):
                if isinstance(node.op, Read):
                    found.setdefault(node.op.name, []).append(self.wanted(body).get(node.output.name, NONE))
                elif isinstance(node.op, Write):
                    found.setdefault(node.op.name, []).append(NONE)
        kept = {name: axes[0].intersection(*axes[1:]) for name, axes in found.items()}
        return {name: axes for name, axes in kept.items() if axes}

    def _look(self, body: Graph, ends: Sequence[Axes]) -> None:
        wanted: dict[str, Axes] = {}
        self._wanted[id(body)] = wanted

        def meet(v: Value, axes: Axes) -> None:
            wanted[v.name] = wanted.get(v.name, self.pending(v)) & axes

        for v, axes in zip(body.outputs, ends):
            meet(v, axes)
        for node in reversed(body.nodes):
            if isinstance(node.op, Repeat):
                outer = [wanted.get(v.name, NONE) for v in node.outputs[node.op.carries :]]
                self._look(node.op.body, [NONE] * node.op.carries + outer)
            for i, v in enumerate(node.inputs):
                meet(v, self._asked(node, i, wanted) if self.pending(v) else NONE)

    def _asked(self, node: Node, i: int, wanted: Mapping[str, Axes]) -> Axes:
        """Over which axes the node would take its operand `i` added up."""
        op = node.op
        if isinstance(op, AllReduce | ReduceScatter):
            return wanted.get(node.output.name, NONE).union(op.axes) if op.fn == "sum" else NONE
        if isinstance(op, Accumulate):
            return self.states.get(op.name, NONE)
        if isinstance(op, StageReduce):
            return self.joined.get(op.key, NONE)
        if isinstance(op, Effect | Comm | Repeat) or len(node.outputs) != 1:
            return NONE
        for group in op.linear(len(node.inputs)):
            if i in group:
                found = wanted.get(node.output.name, NONE)
                for j, v in enumerate(node.inputs):
                    found = found & self.pending(v) if j in group else found - v.layout.axes
                return found
        return NONE


class _Rewriting:
    def __init__(self, early: _Early, body: Graph, ends: Sequence[Axes], names: Names) -> None:
        self.early, self.body, self.ends, self.names = early, body, ends, names
        self.wanted = early.wanted(body)
        self.now: dict[str, Value] = {v.name: v for v in body.inputs}
        self.got: dict[str, Axes] = {}  # value of the body -> over which axes `now` is added up
        self.more: dict[tuple[str, Axes], Value] = {}
        self.nodes: list[Node] = []

    def graph(self) -> Graph:
        for node in self.body.nodes:
            self._node(node)
        ends = [*self.ends, *[NONE] * (len(self.body.outputs) - len(self.ends))]
        outputs = [self._summed(v, axes) for v, axes in zip(self.body.outputs, ends)]
        return replace(self.body, nodes=tuple(self.nodes), outputs=tuple(outputs))

    def _node(self, node: Node) -> None:
        op, given = node.op, [self.now[v.name] for v in node.inputs]
        wanted = [self.wanted.get(v.name, NONE) for v in node.outputs]
        if isinstance(op, Repeat):
            inner = [NONE] * op.carries + wanted[op.carries :]
            body = _Rewriting(self.early, op.body, inner, self.names).graph()
            self._put(node, replace(op, body=body), given, inner)
        elif isinstance(op, AllReduce | ReduceScatter) and (got := self.got.get(node.inputs[0].name, NONE)):
            self._reduced(node, op, got)
        elif isinstance(op, Accumulate):
            self._put(node, op, [self._summed(node.inputs[0], self.early.states.get(op.name, NONE))], ())
        elif isinstance(op, StageReduce):
            axes = self.early.joined.get(op.key, NONE)
            self._put(node, op, [self._summed(node.inputs[0], axes)], [axes])
        elif isinstance(op, Read):
            self._put(node, op, given, [self.early.states.get(op.name, NONE)])
        elif len(wanted) == 1 and wanted[0] and not isinstance(op, Effect | Comm):
            self._made(node, wanted[0])
        else:
            self._put(node, op, given, [NONE] * len(wanted))

    def _made(self, node: Node, wanted: Axes) -> None:
        """An op whose result is to be added up: its operands are, or it does."""
        passed, inputs = NONE, [self.now[v.name] for v in node.inputs]
        for group in node.op.linear(len(node.inputs)):
            common = wanted.intersection(*(self.early.pending(node.inputs[j]) for j in group))
            others = [v for j, v in enumerate(node.inputs) if j not in group]
            if common and not passed and not any(common & v.layout.axes for v in others):
                passed = common
                for j in group:
                    inputs[j] = self._summed(node.inputs[j], common)
        left = wanted - passed
        if left and not isinstance(node.op, MAKERS):
            self._put(node, node.op, inputs, [passed])
        else:
            leads = tuple(i for i, a in enumerate(self.early.mesh) if a in left)
            self._put(node, Summed(node.op, leads) if left else node.op, inputs, [wanted])

    def _reduced(self, node: Node, op: AllReduce | ReduceScatter, got: Axes) -> None:
        """A reduction of what is added up already, perhaps over more axes than it asks for."""
        x, more = self.now[node.inputs[0].name], got - frozenset(op.axes)
        rest = tuple(a for a in op.axes if a not in got)
        if rest:
            x = self._added(x, rest)
        if isinstance(op, ReduceScatter):
            self._put(node, Shard(op.dim, op.axes), [x], [more])
            return
        self.now[node.output.name] = x
        if more:
            self.got[node.output.name] = more

    def _summed(self, v: Value, axes: Axes) -> Value:
        """What the value is now, added up over these axes at least."""
        rest = axes - self.got.get(v.name, NONE)
        if not rest:
            return self.now[v.name]
        if (v.name, rest) not in self.more:
            self.more[v.name, rest] = self._added(self.now[v.name], [a for a in self.early.mesh if a in rest])
        return self.more[v.name, rest]

    def _added(self, x: Value, axes: Sequence[str]) -> Value:
        made = replace(x, name=self.names.fresh(f"{x.name}.added"), layout=_without(x.layout, frozenset(axes)))
        self.nodes.append(Node(AllReduce(tuple(axes), "sum"), (x,), (made,)))
        return made

    def _put(self, node: Node, op: Op, inputs: Sequence[Value], got: Sequence[Axes]) -> None:
        outputs = []
        for v, axes in zip(node.outputs, got, strict=True):
            outputs.append(replace(v, layout=_without(v.layout, axes)) if axes else v)
            self.now[v.name] = outputs[-1]
            if axes:
                self.got[v.name] = axes
        self.nodes.append(replace(node, op=op, inputs=tuple(inputs), outputs=tuple(outputs)))


def _without(layout: Layout, axes: Axes) -> Layout:
    return Layout(layout.dims, tuple((a, fn) for a, fn in layout.pending if a not in axes), layout.halo)
