"""Where the values of a body are used for the last time. Shared by the executors and the memory accounting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compiler.graph import Graph, Value
from compiler.ops.effects import Accumulate, Read, Write
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass, FunctionPhase, Program, Schedule
from compiler.schedules import Action, ActionLoop, Turn, loops
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Liveness:
    """`after[i]`: names that nothing needs after instruction i; `unused`: parameters that nothing needs at all.

    `sinks`: stacks that a loop makes for an `accumulate` only -> the accumulator. Once that has been set in the step,
    nobody makes the stack: each iteration's result is added to its slice as soon as it is defined.
    """

    after: tuple[tuple[str, ...], ...]
    unused: tuple[str, ...]
    sinks: Mapping[str, str]


def liveness(body: Graph, carries: int = 0) -> Liveness:
    """The first `carries` results never die in the body; others that nobody reads die where they are defined.

    (A loop copies an iteration's results, but for the carries, as soon as they are defined.)
    """
    last: dict[str, int] = {p.name: -1 for p in body.inputs}
    for i, instr in enumerate(body.nodes):
        for value in instr.inputs:
            last[value.name] = i
        for var in instr.outputs:
            last[var.name] = i
    after: list[list[str]] = [[] for _ in body.nodes]
    unused = []
    results = {v.name for v in body.outputs[:carries]}
    for name, i in last.items():
        if name in results:
            continue
        if i < 0:
            unused.append(name)
        else:
            after[i].append(name)
    return Liveness(tuple(map(tuple, after)), tuple(unused), _sinks(body))


def _sinks(body: Graph) -> dict[str, str]:
    """Nothing else may touch the accumulator from the loop up to the `accumulate`: sums keep the order as written."""
    readers: dict[str, list[int]] = {}
    touches: dict[str, list[int]] = {}  # accumulator -> the effects of that name, in order
    for i, instr in enumerate(body.nodes):
        for value in instr.inputs:
            readers.setdefault(value.name, []).append(i)
        if isinstance(instr.op, (Accumulate, Read, Write)):
            touches.setdefault(instr.op.name, []).append(i)
    found: dict[str, str] = {}
    results = {v.name for v in body.outputs}
    for i, instr in enumerate(body.nodes):
        if not isinstance(instr.op, Repeat):
            continue
        for out in instr.outputs[instr.op.carries :]:
            at = readers.get(out.name, ())
            if len(at) != 1 or out.name in results:
                continue
            op = body.nodes[at[0]].op
            if isinstance(op, Accumulate) and not any(i < k < at[0] for k in touches[op.name]):
                found[out.name] = op.name
    return found


def variables(body: Graph) -> dict[str, Value]:
    """Every value of the body by name: parameters and results of instructions (not those inside its loops)."""
    found = {p.name: p for p in body.inputs}
    for instr in body.nodes:
        found.update((v.name, v) for v in instr.outputs)
    return found


def rounds(
    program: Program, cls: DeviceClass, group: int
) -> Iterator[tuple[tuple[tuple[FunctionPhase, int], ...], int]]:
    """The group's schedule as (functions of one round, number of rounds): as long for any number of micro-batches."""
    for loop in rolled_up(program, cls.schedule, group):
        yield loop.keys, loop.count


def rolled_up(program: Program, schedule: Schedule, group: int) -> tuple[ActionLoop, ...]:
    """The group's loops, whose actions are those of `unrolled`."""
    return loops(schedule, group, Turn.of(program))


def passes(program: Program) -> int:
    """How many actions a step has, those of all groups together."""
    rows = (rolled_up(program, cls.schedule, g) for cls in program.classes for g in cls.groups)
    return sum(loop.count * len(loop.steps) for row in rows for loop in row)


def unrolled(program: Program, schedule: Schedule, group: int) -> Iterator[Action]:
    """The group's actions in order: (kind, chunk, micro-batch). They are made one by one: there may be millions."""
    for loop in rolled_up(program, schedule, group):
        yield from loop.actions()
