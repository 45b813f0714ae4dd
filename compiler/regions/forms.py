"""What systems have one call for, read off the nodes that write it out: norms, softmaxes, attention, losses, GELU.

What is read is exactly what the call computes, up to the order of sums; anything else is no such form.
"""

from __future__ import annotations

from collections.abc import Collection
from math import sqrt

from compiler.graph import Node, Value
from compiler.ops.contract import Contract
from compiler.ops.create import Iota
from compiler.ops.effects import Save
from compiler.ops.elementwise import Cast, Map, StopGradient
from compiler.ops.reduce import Reduce
from compiler.regions.reading import Reading
from dsl.data import dataclass

LOW = -1e9
"""What stands in the place of scores that a mask leaves out is below this."""


# --- norms --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Norm:
    """`of` over its last dims `over`: centred / sqrt(mean centred² + eps) * scale + shift.

    centred: of, less its mean if there is one (else of itself). root: the node of the root. normal: the product of
    both; end: the last node.
    """

    of: Value
    over: tuple[str, ...]
    eps: float
    centred: Value
    mean: Value | None
    root: Node
    normal: Node
    scale: Value | None
    shift: Value | None
    end: Node


def norm(of: Reading, root: Node, inside: Collection[Value] | None = None) -> Norm | None:
    """The norm of this root, over dims that are last and whole. inside: values that a scale or shift may give."""
    if not isinstance(root.op, Map) or root.op.fn != "rsqrt":
        return None
    shifted = of.map(root.inputs[0], "add")
    if shifted is None or len(shifted) != 1 or (square := of.mean(shifted[0])) is None:
        return None
    eps, over = of.literal(root.inputs[0]), square[1]
    factors = of.map(square[0], "mul")
    if factors is None or len(factors) != 2 or factors[0] is not factors[1]:
        return None
    z = factors[0]
    centred = of.map(z, "sub")
    x, mean = z, None
    if centred is not None and len(centred) == 2 and of.mean(centred[1]) == (centred[0], over):
        x, mean = centred
    met = [n for n in of.readers[root.output] if z in n.inputs and of.map(n.output, "mul") is not None]
    end = met[0] if len(met) == 1 else None
    if end is None or len(end.inputs) != 2 or x.type.names[-len(over) :] != tuple(n for n in x.type.names if n in over):
        return None
    if any(x.layout.dims[-len(over) :][i] for i in range(len(over))):
        return None
    scale, shift, last = _affine(of, end, inside, x.type.names[-len(over) :])
    if shift is not None and mean is None:
        return None
    return Norm(x, over, eps, z, mean, root, end, scale, shift, last)


def _affine(
    of: Reading, end: Node, inside: Collection[Value] | None, dims: tuple[str, ...]
) -> tuple[Value | None, Value | None, Node]:
    """The scale and the shift behind a norm, and the last of its nodes."""
    found: dict[str, Value] = {}
    while True:
        after = [n for n in of.readers.get(end.output, ()) if n.outputs and (inside is None or n.outputs[0] in inside)]
        if len(after) != 1 or sum(not isinstance(n.op, Save) for n in of.readers[end.output]) != 1:
            return found.get("mul"), found.get("add"), end
        (node,) = after
        fn = node.op.fn if isinstance(node.op, Map) else ""
        other = [v for v in node.inputs if v is not end.output]
        if fn in ("mul", "add") and fn not in found and len(other) == 1 and other[0].type.names == dims:
            if fn == "add" and "mul" not in found:
                return None, None, end
            found[fn] = other[0]
        elif not isinstance(node.op, Cast) or found:
            return found.get("mul"), found.get("add"), end
        end = node


# --- softmax ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Softmax:
    """Of what, along which dim, only where `keep` holds; core: the exponential."""

    of: Value
    dim: str
    keep: Value | None
    core: Node


def softmax(of: Reading, p: Value) -> Softmax | None:
    """What a value is the softmax of."""
    divided = of.map(of.through(p, Cast), "div", None, None)
    if divided is None:
        return None
    e, total = divided
    guarded = of.map(total, "where", None, None, 1.0)
    if guarded is not None:
        positive = of.map(guarded[0], "gt", None, 0.0)
        if positive is None or positive[0] is not guarded[1]:
            return None
        total = guarded[1]
    summed = of.reduced(total, "sum")
    if summed is None or summed[0] is not e or len(summed[1]) != 1:
        return None
    keep = None
    if (masked := of.map(e, "where", None, None, 0.0)) is not None:
        keep, e = masked
    found = shifted(of, e, summed[1])
    if found is None:
        return None
    z, core = found
    hidden = of.map(z, "where")
    if hidden is not None and len(hidden) == 2 and hidden[0] is keep and of.literal(z) < LOW:
        z = hidden[1]
    elif keep is not None:
        return None
    return Softmax(of.through(z, Cast), summed[1][0], keep, core)


def shifted(of: Reading, e: Value, dims: tuple[str, ...]) -> tuple[Value, Node] | None:
    """z and the node of its exponential, if the value is exp(z - max z)."""
    power = of.map(e, "exp")
    less = of.map(power[0], "sub", None, None) if power else None
    top = of.reduced(of.through(less[1], StopGradient), "max") if less else None
    return (less[0], of.made[e]) if less and top == (less[0], dims) else None


