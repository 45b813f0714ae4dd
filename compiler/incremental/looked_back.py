"""Pads, slices and joins that move positions back, as what says so: shifts, and windows that are padded.

`window(pad(x, s -> sp, k - 1, 0), sp -> (o, k))` is `window(x, s -> (o, k), pad = k - 1)`; so a causal convolution is
often written. `slice(pad(x, s -> sp, 1, 0), sp -> s, 0..n)` and `concat(first, slice(x, s -> r, 0..n - 1), over …)` are
`shift(x, s, by = 1)`, the latter with `first` in its place where that is more than a constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.graph import Dim, Graph, Names, Node, Value
from compiler.incremental.rewriting import in_loop, rewritten
from compiler.model import Model
from compiler.ops.base import Op
from compiler.ops.create import Iota
from compiler.ops.elementwise import Broadcast, Map
from compiler.ops.shape import Concat, Pad, Rename, Shift, Slice
from compiler.ops.window import Window, span
from dsl.data import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """`count` elements along a dim: of a value (along its `dim`) from `start` on, or, of none, all `fill`."""

    count: int
    of: Value | None = None
    dim: str = ""
    start: int = 0
    fill: float = 0.0

    def cut(self, first: int, last: int) -> _Piece:
        """Some of them."""
        return _Piece(last - first, self.of, self.dim, self.start + first, self.fill)


def looked_back(model: Model) -> Model:
    """The model with what moves positions written as shifts and windows."""
    return rewritten(model, _graph)


def _graph(graph: Graph, names: Names) -> Graph:
    made = {v: node for node in graph.nodes for v in node.outputs}
    nodes: list[Node] = []
    changed = False
    for found in graph.nodes:
        node = in_loop(found, lambda body: _graph(body, names))
        changed |= node is not found
        written = _Written(nodes, names, node)
        if isinstance(node.op, Window):
            done = written.window(node.op, _pieces(node.inputs[0], node.op.dim, made))
        elif isinstance(node.op, Slice) and (window := _windowed(node, node.op, made)) is not None:
            done = written.window(window[0], _pieces(window[1], window[0].dim, made), cut=True)
        elif isinstance(node.op, (Slice, Pad, Concat)):
            done = written.moved(node.op.into, _pieces(node.output, node.op.into, made))
        else:
            done = False
        changed |= done
        if not done:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes)) if changed else graph


def _windowed(node: Node, op: Slice, made: Mapping[Value, Node]) -> tuple[Window, Value] | None:
    """Of a cut of windows: those that are left, and of what."""
    of = made.get(node.inputs[0])
    if of is None or not isinstance(of.op, Window) or of.op.out.name != op.dim or (of.op.stride, op.step) != (1, 1):
        return None
    if op.start > of.op.pad:
        return None
    out = Dim(op.into, op.stop - op.start)
    return replace(of.op, out=out, pad=of.op.pad - op.start), of.inputs[0]


def _pieces(v: Value, dim: str, made: Mapping[Value, Node]) -> list[_Piece]:
    """What stands along a dim, from the first on."""
    node, size = made.get(v), v.type.size(dim)
    op = None if node is None else node.op
    found = [_Piece(size, v, dim)]
    if node is None or op is None:
        return found
    if (fill := op.uniform()) is not None:
        found = [_Piece(size, fill=fill)]
    elif isinstance(op, Rename) and len(op.pairs) == 1 and op.pairs[0][1] == dim:
        found = _pieces(node.inputs[0], op.pairs[0][0], made)
    elif isinstance(op, Pad) and op.into == dim:
        inner = _pieces(node.inputs[0], op.dim, made)
        found = [_Piece(op.low, fill=op.value), *inner, _Piece(op.high, fill=op.value)]
    elif isinstance(op, Slice) and op.into == dim and op.step == 1:
        found = _cut(_pieces(node.inputs[0], op.dim, made), op.start, op.stop)
    elif isinstance(op, Concat) and op.into == dim:
        found = [p for x in node.inputs for p in _pieces(x, op.dim, made)]
    elif isinstance(op, Shift) and op.dim == dim and not op.around and op.by > 0:
        found = [_Piece(op.by, fill=op.fill), *_cut(_pieces(node.inputs[0], dim, made), 0, size - op.by)]
    return _joined(found)


def _cut(pieces: Sequence[_Piece], start: int, stop: int) -> list[_Piece]:
    found, at = [], 0
    for p in pieces:
        first, last = max(start - at, 0), min(stop - at, p.count)
        if first < last:
            found.append(p.cut(first, last))
        at += p.count
    return found


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """The same, with what goes on where the one before ends put together."""
    found: list[_Piece] = []
    for p in pieces:
        last = found[-1] if found else None
        if not p.count:
            continue
        if last is not None and (last.of, last.dim) == (p.of, p.dim):
            goes_on = last.fill == p.fill if p.of is None else last.start + last.count == p.start
            if goes_on:
                found[-1] = replace(last, count=last.count + p.count)
                continue
        found.append(p)
    return found


class _Written:
    """A node written otherwise, among the nodes so far."""

    def __init__(self, nodes: list[Node], names: Names, node: Node) -> None:
        self.nodes, self.names, self.node = nodes, names, node

    def moved(self, dim: str, pieces: Sequence[_Piece]) -> bool:
        """As a shift of what comes last, with what stands before it, if that is all of a value but its last ones."""
        *before, last = pieces
        count = sum(p.count for p in before)
        if last.of is None or last.start or last.of.type.size(last.dim) != last.count + count:
            return False
        if last.of is self.node.output:
            return False  # each second one, say: nothing that moves positions
        if last.of in self.node.inputs and not count:
            return False  # it is as short as it can be
        if len(before) > 1 or any(p.of is not None for p in before):
            return self._begun(dim, last, count)
        if not count:
            self._put(Rename(((last.dim, dim),) if last.dim != dim else ()), last.of)
            return True
        self._put(Shift(dim, count, before[0].fill), self._called(last.of, last.dim, dim))
        return True

    def _begun(self, dim: str, last: _Piece, count: int) -> bool:
        """Where what stands before is made of other values: a join of them, put in the place of the first ones."""
        node, x = self.node, last.of
        assert x is not None
        if not isinstance(node.op, Concat) or sum(v.type.size(node.op.dim) for v in node.inputs[:-1]) != count:
            return False
        join, size = node.op.dim, node.output.type.size(dim)
        first = node.inputs[0] if len(node.inputs) == 2 else self._add(Concat(join, join), *node.inputs[:-1])
        first = self._add(Pad(join, 0, size - count, 0.0, dim), first)
        later = self._add(Shift(dim, count), self._called(x, last.dim, dim))
        place = self._add(Iota(Dim(dim, size)))
        begins = self._add(Broadcast(node.output.type.dims), self._add(Map("lt", (None, count)), place))
        self._put(Map("where", (None, None, None)), begins, first, later)
        return True

    def window(self, op: Window, pieces: Sequence[_Piece], cut: bool = False) -> bool:
        """As one of all of a value, padded by what stands before. cut: some of its windows are left out."""
        runs = [p for p in pieces if p.of is not None]
        if len(runs) != 1 or runs[0].start or op.stride != 1:
            return False
        (run,), at = runs, pieces.index(runs[0])
        x = run.of
        assert x is not None
        size = x.type.size(run.dim)
        if (len(pieces) == 1 and not cut) or op.out.size != size:
            return False
        before, behind = pieces[:at], pieces[at + 1 :]
        low, high = (sum(p.count for p in side) for side in (before, behind))
        fill = before[0].fill if before else op.fill
        wide = span(op.kernel.size, op.dilation)
        pad = op.pad + low
        ahead = max(0, wide - 1 - pad)  # how far it looks behind the end
        if run.count < size and (behind or size + wide - 1 - pad > run.count):
            return False
        alike = {p.fill for p in (*before, *(behind if ahead else ()))}
        alike |= {op.fill} if (op.pad and low) or ahead > high else set()
        if alike - {fill}:
            return False
        shifted = max(0, pad - (wide - 1))
        x = self._add(Shift(run.dim, shifted, fill), x) if shifted else x
        self._put(Window(run.dim, op.out, op.kernel, 1, pad - shifted, fill, op.dilation), x)
        return True

    def _called(self, x: Value, dim: str, into: str) -> Value:
        """The value with its dim called otherwise."""
        return self._add(Rename(((dim, into),)), x) if dim != into else x

    def _put(self, op: Op, *operands: Value) -> None:
        """The node itself, if it gives the same."""
        (type,) = op.infer(*(v.type for v in operands))
        assert type == self.node.output.type, (type, self.node.output.type)
        self.nodes.append(Node(op, operands, self.node.outputs, self.node.span))

    def _add(self, op: Op, *operands: Value) -> Value:
        (type,) = op.infer(*(v.type for v in operands))
        like = self.node.output
        value = Value(self.names.fresh(f"{like.name}.{op.mnemonic}"), type, like.span, like.origin)
        self.nodes.append(Node(op, operands, (value,), self.node.span))
        return value
