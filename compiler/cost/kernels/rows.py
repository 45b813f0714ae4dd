"""What rows of a table move that rests in another memory, or is read by the hosts' processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from compiler.cost.kernels.work import Copy, Hosted
from compiler.graph import ITEMSIZE, Node
from compiler.layout import local_type
from compiler.memory.tiers import FIRST, row_bytes
from compiler.ops.rows import ReadRows, WriteRows


def rows_elsewhere(instr: Node) -> bool:
    """Whether it reads or renews rows of a table that is not in the devices' own memory."""
    at = instr.op.reaches
    return at is not None and instr.inputs[at].memory != FIRST


def rows_work(instr: Node, nodes: Sequence[Node], sizes: Mapping[str, int]) -> Copy | Hosted:
    """Of a node whose operand 0 rests elsewhere; nodes: those of its body; sizes: of mesh axes.

    Where devices have pieces of the table each has its part of what is asked for: numbers are as likely here as there.
    Slots are as many for each part as a step can ask for at most: all of it, unless there are not so many rows.
    """
    op, table, place = instr.op, instr.inputs[0], instr.inputs[1].memory
    back = op.renews == 0
    moved = instr.inputs[1] if back else instr.output
    at = table.type.index(op.dim)  # type: ignore[attr-defined]
    here, of = (local_type(v.type, v.layout, sizes) for v in (table, moved))
    row = prod(d.size for d in here.dims[at + 1 :]) * ITEMSIZE[here.dtype]
    parts = prod(sizes[a] for a in table.layout.dims[at])
    if isinstance(op, (ReadRows, WriteRows)):
        slots = instr.inputs[-1].type.dims[0].size
        alike = (n.op.parts for n in nodes if isinstance(n.op, ReadRows) and n.op.dim == op.dim)
        parts = max(alike, default=parts)
        if slots >= table.type.dims[at].size:
            parts = 1
    rows = min(of.bytes / row / parts, here.bytes / row)
    size = row_bytes(table.memory, rows, row)
    if table.memory == place:  # and what is made of them, all of which is written there, or read
        return Hosted(size + of.bytes, 0.0, place)
    return Copy(size, place, table.memory) if back else Copy(size, table.memory, place)
