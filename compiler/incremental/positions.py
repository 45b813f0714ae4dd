"""Which dims of which values are positions along the dim of a model that is decoded."""

from __future__ import annotations

from compiler.graph import Graph, Names, Value
from compiler.model import Model
from compiler.ops.repeat import Repeat
from compiler.walk import graph_values


def unused(model: Model, name: str) -> str:
    """The name of a dim, or one like it, that no dim of the model has."""
    return Names({d.name for v in graph_values(model.graph) for d in v.type.dims}).fresh(name)


class Positions:
    """By value, the names of its dims that are the positions of one dim of the model's data, whatever they are called.

    Two dims are of one kind where an op walks both in one loop, and they are of one size.
    """

    def __init__(self, model: Model, dim: str) -> None:
        self.size = next(i.value.type.size(dim) for i in model.inputs if i.value.type.has(dim))
        self.dim = dim
        self.past = unused(model, "past")  # the last positions, where some are kept
        self._up: dict[tuple[int, str], tuple[int, str]] = {}
        self._graph(model.graph)
        self._seeds = {self._find((id(i.value), dim)) for i in model.inputs if i.value.type.has(dim)}
        self._seats: set[tuple[int, str]] = set()
        self._known: dict[int, tuple[str, ...]] = {}
        self._kept = model  # ids stay those of its values

    def of(self, v: Value) -> tuple[str, ...]:
        """The names of these dims of a value."""
        found = self._known.get(id(v))
        if found is None:
            roots = [(d, self._find((id(v), d.name))) for d in v.type.dims]
            found = tuple(
                d.name for d, root in roots if (d.size == self.size and root in self._seeds) or root in self._seats
            )
            self._known[id(v)] = found
        return found

    def seat(self, v: Value, dim: str) -> None:
        """Take a dim for one of positions, too, with all that ops walk with it: the seats of experts, each of which has
        a position of its own."""
        self._seats.add(self._find((id(v), dim)))
        self._known.clear()

    def scans(self, op: Repeat) -> bool:
        """Whether the loop goes from position to position."""
        return op.count == self.size and self._find((id(op.body), op.label)) in self._seeds

    def _find(self, key: tuple[int, str]) -> tuple[int, str]:
        root = key
        while (up := self._up.get(root, root)) != root:
            root = up
        while key != root:
            self._up[key], key = root, self._up.get(key, key)
        return root

    def _join(self, a: tuple[int, str], b: tuple[int, str]) -> None:
        left, right = self._find(a), self._find(b)
        if left != right:
            self._up[left] = right

    def _alike(self, a: Value, b: Value) -> None:
        for d in a.type.dims:
            if b.type.has(d.name):
                self._join((id(a), d.name), (id(b), d.name))

    def _graph(self, graph: Graph) -> None:
        for node in graph.nodes:
            op = node.op
            if isinstance(op, Repeat):
                self._loop(op, node.inputs, node.outputs)
                continue
            loops = op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
            for loop in loops:
                sides = zip((*node.inputs, *node.outputs), (*loop.ins, *loop.outs))
                first: dict[int, tuple[int, str]] = {}
                for v, n in sides:
                    if n is not None:
                        key = id(v), n
                        self._join(key, first.setdefault(v.type.size(n), key))

    def _loop(self, op: Repeat, inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> None:
        body, last = op.body, op.carries + op.stacks
        self._graph(body)
        for i, (given, param) in enumerate(zip(inputs, body.inputs)):
            self._alike(given, param)
            if op.carries <= i < last:
                self._join((id(given), op.label), (id(body), op.label))
        for i, (result, made) in enumerate(zip(outputs, body.outputs)):
            self._alike(result, made)
            if i < op.carries:
                self._alike(made, body.inputs[i])
            else:
                self._join((id(result), op.label), (id(body), op.label))