# --- attention ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attention:
    """The softmax of products of queries and keys, times values.

    first, last: the products. common: dims of queries and keys (batch and heads of keys); free: those of queries alone
    (which share a key); queries have further dims `s`, `depth`; keys `t`, `depth`; values `t`, `width`.
    """

    softmax: Softmax
    first: Node
    last: Node
    query: Value
    key: Value
    value: Value
    common: tuple[str, ...]
    free: tuple[str, ...]
    s: str
    t: str
    depth: str
    width: str
    causal: bool


def attention(of: Reading, last: Node) -> Attention | None:
    """What the product of probabilities and values is the last node of."""
    for p, value in (last.inputs, last.inputs[::-1]) if isinstance(last.op, Contract) else ():
        found = softmax(of, p)
        first = of.made.get(found.of) if found else None
        if found is not None and first is not None and isinstance(first.op, Contract):
            return _attention(of, found, first, last, value)
    return None


def _attention(of: Reading, found: Softmax, first: Node, last: Node, value: Value) -> Attention | None:
    t = found.dim
    q, key = first.inputs if not first.inputs[0].type.has(t) else first.inputs[::-1]
    scores, out = first.output.type.names, last.output.type.names
    if q.type.has(t) or not key.type.has(t) or not value.type.has(t) or scores[-1] != t or len(scores) < 2:
        return None
    s = scores[-2]
    common = tuple(n for n in scores[:-2] if key.type.has(n))
    free = tuple(n for n in scores[:-2] if not key.type.has(n))
    depth = [n for n in q.type.names if n not in scores]
    width = [n for n in value.type.names if n not in (*common, t)]
    wanted = (set(q.type.names), set(key.type.names), set(out))
    if len(depth) != 1 or len(width) != 1 or len(free) > 1 or len(common) != 2 or scores[:-2] != (*common, *free):
        return None
    if wanted != ({*common, *free, s, *depth}, {*common, t, *depth}, {*common, *free, s, *width}):
        return None
    causal = _is_causal(of, found.keep, s, t) if found.keep is not None else False
    return Attention(found, first, last, q, key, value, common, free, s, t, depth[0], width[0], causal)


def _is_causal(of: Reading, keep: Value, s: str, t: str) -> bool:
    """Whether positions see themselves and those before them."""
    pair = of.map(keep, "ge", None, None)
    found = [of.made.get(v) for v in pair or ()]
    if len(found) != 2 or not all(
        n is not None and n.op == Iota(n.output.type.dims[0]) and not n.inputs and not n.output.layout.dims[0]
        for n in found
    ):
        return False
    dims = [n.output.type.dims[0] for n in found if n is not None]
    return [d.name for d in dims] == [s, t] and dims[0].size == dims[1].size


# --- losses -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """The sum over all positions of the logarithm of the sum of exponentials of z along its last dim, less what is
    picked by the targets. core: the exponential; each: the node of the positions' own; end: that of the sum."""

    z: Value
    targets: Value
    core: Node
    each: Node
    end: Node


def cross_entropy(of: Reading, node: Node) -> CrossEntropy | None:
    """The loss that this node sums up."""
    summed = of.reduced(node.output, "sum") if node.outputs and isinstance(node.op, Reduce) else None
    parts = of.map(summed[0], "sub", None, None) if summed and not node.output.type.dims else None
    if parts is None or summed is None:
        return None
    power = of.map(parts[0], "log")
    total = of.reduced(power[0], "sum") if power else None
    found = shifted(of, total[0], total[1]) if total else None
    picked = of.reduced(parts[1], "sum")
    if total is None or found is None or picked is None or picked[1] != total[1] or len(total[1]) != 1:
        return None
    z, core = found
    (v,) = total[1]
    chosen = of.map(picked[0], "where", None, None, 0.0)
    less = of.map(total[0], "exp")
    equal = of.map(chosen[0], "eq", None, None) if chosen else None
    if equal is None or chosen is None or less is None or chosen[1] is not less[0] or z.type.names[-1] != v:
        return None
    targets = picked_by(of, equal, v)
    if targets is None or targets.type.names != z.type.names[:-1] or z.layout.dims[-1]:
        return None
    return CrossEntropy(z, targets, core, of.made[summed[0]], node)


def picked_by(of: Reading, equal: tuple[Value, ...], v: str) -> Value | None:
    """The other operand, if one is the number of the place in dim `v`."""
    for iota, targets in (equal, equal[::-1]):
        node = of.made.get(iota)
        if node is not None and node.op == Iota(iota.type.dims[0]) and not node.inputs and iota.type.names == (v,):
            return targets
    return None


# --- activations --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Activation:
    """`gelu` (of Gauss' error function) or `silu` of a value; core: a node of the inside; end: the last."""

    fn: str
    of: Value
    core: Node
    end: Node


def activation(of: Reading, node: Node) -> Activation | None:
    """The activation that this node ends."""
    operands = of.map(node.output, "mul", None, None) if isinstance(node.op, Map) else None
    for half, rest in (operands, operands[::-1]) if operands else ():
        one = of.map(rest, "add", 1.0, None)
        bell = of.map(one[0], "erf") if one else None
        inner = of.map(bell[0], "div", None, sqrt(2.0)) if bell else None
        outer = of.map(half, "mul", 0.5, None)
        if one and inner and outer and inner[0] is outer[0]:
            return Activation("gelu", inner[0], of.made[one[0]], node)
        gate = of.map(rest, "sigmoid")
        if gate and gate[0] is half:
            return Activation("silu", half, of.made[rest], node)
    return None
