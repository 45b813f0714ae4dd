"""What a graph needs of new positions and of earlier ones, from the outputs back: each value as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from compiler.graph import Builder, Dim, Graph, Node, Type, Value
from compiler.incremental.reach import Analysis
from compiler.incremental.refusals import no_form
from compiler.model import Init
from compiler.ops.base import ByOp, Loop, Op, OpError
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Normal, Random
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename
from compiler.origin import Origin

Demand = frozenset[str]
"""The dims of a value that are asked for at new positions only; along its others that are positions, at all of them."""

ALL: Demand = frozenset()


class Surroundings(Protocol):
    """Where a graph stands: what it is given, and where its states are kept."""

    def gives(self, v: Value, demand: Demand) -> bool:
        """Whether an input of the graph is there in this form."""
        ...

    def source(self, v: Value, demand: Demand) -> Value:
        """It."""
        ...

    def pos(self) -> Value:
        """How many positions went before: an int32 scalar."""
        ...

    def state(
        self, name: str, type: Type, init: Init, origin: Origin, of: Value | None, loops: tuple[str, ...] = ()
    ) -> tuple[Value, int]:
        """A state, as the graph has it, and its number."""
        ...

    def renew(self, number: int, value: Value) -> None:
        """What the state of that number contains afterwards; without, what it has contained."""
        ...


def resized(type: Type, demand: Demand, new: Dim) -> Type:
    """The type with the new positions in the place of the dims of `demand`."""
    if demand.isdisjoint(type.names):
        return type
    return Type(type.dtype, tuple(new if d.name in demand else d for d in type.dims))


class Increment:
    """A graph of new positions on its way, which are those of the dim `new`."""

    def __init__(
        self,
        analysis: Analysis,
        new: Dim,
        around: Surroundings,
        graph: Graph,
        builder: Builder,
        begun: bool,
        keeps: bool = True,
    ) -> None:
        """begun: what hangs on no position was kept by an earlier pass. keeps: there can be states."""
        self.begun, self.keeps = begun, keeps
        self.analysis, self.new, self.around, self.builder = analysis, new, around, builder
        self.positions = analysis.positions
        self.length = new.size
        self.made = {v: (node, k) for node in graph.nodes for k, v in enumerate(node.outputs)}
        self.known: dict[tuple[Value, Demand], Value] = {}
        self._places: Value | None = None
        self._kept_already: dict[tuple[Value, tuple[str, ...], tuple[str, ...]], Value] = {}

    def natural(self, v: Value) -> Demand:
        """New positions along the dim that bounds what it looks at, if it looks at data at all."""
        bound = self.analysis.of(v).bound & set(self.positions.of(v))
        if not bound:
            return ALL
        return frozenset((self.positions.dim if self.positions.dim in bound else min(bound),))

    def need(self, v: Value, demand: Demand) -> Value:
        """The value in this form; makes it once."""
        along = self.positions.of(v)
        demand = demand & set(along)
        key = (v, demand)
        if key not in self.known:
            self.known[key] = self._make(v, demand)
        return self.known[key]

    def once(self, v: Value) -> Value:
        """The value at all positions; of what hangs on data, but on no position, what the first pass kept."""
        if v not in self.analysis.once or not self.keeps:
            return self.need(v, ALL)
        key = (v, frozenset(("once",)))
        if key not in self.known:
            origin = Origin(f"{v.origin.path}.once" if v.origin.path else "")
            state, number = self.around.state(f"{v.name}.once", v.type, Init("zeros"), origin, v)
            if not self.begun:
                state = self.need(v, ALL)
                self.around.renew(number, state)
            self.known[key] = state
        return self.known[key]

    def _make(self, v: Value, demand: Demand) -> Value:
        bound = self.analysis.of(v).bound & set(self.positions.of(v))
        node, k = self.made.get(v, (None, 0))
        if node is None and self.around.gives(v, demand):
            return self.around.source(v, demand)
        if bound and not demand and (node is None or len(bound) == 1):
            return self._kept(v, *bound)
        if node is None or (demand and not bound and not self._apart(node, demand)):
            if demand and demand.isdisjoint(bound):
                return self.rows(v, demand)
            raise no_form(v, node, self.positions)
        rule = RULES.get(type(node.op))
        return rule(self, node, k, demand) if rule is not None else self.by_op(node, k, demand)

    # --- ops ---

    def _apart(self, node: Node, demand: Demand) -> bool:
        """Whether the op, of what hangs on no data, keeps these positions apart."""
        if isinstance(node.op, (Iota, Full)):
            return True
        if isinstance(node.op, (Repeat, Random, Normal)):
            return False
        loops = node.op.loops([x.type for x in node.inputs], [x.type for x in node.outputs])
        return all(any(d in loop.outs and loop.kind == "pass" and not loop.placed for loop in loops) for d in demand)

    def by_op(self, node: Node, k: int, demand: Demand) -> Value:
        """By the same op of its operands in the forms that this asks for."""
        outs = [v.type for v in node.outputs]
        loops = node.op.loops([x.type for x in node.inputs], outs)
        asked = [loop for loop in loops if loop.kind == "pass" and not demand.isdisjoint(n or "" for n in loop.outs)]
        operands = []
        for i, x in enumerate(node.inputs):
            names = frozenset(n for loop in asked if (n := loop.ins[i]) is not None)
            moving = self.analysis.of(node.outputs[0]).bound
            operands.append(self.once(x) if moving and not names else self.need(x, names))
        op = self._called(node, demand, asked)
        results = (operands[0],) if op is None else self.emit(op, operands, node, demand)
        if node in self.analysis.guards:
            results = (self._guarded(results[0], self.analysis.guards[node]),)
        for out, value in zip(node.outputs, results):
            self.known[out, demand & set(self.positions.of(out))] = value
        return results[k]

    def _guarded(self, top: Value, least: float) -> Value:
        """The maximum of masked scores, or NaN where the mask is too weak to make nothing of what it masks."""
        above = self.add(Map("sub", (None, least)), top, like=top, name="above")
        short = self.add(Map("minimum", (None, 0.0)), above, like=top, name="short")
        nothing = self.add(Map("sqrt", (None,)), short, like=top, name="nothing")  # 0, or of a negative number
        return self.add(Map("add", (None, None)), top, nothing, like=top, name="guarded")

    def emit(self, op: Op, operands: list[Value], like: Node, demand: Demand) -> tuple[Value, ...]:
        """The node for `like`; raises ParcError where it does not give that at these positions."""
        try:
            types = op.infer(*(x.type for x in operands))
        except OpError:
            raise no_form(like.outputs[0], like, self.positions) from None
        if any(t != resized(v.type, demand, self.new) for t, v in zip(types, like.outputs)):
            raise no_form(like.outputs[0], like, self.positions)
        return self.put(op, operands, like, types)

    def put(self, op: Op, operands: list[Value], like: Node, types: tuple[Type, ...]) -> tuple[Value, ...]:
        """A node whose results are called like those of another."""
        names = self.builder.names
        made = tuple(Value(names.fresh(v.name), t, v.span, v.origin) for v, t in zip(like.outputs, types))
        self.builder.nodes.append(Node(op, tuple(operands), made, like.span))
        return made

    def add(self, op: Op, *operands: Value, like: Value, name: str = "") -> Value:
        """A node of the way in which something is kept, that belongs to `like`."""
        (type,) = op.infer(*(x.type for x in operands))
        value = Value(self.builder.names.fresh(f"{like.name}.{name or op.mnemonic}"), type, like.span, like.origin)
        self.builder.nodes.append(Node(op, operands, (value,), like.span))
        return value

    def _called(self, node: Node, demand: Demand, asked: Sequence[Loop]) -> Op | None:
        """The op of dims that are called as the new positions are; None: it calls them otherwise, and nothing else."""
        names = {n for loop in asked for n in loop.ins if n is not None}
        new, op = self.new, node.op
        if isinstance(op, Rename) and names:
            pairs = tuple((a, b) for a, b in op.pairs if a not in names)
            return Rename(pairs) if pairs else None
        names |= demand
        if isinstance(op, Broadcast):
            return Broadcast(tuple(new if d.name in names else d for d in op.dims))
        if isinstance(op, Full):
            return Full(op.value, op.dtype, tuple(new if d.name in names else d for d in op.dims))
        if isinstance(op, (Contract, Transpose, ScatterAdd)):
            dims = tuple(new.name if n in names else n for n in op.dims)
            return replace(op, dims=dims)
        return op

    # --- positions ---

    def places(self, like: Value) -> Value:
        """The numbers of the new positions."""
        if self._places is None:
            self._places = self.add(Iota(self.new), self.around.pos(), like=like, name="places")
        return self._places

    def rows(self, v: Value, demand: Demand) -> Value:
        """What hangs on no data, at the new positions."""
        found = self.need(v, ALL)
        if len(demand) > 1:
            raise no_form(v, None, self.positions)
        (dim,) = demand
        names = resized(v.type, demand, self.new).names
        if dim == self.new.name:
            dim = f"{dim}_all"
            found = self.add(Rename(((self.new.name, dim),)), found, like=v)
        taken = self.add(Take(dim), found, self.places(v), like=v)
        return taken if taken.type.names == names else self.add(Transpose(names), taken, like=v)

    def _kept(self, v: Value, dim: str) -> Value:
        """What there is of data at all positions so far: kept in a state, to which the new ones are added.

        Kept is whatever has the fewest bytes on the way from where it is made: what is only called otherwise, repeated
        or cast is done again.
        """
        same = self._named(v)
        if same in self._kept_already:
            return self._kept_already[same]
        way: list[Node] = []
        best, at, where = v, 0, dim
        x, d = v, dim
        while (found := self.made.get(x)) is not None and _cheap(found[0].op):
            (node, _) = found
            way.append(node)
            if isinstance(node.op, Rename):
                d = {new: old for old, new in node.op.pairs}.get(d, d)
            x = node.inputs[0]
            if not x.type.has(d) or self.analysis.of(x).bound != {d}:
                break
            if x.type.bytes < best.type.bytes:
                best, at, where = x, len(way), d
        value = self._cache(best, where)
        self.known[best, ALL] = value
        for node in reversed(way[:at]):
            (value,) = self.emit(node.op, [value], node, ALL)
            self.known[node.outputs[0], ALL] = value
        self._kept_already[same] = value
        return value

    def _named(self, v: Value) -> tuple[Value, tuple[str, ...], tuple[str, ...]]:
        """Of which value it is another view with the same elements, and what its dims are called there and here."""
        there = v.type.names
        x = v
        while (found := self.made.get(x)) is not None and isinstance(found[0].op, (Rename, Transpose, StopGradient)):
            if isinstance(found[0].op, Rename):
                before = {new: old for old, new in found[0].op.pairs}
                there = tuple(before.get(n, n) for n in there)
            x = found[0].inputs[0]
        return x, there, v.type.names

    def _cache(self, v: Value, dim: str) -> Value:
        rows, place = self.need(v, frozenset((dim,))), self.places(v)
        if v.type.has(self.new.name):
            named = Rename(((self.new.name, f"{dim}_new"),))
            rows, place = (self.add(named, x, like=v) for x in (rows, place))
        origin = Origin(f"{v.origin.path}.cache" if v.origin.path else "")
        state, number = self.around.state(f"{v.name}.cache", v.type, Init("zeros"), origin, v)
        new = self.add(Scatter(dim), state, rows, place, like=v, name="cached")
        self.around.renew(number, new)
        return new


def _cheap(op: Op) -> bool:
    """Whether its result is rather made again than kept, of places too that are not reached yet, which are zero."""
    return isinstance(op, (Rename, Broadcast, Transpose, StopGradient, Cast))


RULES: ByOp[Callable[[Increment, Node, int, Demand], Value]] = ByOp()


@RULES.of(Iota)
def _iota(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    assert isinstance(node.op, Iota)
    if not demand:
        return c.by_op(node, k, demand)
    if not node.inputs:
        return c.places(node.output)
    first = c.add(Map("add", (None, None)), c.need(node.inputs[0], ALL), c.around.pos(), like=node.output)
    (value,) = c.emit(Iota(c.new), [first], node, demand)
    return value
