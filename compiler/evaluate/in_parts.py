"""Updates of loops that are cut: made of the update of the loop as it is written, on its parts.

Where that takes something along the loop's dim, each part takes its own, and these are added up or compared: so do the
stages of a pipeline (`compiler.passes.across`). What needs all iterations at one place is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field, fields, replace
from typing import Any

from compiler.evaluate.parts_alike import alike
from compiler.graph import Dim, Graph, Names, Node, Type, Value
from compiler.loop_pieces import by_path, whole_path
from compiler.model import LoopPiece, Model, WeightUpdate
from compiler.ops.base import Loop, Op, OpError
from compiler.ops.contract import Contract
from compiler.ops.create import Iota
from compiler.ops.elementwise import Broadcast, Map
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename
from compiler.passes.prune import prune_nodes
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, fail
from dsl.source import NOWHERE, Span

HELP = (
    "sums, means and maxima over all iterations can be had, outside of a `repeat`; `over own` takes each iteration by "
    "itself; for anything else leave out the numbers of iterations"
)

Updated = tuple[Model, Sequence[WeightUpdate]]
"""A model, and how its weights are renewed."""


class _Wrong(Exception):
    """Why an op cannot run on parts: `node`, or the reader of what is wanted in parts."""

    def __init__(self, why: str, node: Node | None = None) -> None:
        super().__init__(why)
        self.node = node


def in_parts(written: Updated, cut: Updated, names: Names, span: Span) -> tuple[WeightUpdate, ...]:
    """How the weights of a model whose loops are cut are renewed. written, cut: before they are cut, and afterwards,
    with each part's optimizer evaluated by itself, which stays where that is the same; span: where it says so.

    Raises ParcError: E0442 for an optimizer that does not go part by part.
    """
    model, updates = cut
    by_paths, wholes = by_path(model.pieces), {u.weight: u for u in written[1]}
    first = {p.path: p.first for p in model.pieces}
    parts: dict[str, list[tuple[LoopPiece, WeightUpdate]]] = {}
    for update in updates:
        piece = next((by_paths[p] for p in _scopes(update.weight) if p in by_paths), None)
        if piece is not None:
            parts.setdefault(whole_path(update.weight, by_paths), []).append((piece, update))
    made: dict[str, WeightUpdate] = {}
    kinds: dict[tuple[object, ...], Graph | None] = {}
    for weight, own in parts.items():
        own.sort(key=lambda part: first[part[0].path])
        whole = wholes[weight]
        kind = (id(whole.graph), *(p.path for p, _ in own))
        if kind not in kinds:
            kinds[kind] = _graph(whole, own, names, span)
        graph = kinds[kind]
        if graph is not None:
            beside = tuple(u.weight for _, u in own)
            made |= {u.weight: replace(u, graph=graph, beside=beside) for _, u in own}
    return tuple(made.get(u.weight, u) for u in updates)


def of_a_part(found: Diagnostic, span: Span) -> Diagnostic:
    """What is wrong (E0442) with an update of a part of a loop that is none of the whole loop's. span: where it is
    cut."""
    message = f"{found.message}, a part of a loop which is cut: its parts are updated apart"
    return replace(found, code="E0442", message=message, notes=(*found.notes, ("it is cut here", span)), help=HELP)


def _scopes(path: str) -> Iterable[str]:
    names = path.split(".")
    return (".".join(names[:i]) for i in range(len(names), 0, -1))


def _graph(
    whole: WeightUpdate, own: Sequence[tuple[LoopPiece, WeightUpdate]], names: Names, span: Span
) -> Graph | None:
    """The update of all parts together; None if each part's own does the same."""
    pieces = [p for p, _ in own]
    derived = _Parts(whole, pieces, names)
    try:
        graph = derived.run([u for _, u in own])
    except (_Wrong, OpError) as why:
        node = getattr(why, "node", None) or derived.at
        of = pieces[0]
        message = f"{why}, which is cut: its parts are updated apart"
        notes = [(f"`{of.of_path}` is cut here", span)]
        raise fail("E0442", message, node.span if node is not None else span, notes=notes, help=HELP) from None
    same = not derived.joined and all(alike(whole.graph, u.graph, p) for p, u in own)
    return None if same else graph


