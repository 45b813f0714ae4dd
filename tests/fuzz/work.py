"""How much arithmetic there is in a step of a program: what takes long because there is much of it is told from what
hangs by numbers, before it is run."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.program import Function, Program

INSTRUCTION, ELEMENT, FLOP = 1e-6, 3e-10, 5e-11
"""CPU seconds that an instruction takes at least, an element of its result, and a multiplication or an addition of a
product."""

INTERPRETED = 5e-6
"""CPU seconds that an instruction takes at least on a device by itself."""

LONG, LONGEST = 0.005, 0.05
"""Seconds of a step at least. Beyond `LONG` one in `FEW` is run, for most of a campaign would be spent on few of them;
beyond `LONGEST` none: a proof, which takes thirty times as long, would be nearer to the limit of a command than a hang
should be. What is below has to be done within that limit."""

MOST_APART = 0.3
"""Seconds of a step at least, with each device by itself, beyond which none is run so: it is proved by few steps."""

FEW = 8


def much(program: Program, number: int) -> bool:
    """Whether a program is not to be run. number: by which one in `FEW` is chosen."""
    least = seconds(program)
    return least > LONGEST or (least > LONG and number % FEW != 0)


def much_apart(program: Program) -> bool:
    """Whether it is not to be run with each device by itself."""
    each = prod(a.size for a in program.axes if a.kind == "mesh")
    return each * INTERPRETED * _total(program, _instructions) > MOST_APART


def seconds(program: Program) -> float:
    """CPU seconds that a step takes at least in the executor with all devices as one array."""
    return _total(program, lambda function: _seconds(function, program))


def _total(program: Program, of: Callable[[Function], float]) -> float:
    """Of all actions of all groups. of: of an action that is this function."""
    from compiler.liveness import rolled_up

    total = 0.0
    for cls in program.classes:
        each = {f.key: of(f) for f in cls.functions}
        for group in cls.groups:
            for loop in rolled_up(program, cls.schedule, group):
                total += loop.count * sum(each.get(key, 0.0) for key in loop.keys)
    return total


def _instructions(function: Function) -> int:
    from compiler.walk import walk

    return sum(times for _, times in walk(function.body))


def _seconds(function: Function, program: Program) -> float:
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
