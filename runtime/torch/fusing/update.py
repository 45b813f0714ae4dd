"""Updates: what is called for each weight, in the memory of what it renews; sums of all squares of gradients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from compiler.graph import Graph, Node, Value
from compiler.ops.base import Movement
from compiler.ops.call import Call
from compiler.ops.comm import Comm
from compiler.ops.effects import Accumulate, Read, Save, Send, Write
from compiler.ops.elementwise import Cast, Map
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass
from compiler.regions.reading import Reading
from runtime.torch.fusing.ops import FusedChain, FusedSquare


def updated(body: Graph, cls: DeviceClass) -> Graph:
    """The body of an update with chains in the place of calls, as far as these are elementwise."""
    of, shared = Reading.of(body.nodes), _shared(cls)
    nodes = []
    for node in body.nodes:
        square = _square(of, node)
        if square is not None:
            node = replace(node, op=FusedSquare(), inputs=(square,))
        elif isinstance(node.op, Call) and _is_chain(node.op.body):
            node = replace(node, op=FusedChain(node.op.body, tuple(_renewed(of, node, shared))))
        nodes.append(node)
    read = {v for n in nodes for v in n.inputs}
    squares = {of.made[n.inputs[0]] for n in body.nodes if _square(of, n) is not None}
    return replace(body, nodes=tuple(n for n in nodes if n not in squares or n.outputs[0] in read), regions=())


def _is_chain(body: Graph) -> bool:
    """Whether it has maps and casts only, of floats, of tensors of the same dims and scalars; each result is whole."""
    values = [*body.inputs, *(v for n in body.nodes for v in n.outputs)]
    dims = {v.type.dims for v in values} - {()}
    wholes = all(v.type.dims for v in body.outputs) and len({*body.outputs}) == len(body.outputs)
    made = {v for n in body.nodes for v in n.outputs}
    simple = all(isinstance(n.op, Map | Cast) and n.outputs[0].type.dims for n in body.nodes)
    return len(dims) == 1 and wholes and simple and made.issuperset(body.outputs)


def _renewed(of: Reading, node: Node, shared: set[str]) -> Iterable[tuple[int, int]]:
    """Results that are nothing but the new contents of a buffer that nobody else has read."""
    for k, out in enumerate(node.outputs):
        writes = [n.op for n in of.readers.get(out, ())]
        for i, v in enumerate(node.inputs):
            read = of.made[v].op if v in of.made else None
            alone = len(of.readers[v]) == 1 and v.type == out.type
            if alone and isinstance(read, Read) and read.name not in shared and writes == [Write(read.name)]:
                yield k, i


def _shared(cls: DeviceClass) -> set[str]:
    """Buffers whose memory something else may have: they are written, saved, added up or sent as they are."""
    found: set[str] = set()
    for f in cls.functions:
        flow, written = _Flow(f.body), dict[Value, list[str]]()
        for n in f.body.nodes:
            if isinstance(n.op, Write):
                written.setdefault(n.inputs[0], []).append(n.op.name)
            elif isinstance(n.op, Save | Accumulate | Send):
                found |= flow.buffers(n.inputs[0])
        for v, names in written.items():
            sources = flow.buffers(v)
            if len(names) > 1 or sources - set(names):
                found |= sources | set(names)
    return found


class _Flow:
    """In whose memory the values of a body may lie."""

    def __init__(self, body: Graph) -> None:
        self.made = {v: (n, k) for n in body.nodes for k, v in enumerate(n.outputs)}

    def buffers(self, v: Value) -> set[str]:
        """The buffers."""
        found = [self.made[x][0].op for x in self.origins(v) if x in self.made]
        return {op.name for op in found if isinstance(op, Read)}

    def origins(self, v: Value) -> set[Value]:
        """The values that were made, read or given first, which this one may be."""
        if v not in self.made:
            return {v}
        node, k = self.made[v]
        op = node.op
        if isinstance(op, Repeat):
            inner, at = _Flow(op.body), {p: i for i, p in enumerate(op.body.inputs)}
            results = {op.body.outputs[k], *(op.body.outputs[: op.carries])}
            given = {at[x] for r in results for x in inner.origins(r) if x in at}
            return {x for i in given for x in self.origins(node.inputs[i])} or {v}
        if isinstance(op, Call):
            at = {p: i for i, p in enumerate(op.body.inputs)}
            given = {at[x] for x in _Flow(op.body).origins(op.body.outputs[k]) if x in at}
            return {x for i in given for x in self.origins(node.inputs[i])} or {v}
        moves = (
            op.movement is not Movement.NO or isinstance(op, Cast | Comm) or (isinstance(op, Reduce) and not op.dims)
        )
        return {x for i in node.inputs for x in self.origins(i)} if moves else {v}


def _square(of: Reading, node: Node) -> Value | None:
    """Of what the node gives the sum of all squares."""
    summed = of.reduced(node.output, "sum") if len(node.outputs) == 1 and not node.output.type.dims else None
    factors = of.map(summed[0], "mul") if summed is not None else None
    if factors is None or len(factors) != 2 or factors[0] is not factors[1]:
        return None
    return factors[0] if factors[0].type.dtype in ("f32", "f64") else None
