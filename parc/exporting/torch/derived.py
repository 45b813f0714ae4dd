"""Whether PyTorch's own derivative of the forward pass is what the program's backward pass computes.

It is where both are local: no message but those that add up what a step tells, nothing recomputed, one stage. Then the
file has the forward pass as people write it, and `autograd` in the place of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from compiler.graph import Graph, Node, Value
from compiler.layout import local_type
from compiler.ops.comm import AllReduce, Comm
from compiler.ops.contract import Contract
from compiler.ops.create import Full
from compiler.ops.effects import Accumulate, Read, Save
from compiler.ops.move import Move
from compiler.origin import Phase, Role
from compiler.passes.prune import prune_nodes
from compiler.program import DeviceClass, Function, FunctionPhase, Program
from compiler.walk import bodies
from dsl.data import dataclass

LOCAL = {FunctionPhase.FORWARD, FunctionPhase.BACKWARD, FunctionPhase.METRICS, FunctionPhase.UPDATE}


@dataclass(frozen=True, slots=True)
class Derived:
    """forward: the forward pass without what only the backward pass asks for. loss: what is differentiated, times
    `factor`; gradients: their buffers, and the weights' that they are of."""

    forward: Function
    loss: Value
    factor: float
    gradients: Mapping[str, str]


def derived(program: Program, cls: DeviceClass) -> Derived | None:
    """What is needed of the class to leave its backward pass to PyTorch; None where that is not the same."""
    functions = {f.phase: f for f in cls.functions}
    if any(s.role is Role.STATE for s in cls.states):  # renewed as they are read, which PyTorch would derive
        return None
    if program.groups > 1 or len(functions) < len(cls.functions) or not set(functions) <= LOCAL:
        return None
    forward, backward = functions.get(FunctionPhase.FORWARD), functions.get(FunctionPhase.BACKWARD)
    if forward is None or backward is None or not _tells_only(forward.body) or not _is_local(backward.body):
        return None
    loss, factor = _loss(cls, forward.body), _factor(backward.body)
    gradients = _gradients(program, cls, backward.body)
    weights = {s.name for s in cls.states if s.role is Role.WEIGHT}
    reads = {n.op.name for n in backward.body.nodes if isinstance(n.op, Read)}
    if loss is None or factor is None or gradients is None or not reads <= weights:
        return None
    return Derived(replace(forward, body=_without_saves(forward.body, cls, loss)), loss, factor, gradients)


def _nodes(body: Graph) -> Iterator[Node]:
    for inner in bodies(body):
        yield from inner.nodes


def _tells_only(body: Graph) -> bool:
    """Whether its messages only add up what is accumulated."""
    readers = [(v, n) for n in body.nodes for v in n.inputs]
    for node in _nodes(body):
        if isinstance(node.op, Comm | Move):
            mine = [n for v, n in readers if v in node.outputs]
            if not isinstance(node.op, AllReduce) or not all(isinstance(n.op, AllReduce | Accumulate) for n in mine):
                return False
            if node not in body.nodes:
                return False
    return True


def _is_local(body: Graph) -> bool:
    """Whether it sends nothing, and computes no product again."""
    for node in _nodes(body):
        if isinstance(node.op, Comm | Move):
            return False
        if isinstance(node.op, Contract) and node.output.origin.phase is Phase.AGAIN:
            return False
    return True


def _loss(cls: DeviceClass, body: Graph) -> Value | None:
    """This device's part of the loss, before it is added up."""
    names = cls.sums_of(Role.LOSS)
    made = {v: n for n in body.nodes for v in n.outputs}
    found = [n.inputs[0] for n in body.nodes if isinstance(n.op, Accumulate) and n.op.name in names]
    if len(found) != 1:
        return None
    (value,) = found
    while (node := made.get(value)) is not None and isinstance(node.op, AllReduce):
        value = node.inputs[0]
    return value


def _factor(body: Graph) -> float | None:
    """What the backward pass begins with: the one scalar in it that is made of nothing."""
    found = [n.op for n in body.nodes if isinstance(n.op, Full) and not n.output.type.dims]
    return float(found[0].value) if len(found) == 1 else None


def _gradients(program: Program, cls: DeviceClass, body: Graph) -> dict[str, str] | None:
    """Gradient buffer -> the weight's."""
    weights = {(s.logical or s.name, s.chunk): s for s in cls.states if s.role is Role.WEIGHT}
    found: dict[str, str] = {}
    added = [n.op.name for n in body.nodes if isinstance(n.op, Accumulate)]
    for s in cls.states:
        if s.role is Role.GRADIENT:
            weight = weights.get((s.logical, s.chunk))
            if weight is None or s.name not in added:
                return None
            if local_type(s.type, s.layout, program.sizes) != local_type(weight.type, weight.layout, program.sizes):
                return None
            found[s.name] = weight.name
    return found if set(added) == set(found) else None


def _without_saves(body: Graph, cls: DeviceClass, loss: Value) -> Graph:
    saved = {s.name for s in cls.states if s.role is Role.SAVED}
    ends = [n for n in body.nodes if not n.outputs and not (isinstance(n.op, Save) and n.op.name in saved)]
    needed = prune_nodes([n for n in body.nodes if n.outputs], [loss, *(v for n in ends for v in n.inputs)])
    return replace(body, nodes=(*needed, *ends))
