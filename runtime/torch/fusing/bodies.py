"""A chunk's passes as they are rewritten: bodies whose nodes can be replaced, and what is kept from one for another.

Values are objects of one function each. What a backward pass loads, or takes slice by slice from a loop's results, is
the value that the forward pass has made: `origin` says which.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field, replace
from itertools import count

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.ops.effects import Load, Recv, Save, StageReduce
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.passes.prune import prune_nodes
from compiler.program import Function, FunctionKey, StateDecl
from dsl.data import dataclass


@dataclass(eq=False, slots=True)
class Body:
    """Of a function, or of the loop `step` in the body `outer`."""

    key: FunctionKey
    name: str
    inputs: list[Value]
    steps: list[Step]
    outputs: list[Value]
    outer: Body | None = None
    step: Step | None = None

    def nodes(self) -> tuple[Node, ...]:
        """As nodes again."""
        return tuple(s.node() for s in self.steps)


@dataclass(eq=False, slots=True)
class Step:
    """A node. inner: the body, of a loop; counts: how many carries and stacks that has."""

    of: Node
    inputs: list[Value]
    outputs: list[Value]
    inner: Body | None = None
    stacks: int = 0

    def node(self) -> Node:
        op = self.of.op
        if self.inner is not None:
            assert isinstance(op, Repeat)
            inner = self.inner
            body = Graph(inner.name, tuple(inner.inputs), inner.nodes(), tuple(inner.outputs))
            op = replace(op, body=body, stacks=self.stacks)
        return Node(op, tuple(self.inputs), tuple(self.outputs), self.of.span)


@dataclass(eq=False, slots=True)
class Chunk:
    """The passes of a chunk. tops: bodies by function; home: the body that a value is of; origin: what is kept as it.

    saved: value of a forward pass -> its slot. kept: (value, body) -> under which value the body has it.
    """

    tops: dict[FunctionKey, Body] = field(default_factory=dict)
    home: dict[Value, Body] = field(default_factory=dict)
    origin: dict[Value, Value] = field(default_factory=dict)
    slots: dict[str, Value] = field(default_factory=dict)
    states: list[StateDecl] = field(default_factory=list)
    kept: dict[tuple[Value, Body], Value] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    @staticmethod
    def of(functions: Sequence[Function], saved: Mapping[str, StateDecl]) -> Chunk:
        """The functions, a forward pass first; saved: the slots that only they know."""
        chunk = Chunk()
        for f in functions:
            chunk.tops[f.key] = chunk._body(f.key, f.body, {}, None, None, saved)
        return chunk

    def _body(
        self,
        key: FunctionKey,
        graph: Graph,
        env: dict[Value, Value],
        outer: Body | None,
        step: Step | None,
        saved: Mapping[str, StateDecl],
    ) -> Body:
        """A copy whose values are its own."""
        body = Body(key, graph.name, [], [], [], outer, step)
        body.inputs = [self._own(v, env, body) for v in graph.inputs]
        if step is not None:
            self._slices(body, step)
        for node in graph.nodes:
            inputs = [env[v] for v in node.inputs]
            made = Step(node, inputs, [])
            if isinstance(node.op, Repeat):
                made.stacks = node.op.stacks
                made.inner = self._body(key, node.op.body, {}, body, made, saved)
            made.outputs = [self._own(v, env, body) for v in node.outputs]
            body.steps.append(made)
            if isinstance(node.op, Save) and node.op.name in saved:
                self.slots[node.op.name] = inputs[0]
            elif isinstance(node.op, Load) and node.op.name in self.slots:
                self._alias(made.outputs[0], self.slots[node.op.name], body)
        body.outputs = [env[v] for v in graph.outputs]
        return body

    def _own(self, v: Value, env: dict[Value, Value], body: Body) -> Value:
        env[v] = made = replace(v)
        self.home[made] = body
        return made

    def _alias(self, v: Value, origin: Value, body: Body) -> None:
        found = self.canonical(origin)
        self.origin[v] = found
        self.kept.setdefault((found, body), v)

    def canonical(self, v: Value) -> Value:
        """The value that this one is kept of; itself, if of none."""
        return self.origin.get(v, v)

    def _slices(self, body: Body, step: Step) -> None:
        """Parameters that are slices of what another loop has made, iteration by iteration."""
        op = step.of.op
        assert isinstance(op, Repeat)
        for k in range(op.carries, op.carries + op.stacks):
            stack = self.canonical(step.inputs[k])
            maker = self._loop(stack)
            if maker is not None and maker.inner is not None and isinstance(maker.of.op, Repeat):
                other = maker.of.op
                at = maker.outputs.index(stack)
                if at >= other.carries and (other.label, other.count) == (op.label, op.count):
                    self._alias(body.inputs[k], maker.inner.outputs[at], body)

    def _loop(self, stack: Value) -> Step | None:
        body = self.home[stack]
        return next((s for s in body.steps if s.inner is not None and stack in s.outputs), None)

    # --- what is added

    def fresh(self, like: Value, what: str, type: Type | None = None) -> Value:
        """A new value laid out as another."""
        return replace(like, name=f"{like.name}@{what}{next(self.numbers)}", type=type or like.type)

    def place(self, v: Value, body: Body) -> Value:
        """The value as it is known in a body."""
        self.home[v] = body
        return v

    def available(self, v: Value, body: Body) -> Value | None:
        """Under which value the body has this one: its own, or one that is kept for it; None where nothing leads."""
        home = self.home[v]
        if home is body:
            return v
        if (v, body) in self.kept:
            return self.kept[v, body]
        if home.step is None and body.step is None:
            found = self._through_slot(v, home, body)
        elif home.step is not None and body.step is not None:
            found = self._through_loops(v, home, body)
        else:
            return None
        if found is not None:
            self.kept[v, body] = found
        return found

    def _through_slot(self, v: Value, home: Body, body: Body) -> Value | None:
        if home is not next(iter(self.tops.values())):
            return None  # only the forward pass keeps
        slot = f"{v.name}@{home.key[1]}"
        decl = StateDecl(slot, Role.SAVED, v.type, v.layout, home.key[1], logical=v.name)
        if slot not in self.slots:
            self.slots[slot] = v
            self.states.append(decl)
            home.steps.append(Step(Node(Save(slot), (v,), ()), [v], []))
        found = self.place(self.fresh(v, "kept"), body)
        body.steps.insert(0, Step(Node(Load(slot), (), (found,)), [], [found]))
        return found

    def _through_loops(self, v: Value, home: Body, body: Body) -> Value | None:
        made, into = home.step, body.step
        assert made is not None and into is not None and home.outer is not None and body.outer is not None
        one, two = made.of.op, into.of.op
        assert isinstance(one, Repeat) and isinstance(two, Repeat)
        if (one.label, one.count) != (two.label, two.count) or one.scan or two.scan:
            return None
        type = Type(v.type.dtype, (Dim(one.label, one.count), *v.type.dims))
        stack = replace(self.fresh(v, "stack", type), layout=v.layout.stacked())
        self.place(stack, home.outer)
        there = self.available(stack, body.outer)
        if there is None:
            return None
        home.outputs.append(v)
        made.outputs.append(stack)
        at = two.carries + into.stacks
        found = self.place(self.fresh(v, "kept"), body)
        body.inputs.insert(at, found)
        into.inputs.insert(at, there)
        into.stacks += 1
        return found


def finished(chunk: Chunk, functions: Sequence[Function], own: Collection[str]) -> tuple[Function, ...]:
    """The functions without what nothing needs any more. own: slots that only they know."""
    found: list[Function] = []
    loaded: dict[str, FunctionKey] = {}  # for the last time
    for f in reversed(functions):
        nodes = chunk.tops[f.key].nodes()
        at = {v: i for i, n in enumerate(nodes) for v in n.outputs}
        ends = [(i, n) for i, n in enumerate(nodes) if not n.outputs and not _is_unread(n, own, loaded)]
        asked = [v for _, n in ends for v in n.inputs]
        asked += [v for n in nodes if isinstance(n.op, (Recv, StageReduce)) for v in n.outputs]
        order = [(at[n.outputs[0]], n) for n in prune_nodes(nodes, asked)]
        body = []
        for _, n in sorted([*order, *ends], key=lambda pair: pair[0]):
            if isinstance(n.op, Load):
                n = replace(n, op=replace(n.op, last=loaded.setdefault(n.op.name, f.key) == f.key))
            body.append(n)
        found.append(replace(f, body=replace(f.body, nodes=tuple(body), regions=())))
    return tuple(reversed(found))


def _is_unread(node: Node, own: Collection[str], loaded: Collection[str]) -> bool:
    return isinstance(node.op, Save) and node.op.name in own and node.op.name not in loaded
