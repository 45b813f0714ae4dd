"""Where the values of a body are used for the last time. Shared by the executors and the memory accounting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.program import Body, For, Instr, LocalRepeat, Run, Schedule, Var


@dataclass(frozen=True, slots=True)
class Liveness:
    """`after[i]`: names that nothing needs after instruction i; `unused`: parameters that nothing needs at all."""

    after: tuple[tuple[str, ...], ...]
    unused: tuple[str, ...]


def liveness(body: Body) -> Liveness:
    """Results of the body never die in it; a value that nobody reads dies where it is defined."""
    last: dict[str, int] = {p.name: -1 for p in body.params}
    for i, instr in enumerate(body.instrs):
        for name in instr.inputs:
            last[name] = i
        for var in instr.outputs:
            last[var.name] = i
    after: list[list[str]] = [[] for _ in body.instrs]
    unused = []
    results = set(body.results)
    for name, i in last.items():
        if name in results:
            continue
        if i < 0:
            unused.append(name)
        else:
            after[i].append(name)
    return Liveness(tuple(map(tuple, after)), tuple(unused))


def variables(body: Body) -> dict[str, Var]:
    """Every value of the body by name: parameters and results of instructions (not those inside its loops)."""
    found = {p.name: p for p in body.params}
    for instr in body.instrs:
        found.update((v.name, v) for v in instr.outputs)
    return found


def walk(body: Body, times: int = 1) -> Iterator[tuple[Instr, dict[str, Var], int]]:
    """All instructions, those inside loops too: (instruction, the variables in its scope, how often it runs)."""
    scope = variables(body)
    for instr in body.instrs:
        yield instr, scope, times
        if isinstance(instr.op, LocalRepeat):
            yield from walk(instr.op.body, times * instr.op.count)


Action = tuple[str, int, int]
"""(function, chunk, micro-batch); the update is ("U", 0, 0)."""


def actions(schedule: Schedule, group: int) -> Iterator[Action]:
    """The group's actions in order, unrolled."""
    for part in schedule:
        if isinstance(part, Run):
            for m in range(part.low.at(group), part.high.at(group)):
                yield part.action, part.chunk, m
        elif isinstance(part, For):
            for i in range(part.count.at(group)):
                for action, chunk, offset in part.steps:
                    yield action, chunk, i * part.stride + offset.at(group)
        else:
            yield "U", 0, 0


def rounds(schedule: Schedule, group: int) -> Iterator[tuple[tuple[tuple[str, int], ...], int]]:
    """The group's schedule as (functions of one round, number of rounds): as long for any number of micro-batches."""
    for part in schedule:
        if isinstance(part, Run):
            yield ((part.action, part.chunk),), part.high.at(group) - part.low.at(group)
        elif isinstance(part, For):
            yield tuple((a, c) for a, c, _ in part.steps), part.count.at(group)
        else:
            yield (("U", 0),), 1
