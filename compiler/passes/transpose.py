"""Reverse mode: the nodes that compute cotangents. They still refer freely to values of the forward graph;
`compiler.passes.residuals` decides which of those are saved and closes the backward graph over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, cast

from compiler.graph import Builder, Graph, Names, Node, Type, Value
from compiler.ops.create import Full
from compiler.ops.derivatives import vjp
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.origin import Origin, Phase
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class OpenRepeat(Repeat):
    """A loop whose body refers freely to the values of the body of `twin`, a `Repeat` node of the forward graph.

    Its operands are carries and stacks; what else it needs is added when it is closed.
    """

    mnemonic: ClassVar[str] = "open_repeat"
    twin: Node | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """What a value of a graph under construction is called in the end, and where it comes from."""

    name: str
    origin: Origin

    @staticmethod
    def gradient(of: Value, word: str = "") -> Label:
        """Of the cotangent of a value, or of what is made by `word` on the way to one."""
        name = f"{of.name}.grad.{word}" if word else f"{of.name}.grad"
        return Label(name, Origin(of.origin.path, Phase.GRADIENT, of.name))

    def then(self, word: str) -> Label:
        """Of what is made of that by `word`."""
        return Label(f"{self.name}.{word}", self.origin)


class _Scratch(Names):
    """Names of values that are named anew later: no need to be unique."""

    def fresh(self, name: str) -> str:
        return name


class Transposer:
    """Builds the backward nodes of one graph, or of one loop's body.

    `labels`: what values are in the end; `owners`: cotangent -> names of the values that it is of.
    """

    def __init__(self, labels: dict[Value, Label], owners: dict[Value, list[str]]) -> None:
        self.labels = labels
        self.owners = owners
        self.b = Builder(_Scratch())
        self.parts: dict[Value, list[Value]] = {}
        self.sums: dict[Value, Value] = {}

    def seed(self, value: Value, cotangent: Value) -> None:
        """The cotangent is (part of) that of `value`."""
        self.parts.setdefault(value, []).append(cotangent)

    def cotangent(self, value: Value) -> Value | None:
        """The sum of what the readers of `value` sent back; None for zero. Ask when all have been visited."""
        if value in self.sums:
            return self.sums[value]
        parts = self.parts.get(value)
        if not parts:
            return None
        label = Label.gradient(value)
        total = parts[0]
        for part in parts if len(parts) > 1 else ():
            if self.labels.get(part) == label:
                self.labels[part] = label.then("part")
        for part in parts[1:]:
            total = self.b.add(Map("add", (None, None)), total, part, span=value.span)
            self.labels[total] = label
        self.labels.setdefault(total, label)
        self.owners.setdefault(total, []).append(value.name)
        self.sums[value] = total
        return total

    def run(self, nodes: Sequence[Node], active: set[Value]) -> None:
        """Visit the nodes from the last to the first; cotangents of values that are not `active` are left out."""
        for node in reversed(nodes):
            if not any(v in self.parts for v in node.outputs):
                continue
            given = [self.cotangent(v) for v in node.outputs]
            mark = len(self.b.nodes)
            if isinstance(node.op, Repeat):
                back = self._repeat(node, given, active)
            else:
                back = vjp(node.op, self.b, node.inputs, node.outputs, given)
            for made in self.b.nodes[mark:]:
                for v in made.outputs:
                    self.labels.setdefault(v, Label.gradient(node.outputs[0], v.name))
            for operand, cotangent in zip(node.inputs, back, strict=True):
                if cotangent is not None and operand in active:
                    self.seed(operand, cotangent)

    def _zero(self, type: Type, label: Label) -> Value:
        zero = self.b.add(Full(0.0, type.dtype, type.dims))
        self.labels[zero] = label
        return zero

    def _repeat(self, node: Node, given: Sequence[Value | None], active: set[Value]) -> list[Value | None]:
        """The loop that runs backward; cotangents of the node's operands.

        A carry's cotangent may depend on another's that was zero after the loop: then that one is a carry too, and the
        body is built once more.
        """
        op = cast(Repeat, node.op)
        carried = {i for i in range(op.carries) if given[i] is not None}
        while True:
            body = _Body(node, given, active, carried, self.labels, self.owners)
            if body.carried == carried:
                break
            carried = body.carried
        order = sorted(carried)
        starts = [given[i] or self._zero(node.outputs[i].type, Label.gradient(node.outputs[i])) for i in order]
        sums = [self._zero(v.type, Label.gradient(v, "zero")) for v in body.summed.values()]
        stacks = [g for g in given[op.carries :] if g is not None]
        loop = OpenRepeat(
            op.label, op.count, body.graph(), len(starts) + len(sums), len(stacks), not op.reverse, op.scan, node
        )
        operands = (*starts, *sums, *stacks)
        # `infer` is of no use for an open body: the types are those of what the cotangents belong to.
        owners = [node.inputs[i] for i in (*order, *body.summed, *body.sliced)]
        outputs = tuple(cotangent(v) for v in owners)
        self.labels.update((out, Label.gradient(v)) for out, v in zip(outputs, owners, strict=True))
        self.b.nodes.append(Node(loop, operands, outputs, node.span))
        back: list[Value | None] = [None] * len(node.inputs)
        for i, out in zip((*order, *body.summed, *body.sliced), outputs, strict=True):
            back[i] = out
        return back


class _Body:
    """The body of a backward loop.

    carried: carries of the forward loop whose cotangents are carried; summed: its invariants (index -> parameter),
    whose cotangents add up over the iterations; sliced: indices of stacks that get a stack of cotangents.
    """

    def __init__(
        self,
        node: Node,
        given: Sequence[Value | None],
        active: set[Value],
        carried: set[int],
        labels: dict[Value, Label],
        owners: dict[Value, list[str]],
    ) -> None:
        op = cast(Repeat, node.op)
        body = op.body
        t = Transposer(labels, owners)
        self.name = f"{body.name}.grad"
        self.params: list[Value] = []
        self.results: list[Value] = []
        for i in sorted(carried):
            self._enter(t, body.outputs[i])
        slices: list[Value] = []
        for i in range(op.carries, len(given)):
            if given[i] is not None:
                slices.append(self._enter(t, body.outputs[i]))
        taken = set(slices)
        self.params = [p for p in self.params if p not in taken]
        inside = {
            p
            for i, (p, x) in enumerate(zip(body.inputs, node.inputs, strict=True))
            if p.type.is_float and (i < op.carries or x in active)
        }
        t.run(body.nodes, reach(body.nodes, inside))
        grads = {i: t.cotangent(p) for i, p in enumerate(body.inputs) if p in inside}
        self.carried = carried | {i for i in range(op.carries) if grads.get(i) is not None}
        self.summed: dict[int, Value] = {}
        self.sliced: list[int] = []
        if self.carried != carried:
            return
        for i in sorted(carried):
            self.results.append(grads.get(i) or t._zero(body.inputs[i].type, Label.gradient(body.inputs[i])))
        for i, p in enumerate(body.inputs):
            grad = grads.get(i)
            if grad is None or i < op.carries + op.stacks:
                continue
            so_far = cotangent(p, "sum")
            total = t.b.add(Map("add", (None, None)), so_far, grad)
            labels[so_far] = labels[total] = Label.gradient(p, "sum")
            self.params.append(so_far)
            self.summed[i] = p
            self.results.append(total)
        for i in range(op.carries, op.carries + op.stacks):
            grad = grads.get(i)
            if grad is not None:
                self.sliced.append(i)
                self.results.append(grad)
        self.params += slices
        self.nodes = tuple(t.b.nodes)

    def _enter(self, t: Transposer, output: Value) -> Value:
        param = cotangent(output)
        self.params.append(param)
        t.seed(output, param)
        return param

    def graph(self) -> Graph:
        return Graph(self.name, tuple(self.params), self.nodes, tuple(self.results))


def cotangent(value: Value, word: str = "") -> Value:
    """A value that stands for the cotangent of `value`, or what is made by `word` on the way to it."""
    label = Label.gradient(value, word)
    return Value(label.name, value.type, value.span, label.origin)


def reach(nodes: Iterable[Node], sources: Iterable[Value]) -> set[Value]:
    """The float values that depend on `sources`, those included."""
    found = set(sources)
    for node in nodes:
        if any(v in found for v in node.inputs):
            found.update(v for v in node.outputs if v.type.is_float)
    return found


def transpose(
    nodes: Sequence[Node],
    seeds: Mapping[Value, Value],
    wanted: Sequence[Value],
    labels: dict[Value, Label],
    owners: dict[Value, list[str]],
) -> tuple[list[Node], list[Value | None]]:
    """Backward nodes, open towards the forward graph, and the cotangents of `wanted` (None: zero)."""
    t = Transposer(labels, owners)
    for value, cotangent in seeds.items():
        t.seed(value, cotangent)
    t.run(nodes, reach(nodes, wanted))
    found = [t.cotangent(v) for v in wanted]
    return t.b.nodes, found
