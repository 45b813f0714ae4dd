"""`across`: how each value of the update relates to the stages of a pipelined loop.

A weight of the loop is one tensor in the serial program, with the loop's dim first; each stage holds a piece of it,
as if an axis of stages split that dim. So it is with all values that have the dim: where an op reduces it, every stage
has a part, and the stages add up (or compare) their parts; constants are made in pieces where pieces are needed. An op
that needs all of the dim has no stage to run on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace

from compiler.graph import Graph, Names, Node, Value, names_of
from compiler.ops.base import Loop, Op
from compiler.ops.call import Call
from compiler.ops.comm import Comm
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.passes.copying import copy_node, expanded, suffixed
from compiler.passes.cuts import CutLoop
from compiler.passes.place.place import Placed
from compiler.passes.stage import Staged
from compiler.walk import graph_values
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics

PIECE = suffixed(".piece")

HELP = (
    "sums, means and maxima over all iterations can be had, outside of a `repeat`; `over own` takes each iteration by "
    "itself; for anything else leave out the `pipeline`"
)


@dataclass(frozen=True, slots=True)
class Across:
    """`pieces`: value -> its dim of which each stage has a piece (bodies too); others are the same on all stages.

    `loops`: the same values -> the loop that is cut, of whose iterations those are pieces.
    `closing`: value of which each stage makes a part -> "sum" or "max": what all parts together make.
    """

    pieces: dict[str, str] = field(default_factory=dict)
    loops: dict[str, CutLoop] = field(default_factory=dict)
    closing: dict[str, str] = field(default_factory=dict)


def across(placed: Placed, staged: Staged) -> tuple[Placed, Across]:
    """The placed graphs, with constants in pieces. Functions stay as they are where each stage can run them on its
    pieces alone; else what they do stands where they are called.

    Of several loops, one after the other: no value is pieces of two. Raises ParcError for an op that reads all of a
    loop that is cut."""
    over = Across()
    for cut in staged.cuts:
        placed, more = _Across(placed, staged, cut).run()
        over = Across(over.pieces | more.pieces, over.loops | more.loops, over.closing | more.closing)
    return placed, over


class _Wrong(Exception):
    """Why an op cannot run on pieces: `node`, or the reader of what is wanted in pieces."""

    def __init__(self, why: str, node: Node | None = None) -> None:
        super().__init__(why)
        self.node = node


@dataclass(slots=True)
class _Level:
    """A graph on its way: the update, or the body of a loop in it.

    `made`: value -> its node; `copies`: (value, dim) -> its pieces; `params`: of a body, name -> position; `wanted`:
    those that the body needs in pieces.
    """

    nodes: list[Node] = field(default_factory=list)
    made: dict[str, Node] = field(default_factory=dict)
    copies: dict[tuple[str, str], Value] = field(default_factory=dict)
    params: dict[str, int] = field(default_factory=dict)
    wanted: dict[int, str] = field(default_factory=dict)


class _Across:
    def __init__(self, placed: Placed, staged: Staged, cut: CutLoop) -> None:
        self.placed, self.staged, self.cut = placed, staged, cut
        self.names = Names(placed.names)
        self.pieces: dict[str, str] = {}
        self.closing: dict[str, str] = {}
        self.alone: dict[int, dict[str, str] | None] = {}  # function -> its pieces; None: stages have to meet in it
        self.broken: set[str] = set()  # follows from what is wrong already
        self.wrong = Diagnostics()

    def run(self) -> tuple[Placed, Across]:
        graph, label = self.placed.update, self.cut.label
        # Only what is stacked over the loop has a dim of its name (E0306): its weights (frozen ones, which no update
        # reads, too), their gradients and states.
        weights = (w.value for w in self.placed.training.model.weights)
        self.pieces |= {v.name: label for v in (*graph.inputs, *weights) if v.type.has(label)}
        level = _Level()
        for node in graph.nodes:
            self._node(level, node)
        outputs = tuple(self._written(level, v) for v in graph.outputs)
        self.wrong.raise_if_any()
        update = Graph(graph.name, graph.inputs, tuple(level.nodes), outputs)
        return replace(self.placed, update=update), Across(
            self.pieces, dict.fromkeys(self.pieces, self.cut), self.closing
        )

    def _written(self, level: _Level, value: Value) -> Value:
        """What becomes of a weight or a state, in pieces if those of the loop are its own."""
        label = self.cut.label
        if not value.type.has(label) or value.name in self.broken or self.pieces.get(value.name) == label:
            return value
        try:
            if value.name in self.pieces:
                raise _Wrong(f"iterations of `{label}` become elements of `{self.pieces[value.name]}`")
            return self._piece(level, value, label)
        except _Wrong as why:
            self._tell(level.made[value.name], why)
            return value

    # --- one node ----------------------------------------------------------------------------------

    def _node(self, level: _Level, node: Node) -> None:
        new = node
        try:
            if self.broken and any(v.name in self.broken for v in node.inputs):
                self.broken.update(v.name for v in node.outputs)
            elif isinstance(node.op, Repeat):
                new = self._repeat(level, node, node.op)
            elif isinstance(node.op, Call):
                pieces = self._pieces_in(node, node.op)
                if pieces is None:
                    for n in expanded([node], self.names):
                        self._node(level, n)
                    return
                outputs = zip(node.outputs, node.op.body.outputs, strict=True)
                self.pieces |= {v.name: pieces[result.name] for v, result in outputs if result.name in pieces}
            elif any([v.name in self.pieces for v in node.inputs]):
                new = self._plain(level, node)
        except _Wrong as why:
            self._tell(node, why)
        level.nodes.append(new)
        level.made.update((v.name, new) for v in new.outputs)

    def _tell(self, node: Node, why: _Wrong) -> None:
        """Once for each place in the source: all weights of the loop have the same optimizer. `node` is not made."""
        self.broken.update(v.name for v in node.outputs)
        message = f"{why}, of which each of {len(self.cut.stages)} stages has its own"
        span = (why.node or node).span
        if not any(d.span == span and d.message == message for d in self.wrong):
            rules = self.placed.training.job.strategy.pipelines
            notes = [(f"`{self.cut.label}` is cut here", r.span) for r in rules if self.cut.label in r.parts]
            self.wrong.error("E0554", message, span, notes=notes, help=HELP)

    def _plain(self, level: _Level, node: Node) -> Node:
        held = [self.pieces.get(v.name) for v in node.inputs]
        if isinstance(node.op, Comm):
            (name,) = held
            assert name is not None
            self._hold(node.output, name)
            return node
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        walking = [loop for loop in loops if any([h is not None and h == n for h, n in zip(held, loop.ins)])]
        if len(walking) > 1:
            walking = [loop for loop in walking if loop.kind != "minor"]
        if len(walking) > 1:
            raise _Wrong(f"`{_word(node.op)}` pairs iterations of `{self.cut.label}` with each other")
        (loop,) = walking
        self._check(node, loop)
        inputs = tuple(
            self._piece(level, v, name) if h is None and name is not None else v
            for v, h, name in zip(node.inputs, held, loop.ins, strict=True)
        )
        for v, name in zip(node.outputs, loop.outs, strict=True):
            if name is not None:
                self._hold(v, name)
        if loop.kind in ("sum", "max"):
            if level.params:
                raise _Wrong(f"`{_word(node.op)}`, inside a `repeat`, reads all iterations of `{self.cut.label}`")
            self.closing.update((v.name, loop.kind) for v in node.outputs)
        return Node(node.op, inputs, node.outputs, node.span)

    def _check(self, node: Node, loop: Loop) -> None:
        """Whether the op can do with pieces of what the loop walks."""
        word, label = _word(node.op), self.cut.label
        if loop.kind not in ("pass", "sum", "max"):
            raise _Wrong(f"`{word}` reads all iterations of `{label}`", node)
        if loop.placed:
            raise _Wrong(f"`{word}` counts iterations of `{label}`", node)
        values, names = (*node.inputs, *node.outputs), (*loop.ins, *loop.outs)
        sizes = {loop.size, *(v.type.size(n) for v, n in zip(values, names, strict=True) if n is not None)}
        if any(size * n % self.cut.total for size in sizes for n in set(self.cut.counts)):
            raise _Wrong(f"`{word}` regroups iterations of `{label}`", node)

    def _hold(self, value: Value, name: str) -> None:
        """Each stage has a piece of the value; no axis may split the same dim."""
        self.pieces[value.name] = name
        axes = value.layout.dims[value.type.index(name)]
        if axes:
            raise _Wrong(f"`{name}` is split on {' and '.join(axes)}, but stands for iterations of `{self.cut.label}`")

    def _pieces_in(self, node: Node, op: Call) -> dict[str, str] | None:
        """What is pieces in a function, with the operands of a call; None if stages cannot run it each by itself."""
        given = dict(zip(names_of(op.body.inputs), (self.pieces.get(v.name) for v in node.inputs), strict=True))
        if id(op.body) not in self.alone:
            before = dict(self.pieces)
            self.pieces |= {name: dim for name, dim in given.items() if dim is not None}
            inner = _Level(params={v.name: i for i, v in enumerate(op.body.inputs)})
            try:
                for n in op.body.nodes:
                    self._alone(inner, n)
                names = {v.name for v in graph_values(op.body)}
                found = {name: dim for name, dim in self.pieces.items() if name in names}
                whole = any(v.type.has(self.cut.label) and v.name not in found for v in op.body.outputs)
                self.alone[id(op.body)] = None if whole or inner.wanted or inner.nodes else found
            except _Wrong:
                self.alone[id(op.body)], self.pieces = None, before
        pieces = self.alone[id(op.body)]
        return pieces if pieces is not None and all(pieces.get(n) == dim for n, dim in given.items()) else None

    def _alone(self, inner: _Level, node: Node) -> None:
        if any(v.name in self.pieces for v in node.inputs):
            if isinstance(node.op, Repeat):
                raise _Wrong("a loop of pieces is looked at where it is called")
            self._plain(inner, node)
        inner.made.update((v.name, node) for v in node.outputs)

    # --- constants ---------------------------------------------------------------------------------

    def _piece(self, level: _Level, value: Value, name: str) -> Value:
        """The pieces, along dim `name`, of a value that is the same on all stages: computed as such."""
        key = (value.name, name)
        if key in level.copies:
            return level.copies[key]
        if value.name in level.params:
            level.wanted[level.params[value.name]] = name
            return value
        node = level.made.get(value.name)
        if node is None or isinstance(node.op, Repeat) or value.name in self.closing:
            raise _Wrong(f"what is the same on all stages is used as iterations of `{self.cut.label}`")
        at = node.outputs.index(value)
        if isinstance(node.op, Comm):
            inputs = [self._piece(level, node.inputs[0], name)]
        else:
            loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
            loop = next(loop for loop in loops if loop.outs[at] == name)
            self._check(node, loop)
            inputs = [v if n is None else self._piece(level, v, n) for v, n in zip(node.inputs, loop.ins, strict=True)]
        copy = copy_node(node, dict(zip(node.inputs, inputs, strict=True)), self.names, PIECE)
        self._hold(copy.outputs[at], name)
        level.nodes.append(copy)
        level.made.update((v.name, copy) for v in copy.outputs)
        level.copies[key] = copy.outputs[at]
        return copy.outputs[at]

    # --- loops of an optimizer -----------------------------------------------------------------------

    def _repeat(self, level: _Level, node: Node, op: Repeat) -> Node:
        """What enters a loop in pieces stays so; what becomes pieces in it, or is used as such, enters as pieces."""
        held = [self.pieces.get(v.name) for v in node.inputs]
        if not any(held):
            return node
        if any(h == op.label for h in held[op.carries : op.carries + op.stacks]):
            raise _Wrong(f"`repeat` walks all iterations of `{self.cut.label}`")
        outputs: Sequence[Value] = ()
        while True:
            inner = _Level(params={v.name: i for i, v in enumerate(op.body.inputs)})
            self.pieces.update((v.name, h) for v, h in zip(op.body.inputs, held, strict=True) if h is not None)
            for n in op.body.nodes:
                self._node(inner, n)
            if any(v.name in self.broken for v in op.body.outputs):
                self.broken.update(v.name for v in node.outputs)
                return node
            outputs = [
                self._carried(inner, v, held[i] if i < op.carries else None) for i, v in enumerate(op.body.outputs)
            ]
            made = {i: h for i in range(op.carries) if (h := self.pieces.get(outputs[i].name)) is not None}
            more = {i: h for i, h in (made | inner.wanted).items() if held[i] is None}
            if not more:
                break
            for i, h in more.items():
                held[i] = h
        inputs = [
            self._piece(level, v, h) if h is not None and v.name not in self.pieces else v
            for v, h in zip(node.inputs, held, strict=True)
        ]
        for out, v in zip(node.outputs, outputs, strict=True):
            if v.name in self.pieces:
                self._hold(out, self.pieces[v.name])
        body = Graph(op.body.name, op.body.inputs, tuple(inner.nodes), tuple(outputs))
        return Node(replace(op, body=body), tuple(inputs), node.outputs, node.span)

    def _carried(self, inner: _Level, value: Value, name: str | None) -> Value:
        """What a body hands on, in pieces if it came so."""
        return value if name is None or value.name in self.pieces else self._piece(inner, value, name)


def _word(op: Op) -> str:
    """What the source calls an op."""
    return "@" if isinstance(op, Contract) else str(getattr(op, "fn", op.mnemonic))
