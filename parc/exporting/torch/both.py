"""Parts of both passes as calls of PyTorch, where the backward pass is the program's own: as the engine has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass, FunctionPhase
from compiler.regions.region import Region, RegionKind
from compiler.walk import bodies
from parc.exporting.torch.writer import Writer, emit, number, tuple_of
from runtime.torch.fusing.fuse import with_fused_passes
from runtime.torch.fusing.ops import (
    FusedActivation,
    FusedActivationBackward,
    FusedAttention,
    FusedAttentionBackward,
    FusedCrossEntropy,
    FusedCrossEntropyBackward,
    FusedNorm,
    FusedNormBackward,
)


def fused_both(cls: DeviceClass) -> DeviceClass:
    """The class with such parts as one op in each pass, if it has a backward pass and regions are marked."""
    marks = {
        f.key: tuple(r for body in bodies(f.body) for r in body.regions if r.kind is not RegionKind.FUSED)
        for f in cls.functions
    }
    if all(f.phase is not FunctionPhase.BACKWARD for f in cls.functions) or not any(marks.values()):
        return cls
    found = with_fused_passes(cls, "cpu")
    return replace(found, functions=tuple(replace(f, body=_marked(f.body, marks[f.key])) for f in found.functions))


def _marked(body: Graph, regions: tuple[Region, ...]) -> Graph:
    """The body and those of its loops with all regions of the function: those of another body are of none of its
    nodes."""
    nodes = []
    for node in body.nodes:
        if isinstance(node.op, Repeat):
            node = replace(node, op=replace(node.op, body=_marked(node.op.body, regions)))
        nodes.append(node)
    return replace(body, nodes=tuple(nodes), regions=regions)


@emit(FusedNorm)
def norm(op: FusedNorm, node: Node, w: Writer) -> str:
    """A layer norm, with what its derivative needs."""
    x, *rest = node.inputs
    given = [*map(w.ref, rest), "None", "None"][:2]
    return f"torch.native_layer_norm({w.ref(x)}, {_last(x, op.rank, w)}, {', '.join(given)}, {number(op.eps)})"


@emit(FusedNormBackward)
def norm_backward(op: FusedNormBackward, node: Node, w: Writer) -> str:
    """Its derivatives by x, and by scale and shift where they are taken here."""
    dy, x, mean, root, *rest = map(w.ref, node.inputs)
    scale = rest[0] if rest else "None"
    given = f"{dy}, {x}, {_last(node.inputs[1], op.rank, w)}, {mean}, {root}, {scale}, {op.wanted}"
    return f"{w.use('layer_norm_backward')}({given})" + _only(node)


def _last(x: Value, rank: int, w: Writer) -> str:
    return tuple_of(map(str, w.local(x).shape[-rank:]))


def _only(node: Node) -> str:
    """Of several results the one that is asked for, if it is one."""
    return "[0]" if len(node.outputs) == 1 else ""


@emit(FusedActivation)
def activation(op: FusedActivation, node: Node, w: Writer) -> str:
    return f"functional.{op.fn}({w.ref(node.inputs[0])})"


@emit(FusedActivationBackward)
def activation_backward(op: FusedActivationBackward, node: Node, w: Writer) -> str:
    dy, x = map(w.ref, node.inputs)
    return f"torch.ops.aten.{op.fn}_backward({dy}, {x})"


@emit(FusedAttention)
def attention(op: FusedAttention, node: Node, w: Writer) -> str:
    """Of queries, keys and values that are scaled already, with what its derivatives need."""
    orders = _orders(op.orders, [*node.inputs, node.outputs[0]])
    return f"{w.use('attention')}({', '.join(map(w.ref, node.inputs))}, {orders}, {op.causal})"


@emit(FusedAttentionBackward)
def attention_backward(op: FusedAttentionBackward, node: Node, w: Writer) -> str:
    """Its derivatives by queries, keys and values."""
    dout, q, k, v, out, sums = map(w.ref, node.inputs)
    orders = _orders(op.orders, node.inputs[1:5])
    return f"{w.use('attention_backward')}({dout}, {q}, {k}, {v}, {out}, {sums}, {orders}, {op.causal})"


def _orders(orders: Sequence[Sequence[str]], values: Sequence[Value]) -> str:
    """For each value which of its dims are batch, heads, positions and width."""
    found = [tuple_of(str(v.type.names.index(n)) for n in order) for v, order in zip(values, orders, strict=True)]
    return tuple_of(found)


@emit(FusedCrossEntropy)
def cross_entropy(op: FusedCrossEntropy, node: Node, w: Writer) -> str:
    """Of each position by itself, with the logarithms of probabilities."""
    z, targets = node.inputs
    inside = w.within(targets, z.type.dims[-1].size)
    return f"{w.use('cross_entropies')}({w.ref(z)}, {w.ref(targets)}, {inside})"


@emit(FusedCrossEntropyBackward)
def cross_entropy_backward(op: FusedCrossEntropyBackward, node: Node, w: Writer) -> str:
    g, logs, targets = map(w.ref, node.inputs)
    return f"{w.use('cross_entropies_backward')}({g}, {logs}, {targets})"
