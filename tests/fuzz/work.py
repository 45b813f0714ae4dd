"""How much arithmetic there is in a step of a program: what takes long because there is much of it is told from what
hangs by numbers, before it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.program import Function, Program

INSTRUCTION, ELEMENT, FLOP = 1e-6, 3e-10, 5e-11
"""CPU seconds that an instruction takes at least, an element of its result, and a multiplication or an addition of a
product."""

LONG, LONGEST = 0.005, 0.05
"""Seconds of a step at least. Beyond `LONG` one in `FEW` is run, for most of a campaign would be spent on few of them;
beyond `LONGEST` none: a proof, which takes thirty times as long, would be nearer to the limit of a command than a hang
should be. What is below has to be done within that limit."""

FEW = 8


def much(program: Program, number: int) -> bool:
    """Whether a program is not to be run. number: by which one in `FEW` is chosen."""
    least = seconds(program)
    return least > LONGEST or (least > LONG and number % FEW != 0)


def seconds(program: Program) -> float:
    """CPU seconds that a step takes at least in the executor with all devices as one array."""
    from compiler.liveness import rolled_up

    total = 0.0
    for cls in program.classes:
        of = {f.key: _of(f, program) for f in cls.functions}
        for group in cls.groups:
            for loop in rolled_up(program, cls.schedule, group):
                total += loop.count * sum(of.get(key, 0.0) for key in loop.keys)
    return total


def _of(function: Function, program: Program) -> float:
    from compiler.layout import TIME
    from compiler.ops.contract import Contract
    from compiler.walk import walk

    parts = program.sizes.get(TIME, 1)
    total = 0.0
    for node, times in walk(function.body):
        own = INSTRUCTION
        for v in node.outputs:
            share = parts if v.layout is not None and TIME in v.layout.axes else 1
            own += ELEMENT * v.type.elements / share
            if isinstance(node.op, Contract):
                own += FLOP * node.op.flops([x.type for x in node.inputs]) / share
        total += times * own
    return total
