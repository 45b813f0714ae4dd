"""Values that nobody here reads: they are only added to gradients, or written."""

from __future__ import annotations

from collections.abc import Collection

from compiler.graph import Graph
from compiler.ops import comm, effects
from compiler.ops.base import Movement, Op
from compiler.ops.elementwise import Cast
from compiler.ops.repeat import Repeat

GROUPED = (comm.Pattern.RING, comm.Pattern.DIRECT)
"""In which all devices of a group take part in a message, not neighbours only."""

_KEEPS: dict[type[Op], bool] = {}


def keeps(op: Op) -> bool:
    """Whether the result is the operand in another type, place, order or layout: views, casts, collectives."""
    cls = type(op)
    known = _KEEPS.get(cls)
    if known is None:
        grouped = issubclass(cls, comm.Comm) and cls.pattern in GROUPED
        known = _KEEPS[cls] = grouped or issubclass(cls, Cast) or cls.movement is not Movement.NO
    return known


def mark_sunk(body: Graph, results: set[int], found: dict[int, set[str]]) -> None:
    """Enters the values of a body, and of its loops, that are only added to gradients or written, by identity of the
    body. results: indices of those of its results that are."""
    mine = found[id(body)] = sunk_values(body, results)
    for node in body.nodes:
        if isinstance(node.op, Repeat):
            carries = node.op.carries
            mark_sunk(node.op.body, {i for i, v in enumerate(node.outputs) if i >= carries and v.name in mine}, found)


def sunk_values(body: Graph, results: set[int], into: Collection[str] | None = None) -> set[str]:
    """Values that are only accumulated or written (if `into` is stated, into those accumulators), directly or through
    casts and collectives; so are these results."""
    other = {v.name for i, v in enumerate(body.outputs) if i not in results}
    sunk = {v.name for i, v in enumerate(body.outputs) if i in results} - other
    for instr in reversed(body.nodes):
        op = instr.op
        if keeps(op):
            fine = all([v.name in sunk and v.name not in other for v in instr.outputs])
        else:
            fine = isinstance(op, (effects.Accumulate, effects.Write)) and (into is None or op.name in into)
        (sunk if fine else other).update([v.name for v in instr.inputs])
    return sunk - other
