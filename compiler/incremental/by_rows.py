"""Each row of the batch at a position of its own: what hangs on the position alone gets the rows' dim, too.

So sequences come and go while others go on: a row that takes no part in a call keeps what it has, and one at position 0
begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.graph import Builder, Dim, Graph, Names, Node, Type, Value
from compiler.incremental.refusals import mixes_rows, no_rows
from compiler.model import DataInput, Model
from compiler.ops.base import Op, OpError
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Broadcast, Map, Transpose
from compiler.ops.index import Scatter
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Concat
from compiler.origin import Origin
from compiler.walk import graph_values
from dsl.source import Span

POSITION = "position"
"""What the data is called that says at which position each row is; of one that takes no part, -1."""


def by_rows(model: Model, position: Value | None, rows: str, places: int, span: Span) -> Model:
    """The same model of new positions, which are others in each row.

    Args:
        position: its state that counts them, which becomes data `[rows]`; None: nothing hangs on it.
        rows: the dim of sequences.
        places: how many positions there can be.
        span: where errors point at.

    The position is the last of its data. Raises ParcError: E0782 with the op where one row hangs on others.
    """
    dim = next(d for i in model.inputs for d in i.value.type.dims if d.name == rows)
    names = Names(v.name for v in graph_values(model.graph))
    builder = Builder(names)
    given = Value(names.fresh(POSITION), Type("int32", (dim,)), span, Origin(POSITION))
    lift = _Lift(dim, builder, span)
    at = builder.add(Map("maximum", (None, 0)), given, name="at")
    lift.active = builder.add(Map("ge", (None, 0)), given, name="active")
    going = builder.add(Map("gt", (None, 0)), given, name="going")
    count = len(model.graph.outputs) - len(model.states)
    contents = dict(zip((s.value for s in model.states), model.graph.outputs[count:]))
    made = {v: node for node in model.graph.nodes for v in node.outputs}
    kept = [s for s in model.states if s.value is not position]
    carried = [s for s in kept if contents[s.value] is not s.value and stored(contents[s.value], made) is None]
    if position is not None:
        lift.known[position] = at
    for s in carried:
        if not s.value.type.has(rows):
            raise no_rows(s.value, rows, span)
        begin = 0.0 if s.init.kind == "zeros" else float(s.init.args[0])
        if s.value.type.dtype == "bool":  # which no literal stands for
            empty = lift.add(Full(begin, "bool", s.value.type.dims), like=s.value)
            begun = lift.add(Map("where", (None, None, None)), going, s.value, empty, like=s.value)
        else:
            number = begin if s.value.type.is_float else int(begin)
            begun = lift.add(Map("where", (None, None, number)), going, s.value, like=s.value)
        lift.known[s.value] = lift.ordered(begun, s.value.type, s.value)
    lift.nodes(model.graph.nodes)
    results = [lift.of(v) for v in model.graph.outputs[:count]]
    for s in kept:
        value = lift.of(contents[s.value]) if contents[s.value] is not s.value else s.value
        if s in carried:
            value = lift.add(Map("where", (None, None, None)), lift.active, value, s.value, like=s.value)
            value = lift.ordered(value, s.value.type, s.value)
        results.append(value)
    before = [*(i.value for i in model.inputs), *(w.value for w in model.weights), *(s.value for s in kept)]
    step = [] if model.step is None else [model.step]
    first = len(model.inputs)
    inputs = (*before[:first], given, *before[first:], *step)
    graph = Graph(model.graph.name, inputs, tuple(builder.nodes), tuple(results))
    data = (*model.inputs, DataInput(given, -1, places))
    return replace(model, inputs=data, states=tuple(kept), graph=graph)


def rewinds(model: Model, places: int) -> bool:
    """Whether a row of such a model can go back to any position that it was at: of all that is kept, each position has
    a place of its own, which nothing later takes."""
    contents = model.graph.outputs[len(model.graph.outputs) - len(model.states) :]
    made = {v: node for node in model.graph.nodes for v in node.outputs}
    pairs = zip(model.states, contents, strict=True)
    return all(c is s.value or s.pool is not None or stored(c, made, places) is not None for s, c in pairs)


def stored(content: Value, made: Mapping[Value, Node], places: int | None = None) -> str | None:
    """The dim by whose numbers rows are found to renew a state, of which those of rows that take no part are not; None:
    it is renewed otherwise. places: and there are so many."""
    node = made.get(content)
    if node is None:
        return None
    if isinstance(node.op, Repeat):
        body = node.op.body
        inside = {v: n for n in body.nodes for v in n.outputs}
        return stored(body.outputs[node.outputs.index(content)], inside, places)
    found = isinstance(node.op, Scatter) and places in (None, content.type.size(node.op.dim))
    return node.op.dim if found and isinstance(node.op, Scatter) else None


def mixes(node: Node, rows: str) -> bool:
    """Whether a row of the results is made of others of the operands. node: no loop."""
    if not any(v.type.has(rows) for v in node.inputs):
        return False
    loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
    return any(
        v.type.has(rows)
        and not any(loop.kind == "pass" and loop.ins[i] == rows and all(n == rows for n in loop.outs) for loop in loops)
        for i, v in enumerate(node.inputs)
    )


class _Lift:
    """A graph on its way. known: what became of a value; one that hangs on the position has the rows' dim in front,
    where it had none. active: which rows take part."""

    def __init__(self, rows: Dim, builder: Builder, span: Span) -> None:
        self.rows, self.builder, self.span = rows, builder, span
        self.known: dict[Value, Value] = {}
        self.active: Value

    def of(self, v: Value) -> Value:
        return self.known.get(v, v)

    def lifted(self, type: Type) -> Type:
        """The type with the rows' dim."""
        return type if type.has(self.rows.name) else Type(type.dtype, (self.rows, *type.dims))

    def add(self, op: Op, *operands: Value, like: Value) -> Value:
        """A node that belongs to a value."""
        (type,) = op.infer(*(x.type for x in operands))
        value = Value(self.builder.names.fresh(like.name), type, like.span, like.origin)
        self.builder.nodes.append(Node(op, operands, (value,), like.span))
        return value

    def ordered(self, x: Value, type: Type, like: Value) -> Value:
        """The value with its dims in this type's order."""
        return x if x.type.names == type.names else self.add(Transpose(type.names), x, like=like)

    def with_rows(self, x: Value) -> Value:
        """The value repeated in every row."""
        return x if x.type.has(self.rows.name) else self.add(Broadcast(self.lifted(x.type).dims), x, like=x)

    def nodes(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if isinstance(node.op, Repeat):
                self._loop(node, node.op)
            else:
                if mixes(node, self.rows.name):
                    raise mixes_rows(node, self.rows.name, self.span)
                self._node(node)

    def _node(self, node: Node) -> None:
        operands = [self.of(v) for v in node.inputs]
        guarded = isinstance(node.op, Scatter) and operands[0].type.has(self.rows.name)
        if guarded:
            nowhere = self.add(Map("where", (None, None, -1)), self.active, operands[2], like=node.inputs[2])
            operands[2] = self.ordered(nowhere, self.lifted(operands[2].type), node.inputs[2])
        if not guarded and all(x.type == v.type for x, v in zip(operands, node.inputs)):
            if any(x is not v for x, v in zip(operands, node.inputs)):
                outputs = tuple(replace(v) for v in node.outputs)
                self.builder.nodes.append(Node(node.op, tuple(operands), outputs, node.span))
                self.known.update(zip(node.outputs, outputs))
            else:
                self.builder.nodes.append(node)
            return
        (out,) = node.outputs
        want = self.lifted(out.type)
        try:
            found = self._lifted(node, operands, out)
        except OpError:
            raise mixes_rows(node, self.rows.name, self.span) from None
        if set(found.type.dims) != set(want.dims):
            raise mixes_rows(node, self.rows.name, self.span)
        self.known[out] = self.ordered(found, want, out)

    def _lifted(self, node: Node, operands: list[Value], out: Value) -> Value:
        """The op of operands that have the rows' dim where they hang on the position."""
        op, name = node.op, self.rows.name
        if isinstance(op, Iota) and operands:
            return self.add(Map("add", (None, None)), self.add(Iota(op.dim, op.zigzag), like=out), *operands, like=out)
        if isinstance(op, Broadcast):
            op = Broadcast(op.dims if out.type.has(name) else (self.rows, *op.dims))
        elif isinstance(op, (Contract, Transpose)):
            op = replace(op, dims=op.dims if name in op.dims else (name, *op.dims))
        elif isinstance(op, Scatter):
            operands[1] = self.with_rows(operands[1])
        elif isinstance(op, Concat):
            operands = [self.with_rows(x) for x in operands]
            first = operands[0].type.names
            operands = [x if x.type.names == first else self.add(Transpose(first), x, like=out) for x in operands]
        return self.add(op, *operands, like=out)

    def _loop(self, node: Node, op: Repeat) -> None:
        """A loop whose body is given what the graph around it is, and which rows take part."""
        if op.label == self.rows.name:
            raise mixes_rows(node, self.rows.name, self.span)
        body, last = op.body, op.carries + op.stacks
        given = [self.of(v) for v in node.inputs]
        while True:
            inside = _Lift(self.rows, Builder(self.builder.names.copy()), self.span)
            params = []
            for param, x in zip(body.inputs, given):
                new = not param.type.has(self.rows.name) and x.type.has(self.rows.name)
                params.append(replace(param, type=self.lifted(param.type)) if new else param)
                if new:
                    inside.known[param] = params[-1]
            inside.active = replace(self.active, name=inside.builder.names.fresh(self.active.name))
            inside.nodes(body.nodes)
            made = [inside.of(v) for v in body.outputs]
            grown = [i for i in range(op.carries) if made[i].type != params[i].type]
            if not grown:
                break
            for i in grown:  # begins without rows and ends with them, or goes on without
                if given[i].type.has(self.rows.name):
                    made[i] = inside.with_rows(made[i])
                else:
                    given[i] = self.with_rows(given[i])
            if all(made[i].type == self.lifted(body.inputs[i].type) == params[i].type for i in grown):
                break
        self.builder.names = inside.builder.names
        for i in range(op.carries, last):
            want = Type(params[i].type.dtype, (Dim(op.label, op.count), *params[i].type.dims))
            given[i] = self.ordered(given[i], want, node.inputs[i])
        graph = Graph(body.name, (*params, inside.active), tuple(inside.builder.nodes), tuple(made))
        loop = replace(op, body=graph)
        operands = (*given, self.active)
        outputs = tuple(replace(v, type=t) for v, t in zip(node.outputs, loop.infer(*(x.type for x in operands))))
        self.builder.nodes.append(Node(loop, operands, outputs, node.span))
        for v, x in zip(node.outputs, outputs):
            self.known[v] = x if x.type == v.type else self.ordered(x, self.lifted(v.type), v)
