"""Regions as PyTorch's fused calls: norms, attention and losses where the program marks them, and two activations.

A region is read node by node: what is not exactly what the call computes is written op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from compiler.graph import Graph, Node, Value
from compiler.ops.contract import Contract
from compiler.ops.effects import Read, Write
from compiler.ops.elementwise import Cast
from compiler.regions import forms
from compiler.regions.forms import Attention
from compiler.regions.reading import Reading
from compiler.regions.region import Region, RegionKind
from parc.exporting.torch.emitters import permuted
from parc.exporting.torch.products import biased
from parc.exporting.torch.reading import FusedCall
from parc.exporting.torch.steps import steps
from parc.exporting.torch.writer import DTYPES, Writer, number, tuple_of


def fused(body: Graph, regions: Sequence[Region]) -> dict[Node, FusedCall]:
    """The calls in a body, by the node that gives what each gives."""
    of = Reading.of(body.nodes)
    found: dict[Node, FusedCall] = {}
    for region in regions:
        names = set(region.values)
        nodes = [n for n in body.nodes if len(n.outputs) == 1 and n.output.name in names]
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
    inside = {n.output for n in nodes if n.outputs}
    for root in nodes:
        found = forms.norm(of, root, inside)
        if found is not None:
            source = of.through(found.of, Cast)
            values = [v for v in (found.scale, found.shift) if v is not None]
            if all(v.type.dtype == source.type.dtype for v in (*values, found.end.output)):
                name = "rms_norm" if found.mean is None else "layer_norm"
                yield found.end, FusedCall((source, *values), root, _norm(name, found.over, found.eps, source, values))


def _norm(name: str, over: Sequence[str], eps: float, x: Value, values: Sequence[Value]) -> Callable[[Writer], str]:
    def text(w: Writer) -> str:
        shape = tuple_of(str(w.local(x).size(n)) for n in x.type.names[-len(over) :])
        narrow = x.type.dtype in ("bf16", "f16")  # the gradients of scale and shift would be added up in 16 bits
        wide, back = (".float()", f".to({DTYPES[x.type.dtype]})") if narrow else ("", "")
        given = "".join(f", {w.ref(v)}{wide}" for v in values)
        return f"functional.{name}({w.ref(x)}{wide}, {shape}{given}, eps={number(eps)}){back}"

    return text


# --- attention ----------------------------------------------------------------------------------------


def attention(of: Reading, nodes: Sequence[Node], region: Region) -> Iterator[tuple[Node, FusedCall]]:
    """`scaled_dot_product_attention` of queries, keys and values, as they are scaled already."""
    inside = {v for n in nodes for v in n.outputs}
    for last in {n for v in inside for n in of.readers.get(v, ()) if isinstance(n.op, Contract)}:
        p = last.inputs[0] if last.inputs[0] in inside else last.inputs[1]
        found = forms.attention(of, last)
        if found is not None and len(of.readers[p]) == 1:
            yield last, _attention(of, found)


def _attention(of: Reading, found: Attention) -> FusedCall:
    q, key, value = found.query, found.key, found.value
    common, free, s, t = found.common, found.free, found.s, found.t
    scores, out = found.first.output.type.names, found.last.output.type.names
    factor, divided = 1.0, of.map(q, "div")
    if divided is not None and len(divided) == 1 and len(of.readers[q]) == 1:
        factor, q = 1.0 / of.literal(q), divided[0]
    keep = found.softmax.keep
    mask = () if found.causal or keep is None else (keep,)

    def text(w: Writer) -> str:
        queries = permuted(w.ref(q), q.type.names, [*common, *free, s, found.depth])
        keys = permuted(w.ref(key), key.type.names, [*common, t, found.depth])
        values = permuted(w.ref(value), value.type.names, [*common, t, found.width])
        queries += ".flatten(1, 2)" if free else ""
        given = ", is_causal=True" if found.causal else ""
        for keep in mask:
            view = w.aligned(keep, scores)
            view += ".flatten(1, 2)" if free and set(keep.type.names) & {*common, *free} else ""
            given += f", attn_mask={view}"
        given += f", scale={number(factor)}" + (", enable_gqa=True" if free else "")
        call = f"functional.scaled_dot_product_attention({queries}, {keys}, {values}{given})"
        call += f".unflatten(1, (-1, {w.local(q).size(free[0])}))" if free else ""
        return permuted(call, [*common, *free, s, found.width], out)

    return FusedCall((q, key, value, *mask), found.softmax.core, text)


# --- losses and activations ---------------------------------------------------------------------------


def loss(of: Reading, nodes: Sequence[Node], region: Region) -> Iterator[tuple[Node, FusedCall]]:
    """`cross_entropy`: a sum over positions of the logarithm of the sum of exponentials, less what is picked."""
    for node in nodes:
        if (found := forms.cross_entropy(of, node)) is not None:
            yield node, FusedCall((found.z, found.targets), found.core, _cross_entropy(found.z, found.targets))


def _cross_entropy(z: Value, targets: Value) -> Callable[[Writer], str]:
    def text(w: Writer) -> str:
        rank = len(targets.type.dims)
        flat = f".flatten(0, {rank - 1})" if rank > 1 else ""
        index = f"{w.ref(targets)}{'.flatten()' if rank > 1 else ''}.long()"
        return f'functional.cross_entropy({w.ref(z)}{flat}, {index}, reduction="sum")'

    return text


def activations(of: Reading, nodes: Sequence[Node]) -> Iterator[tuple[Node, FusedCall]]:
    """`gelu` and `silu`."""
    for node in nodes:
        if (found := forms.activation(of, node)) is not None:
            yield node, _call(found.fn, found.of, found.core)


def _call(fn: str, x: Value, core: Node) -> FusedCall:
    return FusedCall((x,), core, lambda w: f"functional.{fn}({w.ref(x)})")
