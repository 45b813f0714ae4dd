"""Products of 8-bit integers: their kernels multiply by the scales as they write the result, in no time of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.cluster import INTEGER
from compiler.cost.kernels.drafts import Lifted
from compiler.cost.kernels.work import Product
from compiler.graph import Node
from compiler.ops.elementwise import Cast, Map
from compiler.ops.packed import Integers

if TYPE_CHECKING:
    from compiler.cost.kernels.group import _Lift

SUM, FLOAT, SCALED = 1, 2, 3
"""How far a result is: added up in 32 bits; a float, perhaps with the scales of its rows; with those of its columns."""


def unpacked(lift: _Lift, instr: Node, ins: Sequence[Lifted]) -> Lifted:
    """What products read as it rests, and unpack as they go (as in Marlin's kernels)."""
    value = lift.define(instr.outputs[0], max(v.owner for v in ins), ins[0].taint)
    value.bytes = sum(v.bytes for v in ins)
    lift.lifter.inside.add(value.root)
    if isinstance(instr.op, Integers):
        value.root, value.code = ins[0].root, instr.op.code
        ins[0].code = instr.op.code
    return value


def typed(lift: _Lift, instr: Node, work: Product) -> None:
    """The product as a kernel of its own, of integers where both operands are."""
    whole = all(lift.values[v.name].code == INTEGER for v in instr.inputs)
    lift.add(instr, replace(work, dtype=INTEGER) if whole else work)
    lift.values[instr.output.name].scaling = SUM if whole else 0


def scaled(lift: _Lift, instr: Node) -> bool:
    """Whether the kernel of a product of integers makes this, too, of its result."""
    ins = [lift.values[v.name] for v in instr.inputs]
    source = next((v for v in ins if v.scaling), None)
    if source is None:
        return False
    if isinstance(instr.op, Cast):
        step = max(source.scaling, FLOAT)
    elif isinstance(instr.op, Map) and instr.op.fn == "mul" and source.scaling == FLOAT and len(ins) == 2:
        other = ins[0] if ins[1] is source else ins[1]
        step = SCALED if other.taint == "weights" else FLOAT
    else:
        return False
    lift.wait(lift.drafts[source.owner], [v.name for v in instr.inputs if lift.values[v.name] is not source])
    value = lift.define(instr.outputs[0], source.owner, source.taint)
    value.root, value.scaling = source.root, step
    lift.views.setdefault(value.owner, list[Lifted]()).append(value)
    return True
