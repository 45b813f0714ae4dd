"""Dims in another order than their positions': `split s on cp zigzag`.

Splitting is not told of orders: a dim of which devices are to have blocks in zig-zag order *lies* in that order in the
model, from one operation to the next, and is then cut into pieces as any other. Where elements of pieces do not depend
on where they stand (`Loop`s of kind `pass`, `sum` and `max`), nothing changes; positions are computed to be the logical
ones; where an op needs neighbours or an order, and where values come in and go out, `zigzag` stands, which is an
exchange between devices if the dim is split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.model import Model
from compiler.ops.base import Loop, Op
from compiler.ops.create import Iota
from compiler.ops.repeat import Repeat
from compiler.ops.zigzag import ZigZag
from compiler.origin import Origin, within
from compiler.strategy import SplitRule, Strategy
from compiler.walk import graph_values
from dsl.diagnostics import fail

Slot = tuple[Value, str]
"""A dim of a value."""


def ordered(model: Model, strategy: Strategy) -> Model:
    """The model in which dims lie in the orders that the strategy's rules say. Raises E0435 and E0436."""
    rules = strategy.zigzags
    if not rules:
        return model
    orders = _Orders(model, strategy, rules)
    orders.look(model.graph)
    orders.settle()
    return replace(model, graph=orders.changed(model.graph))


