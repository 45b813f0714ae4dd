"""Refuses at once what this machine cannot run, by numbers, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from compiler.driver import Compiled
from compiler.evaluate.sizes import Sizes
from compiler.graph import Graph
from compiler.limits import DRAWN, INSTRUCTIONS, RUN, WRITERS, LengthLimit
from compiler.liveness import passes, rounds
from compiler.model import Job, Training
from compiler.program import Program
from compiler.shards import ShardMap
from compiler.walk import walk
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError, fail
from dsl.source import Span
from parc.smaller import axes, devices, elements, instructions, smaller, told_smaller
from parc.units import amount

Evaluate = Callable[[Sizes], Job] | None
"""The job with other sizes; of a lowered program there is none."""

ACTION = 3000
"""Bytes that an action takes in a trace or on a page, with what it sends and what memory it leaves."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be run. executors: `stacked` where all devices are one array, `private` where each has its own
    buffers; proved: the serial program, if it is run beside it; span: of the job; evaluate: the job with other sizes,
    which tells the parameters that make it smaller (of a lowered program there are none)."""

    program: Program
    executors: Collection[str]
    proved: Training | None = None
    span: Span | None = None
    evaluate: Evaluate = None


def require_machine(asked: Asked) -> None:
    """Raise E0931 for a step of too many actions or instructions, E0932 for tensors of too many axes, and E0910 if
    there is less memory than is needed."""
    from runtime.room import most_axes, private, serial, stacked

    program = asked.program
    _require_short(program, RUN, asked.span, asked.evaluate)
    _require_few(program, asked.span, asked.evaluate)
    if asked.proved is not None:
        _require_few_serial([asked.proved.forward, asked.proved.backward], asked.span, asked.evaluate)
    _require_axes(asked, most_axes())
    needed = sum(private(program) if e == "private" else stacked(program) for e in asked.executors)
    if asked.proved is not None:
        needed += serial(asked.proved)
    what = "proving" if asked.proved is not None else "running"
    help = _SMALL if asked.evaluate is not None else _LOWERED
    _require_room(f"{what} `{program.name}`", needed, asked.span, asked.evaluate, help)


def require_compressing(job: Job, watched: bool, evaluate: Callable[[Sizes], Job]) -> None:
    """Raise E0910 where there is less memory than compressing a job's weights needs, and E0931 where the serial program
    would not end, which is run for that if it is `watched`."""
    from runtime.room import compressed

    model = job.serial.model
    if watched:
        _require_few_serial([model.graph], job.span, evaluate)
    needed = compressed(model, watched)
    _require_room(f"compressing the weights of `{job.name}`", needed, job.span, evaluate, "")


def require_writers(program: Program, span: Span | None, evaluate: Evaluate) -> None:
    """Raise E0933 where so many devices write a program's checkpoints that nobody would see the end of it."""
    parts = ShardMap(program).parts
    if parts > WRITERS:
        message = f"a checkpoint of `{program.name}` has files of {parts:,} devices, the most is {WRITERS:,}"
        help = "shorter axes for what is split (`shard optimizer`, tensor parallelism), or fewer stages"
        raise ParcError(told_smaller(Diagnostic("E0933", message, span, help=help), evaluate, devices))


def _require_room(what: str, needed: int, span: Span | None, evaluate: Evaluate, help: str) -> None:
    """Raise E0910 unless there are so many bytes for `what`. help: besides parameters that make it smaller."""
    from runtime.available import lacking

    limit = lacking(needed)
    if limit is not None:
        named = smaller(evaluate, elements) if evaluate is not None else ""
        there = f"there are {amount(limit.bytes)} ({limit.what})"
        message = f"{what} here takes some {amount(needed)} of memory, and {there}"
        raise fail("E0910", message, span, help="; ".join(filter(None, (named, help))) or None)


def require_drawn(compiled: Compiled) -> None:
    """Raise E0931 for a step of too many actions to be drawn, or E0910 for too many for this machine's memory."""
    from runtime.available import lacking

    length = _require_short(compiled.program, DRAWN, compiled.job.span)
    limit = lacking(length * ACTION)
    if limit is not None:
        needed, there = amount(length * ACTION), f"{amount(limit.bytes)} ({limit.what})"
        message = f"drawing a step of {length:,} actions takes some {needed} of memory, and there are {there}"
        raise fail("E0910", message, compiled.job.span, help="fewer micro-batches, or a shorter axis of stages")


def _require_short(program: Program, limit: LengthLimit, span: Span | None, evaluate: Evaluate = None) -> int:
    length = passes(program)
    too_long = limit.exceeded(program.groups, program.microbatches, length, span)
    if too_long is not None:
        raise ParcError(told_smaller(too_long, evaluate))
    return length


def _require_few(program: Program, span: Span | None, evaluate: Evaluate) -> None:
    """Loops go through at most so many instructions in a step, those of all groups together."""
    total, longest = 0, (0, "")
    for cls in program.classes:
        found = {f.key: _instructions(f.body) for f in cls.functions}
        count = {key: n for key, (n, _) in found.items()}
        longest = max((longest, *(most for _, most in found.values())))
        rows = [row for g in cls.groups for row in rounds(program, cls, g)]
        total += sum(times * sum(count.get(key, 0) for key in keys) for keys, times in rows)
    _few(total, longest, span, evaluate)


def _require_few_serial(graphs: Iterable[Graph], span: Span | None, evaluate: Evaluate) -> None:
    """Raise E0931 where the serial program, which may have loops that implementations do not, would not end."""
    found = [_instructions(g) for g in graphs]
    _few(sum(n for n, _ in found), max((most for _, most in found), default=(0, "")), span, evaluate)


def _instructions(graph: Graph) -> tuple[int, tuple[int, str]]:
    """How many run where the graph runs once; of the one that runs most often how often, and its name."""
    total, longest = 0, (0, "")
    for node, times in walk(graph):
        total += times
        if node.outputs:
            longest = max(longest, (times, node.outputs[0].name))
    return total, longest


def _few(total: int, longest: tuple[int, str], span: Span | None, evaluate: Evaluate) -> None:
    if total > INSTRUCTIONS:
        times, name = longest
        message = f"a step has {total:,} instructions to be run, loops gone through; the most is {INSTRUCTIONS:,}"
        help = f"fewer iterations or micro-batches: `{name}` is made {times:,} times in a micro-batch"
        raise ParcError(told_smaller(Diagnostic("E0931", message, span, help=help), evaluate, instructions))


def _require_axes(asked: Asked, most: int) -> None:
    """Arrays of an executor have an axis for each dim, one for each axis of the mesh, and one for micro-batches."""
    from runtime.room import widest

    value, count = widest(asked.program)
    if count > most:
        message = f"`{value}` would be an array of {count} axes here, with those of the mesh; numpy has {most} at most"
        found = Diagnostic("E0932", message, asked.span, help="give it fewer dims, or the mesh fewer axes")
        raise ParcError(told_smaller(found, asked.evaluate, axes))


def out_of_memory(lowered: bool = False) -> Diagnostic:
    """E0910 where something took more memory than was told before. lowered: of a `.npu`, which has its sizes."""
    from runtime.available import available

    limit = available()
    of = f": {amount(limit.bytes)} are left ({limit.what})" if limit is not None else ""
    return Diagnostic("E0910", f"this takes more memory than there is{of}", help=_LOWERED if lowered else _SMALL)


_LOWERED = "the program was lowered for these sizes: `parc verify --small` takes the `.par` file that it was made of"
_SMALL = "`parc verify --small` proves the same strategy in the smallest sizes, in seconds"
