"""Seats that nobody sits in: of a buffer with room for more copies of positions than there are, what stays empty.

A mixture has `capacity` times as many seats as copies go to its experts. What a model needs to compute is that of the
copies; devices compute all seats. How many are taken at most follows from how they are counted: the numbers of copies
by expert, made by adding up ones, are as many together as there are copies, so `iota(slot) < counts` holds for no more
seats. Where it does not hold the index is negative, and what is taken there is no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import prod

from compiler.graph import Graph, Node, Value
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Merge, Rename, Slice, Split
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Seats:
    """Of the rows along `dims` this share stands for something at most. Of a condition: it holds there at most."""

    dims: frozenset[str]
    share: Fraction


def occupied(graphs: Iterable[Graph]) -> dict[Value, Seats]:
    """The values that have empty seats, in bodies of loops too. What one graph saves, the next ones know."""
    known: dict[Value, Seats] = {}
    for graph in graphs:
        _walk(graph, known)
    return known


def _walk(graph: Graph, known: dict[Value, Seats]) -> None:
    made = {v: node for node in graph.nodes for v in node.outputs}
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Repeat):
            inputs = zip(op.body.inputs[op.carries :], node.inputs[op.carries :], strict=True)
            known.update((inner, known[outer]) for inner, outer in inputs if outer in known)
            _walk(op.body, known)
            outputs = zip(node.outputs[op.carries :], op.body.outputs[op.carries :], strict=True)
            known.update((outer, known[inner]) for outer, inner in outputs if inner in known)
        elif found := _mapped(op, node, made, known) if isinstance(op, Map) else _moved(node, known):
            known[node.output] = found


def _mapped(op: Map, node: Node, made: Mapping[Value, Node], known: Mapping[Value, Seats]) -> Seats | None:
    if op.fn == "lt" and len(node.inputs) == 2:
        return _counted(*node.inputs, made)
    if op.fn in ("ge", "gt") and len(node.inputs) == 1 and op.slots[0] is None:
        # no negative index: of what has bools and floats nothing is known by its sign
        (index,) = node.inputs
        least = 0 if op.fn == "ge" else -1
        return known.get(index) if index.type.dtype == "int32" and _at_least(op.slots[1], least) else None
    if op.fn == "where":
        condition, *others = node.inputs
        if node.output.type.dtype == "int32":
            return known.get(condition) if op.slots[2] is not None and op.slots[2] < 0 else None
        if not node.output.type.is_float or any(s not in (None, 0) for s in op.slots):
            return None
        return known.get(condition) if op.slots[2] == 0 and condition in known else _alike(others, known)
    if node.output.type.dtype == "int32":  # an index stays negative
        same = op.fn == "floordiv" and len(node.inputs) == 1 and op.slots[0] is None and _at_least(op.slots[1], 1)
        return known.get(node.inputs[0]) if same else None
    if not node.output.type.is_float:
        return None
    if op.fn == "mul":
        return min((known[v] for v in node.inputs if v in known), key=lambda s: s.share, default=None)
    return _alike(node.inputs, known)


def _at_least(literal: float | bool | None, least: int) -> bool:
    return literal is not None and literal >= least


def _alike(inputs: Iterable[Value], known: Mapping[Value, Seats]) -> Seats | None:
    """Of a function of rows: empty where those of all operands are that have any, and none has rows there itself."""
    given = list(inputs)
    found = {known[v] for v in given if v in known}
    if len(found) != 1:
        return None
    (seats,) = found
    return seats if all(v in known or not seats.dims <= set(v.type.names) for v in given) else None


def _counted(place: Value, counts: Value, made: Mapping[Value, Node]) -> Seats | None:
    """Of `iota(slot) < counts`, where counts says how often each `g` was met: it holds as often as all were."""
    first, second = made.get(place), made.get(counts)
    if first is None or second is None or not (isinstance(first.op, Iota) and isinstance(second.op, ScatterAdd)):
        return None
    if first.inputs:
        return None
    ones, goal = second.inputs
    source = made.get(ones)
    if source is None or not (isinstance(source.op, Full) and 0 <= source.op.value <= 1):
        return None
    met = prod(d.size for d in goal.type.dims if d.name not in second.op.dims)
    seats = first.op.dim.size * second.op.dim.size
    names = frozenset((first.op.dim.name, second.op.dim.name))
    return Seats(names, Fraction(met, seats)) if met < seats else None


def _moved(node: Node, known: Mapping[Value, Seats]) -> Seats | None:
    """Of what moves rows, takes them by an index, or adds up inside them."""
    op, inputs = node.op, node.inputs
    if isinstance(op, Take):
        return known.get(inputs[1]) if node.output.type.is_float else None
    if isinstance(op, Contract):
        found = min((known[v] for v in inputs if v in known), key=lambda s: s.share, default=None)
        return found if found and found.dims <= set(op.dims) else None
    seats = known.get(inputs[0]) if len(inputs) == 1 else None
    if seats is None:
        return None
    dims = seats.dims
    if isinstance(op, Rename):
        names = dict(op.pairs)
        return Seats(frozenset(names.get(d, d) for d in dims), seats.share)
    if isinstance(op, Merge) and not dims.isdisjoint(op.dims):
        return Seats(dims - {*op.dims} | {op.into}, seats.share)
    if isinstance(op, Split) and op.dim in dims:
        return Seats(dims - {op.dim} | {d.name for d in op.into}, seats.share)
    if isinstance(op, Reduce):
        return seats if dims.isdisjoint(op.dims) and node.output.type.is_float else None
    if isinstance(op, Slice):
        return seats if op.dim not in dims else None
    if isinstance(op, Cast):
        return seats if inputs[0].type.is_float and node.output.type.is_float else None
    return seats if isinstance(op, (Rename, Merge, Split, Transpose, Broadcast, StopGradient)) else None