class _Orders:
    """Which dims of which values lie in zig-zag order: those of the rules, and what goes with them.

    Dims that an op walks together are in one order, so they are of one class; so is, for each op, the dim as it walks
    it (`(node, i)`), to which operands are brought that are of none.
    """

    def __init__(self, model: Model, strategy: Strategy, rules: Sequence[SplitRule]) -> None:
        self.names = Names(v.name for v in graph_values(model.graph))
        self.rules = rules
        sizes = {a.name: a.size for a in strategy.mesh}
        self.parts = {r.axis: sizes[r.axis] for r in rules}
        self.by_hand = [(r.scope, frozenset(a for a, _ in r.axes)) for r in strategy.implementations]
        self.of: dict[object, object] = {}
        self.free: dict[Slot, tuple[SplitRule, ...]] = {}
        self.walks: dict[Node, list[Loop | None]] = {}
        self.orders: dict[object, int] = {}

    # --- classes --------------------------------------------------------------------------------------------

    def look(self, graph: Graph) -> None:
        """Every node of the graph and of the bodies in it."""
        for node in graph.nodes:
            if isinstance(node.op, Repeat):
                self._loop(node, node.op)
                continue
            rules = self._rules(node.outputs[0], _written(node))
            if rules:
                self._allow(node.outputs, rules)
                self.walks[node] = self._loops(node)
                for k, loop in enumerate(self.walks[node]):
                    for slot in _walked(node, loop) if loop is not None else ():
                        self._join((node, k), slot)

    def _loop(self, node: Node, op: Repeat) -> None:
        """What enters an iteration lies as what leaves it."""
        body, carries = op.body, op.carries
        for i, v in enumerate(body.inputs):
            rules = self._rules(v)
            if not rules:
                continue
            self._allow([v], rules)
            for name in v.type.names:
                self._join((v, name), (node.inputs[i], name))
        self.look(body)
        for i, (inside, out) in enumerate(zip(body.outputs, node.outputs, strict=True)):
            like = body.inputs[i] if i < carries else inside
            for name in inside.type.names:
                if (like, name) in self.free:
                    self.free[out, name] = self.free[like, name]
                    self._join((like, name), (out, name))
                    self._join((like, name), (inside, name))

    def _rules(self, value: Value, written: bool = False) -> tuple[SplitRule, ...]:
        """Those that speak of what is made there. written: the end of what is written by hand, whose pieces are whole
        again."""
        path = value.origin.path
        axes = next((axes for scope, axes in self.by_hand if within(path, scope)), frozenset())
        return tuple(
            r
            for r in self.rules
            if "activations" in r.classes and within(path, r.scope) and (written or r.axis not in axes)
        )

    def _allow(self, values: Sequence[Value], rules: tuple[SplitRule, ...]) -> None:
        """Their dims may lie in any order. Raises E0435 for one that is to, and cannot."""
        self.free.update(((v, name), rules) for v in values for name in v.type.names)
        for v, rule in ((v, r) for v in values for r in rules if v.type.has(r.dims[0])):
            name, parts = rule.dims[0], self.parts[rule.axis]
            size = v.type.size(name)
            if size % (2 * parts):
                message = (
                    f"dim {name} of {v.origin.path} has size {size}, which does not divide into 2 x {parts} blocks"
                )
                help = f"in zig-zag order each of the {parts} devices of `{rule.axis}` has two blocks of one length"
                raise fail("E0435", message, rule.span, help=help)

    def _loops(self, node: Node) -> list[Loop | None]:
        """The loops of an op which blocks may go through in any order; None in the places of others, whose dims
        are forbidden to lie in another order than their own."""
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        positions = isinstance(node.op, Iota) and not node.op.zigzag
        found: list[Loop | None] = []
        seen: set[Slot] = set()
        for loop in loops:
            slots = _walked(node, loop)
            even = all(v.type.size(name) % (2 * n) == 0 for v, name in slots for n in self.parts.values())
            if loop.kind in ("pass", "sum", "max") and even and (positions or not loop.placed):
                found.append(loop)
            else:
                found.append(None)
                for slot in slots if not (_written(node) and loop.kind == "move") else ():
                    if slot[0] in node.outputs and slot not in seen:
                        self.free.pop(slot, None)
            seen.update(slots)
        return found

    def _join(self, one: object, other: object) -> None:
        """Both are of one class, if the second may lie in any order but its own."""
        if other in self.free:
            self.of[self._class(one)] = self._class(other)

    def _class(self, of: object) -> object:
        while (next := self.of.get(of, of)) != of:
            self.of[of] = self.of.get(next, next)
            of = next
        return of

    def settle(self) -> None:
        """The order of each class. Raises E0436."""
        said: dict[object, tuple[SplitRule, str]] = {}
        for (v, name), rules in self.free.items():
            meant = [r for r in rules if name in r.dims]
            if not meant:
                continue
            rule, where = meant[0], v.origin.path
            other = next((r for r in meant if r.axis != rule.axis), None)
            if other is not None:
                message = (
                    f"`{name}` of `{where}` cannot lie in the orders of two axes, `{rule.axis}` and `{other.axis}`"
                )
                notes = [("the first is said here", rule.span)]
                help = "say the order of one of them; the other cuts its pieces"
                raise fail("E0436", message, other.span, notes=notes, help=help)
            parts = self.parts[rule.axis]
            of = self._class((v, name))
            first, there = said.setdefault(of, (rule, where))
            if self.parts[first.axis] != parts:
                message = f"`{name}` of `{where}` goes with what lies in the order of `{first.axis}`: `{there}`"
                notes = [("that order is said here", first.span)]
                raise fail("E0436", message, rule.span, notes=notes, help="narrow one of the rules with `in SCOPE`")
            self.orders[of] = parts

    def order(self, of: object) -> int:
        """In how many parts a slot lies in zig-zag order; 0: in its own order."""
        if isinstance(of[0], Value) and of not in self.free:  # type: ignore[index]
            return 0
        return self.orders.get(self._class(of), 0)

    # --- the graph ------------------------------------------------------------------------------------------

    def changed(self, graph: Graph, leaving: Sequence[Mapping[str, int]] | None = None) -> Graph:
        """The graph with what brings dims from one order to the other. leaving: in how many parts dims of the outputs
        are to lie; None: they keep their names, and lie in their own order."""
        env: dict[Value, Value] = {}
        brought: dict[tuple[Value, tuple[Op, ...]], Value] = {}
        nodes: list[Node] = []
        ends = {} if leaving is not None else {v: self._inner(v) for v in graph.outputs if self._lies(v)}
        env.update(ends)

        def fetch(v: Value, wanted: Mapping[str, int]) -> Value:
            steps = self._steps(v, wanted)
            if (v, steps) not in brought:
                brought[v, steps] = self._brought(env.get(v, v), v, steps, nodes)
            return brought[v, steps]

        for node in graph.nodes:
            op = node.op
            if isinstance(op, ZigZag):
                (x,), y = node.inputs, node.output
                if op.parts == self.order((y if op.back else x, op.dim)):  # it lies so already
                    as_result = {n: self.order((y, n)) for n in x.type.names}
                    env[y] = fetch(x, {**as_result, op.dim: self.order((x, op.dim))})
                    continue
            outputs = tuple(ends.get(v, v) for v in node.outputs)
            if isinstance(op, Iota) and not op.zigzag:
                op = replace(op, zigzag=self.order((node.output, op.dim.name)))
            inputs = tuple(fetch(v, w) for v, w in zip(node.inputs, self._wanted(node), strict=True))
            if isinstance(op, ZigZag) and op.back and (lies := self.order((node.output, op.dim))):
                whole = Value(
                    self.names.fresh(f"{node.output.name}.in_order"), node.output.type, origin=outputs[0].origin
                )
                nodes.append(Node(op, inputs, (whole,), node.span))
                self._brought(whole, node.output, (ZigZag(op.dim, lies),), nodes, outputs[0])
                continue
            if isinstance(op, Repeat):
                likes = (*op.body.inputs[: op.carries], *node.outputs[op.carries :])
                left = [self._lies(v) for v in likes]
                op = replace(op, body=self.changed(op.body, left))
            nodes.append(Node(op, inputs, outputs, node.span))
        if leaving is not None:
            results = tuple(fetch(v, w) for v, w in zip(graph.outputs, leaving, strict=True))
            return Graph(graph.name, graph.inputs, tuple(nodes), results)
        for v, inner in ends.items():
            self._brought(inner, v, self._steps(v, {}), nodes, v)
        return Graph(graph.name, graph.inputs, tuple(nodes), graph.outputs)

    def _lies(self, v: Value) -> dict[str, int]:
        """The dims of a value that lie in zig-zag order, with their parts."""
        return {name: parts for name in v.type.names if (parts := self.order((v, name)))}

    def _inner(self, v: Value) -> Value:
        """What an output of the model is before its dims are in their own order again."""
        return replace(v, name=self.names.fresh(f"{v.name}.zigzag"))

    def _steps(self, v: Value, wanted: Mapping[str, int]) -> tuple[ZigZag, ...]:
        """What brings a value into the orders that are wanted."""
        steps: list[ZigZag] = []
        for name in v.type.names:
            has, wants = self.order((v, name)), wanted.get(name, 0)
            if has != wants:
                steps += [ZigZag(name, has, True)] if has else []
                steps += [ZigZag(name, wants)] if wants else []
        return tuple(steps)

    def _brought(
        self, x: Value, of: Value, steps: Sequence[ZigZag], nodes: list[Node], last: Value | None = None
    ) -> Value:
        """The value `of`, which lies as `x`, behind these steps; last: what it is then."""
        for k, op in enumerate(steps):
            word = "in_order" if op.back else "zigzag"
            out = Value(self.names.fresh(f"{of.name}.{word}"), of.type, of.span, Origin(of.origin.path))
            if last is not None and k == len(steps) - 1:
                out = last
            nodes.append(Node(op, (x,), (out,), of.span))
            x = out
        return x

    def _wanted(self, node: Node) -> list[dict[str, int]]:
        """In how many parts an op takes the dims of its operands."""
        if isinstance(node.op, Repeat):
            return [self._lies(v) for v in node.op.body.inputs]
        wanted: list[dict[str, int]] = [{} for _ in node.inputs]
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        for k, walked in enumerate(self.walks.get(node, ())):
            for of, name in zip(wanted, loops[k].ins):
                if name is not None:
                    of.setdefault(name, self.order((node, k)) if walked is not None else 0)
        return wanted


def _written(node: Node) -> bool:
    """Whether it puts what is written by hand into its own order: it may stay as it lies."""
    return isinstance(node.op, ZigZag) and node.op.back


def _walked(node: Node, loop: Loop) -> list[Slot]:
    """The dims that a loop walks, results' first."""
    rows = (*zip(node.outputs, loop.outs), *zip(node.inputs, loop.ins))
    return [(v, name) for v, name in rows if name is not None]
