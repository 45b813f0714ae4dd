"""What a graph needs of new positions and of earlier ones, from the outputs back: each value as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from compiler.graph import Builder, Dim, Graph, Node, Type, Value
from compiler.incremental import experts, rings
from compiler.incremental.demand import ALL, Demand, only_new
from compiler.incremental.reach import Analysis
from compiler.incremental.refusals import no_form
from compiler.incremental.windows import Lookback
from compiler.model import Init
from compiler.ops.base import ByOp, Loop, Op, OpError
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Normal, Random
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename
from compiler.origin import Origin


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

    def outside(self, make: Callable[[Increment], Value]) -> Value | None:
        """What the graph around this one makes; None where there is none."""
        ...

    def state(
        self, name: str, type: Type, init: Init, origin: Origin, of: Value | None, loops: tuple[str, ...] = ()
    ) -> tuple[Value, int]:
        """A state, as the graph has it, and its number."""
        ...

    def renew(self, number: int, value: Value) -> None:
        """What the state of that number contains afterwards; without, what it has contained."""
        ...


class Increment:
    """A graph of new positions on its way, which are those of the dim `new`."""

    def __init__(
        self,
        analysis: Analysis,
        windows: Lookback,
        new: Dim,
        around: Surroundings,
        graph: Graph,
        builder: Builder,
        begun: bool,
        keeps: bool = True,
    ) -> None:
        """begun: what hangs on no position was kept by an earlier pass. keeps: there can be states."""
        self.begun, self.keeps, self.graph = begun, keeps, graph
        self.analysis, self.windows, self.new, self.around, self.builder = analysis, windows, new, around, builder
        self.positions = analysis.positions
        self.length = new.size
        self.made = {v: (node, k) for node in graph.nodes for k, v in enumerate(node.outputs)}
        self.known: dict[tuple[Value, Demand], Value] = {}
        self._places: Value | None = None
        self._last_places: dict[tuple[str, int], Value] = {}
        self._kept_already: dict[tuple[Value, tuple[str, ...], tuple[str, ...], Demand], Value] = {}

    def near(self, count: int) -> int:
        """How many positions are those of the last `count` and the new ones."""
        return self.windows.near(count, self.length)

    def natural(self, v: Value) -> Demand:
        """New positions along the dim that bounds what it looks at, if it looks at data at all."""
        bound = self.analysis.of(v).bound & set(self.positions.of(v))
        if not bound:
            return ALL
        if (dispatch := self.analysis.seated.get(v)) is not None:
            return Demand(seats=frozenset((n, dispatch.room(self.length)) for n in bound))
        return only_new(self.positions.dim if self.positions.dim in bound else min(bound))

    def need(self, v: Value, demand: Demand) -> Value:
        """The value in this form; makes it once."""
        demand = demand.among(self.positions.of(v))
        key = (v, demand)
        if key not in self.known:
            self.known[key] = self._make(v, demand)
        return self.known[key]

    def once(self, v: Value) -> Value:
        """The value at all positions; of what hangs on data, but on no position, what the first pass kept."""
        if v not in self.analysis.once or not self.keeps:
            return self.need(v, ALL)
        key = (v, only_new("once"))
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
        if v in self.analysis.seated and not demand.seats:
            raise no_form(v, node, self.positions)
        if node is not None and node in self.analysis.dispatches:
            return experts.copies(self, self.analysis.dispatches[node], demand)
        whole = bound and demand.dims <= bound and not demand.new and not demand.seats and len(bound) == 1
        if whole and (node is None or not node.op.unpacks):
            return self._kept(v, next(iter(bound)), demand)
        if node is None or (demand and not bound and not self._apart(node, demand)):
            if demand and demand.new.isdisjoint(bound) and not demand.dims <= bound:
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
        free = {n for loop in loops if loop.kind == "pass" and not loop.placed for n in loop.outs}
        return demand.dims <= free

    def by_op(self, node: Node, k: int, demand: Demand) -> Value:
        """By the same op of its operands in the forms that this asks for."""
        loops = node.op.loops([x.type for x in node.inputs], [v.type for v in node.outputs])
        asked = [
            loop for loop in loops if loop.kind == "pass" and not demand.new.isdisjoint(n or "" for n in loop.outs)
        ]
        near = [(loop, count) for loop in loops if (count := self._near(node, loop, demand)) is not None]
        room, operands = dict(demand.seats), []
        seats = [loop for loop in loops if loop.kind == "pass" and not loop.placed]
        for i, x in enumerate(node.inputs):
            names = frozenset(n for loop in asked if (n := loop.ins[i]) is not None)
            form = Demand(
                names,
                frozenset((n, count) for loop, count in near if (n := loop.ins[i]) is not None),
                frozenset((n, room[d]) for loop in seats for d in loop.outs if d in room and (n := loop.ins[i])),
            )
            moving = self.analysis.of(node.outputs[0]).bound
            operands.append(self.once(x) if moving and not form else self.need(x, form))
        op = self._called(node, demand, asked)
        results = (operands[0],) if op is None else self.emit(op, operands, node, demand)
        if any(_ends(loop) for loop, _ in near) and (least := self.windows.left_out(node)) is not None:
            results = (self.add(Map("maximum", (None, least)), results[0], like=node.outputs[0], name="all"),)
        if node in self.analysis.guards:
            results = (self._guarded(results[0], self.analysis.guards[node]),)
        for out, value in zip(node.outputs, results):
            self.known[out, demand.among(self.positions.of(out))] = value
        return results[k]

    def _near(self, node: Node, loop: Loop, demand: Demand) -> int | None:
        """At how many of the last positions operands are asked for along a loop: where it passes, as the results are;
        where it ends here, as far back as it looks."""
        if not _ends(loop):
            last = dict(demand.last) if loop.kind == "pass" else {}
            return next((last[n] for n in loop.outs if n in last), None)
        if not demand.new or demand.new != self.natural(node.outputs[0]).new:
            return None
        return self.windows.of_loop(node, loop)

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
        if any(t != demand.resized(v.type, self.new, self.near) for t, v in zip(types, like.outputs)):
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
        names |= demand.new
        if isinstance(op, Broadcast):
            return Broadcast(self._resized(op.dims, names, demand))
        if isinstance(op, Full):
            return Full(op.value, op.dtype, self._resized(op.dims, names, demand))
        if isinstance(op, (Contract, Transpose, ScatterAdd)):
            dims = tuple(new.name if n in names else n for n in op.dims)
            return replace(op, dims=dims)
        return op

    def _resized(self, dims: tuple[Dim, ...], new: set[str], demand: Demand) -> tuple[Dim, ...]:
        form = replace(demand, new=frozenset(new))
        return form.resized(Type("bool", dims), self.new, self.near).dims

    # --- positions ---

    def places(self, like: Value) -> Value:
        """The numbers of the new positions."""
        if self._places is None:
            self._places = self.add(Iota(self.new), self.around.pos(), like=like, name="places")
        return self._places

    def last_places(self, dim: str, count: int, like: Value) -> Value:
        """The numbers of the last `count` positions and the new ones, in the order in which what is kept has them."""
        key = dim, count
        if key not in self._last_places:
            found = self.around.outside(lambda c: c.last_places(dim, count, like))
            self._last_places[key] = rings.places(self, dim, count, like) if found is None else found
        return self._last_places[key]

    def rows(self, v: Value, demand: Demand) -> Value:
        """What hangs on no data along some of the dims, at the positions that are asked for along these."""
        bound = self.analysis.of(v).bound
        found = self.need(v, demand.among(bound))
        names = demand.resized(v.type, self.new, self.near).names
        if len(demand.new) > 1 or demand.seats:
            raise no_form(v, None, self.positions)
        for dim, count in sorted(demand.last):
            if dim not in bound:
                index = self.last_places(dim, count, v)
                found = self.add(Rename(((dim, f"{dim}_all"),)), found, like=v)
                found = self.add(Take(f"{dim}_all"), found, index, like=v)
        for dim in demand.new:
            if dim == self.new.name:
                dim = f"{dim}_all"
                found = self.add(Rename(((self.new.name, dim),)), found, like=v)
            found = self.add(Take(dim), found, self.places(v), like=v)
        return found if found.type.names == names else self.add(Transpose(names), found, like=v)

    def _kept(self, v: Value, dim: str, demand: Demand) -> Value:
        """What there is of data at all positions so far, or the last ones: kept in a state, to which the new ones are
        added.

        Kept is whatever has the fewest bytes on the way from where it is made: what is only called otherwise, repeated
        or cast is done again.
        """
        same = (*self._named(v), demand)
        if same in self._kept_already:
            return self._kept_already[same]
        way: list[Node] = []
        best, at, where = v, 0, dim
        x, d, asked = v, dim, [demand]
        while (found := self.made.get(x)) is not None and _cheap(found[0].op):
            (node, _) = found
            way.append(node)
            if isinstance(node.op, Rename):
                d = {new: old for old, new in node.op.pairs}.get(d, d)
            x = node.inputs[0]
            asked.append(Demand(last=frozenset((d, count) for _, count in demand.last)))
            if not x.type.has(d) or self.analysis.of(x).bound != {d}:
                break
            if x.type.bytes < best.type.bytes:
                best, at, where = x, len(way), d
        if found is not None and found[0].op.unpacks:  # what rests has fewer bytes than what is made of it
            best, at = x, len(way)
            value = self.need(x, asked[at])
        else:
            value = self._cache(best, where, asked[at])
        self.known[best, asked[at]] = value
        for node, form in reversed([*zip(way[:at], asked)]):
            op = self._called(node, form, ())
            assert op is not None
            (value,) = self.emit(op, [value], node, form)
            self.known[node.outputs[0], form] = value
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

    def _cache(self, v: Value, dim: str, demand: Demand) -> Value:
        self.analysis.kept[v] = dim
        rows, place = self.need(v, only_new(dim)), self.places(v)
        if v.type.has(self.new.name):
            named = Rename(((self.new.name, f"{dim}_new"),))
            rows, place = (self.add(named, x, like=v) for x in (rows, place))
        origin = Origin(f"{v.origin.path}.cache" if v.origin.path else "")
        if demand.last:
            return rings.kept(self, v, dim, dict(demand.last)[dim], rows, place, origin)
        state, number = self.around.state(f"{v.name}.cache", v.type, Init("zeros"), origin, v)
        new = self.add(Scatter(dim), state, rows, place, like=v, name="cached")
        self.around.renew(number, new)
        return new


def _ends(loop: Loop) -> bool:
    """Whether no result has it."""
    return all(n is None for n in loop.outs)


def _cheap(op: Op) -> bool:
    """Whether its result is rather made again than kept, of places too that are not reached yet, which are zero."""
    return isinstance(op, (Rename, Broadcast, Transpose, StopGradient, Cast))


RULES: ByOp[Callable[[Increment, Node, int, Demand], Value]] = ByOp()
