"""`mark_regions`: finds what systems compute as one, by what flows where, and marks it in the program, once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from compiler.graph import Graph, Node, Value
from compiler.ops.effects import Accumulate, Load, Read, Save
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass, Function, FunctionKey, FunctionPhase, Program
from compiler.regions.asked import RegionQuestions
from compiler.regions.attention import attention
from compiler.regions.loss import backward, loss
from compiler.regions.norm import Flow, inside, norm_derivative, norms
from compiler.regions.region import FoundRegion, Region, RegionKind
from compiler.regions.routing import ONE, Copies, Relevant, exchanges, routing
from compiler.regions.sunk import keeps, mark_sunk
from compiler.walk import bodies

Marks = dict[int, list[Region]]
"""By identity of a body."""

Own = list[tuple[Graph, list[FoundRegion]]]
"""What a body and its loops have of their own."""

Known = dict[tuple[object, ...], Own]
"""That of loops: by their body, which of its parameters are weights, and what of it is only added to gradients."""


def mark_regions(program: Program, asked: RegionQuestions | None = None) -> Program:
    """The program with its regions in its bodies. Linear in the length of its text. Classes that share their functions
    share them again. asked: of the sizes of its axes, from somebody who wants to know what is."""
    made: dict[int, tuple[Function, ...]] = {}
    asked, marked = RegionQuestions(program.sizes) if asked is None else asked, _Marked()
    for cls in program.classes:
        if id(cls.functions) not in made:
            marks = _marks(cls, asked, marked.own)
            made[id(cls.functions)] = tuple(replace(f, body=marked.body(f.body, marks[f.key])) for f in cls.functions)
    return program.with_classes(replace(c, functions=made[id(c.functions)]) for c in program.classes)


class _Marked:
    """Of a program whose functions may share bodies of loops. own: what `_own` has found, by what it hangs on; bodies:
    with their marks, by these: what is marked alike is the same again."""

    def __init__(self) -> None:
        self.own: Known = {}
        self.bodies: dict[tuple[object, ...], Graph] = {}

    def body(self, body: Graph, marks: Marks) -> Graph:
        """With these marks in it and in its loops."""
        nodes = [n if not isinstance(n.op, Repeat) else self.loop(n, n.op, marks) for n in body.nodes]
        mine = tuple(marks.get(id(body), ()))
        if not mine and all(a is b for a, b in zip(nodes, body.nodes)):
            return body
        return replace(body, nodes=tuple(nodes), regions=mine)

    def loop(self, node: Node, op: Repeat, marks: Marks) -> Node:
        mine = tuple([(id(of), *marks.get(id(of), ())) for of in bodies(op.body)])
        body = self.bodies.get(mine)
        if body is None:
            body = self.bodies[mine] = self.body(op.body, marks)
        return node if body is op.body else replace(node, op=replace(op, body=body))


def _marks(cls: DeviceClass, asked: RegionQuestions, known: Known) -> dict[FunctionKey, Marks]:
    """By function: a body of several may be marked otherwise in each."""
    found: dict[FunctionKey, Marks] = {f.key: {} for f in cls.functions}
    weights = {s.name for s in cls.states if s.role is Role.WEIGHT}
    kept = _Kept()
    for f in sorted(cls.functions, key=lambda f: f.phase is not FunctionPhase.FORWARD):  # what it keeps is looked for
        if f.phase is FunctionPhase.UPDATE:
            continue
        sunk: dict[int, set[str]] = {}
        mark_sunk(f.body, set(), sunk)
        own = _own(f.body, weights, (), sunk, asked, known)
        _enter(found[f.key], ((body, region) for body, regions in own for region in regions))
        kept.function(f, own, found[f.key])
    for f, region in _losses(cls):
        _enter(found[f.key], ((f.body, region),))
    for key, body, node, copies in asked.ask(partial(_routing, cls, {})) if exchanges(cls) else ():
        if copies != ONE:
            mark = Region(RegionKind.ROUTING, (node.outputs[0].name,), copies=copies.number, places=copies.places)
            found[key].setdefault(id(body), []).append(mark)
    return found


def _routing(
    cls: DeviceClass, known: Relevant, sizes: Mapping[str, int]
) -> tuple[tuple[FunctionKey, Graph, Node, Copies], ...]:
    return tuple(routing(cls, sizes, known))


def _enter(found: Marks, regions: Iterable[tuple[Graph, FoundRegion]]) -> None:
    orders: dict[int, dict[Node, int]] = {}
    for body, region in regions:
        if id(body) not in orders:
            orders[id(body)] = {n: i for i, n in enumerate(body.nodes)}
        order = orders[id(body)]
        mine = sorted((n for n in region.nodes if n in order and n.outputs), key=order.__getitem__)
        values = tuple(n.outputs[0].name for n in mine)
        if values:
            found.setdefault(id(body), []).append(
                Region(region.kind, values, region.kept, region.over, most=region.most)
            )


def _own(
    body: Graph,
    states: Collection[str],
    given: Collection[Value],
    sunk: Mapping[int, set[str]],
    asked: RegionQuestions,
    known: Known,
) -> Own:
    """Attentions and norms of a body and its loops. states: those that are weights; given: its inputs that are; known:
    what was found of loops."""
    weights = set(given)
    found: Own = []
    for node in body.nodes:
        op = node.op
        if isinstance(op, Repeat):
            inner = [p for v, p in zip(node.inputs, op.body.inputs) if v in weights]
            key = id(op.body), tuple(map(id, inner)), frozenset(sunk[id(op.body)])
            if key not in known:
                known[key] = _own(op.body, states, inner, sunk, asked, known)
            found += known[key]
        elif isinstance(op, Read):
            weights.update(node.outputs if op.name in states else ())
        elif keeps(op) or isinstance(op, Move):
            weights.update(node.outputs if node.inputs[0] in weights else ())
    found.append((body, [*attention(body, weights, sunk[id(body)], asked), *norms(body, weights)]))
    return found


def _losses(cls: DeviceClass) -> Iterator[tuple[Function, FoundRegion]]:
    """Of the passes forward that add to the loss, and of those backward."""
    states = cls.sums_of(Role.LOSS)
    for f in cls.functions:
        ends = [n.inputs[0] for n in f.body.nodes if isinstance(n.op, Accumulate) and n.op.name in states]
        region = loss(f.body, ends) if ends else None
        if region is not None:
            yield f, region
            others = [g for g in cls.functions if g.chunk == f.chunk and g.phase.before is not None]
            yield from ((g, backward(g.body, f.body, region)) for g in others)


class _Kept:
    """Which values are of the inside of which norm: of the norms of a chunk, and through the buffers that keep them."""

    def __init__(self) -> None:
        self.over: list[tuple[str, ...]] = []
        self.buffers: dict[tuple[str, int], int] = {}

    def function(self, f: Function, own: Own, found: Marks) -> None:
        """Marks the derivatives of norms in a function; notes what it keeps of its norms."""
        of: dict[Value, int] = {}
        taken: set[Node] = set()
        for _, regions in own:
            for region in regions:
                if region.kind is RegionKind.NORM:
                    of.update(dict.fromkeys(inside(region), len(self.over)))
                    self.over.append(region.over[0])
                    taken |= region.nodes
        for node in f.body.nodes:
            if isinstance(node.op, Load) and (node.op.name, f.chunk) in self.buffers:
                of[node.output] = self.buffers[node.op.name, f.chunk]
        self._flow(f.body, of)
        for node in f.body.nodes:
            if isinstance(node.op, Save) and node.inputs[0] in of:
                self.buffers[node.op.name, f.chunk] = of[node.inputs[0]]
        if f.phase.before is not None:
            self._derivatives(f.body, of, taken, found)

    def _flow(self, body: Graph, of: dict[Value, int]) -> None:
        """Into the bodies of loops, and out of them in stacks."""
        for node in body.nodes:
            op = node.op
            if isinstance(op, Repeat):
                pairs = [*zip(node.inputs, op.body.inputs)]
                of.update((p, of[v]) for v, p in pairs[op.carries :] if v in of)
                self._flow(op.body, of)
                of.update((v, of[r]) for v, r in zip(node.outputs, op.body.outputs) if r in of)

    def _derivatives(self, body: Graph, of: Mapping[Value, int], taken: set[Node], found: Marks) -> None:
        values: dict[int, list[Value]] = {}
        for node in body.nodes:
            if isinstance(node.op, Repeat):
                self._derivatives(node.op.body, of, taken, found)
        for v in (*body.inputs, *(v for node in body.nodes for v in node.outputs)):
            if v in of:
                values.setdefault(of[v], []).append(v)
        flow, more = Flow(body), list[tuple[Graph, FoundRegion]]()
        for number, kept in values.items():
            nodes = norm_derivative(flow, kept, self.over[number]) - taken
            if nodes:
                more.append((body, FoundRegion(RegionKind.NORM, nodes, over=(self.over[number],))))
        _enter(found, more)
