"""Norms: what divides by the root of a mean of squares (layer, group, batch and RMS norm), and its derivative."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from compiler.graph import Graph, Node, Value
from compiler.ops import comm
from compiler.ops.base import Movement
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast, Map
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.origin import Phase
from compiler.regions.attention import is_sum, summed
from compiler.regions.region import FoundRegion, RegionKind

ROOTS: Mapping[str, tuple[str, ...]] = {"rsqrt": ("mul",), "sqrt": ("div",)}
"""Of a mean of squares; and how what was squared meets it."""

JOINS = ("add", "sub")
"""What adds up cotangents: those of two parts of a norm, or of a norm and of what goes past it."""


def norms(body: Graph, weights: Collection[Value]) -> Iterator[FoundRegion]:
    """The norms of a body, those that are computed again too. weights: see `attention`.

    A root of a mean of squares, which meets what was squared; the mean that was taken off before, and the scale and
    offset that follow, belong to it. Messages between them (a dim that is split, a batch on several devices) do, too.
    """
    made = {v: node for node in body.nodes for v in node.outputs}
    readers: dict[Value, list[Node]] = {}
    for node in body.nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    for root in body.nodes:
        if _fn(root) in ROOTS:
            region = _norm(root, made, readers, weights)
            if region is not None:
                yield region


def _norm(
    root: Node, made: Mapping[Value, Node], readers: Mapping[Value, list[Node]], weights: Collection[Value]
) -> FoundRegion | None:
    scaled, total = _back(root.inputs[0], made, _scales)
    if total is None or not isinstance(total.op, (Reduce, Contract)):
        return None
    over = summed(total)
    squares = [total] if isinstance(total.op, Contract) else [*_square(made.get(total.inputs[0])), total]
    factors = {_through(v, made) for v in squares[0].inputs}
    if not over or len(factors) != 1 or squares[0] is total and not isinstance(total.op, Contract):
        return None
    (of,) = factors
    nodes = {root, *scaled, *squares}
    if (centred := made.get(of)) is not None and _fn(centred) == "sub" and len(centred.inputs) == 2:
        mean, start = _back(centred.inputs[1], made, _scales)
        if start is not None and isinstance(start.op, Reduce) and start.op.fn == "sum" and summed(start) == over:
            nodes |= {centred, *mean, start}
    ends = [
        n for v in _views(root.outputs[0], readers, nodes) for n in readers.get(v, ()) if _fn(n) in ROOTS[_fn(root)]
    ]
    ends = [n for n in ends if any(_through(v, made) is of for v in n.inputs)]
    if not ends:
        return None
    nodes.update(ends)
    for end in ends:
        _affine(end.outputs[0], readers, weights, nodes)
    return FoundRegion(RegionKind.NORM, frozenset(nodes), over=(tuple(sorted(over)),))


def _affine(value: Value, readers: Mapping[Value, list[Node]], weights: Collection[Value], nodes: set[Node]) -> None:
    """Adds the scale and the offset behind a norm, which are weights."""
    for fn in ("mul", "add"):
        for v in list(_views(value, readers, nodes)):
            mine = [n for n in readers.get(v, ()) if _fn(n) == fn and any(w in weights for w in n.inputs)]
            if len(mine) == 1:
                nodes.add(mine[0])
                value = mine[0].outputs[0]
                break


def _fn(node: Node) -> str:
    return node.op.fn if isinstance(node.op, Map) else ""


def _square(node: Node | None) -> list[Node]:
    """The product of a value with itself."""
    if node is None or _fn(node) not in ("mul", "pow"):
        return []
    assert isinstance(node.op, Map)
    whole = None not in node.op.slots or node.op.slots == (None, None) or node.op.slots == (None, 2)
    return [node] if whole else []


def _moves(node: Node) -> bool:
    """Whether it gives the same elements: in another order, type or layout."""
    return isinstance(node.op, (Cast, comm.Comm)) or node.op.movement is not Movement.NO


def _scales(node: Node) -> bool:
    """Whether it makes a mean of a sum, or adds a constant to it."""
    return _moves(node) or (isinstance(node.op, Map) and len(node.inputs) == 1 and _fn(node) in ("mul", "div", "add"))


def _back(value: Value, made: Mapping[Value, Node], along: Callable[[Node], bool]) -> tuple[list[Node], Node | None]:
    """The nodes of one operand from which the value comes, as long as they go `along`, and the one before them."""
    found: list[Node] = []
    while (node := made.get(value)) is not None and len(node.inputs) == 1 and along(node):
        found.append(node)
        value = node.inputs[0]
    return found, node


def _through(value: Value, made: Mapping[Value, Node]) -> Value:
    """The value of which this one holds the elements."""
    while (node := made.get(value)) is not None and len(node.inputs) == 1 and _moves(node):
        value = node.inputs[0]
    return value


def _views(value: Value, readers: Mapping[Value, list[Node]], nodes: set[Node]) -> Iterator[Value]:
    """The value and those that hold its elements; what makes these is added to the nodes."""
    yield value
    for node in readers.get(value, ()):
        if len(node.inputs) == 1 and len(node.outputs) == 1 and _moves(node):
            nodes.add(node)
            yield from _views(node.outputs[0], readers, nodes)


# --- the derivative -----------------------------------------------------------------------------------


def inside(region: FoundRegion) -> frozenset[Value]:
    """The values between what a norm takes in and what it gives."""
    given = {v for node in region.nodes for v in node.inputs}
    return frozenset(v for node in region.nodes for v in node.outputs if v in given)


def norm_derivative(body: Graph, kept: Collection[Value], over: Collection[str]) -> frozenset[Node]:
    """What derives a norm in a body: it begins with values of the norm's inside (`kept`) and holds the sums over its
    dims that follow, up to where its parts are added up; not what is added of others, for that goes past it.
    """
    known = set(kept)
    found: list[Node] = []
    for node in body.nodes:
        if _inner(node):
            mine = [v in known for v in node.inputs]
            joins = _fn(node) in JOINS and node.outputs[0].origin.phase is not Phase.AGAIN
            if all(mine) if joins else any(mine):
                found.append(node)
                known.update(node.outputs)
    read = {v for node in found for v in node.inputs}
    sums = [n for n in body.nodes if _inner(n) and frozenset(over) & summed(n) and n.outputs[0] in read]
    lead = {*_leading(found, frozenset(over)), *sums}
    after, open = set[Node](), {v for node in lead for v in node.outputs} | set(kept)
    for node in found:
        if node not in lead and any(v in open for v in node.inputs):
            after.add(node)
            if _fn(node) not in JOINS:
                open.update(node.outputs)
    return frozenset(lead | after) if lead else frozenset()


def _inner(node: Node) -> bool:
    """Whether it can be of a region: no loop, no product of matrices, no effect."""
    if isinstance(node.op, Contract):
        return is_sum(node)
    return bool(node.outputs) and not isinstance(node.op, Repeat) and (node.op.joins or _moves(node))


def _leading(nodes: list[Node], over: frozenset[str]) -> Iterable[Node]:
    """Those that lead to a sum over these dims, and the sums."""
    read: set[Value] = set()
    for node in reversed(nodes):
        if over & summed(node) or any(v in read for v in node.outputs):
            read.update(node.inputs)
            yield node
