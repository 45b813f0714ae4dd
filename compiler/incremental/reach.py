"""How far each value looks: up to which of its own positions the data counts that it is made of.

A value that hangs on data up to position i at most, at i, is causal; one that hangs on all positions looks ahead, and
the op is remembered that made it so. What a mask leaves is known from differences of positions (`facts`): a value is a
constant but where they hold, and so products, sums and maxima take nothing from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

from compiler.graph import FLOATS, Graph, Node, Value
from compiler.incremental import seats
from compiler.incremental.dispatch import Dispatch, dispatches
from compiler.incremental.facts import EVERYWHERE, Facts, both, either, renamed, within, without
from compiler.incremental.known import (
    NOTHING,
    TESTS,
    WEAK,
    Reach,
    Zones,
    added,
    choice,
    compared,
    constants,
    literal,
    lowered,
    narrowed,
)
from compiler.incremental.positions import Positions
from compiler.model import Model
from compiler.ops.base import ByOp
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.reduce import Cumsum, Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Concat, Merge, Rename, Shift, Slice
from compiler.ops.window import Window, span

UNDERFLOW = 746.0
"""`exp` of minus that is zero in all types."""


class Analysis:
    """The reach of every value of a model. guards: maxima of masked scores, and what they must be above for that mask
    to leave nothing."""

    def __init__(self, model: Model, positions: Positions, guarded: bool = False) -> None:
        """guarded: masks by small numbers count, too."""
        self.positions, self.guarded = positions, guarded
        self.reach: dict[Value, Reach] = {}
        self.guards: dict[Node, float] = {}
        self.once: set[Value] = set()
        """What hangs on data, but on none of any position."""
        self.dispatches = {n: d for n, d in dispatches(model.graph).items() if d.dim in positions.of(d.chosen)}
        for d in self.dispatches.values():
            positions.seat(d.copy.output, d.seats)
        self.seated: dict[Value, Dispatch] = {}
        """What is there for each seat of experts: of which copies."""
        self.kept: dict[Value, str] = {}
        """What the model of new positions keeps of earlier ones, with the dim of positions: known when that is made."""
        self.numbers: dict[Value, int] = {}
        """Which of them are their numbers: how many there are of each position."""
        self.unmasked: dict[Value, int] = {}
        """The same, but those of empty seats are the first one of all, which counts for nothing once it is -1."""
        self.spread: dict[Value, int] = {}
        """What seats have given to places, of which each position has so many."""
        self.made: dict[Value, Node] = {}
        self.merges: dict[Value, Node] = {}
        for i in model.inputs:
            self.reach[i.value] = Reach(frozenset(positions.of(i.value)))
            if not positions.of(i.value):
                self.once.add(i.value)
        for s in model.states:
            self.reach[s.value] = NOTHING
        self.graph(model.graph)

    def of(self, v: Value) -> Reach:
        return self.reach.get(v, NOTHING)

    def graph(self, graph: Graph) -> None:
        for node in graph.nodes:
            self.made.update(dict.fromkeys(node.outputs, node))
            if isinstance(node.op, Merge):
                self.merges[node.output] = node
            found = seats.found(self, node) or self._node(node)
            given = not self.once.isdisjoint(node.inputs)
            for v, reach in zip(node.outputs, found, strict=True):
                self.reach[v] = reach
                if given and not reach.bound and reach.ahead is None:
                    self.once.add(v)
                else:
                    self.once.discard(v)

    def _node(self, node: Node) -> Sequence[Reach]:
        if isinstance(node.op, Repeat):
            return self._repeat(node, node.op)
        given = [self.of(v) for v in node.inputs]
        ahead = next((r.ahead for r in given if r.ahead is not None), None)
        if ahead is not None:
            return [Reach(ahead=ahead)] * len(node.outputs)
        return self.by_rule(node)

    def by_rule(self, node: Node) -> Sequence[Reach]:
        """Of an op none of whose operands looks ahead."""
        given = [self.of(v) for v in node.inputs]
        rule = RULES.get(type(node.op))
        return [rule(self, node, given)] if rule is not None else self._other(node, given)

    def _other(self, node: Node, given: Sequence[Reach]) -> Sequence[Reach]:
        """Of any op: loops of the kind `pass` keep positions apart, all others look along them."""
        bound = frozenset[str]()
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        here = self.positions.of(node.outputs[0])
        for i, reach in enumerate(given):
            for d in reach.bound:
                if node.inputs[i].type.has(d):
                    found = next((loop.outs[0] for loop in loops if loop.ins[i] == d and loop.kind == "pass"), None)
                    if found not in here:
                        return [Reach(ahead=node)] * len(node.outputs)
                    d = found
                bound |= {d}
        return [Reach(bound)] * len(node.outputs)

    def _repeat(self, node: Node, op: Repeat) -> Sequence[Reach]:
        body, last = op.body, op.carries + op.stacks
        given = [self.of(v) for v in node.inputs]
        self.once.update(p for p, v in zip(body.inputs, node.inputs) if v in self.once)
        for i, (param, reach) in enumerate(zip(body.inputs, given)):
            kept = reach if i >= last else Reach(reach.bound, reach.ahead, reach.zones if i < op.carries else {})
            self.reach[param] = kept
        while True:
            self.graph(body)
            changed = False
            for param, made in zip(body.inputs[: op.carries], body.outputs):
                old, new = self.of(param), self.of(made)
                joined = _joined(old, new)
                if (joined.bound, joined.ahead, joined.zones) != (old.bound, old.ahead, old.zones):
                    self.reach[param], changed = joined, True
                    if joined.bound:
                        self.once.discard(param)
            if not changed:
                break
        found = []
        for i, v in enumerate(body.outputs):
            reach = self.of(v)
            if op.label in reach.bound and (i < op.carries or op.reverse):
                reach = Reach(ahead=node)  # the last position's, or made from the end on
            found.append(Reach(reach.bound, reach.ahead))
        return found


def _joined(a: Reach, b: Reach) -> Reach:
    zones = {k: either(f, b.zones[k]) for k, f in a.zones.items() if k in b.zones}
    return Reach(a.bound | b.bound, a.ahead or b.ahead, zones)


RULES: ByOp[Callable[[Analysis, Node, Sequence[Reach]], Reach]] = ByOp()


@RULES.of(Iota)
def _iota(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    if node.inputs:
        return Reach(given[0].bound)
    return Reach(affine=({node.output.type.names[0]: 1}, 0)) if a.positions.of(node.output) else NOTHING


@RULES.of(Full)
def _full(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Full)
    value = float(node.op.value)
    whole = node.output.type.dtype not in FLOATS and isfinite(value)
    return Reach(zones={value: None}, affine=({}, int(value)) if whole else None)


@RULES.of(Broadcast, Transpose, StopGradient)
def _same(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    return given[0]


@RULES.of(Rename)
def _rename(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Rename)
    (x,), names = given, dict(node.op.pairs)
    affine = x.affine and ({names.get(d, d): c for d, c in x.affine[0].items()}, x.affine[1])
    zones = {k: renamed(f, names) for k, f in x.zones.items()}
    return Reach(frozenset(names.get(d, d) for d in x.bound), None, zones, affine)


@RULES.of(Cast)
def _cast(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    (x,), before, after = given, node.inputs[0].type.dtype, node.output.type.dtype
    kept = {k: f for k, f in x.zones.items() if k in (0, 1) or after in ("f32", "f64")}
    exact = before != "bool" and after in ("int32", "f32", "f64") and a.positions.size < 2**24
    top = x.top if after in ("f32", "f64") else None
    return Reach(x.bound, None, kept, x.affine if exact else None, x.low, x.small, top)


@RULES.of(Contract)
def _contract(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Contract)
    summed = {n for v in node.inputs for n in v.type.names} - set(node.op.dims)
    facts = both(*(x.zones.get(0.0, EVERYWHERE) for x in given))
    return _summed(node, given[0].bound | given[1].bound, summed, {0.0: facts})


@RULES.of(Reduce)
def _reduce(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Reduce)
    (x,) = given
    largest = node.op.fn == "max"
    zones = {k: f for k, f in x.zones.items() if largest or k == 0}
    bound = x.bound
    for facts in (*x.zones.values(), *((x.low[0],) if largest and x.low else ())):
        bound = within(facts, bound, node.op.dims)
    found = _summed(node, bound, set(node.op.dims), zones)
    masked = [x.low[1]] if x.low else []
    masked += [k for k, f in x.zones.items() if f and k <= WEAK and any(p[0] in node.op.dims for p in f)]
    if largest and masked and found.ahead is None:
        return Reach(found.bound, None, found.zones, top=(node.inputs[0], masked[0], node))
    return found


def _summed(node: Node, bound: frozenset[str], dims: set[str], zones: Zones) -> Reach:
    for facts in zones.values():
        bound = within(facts, bound, dims)
    if bound & dims:
        return Reach(ahead=node)
    kept = {k: without(f, dims) for k, f in zones.items()}
    return Reach(bound, None, {k: f for k, f in kept.items() if f != {}})


@RULES.of(Cumsum)
def _cumsum(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Cumsum)
    (x,), op = given, node.op
    if op.reverse and op.dim in x.bound:
        return Reach(ahead=node)
    return Reach(x.bound)


@RULES.of(Shift)
def _shift(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Shift)
    (x,), op = given, node.op
    if op.dim in x.bound and (op.around or op.by < 0):
        return Reach(ahead=node)
    return Reach(x.bound)


@RULES.of(Window)
def _window(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Window)
    (x,), op = given, node.op
    if op.dim not in x.bound:
        return Reach(x.bound)
    backward = op.stride == 1 and span(op.kernel.size, op.dilation) - 1 <= op.pad
    if not backward or op.out.name not in a.positions.of(node.output):
        return Reach(ahead=node)
    return Reach(x.bound - {op.dim} | {op.out.name})


@RULES.of(Slice)
def _slice(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Slice)
    (x,), op = given, node.op
    if op.dim not in x.bound:
        return Reach(x.bound)
    return Reach(x.bound - {op.dim}) if op.stop == 1 else Reach(ahead=node)  # nothing is before the first one


@RULES.of(Concat)
def _concat(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Concat)
    bound = frozenset[str]().union(*(x.bound for x in given))
    return Reach(ahead=node) if node.op.dim in bound else Reach(bound)


@RULES.of(Map)
def _map(a: Analysis, node: Node, given: Sequence[Reach]) -> Reach:
    assert isinstance(node.op, Map)
    operands = iter(given)
    slots = [next(operands) if s is None else literal(s) for s in node.op.slots]
    fn = node.op.fn
    if fn == "where":
        return choice(*slots)
    bound = frozenset[str]().union(*(x.bound for x in slots))
    zones = dict(constants(fn, slots))
    if fn in TESTS:
        for k, facts in compared(fn, slots).items():
            zones[k] = both(facts, zones.get(k, EVERYWHERE))
    zones = {k: f for k, f in zones.items() if f != {}}
    small = _small(a, node, slots, zones)
    return Reach(narrowed(bound, zones), None, zones, added(fn, slots), lowered(fn, slots), small)


def _small(a: Analysis, node: Node, slots: Sequence[Reach], zones: dict[float, Facts]) -> tuple[Facts, Node] | None:
    """The softmax of scores that a mask has made small: `exp(score - maximum)` is zero there, if the maximum is far
    above what the mask makes of them. Adds that to `zones`."""
    assert isinstance(node.op, Map)
    if node.op.fn == "sub" and slots[1].top is not None:
        of, number, made = slots[1].top
        own, its = slots[0], a.of(of)
        facts = own.zones.get(number) or (own.low[0] if own.low is not None else None)
        there = its.zones.get(number) or (its.low[0] if its.low is not None else None)
        return (facts, made) if facts and there == facts else None
    if node.op.fn == "exp" and slots[0].small is not None and a.guarded:
        facts, made = slots[0].small
        top = a.of(made.output).top
        assert top is not None
        a.guards[made] = top[1] / 2 if a.of(top[0]).low is not None else top[1] + UNDERFLOW
        zones[0.0] = both(facts, zones.get(0.0, EVERYWHERE))
    return None
