"""From a local graph to an ordinary one: what differs between the devices of an axis has a dim of them.

Values of all devices together are one tensor with a *device dim* per axis along which they differ, of as many elements
as there are devices, and split over that axis. A local op works on all devices at once, because ops let dims that they
do not speak of be. Messages become ordinary ops: an all-reduce is a sum over the device dim, an all-gather merges it
with a dim, a shift moves elements along it. So derivatives, recomputation, verification and all executors know nothing
of implementations; placement splits device dims over their axes, and these very messages come out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod

from compiler.graph import Dim, Graph, Names, Node, Type, Value
from compiler.implement.batch import PartedBatch
from compiler.implement.written import (
    WrittenAllGather,
    WrittenAllReduce,
    WrittenAllToAll,
    WrittenClaim,
    WrittenMessage,
    WrittenPositions,
    WrittenRank,
    WrittenReduceScatter,
    WrittenShard,
    WrittenShift,
    WrittenType,
)
from compiler.ops.base import Op, OpError
from compiler.ops.contract import Contract
from compiler.ops.create import Iota
from compiler.ops.elementwise import Broadcast, Map, Transpose
from compiler.ops.index import Scatter, ScatterAdd
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Concat, Merge, Shift, Split
from compiler.ops.zigzag import ZigZag
from compiler.origin import Origin
from dsl.data import dataclass
from dsl.diagnostics import fail, plural
from dsl.source import NOWHERE, Span

Dims = tuple[tuple[str, tuple[str, ...]], ...]
"""Dims with the axes that their pieces lie along, major first."""


@dataclass(frozen=True, slots=True)
class DeviceDim:
    """The dim of the devices of an axis."""

    axis: str
    dim: Dim


class Together:
    """Nodes of all devices together, one after the other. dims: of the axes, in the order of the mesh. batch: of
    which dims of local values micro-batches have parts, if there are any."""

    def __init__(
        self,
        names: Names,
        dims: Sequence[DeviceDim],
        batch: PartedBatch | None = None,
    ) -> None:
        self.names, self.batch = names, batch
        self.dims = {d.axis: d.dim for d in dims}
        self.order = {d.dim.name: d.dim for d in dims}
        self.nodes: list[Node] = []
        self.env: dict[Value, Value] = {}
        self.crossing: dict[Value, Dims] = {}  # what is between wholes and pieces: other dims, split already or still

    # --- building -------------------------------------------------------------------------------------------

    def add(self, op: Op, *inputs: Value, of: Value, span: Span = NOWHERE, word: str = "") -> Value:
        """The only result of a node, which is (a part of the way to) the local value `of`."""
        (type,) = op.infer(*(v.type for v in inputs))
        out = self.value(of, type, word)
        self.nodes.append(Node(op, inputs, (out,), span))
        return out

    def value(self, of: Value, type: Type, word: str = "") -> Value:
        """A new value, called as a local one."""
        path = of.origin.path
        return Value(self.names.fresh(f"{path}_{word}" if word else path), type, of.span, Origin(path))

    def devices(self, values: Iterable[Value]) -> tuple[Dim, ...]:
        """The device dims that the values have, in the order of the mesh."""
        there = {n for v in values for n in v.type.names}
        return tuple(d for name, d in self.order.items() if name in there)

    def aligned(self, x: Value, dims: Sequence[Dim], of: Value, span: Span) -> Value:
        """The value with exactly these device dims in front, and its own in their order."""
        own = tuple(d for d in x.type.dims if d.name not in self.order)
        wanted = (*dims, *own)
        if x.type.dims == wanted:
            return x
        if len(x.type.dims) == len(wanted):
            return self.add(Transpose(tuple(d.name for d in wanted)), x, of=of, span=span, word="each")
        return self.add(Broadcast(wanted), x, of=of, span=span, word="each")

    # --- what enters and leaves -----------------------------------------------------------------------------

    def pieces(
        self, x: Value, param: Value, dims: Iterable[tuple[str, Sequence[str]]], lies: Collection[str], span: Span
    ) -> None:
        """A value of the model enters as a parameter: dims with the axes that their pieces lie along; lies: those that
        lie in zig-zag order."""
        left = {dim: tuple(axes) for dim, axes in dims if axes}
        for dim, axes in list(left.items()):
            del left[dim]
            begun = len(self.nodes)
            x = self._cut(x, dim, axes, param, span, "piece", dim in lies)
            self._crosses(begun, left)
        self.env[param] = x

    def whole(
        self,
        value: Value,
        dims: Iterable[tuple[str, Sequence[str]]],
        order: Iterable[str],
        lies: Collection[str],
        span: Span,
    ) -> Value:
        """The whole that a result is pieces of; order: its dims; lies: those in zig-zag order.

        They are in it before pieces are joined: what comes behind that has no dims of devices, and is not for pieces
        any more.
        """
        x, dims = self.env[value], list(dims)
        before = {dim: [self.dims[a].name for a in axes] for dim, axes in dims}
        wanted = tuple(n for dim in order for n in (*before.get(dim, ()), dim))
        if x.type.names != wanted:
            x = self.add(Transpose(wanted), x, of=value, span=span, word="each")
        joined: dict[str, tuple[str, ...]] = {}
        for dim, axes in dims:
            if axes:
                begun = len(self.nodes)
                x = self._joined(x, dim, axes, dim, value, span, "whole", dim in lies)
                self._crosses(begun, joined)
                joined[dim] = tuple(axes)
        return x

    def _crosses(self, begun: int, dims: Mapping[str, tuple[str, ...]]) -> None:
        """What the nodes from this one on make lies in pieces of these dims: no device needs the whole of them."""
        if dims:
            self.crossing.update((node.output, tuple(dims.items())) for node in self.nodes[begun:])

    def _cut(
        self, x: Value, dim: str, axes: Sequence[str], of: Value, span: Span, word: str = "piece", zigzag: bool = False
    ) -> Value:
        if zigzag:
            x = self.add(ZigZag(dim, self.dims[axes[0]].size), x, of=of, span=span, word="zigzag")
        devices = [self.dims[a] for a in axes]
        size = x.type.size(dim) // prod(d.size for d in devices)
        batch = self._batch(of, dim)
        if batch is None:
            return self.add(Split(dim, (*devices, Dim(dim, size))), x, of=of, span=span, word=word)
        piece = Dim(batch.piece, self._piece(size, batch, dim, span))
        x = self.add(Split(dim, (batch.parts, *devices, piece)), x, of=of, span=span, word="parts")
        x = self._moved(x, (batch.parts.name, *(d.name for d in devices)), -1, of, span)
        return self.add(Merge((batch.parts.name, piece.name), dim), x, of=of, span=span, word=word)

    def _joined(
        self,
        x: Value,
        dim: str,
        axes: Sequence[str],
        into: str,
        of: Value,
        span: Span,
        word: str = "",
        zigzag: bool = False,
    ) -> Value:
        devices = tuple(self.dims[a].name for a in axes)
        batch = self._batch(of, into)
        if batch is None:
            x = self.add(Merge((*devices, dim), into), x, of=of, span=span, word=word)
        else:
            piece = Dim(batch.piece, self._piece(x.type.size(dim), batch, into, span))
            x = self.add(Split(dim, (batch.parts, piece)), x, of=of, span=span, word="parts")
            x = self._moved(x, (*devices, batch.parts.name), 1, of, span)
            x = self.add(Merge((batch.parts.name, *devices, piece.name), into), x, of=of, span=span, word=word)
        return self.add(ZigZag(into, self.dims[axes[0]].size, True), x, of=of, span=span) if zigzag else x

    # --- the batch ------------------------------------------------------------------------------------------

    def _batch(self, of: Value, dim: str) -> PartedBatch | None:
        """How a dim of a local value is in parts before it is in pieces, if it is."""
        return self.batch if self.batch is not None and (of, dim) in self.batch.places else None

    def _piece(self, size: int, batch: PartedBatch, dim: str, span: Span) -> int:
        """How many elements of a device's piece of this size are in each part. Raises E0420."""
        count = batch.parts.size
        if size % count:
            what = (
                f"a device's piece of `{dim}` has {plural(size, 'element')}, which {count} micro-batches do not divide"
            )
            notes = [("micro-batches are made here", batch.span)]
            help = f"choose fewer micro-batches or devices, or leave `{batch.dim}` whole there"
            raise fail("E0420", what, span, notes=notes, help=help)
        return size // count

    def _moved(self, x: Value, dims: Sequence[str], by: int, of: Value, span: Span) -> Value:
        """The dims turned round by one place, where the first of them stands: the first (-1) to the end, or back."""
        turned = (*dims[1:], dims[0]) if by < 0 else (dims[-1], *dims[:-1])
        order = [n for n in x.type.names if n not in dims]
        at = min(x.type.index(n) for n in dims)
        order[at:at] = turned
        return self.add(Transpose(tuple(order)), x, of=of, span=span, word="turned")

    # --- nodes ----------------------------------------------------------------------------------------------

    def run(self, nodes: Iterable[Node]) -> None:
        """All local nodes in their order."""
        for node in nodes:
            try:
                self._node(node)
            except OpError as error:
                message = f"this cannot be done with the pieces of several devices: {error.message}"
                raise fail("E0427", message, node.span, help=error.help) from None

    def _node(self, node: Node) -> None:
        op, inputs = node.op, [self.env[v] for v in node.inputs]
        if isinstance(op, Repeat):
            self._repeat(node, op, inputs)
            return
        if isinstance(op, WrittenMessage | WrittenPositions | WrittenType):
            self.env[node.output] = self._written(node, op, inputs)
            return
        devices = self.devices(inputs)
        names = tuple(d.name for d in devices)
        first = node.outputs[0]
        if isinstance(op, Contract | Transpose):
            op = replace(op, dims=(*names, *op.dims))
        elif isinstance(op, Broadcast):
            op = replace(op, dims=(*devices, *op.dims))
        elif isinstance(op, ScatterAdd):
            inputs = [self.aligned(v, devices, first, node.span) for v in inputs]
            op = replace(op, dims=(*names, *op.dims))
        elif isinstance(op, Concat | Scatter):
            inputs = [self.aligned(v, devices, first, node.span) for v in inputs]
        elif isinstance(op, Iota) and inputs and inputs[0].type.dims:
            steps = self.add(Iota(op.dim), of=first, span=node.span, word="steps")
            op, inputs = Map("add", (None, None)), [inputs[0], steps]
        types = op.infer(*(v.type for v in inputs))
        outputs = tuple(self.value(v, t) for v, t in zip(node.outputs, types, strict=True))
        self.nodes.append(Node(op, tuple(inputs), outputs, node.span))
        self.env.update(zip(node.outputs, outputs, strict=True))

    def _written(self, node: Node, op: Op, inputs: Sequence[Value]) -> Value:
        out, span = node.output, node.span
        if isinstance(op, WrittenPositions):
            size = op.dim.size
            for _, n in op.pieces:
                size *= n
            parts = op.pieces[0][1] if op.zigzag else 0
            whole = self.add(Iota(Dim(op.dim.name, size), parts), of=out, span=span, word="all")
            return self._cut(whole, op.dim.name, [a for a, _ in op.pieces], out, span, "")
        if isinstance(op, WrittenRank):
            return self.add(Iota(self.dims[op.axis]), of=out, span=span)
        (x,) = inputs
        if isinstance(op, WrittenAllReduce):
            return self.add(Reduce(op.fn, (self.dims[op.axis].name,)), x, of=out, span=span)
        if isinstance(op, WrittenAllGather):
            return self._joined(x, op.dim, [op.axis], op.into, out, span, "", op.zigzag)
        if isinstance(op, WrittenReduceScatter):
            total = self.add(Reduce(op.fn, (self.dims[op.axis].name,)), x, of=out, span=span, word="sum")
            return self._cut(total, op.dim, [op.axis], out, span, "", op.zigzag)
        if isinstance(op, WrittenAllToAll):
            parts = self.dims[op.axis].size  # blocks change places where each device has all of them
            if op.into_zigzag:
                x = self.add(ZigZag(op.into, parts), x, of=out, span=span, word="zigzag")
            whole = self._joined(x, op.dim, [op.axis], op.dim, out, span, "whole")
            cut = self._cut(whole, op.into, [op.axis], out, span, "in_pieces" if op.zigzag else "")
            return self.add(ZigZag(op.dim, parts, True), cut, of=out, span=span) if op.zigzag else cut
        if isinstance(op, WrittenShard):
            return self._cut(x, op.dim, [op.axis], out, span, "", op.zigzag)
        if isinstance(op, WrittenShift):
            return self.add(Shift(self.dims[op.axis].name, -op.by, 0.0, True), x, of=out, span=span)
        assert isinstance(op, WrittenClaim | WrittenType), op
        return x

    def _repeat(self, node: Node, op: Repeat, inputs: list[Value]) -> None:
        """The loop; what its iterations leave with device dims enters the first one with them."""
        first = [self.devices([v]) for v in inputs[: op.carries]]
        while True:  # what leaves an iteration enters the next one
            tried = self._body(op, inputs, first, Names())
            left = [tried.env[v] for v in op.body.outputs[: op.carries]]
            wider = [self.devices([*pair]) for pair in zip(inputs, left)]
            wider = [tuple(d for d in self.order.values() if d in (*a, *b)) for a, b in zip(first, wider)]
            if wider == first:
                break
            first = wider
        aligned = (self.aligned(*x, node.span) for x in zip(inputs, first, node.outputs))
        given = [*aligned, *inputs[op.carries :]]
        inner = self._body(op, given, first, self.names)
        left = [inner.env[v] for v in op.body.outputs]
        for i in range(op.carries):
            left[i] = inner.aligned(left[i], first[i], op.body.outputs[i], node.span)
        for i in range(op.carries, op.carries + op.stacks):
            given[i] = self._leading(given[i], op.label, node)
        params = tuple(inner.env[p] for p in op.body.inputs)
        body = Graph(op.body.name, params, tuple(inner.nodes), tuple(left))
        loop = replace(op, body=body)
        types = loop.infer(*(v.type for v in given))
        outputs = tuple(self.value(v, t) for v, t in zip(node.outputs, types, strict=True))
        self.nodes.append(Node(loop, tuple(given), outputs, node.span))
        self.env.update(zip(node.outputs, outputs, strict=True))

    def _body(self, op: Repeat, given: Sequence[Value], carried: Sequence[tuple[Dim, ...]], names: Names) -> Together:
        """The body, run with operands of these types; carried: the device dims of its carries."""
        inner = Together(names, [DeviceDim(a, d) for a, d in self.dims.items()], self.batch)
        for i, (param, v) in enumerate(zip(op.body.inputs, given, strict=True)):
            type = v.type
            if i < op.carries:
                own = (d for d in type.dims if d.name not in self.order)
                type = Type(type.dtype, (*carried[i], *own))
            elif i < op.carries + op.stacks:
                type = Type(type.dtype, tuple(d for d in type.dims if d.name != op.label))
            inner.env[param] = inner.value(param, type)
        inner.run(op.body.nodes)
        return inner

    def _leading(self, x: Value, label: str, node: Node) -> Value:
        """A stack, whose first dim is the loop's."""
        order = (label, *(n for n in x.type.names if n != label))
        return x if order == x.type.names else self.add(Transpose(order), x, of=x, span=node.span, word="stack")
