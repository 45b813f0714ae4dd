"""Copies in what an all-to-all moves: a position goes to each of its experts, and what they give is added up again.

Systems that know of this send a position once to each device, or each node, and add up before they send
(`collectives.level_seconds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from compiler.cost.kernels.drafts import ALL, Lifted
from compiler.graph import Graph, Node
from compiler.ops.base import Op
from compiler.ops.elementwise import Broadcast, Map
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Reduce
from compiler.ops.shape import Pad, Slice


def _reorders(op: Op) -> bool:
    """Whether it makes no new values: elements are there more often or not at all, in another order or type."""
    return op.selects() or isinstance(op, Pad)


def copies(moved: Node, made: Mapping[str, Node], body: Graph, values: Mapping[str, Lifted]) -> tuple[int, int]:
    """How many elements of a message hang on one element of what it is made from, or of the sum that is made of it; and
    how many of those there were before the last step in which they were made (after the first sum), 0 in one step.

    made: value -> the instruction of the body that gives it.
    """
    whole = values[moved.inputs[0].name].elements
    sizes = min(_spread(moved, made, values), _gathered(moved, body, values), key=lambda sizes: sizes[-1])
    least = max(Fraction(1), sizes[-1])
    between = [size for size in sizes if least < size < whole]
    return max(1, round(whole / least)), round(between[-1] / least) if between else 0


def _spread(moved: Node, made: Mapping[str, Node], values: Mapping[str, Lifted]) -> list[Fraction]:
    """Elements, back over what only repeats them."""
    name: str | None = moved.inputs[0].name
    sizes = [Fraction(values[moved.inputs[0].name].elements)]
    share = Fraction(1)
    while name is not None and name in made:
        instr = made[name]
        name = _same(instr, values)
        if name is not None:
            share /= _kept(instr, values)
            if values[name].elements * share < sizes[-1]:
                sizes.append(values[name].elements * share)
    return sizes


def _gathered(moved: Node, body: Graph, values: Mapping[str, Lifted]) -> list[Fraction]:
    """Elements, on to sums, as long as nothing else reads them."""
    name = moved.outputs[0].name
    sizes = [Fraction(values[name].elements)]
    share = Fraction(1)
    while True:
        readers = [instr for instr in body.nodes if any(v.name == name for v in instr.inputs)]
        if len(readers) != 1 or any(v.name == name for v in body.outputs):
            return sizes
        (reader,) = readers
        if isinstance(reader.op, Reduce) and reader.op.fn == "sum":
            sizes.append(values[reader.outputs[0].name].elements * share)
        elif isinstance(reader.op, ScatterAdd) and reader.inputs[0].name == name:
            share /= values[reader.inputs[1].name].filled
            sizes.append(values[reader.outputs[0].name].elements * share)
        elif _same(reader, values) != name or isinstance(reader.op, Broadcast):
            return sizes
        share *= _kept(reader, values)
        name = reader.outputs[0].name


def filled(instr: Node, values: Mapping[str, Lifted]) -> Fraction:
    """The part of an index that can be rows at most: what is taken of a smaller list of rows leaves places empty."""
    if isinstance(instr.op, Take):
        table, out = (values[v.name].elements for v in (instr.inputs[0], instr.outputs[0]))
        return min(Fraction(table, max(out, 1)), ALL)
    if _reorders(instr.op) or isinstance(instr.op, Map):
        some = [values[v.name].filled for v in instr.inputs if values[v.name].filled is not ALL]
        return min(some, default=ALL)
    return ALL


def _kept(instr: Node, values: Mapping[str, Lifted]) -> Fraction:
    """What a slice leaves and a pad adds, as a share: neither are copies. Nor is room that no index fills."""
    if isinstance(instr.op, Take):
        return values[instr.inputs[1].name].filled
    if not isinstance(instr.op, (Slice, Pad)):
        return Fraction(1)
    return Fraction(values[instr.inputs[0].name].elements, values[instr.outputs[0].name].elements)


def _same(instr: Node, values: Mapping[str, Lifted]) -> str | None:
    """The operand of which the result holds nothing but elements (and zeros, where a mask says so)."""
    if _reorders(instr.op) or isinstance(instr.op, Take):
        return instr.inputs[0].name
    if isinstance(instr.op, Map) and instr.op.fn == "where" and len(instr.inputs) == 2:
        mask, kept = instr.inputs
        return kept.name if instr.op.slots[0] is None and mask.type.dtype == "bool" else None
    return None
