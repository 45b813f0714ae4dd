"""Ops that go along the positions: what they carry from earlier ones to new ones."""

from __future__ import annotations

from collections.abc import Callable

from compiler.graph import Builder, Dim, Graph, Node, Type, Value
from compiler.incremental import experts
from compiler.incremental.chunk import RULES, Increment
from compiler.incremental.demand import ALL, Demand, only_new
from compiler.incremental.refusals import looks_ahead, no_form
from compiler.model import Init
from compiler.ops.create import Iota
from compiler.ops.elementwise import Broadcast, Map
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Cumsum, Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Concat, Rename, Shift, Slice, Split
from compiler.ops.window import Window
from compiler.origin import Origin
from dsl.source import NOWHERE


@RULES.of(Iota)
def _iota(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    assert isinstance(node.op, Iota)
    if not demand:
        return c.by_op(node, k, demand)
    if demand.seats:
        raise no_form(node.output, node, c.positions)
    if demand.last:
        ((dim, count),) = demand.last
        if not node.inputs:
            return c.last_places(dim, count, node.output)
        first = c.need(node.inputs[0], ALL)
        return c.add(Map("add", (None, None)), c.last_places(dim, count, node.output), first, like=node.output)
    if not node.inputs:
        return c.places(node.output)
    first = c.add(Map("add", (None, None)), c.need(node.inputs[0], ALL), c.around.pos(), like=node.output)
    (value,) = c.emit(Iota(c.new), [first], node, demand)
    return value


@RULES.of(Take, ScatterAdd)
def _by_number(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    """Rows by an index: to the seats of experts, and back."""
    if node.inputs[1] not in c.analysis.numbers:
        return c.by_op(node, k, demand)
    return (experts.take if isinstance(node.op, Take) else experts.back)(c, node, demand)


@RULES.of(Split)
def _split(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    """Places of positions."""
    op, (x,) = node.op, node.inputs
    assert isinstance(op, Split)
    if x not in c.analysis.spread and op.dim not in c.analysis.of(x).bound:
        return c.by_op(node, k, demand)
    if demand != only_new(op.into[0].name):
        raise no_form(node.output, node, c.positions)
    return experts.split(c, node, demand)


@RULES.of(Cumsum)
def _cumsum(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    """What all earlier ones sum up to is carried."""
    op, out = node.op, node.output
    assert isinstance(op, Cumsum)
    if op.dim not in demand.new:
        return c.by_op(node, k, demand)
    _no_pairs(c, node, op.dim)
    x = c.need(node.inputs[0], demand)
    new = c.new.name
    type = Type(x.type.dtype, tuple(d for d in x.type.dims if d.name != new))
    before, number = c.around.state(f"{out.name}.total", type, Init("zeros"), _origin(out, "total"), out)
    sums = c.add(Cumsum(new), x, like=out)
    (value,) = c.emit(Map("add", (None, None)), [sums, before], node, demand)
    one = c.positions.past  # a dim that no rule splits: it is one position
    last = c.add(Slice(new, c.length - 1, c.length, one), value, like=out)
    c.around.renew(number, c.add(Reduce("sum", (one,)), last, like=out, name="total"))
    return value


@RULES.of(Shift)
def _shift(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    """As many of the last ones as it moves by."""
    op = node.op
    assert isinstance(op, Shift)
    if op.dim not in demand.new:
        return c.by_op(node, k, demand)
    joined = _behind(c, node, op.dim, op.by, op.fill, demand)
    op = Slice(c.positions.past, 0, c.length, c.new.name)
    (value,) = c.emit(op, [joined], node, demand)
    return value


@RULES.of(Slice)
def _slice(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    """The first position is kept."""
    op, (x,), out = node.op, node.inputs, node.output
    assert isinstance(op, Slice)
    if op.dim not in c.analysis.of(x).bound:
        return c.by_op(node, k, demand)
    if demand:
        raise no_form(out, node, c.positions)
    rows = c.need(x, only_new(op.dim))
    now = c.add(Slice(c.new.name, 0, 1, op.into), rows, like=out)
    kept, number = c.around.state(f"{x.name}.begun", out.type, Init("zeros"), _origin(x, "begun"), x)
    first = c.add(Map("eq", (None, 0)), c.around.pos(), like=out)
    first = c.add(Broadcast(out.type.dims), first, like=out)
    (value,) = c.emit(Map("where", (None, None, None)), [first, now, kept], node, demand)
    c.around.renew(number, value)
    return value


@RULES.of(Window)
def _window(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    """As many of the last ones as windows look back."""
    op = node.op
    assert isinstance(op, Window)
    if op.out.name not in demand.new:
        return c.by_op(node, k, demand)
    past = c.positions.past
    before = Demand(demand.new - {op.out.name} | {op.dim}, demand.last)
    joined = _behind(c, node, op.dim, op.pad, op.fill, before)
    of = Window(past, c.new, op.kernel, 1, 0, op.fill, op.dilation)
    (value,) = c.emit(of, [joined], node, demand)
    return value


def _behind(c: Increment, node: Node, dim: str, count: int, fill: float, demand: Demand) -> Value:
    """The new positions of the operand behind the last `count` ones, which are kept; `fill` stands before the first."""
    (x,), out = node.inputs, node.output
    if count:
        _no_pairs(c, node, dim)
    rows = c.need(x, demand)
    if not count:
        return c.add(Rename(((c.new.name, c.positions.past),)), rows, like=out)
    key = (x, only_new(dim, f"last {count} {fill}"))
    if key in c.known:
        return c.known[key]
    new, past = c.new.name, c.positions.past
    type = Type(rows.type.dtype, tuple(Dim(past, count) if d.name == new else d for d in rows.type.dims))
    init = Init("zeros") if fill == 0 else Init("constant", (float(fill),))
    before, number = c.around.state(f"{x.name}.last", type, init, _origin(x, "last"), x)
    joined = c.add(Concat(past, past), before, c.add(Rename(((new, past),)), rows, like=out), like=out)
    c.around.renew(number, c.add(Slice(past, c.length, c.length + count, past), joined, like=out, name="last"))
    c.known[key] = joined
    return joined


def _no_pairs(c: Increment, node: Node, dim: str) -> None:
    """Raise ParcError (E0782) where what would be kept of a position hangs on others, too: of a pair with a later
    position there is nothing yet."""
    if c.analysis.of(node.inputs[0]).bound != {dim}:
        raise no_form(node.output, node, c.positions)


@RULES.of(Repeat)
def _repeat(c: Increment, node: Node, k: int, demand: Demand) -> Value:
    """A loop over layers, or one from position to position."""
    op = node.op
    assert isinstance(op, Repeat)
    found = _loop(c, node, op)
    out, natural = node.outputs[k], _natural(c, node, k)
    c.known[out, natural] = found[k]
    if demand == natural:
        return found[k]
    if not natural:
        return c.rows(out, demand)
    raise no_form(out, node, c.positions)


def _natural(c: Increment, node: Node, k: int) -> Demand:
    op = node.op
    assert isinstance(op, Repeat)
    return c.natural(op.body.inputs[k]) if k < op.carries else c.natural(node.outputs[k])


def _loop(c: Increment, node: Node, op: Repeat) -> dict[int, Value]:
    along = op.label if c.positions.scans(op) and _moves(c, op) else None
    inside = _Inside(c, node, op, along)
    inner = Increment(
        c.analysis, c.windows, c.new, inside, op.body, Builder(c.builder.names), c.begun, c.keeps and along is None
    )
    forms = [inner.natural(p) for p in op.body.inputs[: op.carries]]
    inside.begin(inner, forms)
    outputs = [inner.need(v, form) for v, form in zip(op.body.outputs, forms)]
    kept = []
    for k in range(op.carries, len(op.body.outputs)):
        if c.analysis.of(node.outputs[k]).ahead is None:
            kept.append(k)
            outputs.append(inner.need(op.body.outputs[k], _natural(c, node, k).among(op.body.outputs[k].type.names)))
    return inside.end(inner, outputs, kept)


def _moves(c: Increment, op: Repeat) -> bool:
    """Whether anything in the loop hangs on data at its position."""
    return any(op.label in c.analysis.of(v).bound for v in op.body.outputs)


class _Inside:
    """The body of a loop: it is given carries, slices, and what all iterations share; its states are slices, too.

    along: of a loop from position to position its label: it carries what earlier positions left.
    """

    def __init__(self, c: Increment, node: Node, op: Repeat, along: str | None) -> None:
        self.c, self.node, self.op, self.along = c, node, op, along
        self.params = {p: i for i, p in enumerate(op.body.inputs)}
        self.carries: list[Value] = []
        self.initial: list[Value] = []
        self.forms: list[Demand] = []
        self.slices: dict[tuple[int, Demand], tuple[Value, Value]] = {}
        self.shared: dict[Value, Value] = {}
        self.states: list[tuple[Value, Value, int]] = []
        self.contents: dict[int, Value] = {}
        self.renewed: list[int] = []

    def begin(self, inner: Increment, forms: list[Demand]) -> None:
        """Make the carries."""
        self.forms = forms
        for i, form in enumerate(forms):
            given, param = self.node.inputs[i], self.op.body.inputs[i]
            if self.c.analysis.of(self.node.outputs[i]).ahead is not None and self.along is None:
                ahead = self.c.analysis.of(self.node.outputs[i]).ahead
                assert ahead is not None
                raise looks_ahead(ahead, self.c.positions.dim, self.c.positions, given.name, NOWHERE)
            value = self.c.need(given, form) if self.along is None or form else self.c.once(given)
            if self.along is not None:
                value = self._carried(i, given, value)
            self.initial.append(value)
            self.carries.append(self._param(param, value.type))

    def _carried(self, i: int, given: Value, value: Value) -> Value:
        """What the last position left; at first, what the loop begins with."""
        out, made = self.node.outputs[i], self.c.made.get(given)
        begins = made[0].op.uniform() if made is not None else None
        init = Init("zeros") if not begins else Init("constant", (begins,))
        state, number = self.c.around.state(f"{out.name}.carried", value.type, init, _origin(out, "carried"), out)
        self.renewed.append(number)
        if begins is not None:
            return state
        first = self.c.add(Map("eq", (None, 0)), self.c.around.pos(), like=out)
        first = self.c.add(Broadcast(value.type.dims), first, like=out) if value.type.dims else first
        return self.c.add(Map("where", (None, None, None)), first, value, state, like=out, name="begun")

    def _param(self, like: Value, type: Type) -> Value:
        return Value(self.c.builder.names.fresh(like.name), type, like.span, like.origin)

    def gives(self, v: Value, demand: Demand) -> bool:
        i = self.params[v]
        return i >= self.op.carries or demand == self.forms[i]

    def source(self, v: Value, demand: Demand) -> Value:
        i, op = self.params[v], self.op
        if i < op.carries:
            return self.carries[i]
        given = self.node.inputs[i]
        if i >= op.carries + op.stacks:
            found = self.c.need(given, demand) if self.along is None or demand else self.c.once(given)
            return self._shared(found, v)
        if (i, demand) not in self.slices:
            asked = Demand(demand.new | {self.along}, demand.last) if self.along is not None else demand
            stack = self.c.need(given, asked)
            if self.along is not None and stack.type.names[0] == self.c.new.name != op.label:
                stack = self.c.add(Rename(((self.c.new.name, op.label),)), stack, like=v)
            self.slices[i, demand] = stack, self._param(v, Type(stack.type.dtype, stack.type.dims[1:]))
        return self.slices[i, demand][1]

    def _shared(self, value: Value, like: Value) -> Value:
        if value not in self.shared:
            self.shared[value] = self._param(like, value.type)
        return self.shared[value]

    def pos(self) -> Value:
        value = self.c.around.pos()
        return self._shared(value, value)

    def outside(self, make: Callable[[Increment], Value]) -> Value | None:
        value = make(self.c)
        return self._shared(value, value)

    def state(
        self, name: str, type: Type, init: Init, origin: Origin, of: Value | None, loops: tuple[str, ...] = ()
    ) -> tuple[Value, int]:
        if self.along is not None:
            raise no_form(of or self.node.outputs[0], self.node, self.c.positions)
        whole = Type(type.dtype, (Dim(self.op.label, self.op.count), *type.dims))
        value, number = self.c.around.state(name, whole, init, origin, of, (self.op.label, *loops))
        part = Value(self.c.builder.names.fresh(f"{name}.slice"), type, value.span, origin)
        self.states.append((value, part, number))
        return part, len(self.states) - 1

    def renew(self, number: int, value: Value) -> None:
        self.contents[number] = value

    def end(self, inner: Increment, outputs: list[Value], kept: list[int]) -> dict[int, Value]:
        """Put the loop; its results by their numbers."""
        op, c = self.op, self.c
        stacks = [*self.slices.values(), *((s, part) for s, part, _ in self.states)]
        inputs = [*self.carries, *(part for _, part in stacks), *self.shared.values()]
        renewed = [i for i in range(len(self.states)) if i in self.contents]
        made = [*outputs, *(self.contents[i] for i in renewed)]
        body = Graph(op.body.name, tuple(inputs), tuple(inner.builder.nodes), tuple(made))
        count = op.count if self.along is None else c.length
        loop = Repeat(op.label, count, body, op.carries, len(stacks), op.reverse, op.scan)
        operands = [*self.initial, *(s for s, _ in stacks), *self.shared]
        types = loop.infer(*(x.type for x in operands))
        names = c.builder.names
        like = [self.node.outputs[i] for i in (*range(op.carries), *kept)]
        results = [Value(names.fresh(v.name), t, v.span, v.origin) for v, t in zip(like, types)]
        after = [
            Value(names.fresh(f"{s.name}.next"), t, s.span, s.origin)
            for (s, _, _), t in zip([self.states[i] for i in renewed], types[len(like) :], strict=True)
        ]
        c.builder.nodes.append(Node(loop, tuple(operands), (*results, *after), self.node.span))
        if self.along is not None and self.along != c.new.name:
            back = Rename(((self.along, c.new.name),))
            results[op.carries :] = [c.add(back, v, like=v) for v in results[op.carries :]]
        for i, value in zip(renewed, after):
            c.around.renew(self.states[i][2], value)
        for number, value in zip(self.renewed, results):
            c.around.renew(number, value)
        return dict(zip((*range(op.carries), *kept), results))


def _origin(v: Value, name: str) -> Origin:
    return Origin(f"{v.origin.path}.{name}" if v.origin.path else "")
