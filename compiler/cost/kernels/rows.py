"""What rows of a table that rests in another memory move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from compiler.cost.kernels.work import Copy
from compiler.graph import ITEMSIZE, Node
from compiler.layout import local_type
from compiler.memory.tiers import FIRST, row_bytes
from compiler.ops.rows import ReadRows, WriteRows


def rows_copy(instr: Node, nodes: Sequence[Node], sizes: Mapping[str, int]) -> Copy:
    """Of a node whose operand 0 rests elsewhere; nodes: those of its body; sizes: of mesh axes.

    Where devices have pieces of the table each has its part of what is asked for: numbers are as likely here as there.
    Slots are as many for each part as a step can ask for at most: all of it, unless there are not so many rows.
    """
    op, table = instr.op, instr.inputs[0]
    back = op.renews == 0
    moved = instr.inputs[1] if back else instr.output
    at = table.type.index(op.dim)  # type: ignore[attr-defined]
    here = local_type(table.type, table.layout, sizes)
    row = prod(d.size for d in here.dims[at + 1 :]) * ITEMSIZE[here.dtype]
    parts = prod(sizes[a] for a in table.layout.dims[at])
    if isinstance(op, (ReadRows, WriteRows)):
        slots = instr.inputs[-1].type.dims[0].size
        alike = (n.op.parts for n in nodes if isinstance(n.op, ReadRows) and n.op.dim == op.dim)
        parts = max(alike, default=parts)
        if slots >= table.type.dims[at].size:
            parts = 1
    rows = min(local_type(moved.type, moved.layout, sizes).bytes / row / parts, here.bytes / row)
    size = row_bytes(table.memory, rows, row)
    return Copy(size, FIRST, table.memory) if back else Copy(size, table.memory, FIRST)
