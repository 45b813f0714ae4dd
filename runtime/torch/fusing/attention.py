"""Attention and its derivative."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from compiler.graph import Node, Value
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Broadcast
from compiler.ops.shape import Rename
from compiler.regions import forms
from compiler.regions.forms import Attention
from compiler.regions.reading import Reading, pairs
from runtime.torch.fusing.found import Candidate, Fresh, Put, after, dot, product
from runtime.torch.fusing.ops import FusedAttention, FusedAttentionBackward

TYPES = ("f32", "f64")


def attentions(of: Reading, joint: Reading, nodes: Sequence[Node], fresh: Fresh) -> Iterator[Candidate]:
    """What is attended to by all positions, or by those behind, with its derivatives."""
    for last in [n for n in nodes if isinstance(n.op, Contract)]:
        found = forms.attention(of, last)
        if found is None or found.softmax.of.type.dtype not in TYPES:
            continue
        if found.softmax.keep is not None and not found.causal:
            continue
        if any(v.type.dtype not in TYPES for v in (found.query, found.key, found.value)):
            continue
        common, s, t = found.common, found.s, found.t
        probability = next(v for v in last.inputs if v is not found.value)
        if of.made[probability].outputs[0].type.dtype not in TYPES:
            continue
        orders = (
            (*common, *found.free, s, found.depth),
            (*common, t, found.depth),
            (*common, t, found.width),
            (*common, *found.free, s, found.width),
        )
        power = found.softmax.core
        sums = _reduced(fresh(found.first.output, "logsumexp"))
        op = FusedAttention(orders, found.causal)
        forward = Put(op, (found.query, found.key, found.value), (last.output, sums))
        inside = {found.first.output, power.output, probability}
        back = tuple(_backward(joint, found, probability, sums, orders))
        yield Candidate(last.output.name, forward, back, tuple(inside))


def _reduced(scores: Value) -> Value:
    """The value with its last dim reduced."""
    layout = replace(scores.layout, dims=scores.layout.dims[:-1])
    return replace(scores, type=replace(scores.type, dims=scores.type.dims[:-1]), layout=layout)


def _backward(
    of: Reading, found: Attention, p: Value, sums: Value, orders: tuple[tuple[str, ...], ...]
) -> Iterator[Put]:
    """The three products that are the derivatives by query, key and value."""
    out = found.last.output
    for node in after(of, p):
        if node is found.last or not isinstance(node.op, Contract):
            continue
        dout = next((v for v in node.inputs if v is not p), None)
        if dout is None or set(dout.type.names) != set(out.type.names):
            continue
        dv = node.output
        for other in after(of, dout):
            if not isinstance(other.op, Contract) or other is node:
                continue
            value = next((v for v in other.inputs if v is not dout), None)
            if value is None or _renamed(of, value) is not _renamed(of, found.value):
                continue
            for scores in _scores(of, found, p, other.output):
                dq = [n for n in after(of, scores) if _with(of, n, scores, found.key)]
                dk = [n for n in after(of, scores) if _with(of, n, scores, found.query)]
                if len(dq) == 1 and len(dk) == 1:
                    given = (dout, found.query, found.key, found.value, out, sums)
                    op = FusedAttentionBackward(orders, found.causal)
                    yield Put(op, given, (dq[0].output, dk[0].output, dv))


def _with(of: Reading, node: Node, scores: Value, other: Value) -> bool:
    """Whether it is the product of the scores' cotangent and this one."""
    if not isinstance(node.op, Contract):
        return False
    return any(v is not scores and _renamed(of, v) is _renamed(of, other) for v in node.inputs)


def _renamed(of: Reading, v: Value) -> Value:
    return of.through(v, Rename)


def _scores(of: Reading, found: Attention, p: Value, dp: Value) -> Iterator[Value]:
    """The cotangent of the scores: exp times what follows of that of the probabilities, less their mean by p."""
    e = found.softmax.core.output
    for node in after(of, e):
        for other, power in pairs(of, node.output, "mul"):
            if power is not e:
                continue
            weighed = _shown(of, other)
            for w, rest in pairs(of, weighed, "add"):
                of_w = of.map(w, "div", None, None)
                if of_w is not None and of_w[0] is dp and _is_mean(of, rest, w, p):
                    yield _hidden(of, node.output)


def _is_mean(of: Reading, v: Value, w: Value, p: Value) -> bool:
    """Whether it is less the sum of w p, where there is any p."""
    spread = of.through(v, Broadcast)
    guarded = of.map(spread, "where", None, None, 0.0)
    found = product(of, guarded[1] if guarded is not None else spread)
    node = of.made.get(found.values[0]) if len(found.values) == 1 and found.factor == -1.0 else None
    return node is not None and set(dot(of, node) or ()) == {w, p}


def _shown(of: Reading, v: Value) -> Value:
    """What a mask has left a part of."""
    masked = of.map(v, "where", None, None, 0.0)
    return masked[1] if masked is not None else v


def _hidden(of: Reading, v: Value) -> Value:
    """What a mask leaves of a value, if one is laid over it."""
    readers = after(of, v)
    if len(readers) == 1 and (masked := of.map(readers[0].output, "where", None, None, 0.0)) is not None:
        return readers[0].output if masked[1] is v else v
    return v