# --- the whole's update on parts -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Level:
    """A graph on its way: the update of all parts, or the body of a loop in it for one of them.

    which: the numbers of the parts; env: value -> its parts; common: value -> the same for all parts; made: value ->
    its node in the whole's update; copies: (value, dim) -> its parts; params: of a body, name -> position; wanted:
    those that the body needs in parts.
    """

    which: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    env: dict[str, list[Value]] = field(default_factory=dict)
    common: dict[str, Value] = field(default_factory=dict)
    made: dict[str, Node] = field(default_factory=dict)
    copies: dict[tuple[str, str], list[Value]] = field(default_factory=dict)
    params: dict[str, int] = field(default_factory=dict)
    wanted: dict[int, str] = field(default_factory=dict)


class _Parts:
    """joined: whether something is taken of all parts together. at: the node that is looked at."""

    def __init__(self, whole: WeightUpdate, pieces: Sequence[LoopPiece], names: Names) -> None:
        self.whole, self.pieces, self.names = whole, pieces, names
        self.label, self.total = pieces[0].of, pieces[0].total
        self.held: dict[str, str] = {}  # value -> its dim of which there are parts
        self.closing: set[str] = set()  # what all parts make together
        self.joined = False
        self.at: Node | None = None

    def run(self, own: Sequence[WeightUpdate]) -> Graph:
        """own: each part's update, whose parameters are taken."""
        graph, states = self.whole.graph, len(self.whole.states)
        level = _Level(tuple(range(len(self.pieces))))
        inputs = [self._param(graph.inputs[0], graph.inputs[0].type)]
        level.common[graph.inputs[0].name] = inputs[0]
        for v in graph.inputs[1 : 3 + states]:
            if not v.type.has(self.label):
                raise _Wrong(f"`{v.name.rpartition('.')[2]}` is one state for all iterations of `{self.label}`")
            self.held[v.name] = self.label
        for k, update in enumerate(own):
            for v, part in zip(graph.inputs[1 : 3 + states], update.graph.inputs[1:], strict=False):
                inputs.append(self._param(v, part.type))
                level.env.setdefault(v.name, []).append(self._entered(level, inputs[-1], v, k))
        if self.whole.touched is not None:
            inputs.append(self._param(self.whole.touched, self.whole.touched.type))
            level.common[self.whole.touched.name] = inputs[-1]
        for node in graph.nodes:
            self._node(level, node)
        outputs = []
        for v in graph.outputs:
            self.at = level.made.get(v.name)
            if self.held.get(v.name, self.label) != self.label or not v.type.has(self.label):
                raise _Wrong(f"iterations of `{self.label}` become elements of something else")
            found = level.env[v.name] if v.name in self.held else self._piece(level, v, self.label)
            types = [u.graph.inputs[1].type for u in own]
            outputs.append([self._left(level, x, v, k, types[k]) for k, x in enumerate(found)])
        results = tuple(row[k] for k in level.which for row in outputs)
        return Graph(graph.name, tuple(inputs), prune_nodes(level.nodes, results), results)

    def _param(self, like: Value, type: Type) -> Value:
        return replace(like, name=self.names.fresh(like.name), type=type)

    def _add(self, level: _Level, op: Op, inputs: Sequence[Value], like: Value, span: Span = NOWHERE) -> Value:
        (value,) = self._adds(level, op, inputs, [like], span)
        return value

    def _adds(
        self, level: _Level, op: Op, inputs: Sequence[Value], like: Sequence[Value], span: Span
    ) -> tuple[Value, ...]:
        types = op.infer(*(v.type for v in inputs))
        made = tuple(self._param(v, t) for v, t in zip(like, types, strict=True))
        level.nodes.append(Node(op, tuple(inputs), made, span))
        return made

    def _inner(self, k: int) -> dict[str, str]:
        """The dims of a part that the whole calls otherwise."""
        piece = self.pieces[k]
        own = {} if piece.apart or piece.label == piece.of else {piece.label: piece.of}
        return own | {i.label: i.of for i in piece.inner if i.label != i.of}

    def _entered(self, level: _Level, part: Value, whole: Value, k: int) -> Value:
        """A part of a weight with the dims of the whole."""
        pairs = tuple((old, new) for old, new in self._inner(k).items() if part.type.has(old))
        value = self._add(level, Rename(pairs), [part], whole) if pairs else part
        if self.pieces[k].apart:
            value = self._add(level, Broadcast(self._dims(whole.type, self.label, k)), [value], whole)
        return value

    def _left(self, level: _Level, value: Value, whole: Value, k: int, part: Type) -> Value:
        """The same back."""
        if self.pieces[k].apart:
            value = self._add(level, Reduce("sum", (self.label,)), [value], whole)
        pairs = tuple((new, old) for old, new in self._inner(k).items() if value.type.has(new))
        return self._add(level, Rename(pairs), [value], whole) if pairs else value

    def _dims(self, type: Type, name: str, k: int) -> tuple[Dim, ...]:
        return tuple(Dim(d.name, self._size(d.size, k)) if d.name == name else d for d in type.dims)

    def _size(self, size: int, k: int) -> int:
        return size * self.pieces[k].count // self.total

    # --- one node ----------------------------------------------------------------------------------

    def _node(self, level: _Level, node: Node) -> None:
        self.at = node
        level.made.update((v.name, node) for v in node.outputs)
        if isinstance(node.op, Repeat):
            self._repeat(level, node, node.op)
        elif any(v.name in self.held for v in node.inputs):
            self._plain(level, node)
        else:
            made = self._adds(level, node.op, [level.common[v.name] for v in node.inputs], node.outputs, node.span)
            level.common.update(zip((v.name for v in node.outputs), made, strict=True))

    def _plain(self, level: _Level, node: Node) -> None:
        held = [self.held.get(v.name) for v in node.inputs]
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        walking = [loop for loop in loops if any(h is not None and h == n for h, n in zip(held, loop.ins))]
        if len(walking) > 1:
            walking = [loop for loop in walking if loop.kind != "minor"]
        if len(walking) > 1:
            raise _Wrong(f"`{_word(node.op)}` pairs iterations of `{self.label}` with each other")
        (loop,) = walking
        self._check(node, loop)
        made = self._made(level, node, loop)
        if loop.kind in ("sum", "max"):
            if level.params:
                raise _Wrong(f"`{_word(node.op)}`, inside a `repeat`, reads all iterations of `{self.label}`")
            self.joined = True
            for v, parts in zip(node.outputs, made, strict=True):
                self.closing.add(v.name)
                level.common[v.name] = self._together(level, parts, v, loop.kind)
            return
        for v, parts, name in zip(node.outputs, made, loop.outs, strict=True):
            assert name is not None
            self.held[v.name], level.env[v.name] = name, parts

    def _together(self, level: _Level, parts: Sequence[Value], like: Value, kind: str) -> Value:
        total, *rest = parts
        for part in rest:
            total = self._add(level, Map("add" if kind == "sum" else "maximum", (None, None)), [total, part], like)
        return total

    def _made(self, level: _Level, node: Node, loop: Loop) -> list[list[Value]]:
        """By outputs, what the node makes of each part."""
        given = [
            level.env[v.name] if v.name in self.held else None if name is None else self._piece(level, v, name)
            for v, name in zip(node.inputs, loop.ins, strict=True)
        ]
        found: list[list[Value]] = [[] for _ in node.outputs]
        walked = {name for name in (*loop.ins, *loop.outs) if name is not None}
        for i, k in enumerate(level.which):
            inputs = [level.common[v.name] if g is None else g[i] for v, g in zip(node.inputs, given, strict=True)]
            op = self._sized(node.op, walked, k)
            for row, v in zip(found, self._adds(level, op, inputs, node.outputs, node.span), strict=True):
                row.append(v)
            for v, name, row in zip(node.outputs, loop.outs, found, strict=True):
                if row[-1].type.dims != (v.type.dims if name is None else self._dims(v.type, name, k)):
                    raise _Wrong(f"`{_word(node.op)}` regroups iterations of `{self.label}`", node)
        return found

    def _sized(self, op: Op, walked: set[str], k: int) -> Op:
        """The op with dims of the sizes of a part, where it says sizes."""

        def sized(x: Any) -> Any:
            if isinstance(x, Dim):
                return Dim(x.name, self._size(x.size, k)) if x.name in walked else x
            return tuple(map(sized, x)) if isinstance(x, tuple) else x

        new = {f.name: sized(old) for f in fields(op) if isinstance(old := getattr(op, f.name), (Dim, tuple))}
        return replace(op, **new)

    def _check(self, node: Node, loop: Loop) -> None:
        """Whether the op can do with parts of what the loop walks."""
        word = _word(node.op)
        if loop.kind not in ("pass", "sum", "max"):
            raise _Wrong(f"`{word}` reads all iterations of `{self.label}`", node)
        if loop.placed and not isinstance(node.op, Iota):
            raise _Wrong(f"`{word}` counts iterations of `{self.label}`", node)
        values, names = (*node.inputs, *node.outputs), (*loop.ins, *loop.outs)
        sizes = {loop.size, *(v.type.size(n) for v, n in zip(values, names, strict=True) if n is not None)}
        if any(size * p.count % self.total for size in sizes for p in self.pieces):
            raise _Wrong(f"`{word}` regroups iterations of `{self.label}`", node)

    # --- constants ---------------------------------------------------------------------------------

    def _piece(self, level: _Level, value: Value, name: str) -> list[Value]:
        """The parts, along dim `name`, of a value that is the same for all: computed as such."""
        key = value.name, name
        if key in level.copies:
            return level.copies[key]
        if value.name in level.params:
            level.wanted[level.params[value.name]] = name
            raise _Wanted
        node = level.made.get(value.name)
        if node is None or isinstance(node.op, Repeat) or value.name in self.closing:
            raise _Wrong(f"what all iterations of `{self.label}` have together is used as iterations")
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        at = node.outputs.index(value)
        loop = next(loop for loop in loops if loop.outs[at] == name)
        self._check(node, loop)
        found = self._made(level, node, loop)[at]
        if isinstance(node.op, Iota):
            firsts = [self.pieces[k].first * value.type.size(name) // self.total for k in level.which]
            pairs = zip(found, firsts, strict=True)
            found = [self._add(level, Map("add", (None, first)), [v], value) if first else v for v, first in pairs]
        level.copies[key] = found
        return found

    # --- loops of an optimizer -----------------------------------------------------------------------

    def _repeat(self, level: _Level, node: Node, op: Repeat) -> None:
        """What enters a loop in parts stays so; what becomes parts in it, or is used as such, enters as parts."""
        held = [self.held.get(v.name) for v in node.inputs]
        if not any(held):
            made = self._adds(level, op, [level.common[v.name] for v in node.inputs], node.outputs, node.span)
            level.common.update(zip((v.name for v in node.outputs), made, strict=True))
            return
        if any(h == op.label for h in held[op.carries : op.carries + op.stacks]):
            raise _Wrong(f"`repeat` walks all iterations of `{self.label}`")
        while True:
            more: dict[int, str] = {}
            bodies = [self._body(op, held, k, more) for k in level.which]
            if not more:
                break
            for i, name in more.items():
                held[i] = name
        found: list[list[Value]] = [[] for _ in node.outputs]
        for i, body in enumerate(bodies):
            inputs = [
                level.common[v.name] if h is None else (level.env.get(v.name) or self._piece(level, v, h))[i]
                for v, h in zip(node.inputs, held, strict=True)
            ]
            made = self._adds(level, replace(op, body=body), inputs, node.outputs, node.span)
            for row, v in zip(found, made, strict=True):
                row.append(v)
        for out, v, parts in zip(node.outputs, op.body.outputs, found, strict=True):
            if v.name in self.held:
                self.held[out.name], level.env[out.name] = self.held[v.name], parts
            else:
                level.common[out.name] = parts[0]

    def _body(self, op: Repeat, held: Sequence[str | None], k: int, more: dict[int, str]) -> Graph:
        """The body for a part; what has to enter in parts, too, is added to `more`."""
        body = op.body
        inner = _Level((k,), params={v.name: i for i, v in enumerate(body.inputs)})
        params = []
        for v, h in zip(body.inputs, held, strict=True):
            type = v.type if h is None else Type(v.type.dtype, self._dims(v.type, h, k))
            params.append(self._param(v, type))
            if h is None:
                self.held.pop(v.name, None)
                inner.common[v.name] = params[-1]
            else:
                self.held[v.name], inner.env[v.name] = h, [params[-1]]
        outputs: list[Value] = []
        try:
            for n in body.nodes:
                for v in n.outputs:
                    self.held.pop(v.name, None)
                self._node(inner, n)
            for i, v in enumerate(body.outputs):
                h = held[i] if i < op.carries else None
                if h is not None and v.name not in self.held:
                    outputs += self._piece(inner, v, h)
                    self.held[v.name] = h
                else:
                    outputs.append(inner.env[v.name][0] if v.name in self.held else inner.common[v.name])
                    if i < op.carries and h is None and v.name in self.held:
                        more[i] = self.held[v.name]
        except _Wanted:
            pass
        more |= inner.wanted
        return Graph(body.name, tuple(params), tuple(inner.nodes), tuple(outputs))


class _Wanted(Exception):
    """A loop's body needs something in parts that has not come so."""


def _word(op: Op) -> str:
    """What the source calls an op."""
    return "@" if isinstance(op, Contract) else str(getattr(op, "fn", op.mnemonic))
