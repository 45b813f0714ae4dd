"""What rows of a table move: of one in the devices' own memory, of one that rests in another, or that hosts read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from compiler.cost.kernels.work import Copy, Hosted
from compiler.graph import ITEMSIZE, Node
from compiler.layout import local_type
from compiler.memory.tiers import FIRST, row_bytes
from compiler.ops.index import Take
from compiler.ops.rows import ReadRows, WriteRows

BY_ROW = (Take, ReadRows, WriteRows)
"""Ops that touch the rows of operand 0 which others of their operands name."""


def rows_elsewhere(instr: Node) -> bool:
    """Whether it reads or renews rows of a table that is not in the devices' own memory."""
    at = instr.op.reaches
    return at is not None and instr.inputs[at].memory != FIRST


def rows_touched(
    instr: Node, nodes: Sequence[Node], sizes: Mapping[str, int], itemsize: int = 8, memory: str = FIRST
) -> int:
    """Bytes that a device reads, or renews, of the table of one of `BY_ROW`: whole grains of a memory for each row.

    Where devices have pieces of the table each has its part of what is asked for: numbers are as likely here as there.
    Slots are as many for each part as a step can ask for at most: all of it, unless there are not so many rows.

    Args:
        nodes: those of its body.
        sizes: of mesh axes.
        itemsize: bytes that an element is read in at most.
        memory: where the rows are.
    """
    op, table, *others = instr.op, *instr.inputs
    assert isinstance(op, BY_ROW)
    at = table.type.index(op.dim)
    moved = others[0] if isinstance(op, WriteRows) else instr.output
    here, of = (local_type(v.type, v.layout, sizes) for v in (table, moved))
    matched = [i for i, d in enumerate(here.dims) if isinstance(op, Take) and others[0].type.has(d.name)]
    row = prod(d.size for d in here.dims[max([at, *matched]) + 1 :])  # what lies side by side of it
    parts = prod(sizes[a] for a in table.layout.dims[at])
    if isinstance(op, (ReadRows, WriteRows)):
        slots = instr.inputs[-1].type.dims[0].size
        alike = (n.op.parts for n in nodes if isinstance(n.op, ReadRows) and n.op.dim == op.dim)
        parts = max(alike, default=parts)
        if slots >= table.type.dims[at].size:
            parts = 1
    rows = min(of.elements / parts, here.elements) / row
    return row_bytes(memory, rows, row * min(ITEMSIZE[here.dtype], itemsize))


def rows_work(instr: Node, nodes: Sequence[Node], sizes: Mapping[str, int], share: float = 1.0) -> Copy | Hosted:
    """Of a node whose operand 0 rests elsewhere; nodes: those of its body; sizes: of mesh axes; share: of the rows,
    those that move."""
    table, place = instr.inputs[0], instr.inputs[1].memory
    back = instr.op.renews == 0
    size = round(share * rows_touched(instr, nodes, sizes, memory=table.memory))
    if table.memory == place:  # and what is made of them, all of which is written there, or read
        moved = instr.inputs[1] if back else instr.output
        of = local_type(moved.type, moved.layout, sizes)
        return Hosted(size + of.elements * ITEMSIZE[of.dtype], 0.0, place)
    return Copy(size, place, table.memory) if back else Copy(size, table.memory, place)
