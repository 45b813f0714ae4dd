"""Regions as PyTorch's fused calls: norms, attention and losses where the program marks them, and two activations.

A region is read node by node: what is not exactly what the call computes is written op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import sqrt

from compiler.graph import Graph, Node, Value
from compiler.ops.contract import Contract
from compiler.ops.create import Iota
from compiler.ops.effects import Read, Write
from compiler.ops.elementwise import Cast, Map, StopGradient
from compiler.ops.reduce import Reduce
from compiler.regions.region import Region, RegionKind
from dsl.data import dataclass
from parc.exporting.torch.emitters import permuted
from parc.exporting.torch.products import biased
from parc.exporting.torch.reading import FusedCall, Reading
from parc.exporting.torch.steps import steps
from parc.exporting.torch.writer import DTYPES, Writer, number, tuple_of

LOW = -1e9
"""What stands in the place of scores that a mask leaves out is below this."""


def fused(body: Graph, regions: Sequence[Region]) -> dict[Node, FusedCall]:
    """The calls in a body, by the node that gives what each gives."""
    made = {v: node for node in body.nodes for v in node.outputs}
    readers: dict[Value, list[Node]] = {}
    for node in body.nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    of = Reading(made, readers)
    found: dict[Node, FusedCall] = {}
    for region in regions:
        names = set(region.values)
        nodes = [n for n in body.nodes if n.outputs and n.outputs[0].name in names]
        reader = {RegionKind.NORM: norm, RegionKind.ATTENTION: attention, RegionKind.LOSS: loss}.get(region.kind)
        found.update(reader(of, nodes, region) if reader is not None else ())
    for more in (activations, biased, steps):
        found.update(more(of, body.nodes))
    return _before_writes(body, found)


def _before_writes(body: Graph, calls: Mapping[Node, FusedCall]) -> dict[Node, FusedCall]:
    """Those that read no buffer whose contents are new by then."""
    buffers = {n.output: n.op.name for n in body.nodes if isinstance(n.op, Read)}
    written: set[str] = set()
    found: dict[Node, FusedCall] = {}
    for node in body.nodes:
        if isinstance(node.op, Write):
            written.add(node.op.name)
        elif node in calls and not any(buffers.get(v) in written for v in calls[node].reads):
            found[node] = calls[node]
    return found


# --- norms --------------------------------------------------------------------------------------------


def norm(of: Reading, nodes: Sequence[Node], region: Region) -> Iterator[tuple[Node, FusedCall]]:
    """`layer_norm` or `rms_norm`, over the last dims of a tensor that is whole along them."""
    for root in nodes:
        if not isinstance(root.op, Map) or root.op.fn != "rsqrt":
            continue
        shifted = of.map(root.inputs[0], "add")
        if shifted is None or len(shifted) != 1 or (square := of.mean(shifted[0])) is None:
            return
        eps, over = of.literal(root.inputs[0]), square[1]
        factors = of.map(square[0], "mul")
        if factors is None or len(factors) != 2 or factors[0] is not factors[1]:
            return
        z = factors[0]
        centred = of.map(z, "sub")
        x = z
        if centred is not None and len(centred) == 2 and of.mean(centred[1]) == (centred[0], over):
            x = centred[0]
        met = [n for n in of.readers[root.output] if z in n.inputs and of.map(n.output, "mul") is not None]
        end = met[0] if len(met) == 1 else None
        if end is None or x.type.names[-len(over) :] != tuple(n for n in x.type.names if n in over):
            return
        if any(x.layout.dims[-len(over) :][i] for i in range(len(over))):
            return
        scale, shift, end = _affine(of, end, {n.output for n in nodes if n.outputs}, x.type.names[-len(over) :])
        source = of.through(x, Cast)
        values = [v for v in (scale, shift) if v is not None]
        if shift is not None and x is z or any(v.type.dtype != source.type.dtype for v in (*values, end.output)):
            return
        yield (
            end,
            FusedCall(
                (source, *values), root, _norm("rms_norm" if x is z else "layer_norm", over, eps, source, values)
            ),
        )


def _norm(name: str, over: Sequence[str], eps: float, x: Value, values: Sequence[Value]) -> Callable[[Writer], str]:
    def text(w: Writer) -> str:
        shape = tuple_of(str(w.local(x).size(n)) for n in x.type.names[-len(over) :])
        narrow = x.type.dtype in ("bf16", "f16")  # the gradients of scale and shift would be added up in 16 bits
        wide, back = (".float()", f".to({DTYPES[x.type.dtype]})") if narrow else ("", "")
        given = "".join(f", {w.ref(v)}{wide}" for v in values)
        return f"functional.{name}({w.ref(x)}{wide}, {shape}{given}, eps={number(eps)}){back}"

    return text


def _affine(
    of: Reading, end: Node, inside: set[Value], dims: tuple[str, ...]
) -> tuple[Value | None, Value | None, Node]:
    """The scale and the shift behind a norm, and the last of its nodes."""
    found: dict[str, Value] = {}
    while True:
        after = [n for n in of.readers.get(end.output, ()) if n.outputs and n.output in inside]
        if len(after) != 1 or len(of.readers[end.output]) != 1:
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
    found = _shifted(of, e, summed[1])
    if found is None:
        return None
    z, core = found
    hidden = of.map(z, "where")
    if hidden is not None and len(hidden) == 2 and hidden[0] is keep and of.literal(z) < LOW:
        z = hidden[1]
    elif keep is not None:
        return None
    return Softmax(of.through(z, Cast), summed[1][0], keep, core)


def _shifted(of: Reading, e: Value, dims: tuple[str, ...]) -> tuple[Value, Node] | None:
    """z and the node of its exponential, if the value is exp(z - max z)."""
    power = of.map(e, "exp")
    less = of.map(power[0], "sub", None, None) if power else None
    top = of.reduced(of.through(less[1], StopGradient), "max") if less else None
    return (less[0], of.made[e]) if less and top == (less[0], dims) else None


# --- attention ----------------------------------------------------------------------------------------


def attention(of: Reading, nodes: Sequence[Node], region: Region) -> Iterator[tuple[Node, FusedCall]]:
    """`scaled_dot_product_attention` of queries, keys and values, as they are scaled already."""
    inside = {v for n in nodes for v in n.outputs}
    for last in {n for v in inside for n in of.readers.get(v, ()) if isinstance(n.op, Contract)}:
        p, value = last.inputs if last.inputs[0] in inside else last.inputs[::-1]
        found = softmax(of, p)
        first = of.made.get(found.of) if found else None
        if found is None or first is None or not isinstance(first.op, Contract) or len(of.readers[p]) != 1:
            continue
        call = _attention(of, found, first, last, value)
        if call is not None:
            yield last, call


def _attention(of: Reading, found: Softmax, first: Node, last: Node, value: Value) -> FusedCall | None:
    t = found.dim
    q, key = first.inputs if not first.inputs[0].type.has(t) else first.inputs[::-1]
    scores, out = first.output.type.names, last.output.type.names
    if q.type.has(t) or not key.type.has(t) or not value.type.has(t) or scores[-1] != t or len(scores) < 2:
        return None
    s = scores[-2]
    common = [n for n in scores[:-2] if key.type.has(n)]  # batch and heads of keys
    free = [n for n in scores[:-2] if not key.type.has(n)]  # queries that share a key
    depth = [n for n in q.type.names if n not in scores]
    width = [n for n in value.type.names if n not in (*common, t)]
    wanted = (set(q.type.names), set(key.type.names), set(out))
    if len(depth) != 1 or len(width) != 1 or len(free) > 1 or len(common) != 2 or list(scores[:-2]) != [*common, *free]:
        return None
    if wanted != ({*common, *free, s, *depth}, {*common, t, *depth}, {*common, *free, s, *width}):
        return None
    factor, divided = 1.0, of.map(q, "div")
    if divided is not None and len(divided) == 1 and len(of.readers[q]) == 1:
        factor, q = 1.0 / of.literal(q), divided[0]
    causal = _is_causal(of, found.keep, s, t) if found.keep is not None else False
    mask = () if causal or found.keep is None else (found.keep,)

    def text(w: Writer) -> str:
        queries = permuted(w.ref(q), q.type.names, [*common, *free, s, *depth])
        keys = permuted(w.ref(key), key.type.names, [*common, t, *depth])
        values = permuted(w.ref(value), value.type.names, [*common, t, *width])
        queries += ".flatten(1, 2)" if free else ""
        given = ", is_causal=True" if causal else ""
        for keep in mask:
            view = w.aligned(keep, scores)
            view += ".flatten(1, 2)" if free and set(keep.type.names) & {*common, *free} else ""
            given += f", attn_mask={view}"
        given += f", scale={number(factor)}" + (", enable_gqa=True" if free else "")
        call = f"functional.scaled_dot_product_attention({queries}, {keys}, {values}{given})"
        call += f".unflatten(1, (-1, {w.local(q).size(free[0])}))" if free else ""
        return permuted(call, [*common, *free, s, *width], out)

    return FusedCall((q, key, value, *mask), found.core, text)


def _is_causal(of: Reading, keep: Value, s: str, t: str) -> bool:
    """Whether positions see themselves and those before them."""
    pair = of.map(keep, "ge", None, None)
    found = [of.made.get(v) for v in pair or ()]
    if len(found) != 2 or not all(
        n is not None and isinstance(n.op, Iota) and not n.inputs and not n.output.layout.dims[0] for n in found
    ):
        return False
    dims = [n.output.type.dims[0] for n in found if n is not None]
    return [d.name for d in dims] == [s, t] and dims[0].size == dims[1].size


# --- losses -------------------------------------------------------------------------------------------


def loss(of: Reading, nodes: Sequence[Node], region: Region) -> Iterator[tuple[Node, FusedCall]]:
    """`cross_entropy`: a sum over positions of the logarithm of the sum of exponentials, less what is picked."""
    for node in nodes:
        summed = of.reduced(node.output, "sum") if node.outputs and isinstance(node.op, Reduce) else None
        parts = of.map(summed[0], "sub", None, None) if summed and not node.output.type.dims else None
        if parts is None:
            continue
        power = of.map(parts[0], "log")
        total = of.reduced(power[0], "sum") if power else None
        found = _shifted(of, total[0], total[1]) if total else None
        picked = of.reduced(parts[1], "sum")
        if total is None or found is None or picked is None or picked[1] != total[1] or len(total[1]) != 1:
            continue
        z, core = found
        (v,) = total[1]
        chosen = of.map(picked[0], "where", None, None, 0.0)
        shifted = of.map(total[0], "exp")
        equal = of.map(chosen[0], "eq", None, None) if chosen else None
        if equal is None or chosen is None or shifted is None or chosen[1] is not shifted[0] or z.type.names[-1] != v:
            continue
        iota, targets = equal if isinstance(of.made.get(equal[0], node).op, Iota) else equal[::-1]
        if (
            not isinstance(of.made.get(iota, node).op, Iota)
            or targets.type.names != z.type.names[:-1]
            or z.layout.dims[-1]
        ):
            continue

        def text(w: Writer, z: Value = z, targets: Value = targets) -> str:
            rank = len(targets.type.dims)
            flat = f".flatten(0, {rank - 1})" if rank > 1 else ""
            index = f"{w.ref(targets)}{'.flatten()' if rank > 1 else ''}.long()"
            return f'functional.cross_entropy({w.ref(z)}{flat}, {index}, reduction="sum")'

        yield node, FusedCall((z, targets), core, text)


# --- activations --------------------------------------------------------------------------------------


def activations(of: Reading, nodes: Sequence[Node]) -> Iterator[tuple[Node, FusedCall]]:
    """`gelu` and `silu`."""
    for node in nodes:
        operands = of.map(node.output, "mul", None, None) if isinstance(node.op, Map) else None
        for half, rest in (operands, operands[::-1]) if operands else ():
            one = of.map(rest, "add", 1.0, None)
            bell = of.map(one[0], "erf") if one else None
            inner = of.map(bell[0], "div", None, sqrt(2.0)) if bell else None
            outer = of.map(half, "mul", 0.5, None)
            if one and inner and outer and inner[0] is outer[0]:
                yield node, _call("gelu", inner[0], of.made[one[0]])
                break
            gate = of.map(rest, "sigmoid")
            if gate and gate[0] is half:
                yield node, _call("silu", half, of.made[rest])
                break


def _call(fn: str, x: Value, core: Node) -> FusedCall:
    return FusedCall((x,), core, lambda w: f"functional.{fn}({w.ref(x)})")
