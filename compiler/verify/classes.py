"""The frame: axes, groups, declarations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from compiler.declared import logical
from compiler.graph import Value
from compiler.layout import TIME
from compiler.ops.effects import Send, StageReduce
from compiler.origin import DECLARED, Role
from compiler.program import LASTING, ROUNDS, DeviceClass, FunctionPhase, LoopRange, Program, StateDecl
from compiler.text.locations import Site
from compiler.verify.local import check_layout
from compiler.verify.report import Report
from dsl.diagnostics import plural


def check_classes(program: Program, report: Report) -> None:
    """Axes, groups, functions and declarations make sense by themselves."""
    for name in _twice(a.name for a in program.axes):
        report.error("E0650", None, f"there are two axes {name}")
    for a in program.axes:
        if a.size < 1 or a.kind not in ("mesh", "place", "time") or (a.kind == "time") != (a.name == TIME):
            report.error("E0650", None, f"axis {a.name}={a.size} {a.kind}: the time axis, and no other, is called mb")
    for name in _twice(i.name for i in program.inputs):
        report.error("E0650", None, f"there are two inputs {name}")
    homes = program.homes
    there = set(homes.groups)
    if len(there) != program.groups or not all(0 <= g < program.groups for g in there):
        message = f"{plural(program.stages, 'stage')} on {plural(program.groups, 'group')} of devices"
        report.error("E0650", None, message, "every group has at least one")
    elif homes.ways > 1:
        _check_ways(program, report)
    placed = Counter(g for cls in program.classes for g in cls.groups)
    wrong = next((g for g in range(program.groups) if placed[g] != 1), None)  # soon: there may be any number of groups
    if wrong is None:
        wrong = next((g for g in placed if not 0 <= g < program.groups), None)
    if wrong is not None:
        report.error("E0650", None, f"group {wrong} of devices belongs to {placed[wrong]} classes instead of one")
    for c, cls in enumerate(program.classes):
        if not cls.groups:
            report.error("E0650", Site(c), "the class has no devices")
        else:
            _check_class(program, cls, c, report)
    if not report.failed:
        _check_coverage(program, report)
        _check_iterations(program, report)


def _check_ways(program: Program, report: Report) -> None:
    """Each has an equal part of the micro-batches; copies of a stage are elsewhere, with the same iterations."""
    homes = program.homes
    if program.microbatches % homes.ways:
        message = f"{homes.ways} ways, and {plural(program.microbatches, 'micro-batch')}"
        report.error("E0650", None, message, "each way has equally many")
    for stage in range(homes.way):
        on = [homes.group(copy) for copy in homes.copies(stage)]
        if len(set(on)) < len(on):
            report.error("E0650", None, f"copies of stage {stage} are on one group of devices")
            return
    found: dict[tuple[int, str], tuple[int, int]] = {}
    for c, cls in enumerate(program.classes):
        for g, r in ((g, r) for g in cls.groups for r in cls.ranges if 0 <= r.chunk < len(homes.of(g))):
            stage, mine = homes.stage(g, r.chunk) % homes.way, (r.first.at(g), r.count)
            if found.setdefault((stage, r.dim), mine) != mine:
                report.error("E0650", Site(c), f"loop {r.dim}: copies of stage {stage} have different iterations")


def _check_coverage(program: Program, report: Report) -> None:
    """Each iteration of a loop that is cut over the stages belongs to one of them, and so to one of its parts."""
    pieces: dict[str, list[tuple[int, int, int, int]]] = {}
    apart: dict[str, set[tuple[str, int, int, int, int]]] = {}  # of what is a part of a loop
    cut = {r.dim for cls in program.classes for r in cls.ranges if r.count < r.total}
    homes = program.homes
    copied = range(homes.way, len(homes))  # stages whose iterations those have that they are copies of
    for c, cls in enumerate(program.classes):
        for r in cls.ranges:
            groups = [g for g in cls.groups if homes.ways == 1 or homes.stage(g, r.chunk) not in copied]
            if r.dim in cut or r.within is None:  # else stages may have the same
                pieces.setdefault(r.dim, []).extend((r.first.at(g), r.count, r.total, c) for g in groups)
            if r.within is not None and r.total < r.within.total:  # else it has its own name for all of them
                part = r.dim, r.within.first, r.total, r.within.total, c
                apart.setdefault(r.within.label, set()).add(part)
    for label, parts in apart.items():
        place = {dim: c for dim, _, _, _, c in sorted(parts, reverse=True)}
        once = {(dim, at, count, total) for dim, at, count, total, _ in parts}
        pieces[label] = [(at, count, total, place[dim]) for dim, at, count, total in once]
    for dim, found in pieces.items():
        at, total = 0, found[0][2]
        found.sort()
        for first, count, its_total, c in found:
            if its_total != total:
                report.error(
                    "E0650", Site(c), f"loop {dim} has {plural(its_total, 'iteration')} here, {total} elsewhere"
                )
                return
            if first != at:
                what = f"{first} is on two stages" if first < at else f"{at} is on no stage"
                report.error("E0650", Site(c), f"loop {dim}: iteration {what}")
                return
            at += count
        if at != total:
            report.error("E0650", Site(found[-1][3]), f"loop {dim}: iteration {at} of {total} is on no stage")


def _check_iterations(program: Program, report: Report) -> None:
    """Of weights that are renewed, each iteration that stands by itself is somewhere."""
    there: dict[str, set[tuple[int, ...]]] = {}
    whole: dict[str, tuple[int, StateDecl]] = {}
    for c, cls in enumerate(program.classes):
        for s in cls.states:
            if s.iterations and s.role is Role.WEIGHT and not s.frozen:
                there.setdefault(logical(s), set()).add(tuple(i.first for i in s.iterations))
                whole.setdefault(logical(s), (c, s))
    for name, (c, s) in whole.items():
        count = prod(i.total for i in s.iterations)
        if len(there[name]) != count:
            message = f"{name}: of {plural(count, 'iteration')} of {', '.join(i.label for i in s.iterations)}"
            report.error("E0650", Site(c), f"{message} only {len(there[name])} on a stage")


def _twice(names: Iterable[object]) -> list[object]:
    return [name for name, count in Counter(names).items() if count > 1]


def _check_class(program: Program, cls: DeviceClass, c: int, report: Report) -> None:
    kinds = {a.name: a.kind for a in program.axes}
    for name in _twice(s.name for s in cls.states):
        report.error("E0650", Site(c), f"two buffers are called {name}")
    for name in _twice((f.phase.value, f.chunk) for f in cls.functions):
        report.error("E0650", Site(c), f"there are two functions {name}")
    known = {(f.phase, f.chunk) for f in cls.functions}
    adds, settles = FunctionPhase.STATISTICS, FunctionPhase.TOTALS
    chunks = min(len(program.homes.of(g)) for g in cls.groups)
    idle = [chunk for chunk in range(chunks) if not any(f.phase.of_chunk and f.chunk == chunk for f in cls.functions)]
    if idle:
        stage = program.homes.stage(cls.groups[0], idle[0])
        report.error("E0650", Site(c), f"stage {stage} has no function", f"one of chunk {idle[0]} of the class")
    for i, f in enumerate(cls.functions):
        if f.phase.of_round:
            other, round = settles if f.phase is adds else adds, f.chunk % ROUNDS
            rounds = {(phase, number % ROUNDS) for phase, number in known if phase.of_round}
            crosses = any(isinstance(n.op, Send if f.phase is adds else StageReduce) for n in f.body.nodes)
            if not 0 <= f.chunk < ROUNDS * (chunks if f.phase is adds else 1) or (
                (other, round) not in rounds and not crosses
            ):
                message = f"there is no {other} to {f.phase} of round {round}"
                how = f"a round has {adds}, which adds up, and {settles}, which settles"
                report.error("E0650", Site(c, "fn", i), message, how)
        elif not 0 <= f.chunk < (chunks if f.phase.of_chunk else 1):
            how = f"{', '.join(FunctionPhase)}, of chunks 0..{chunks - 1}"
            report.error("E0650", Site(c, "fn", i), f"no function {f.phase}.{f.chunk} is known", how)
    ranges: dict[tuple[str, int], list[LoopRange]] = {}
    for r in cls.ranges:
        ranges.setdefault((r.dim, r.chunk), []).append(r)
    for i, s in enumerate(cls.states):
        site = Site(c, "state", i)
        if s.role not in DECLARED:
            report.error("E0650", site, f"{s.name}: no buffer has the role {s.role}", f"roles: {', '.join(DECLARED)}")
        timeless = s.role not in (Role.SAVED, Role.OUTPUT, Role.STATE, Role.GRADIENT, Role.ROWS)
        for _, message, help in check_layout(Value(s.name, s.type, layout=s.layout), kinds, timeless):
            report.error("E0613", site, message, help)
        if s.role in LASTING and s.layout.pending:
            report.error("E0615", site, f"{s.role} {s.name} lives across steps, but with pending reductions")
        _check_range(ranges, s, site, report)
    for r in cls.ranges:
        ends = [r.first.at(g) for g in cls.groups]
        if r.count < 1 or min(ends) < 0 or max(ends) + r.count > r.total:
            report.error(
                "E0650", Site(c), f"loop {r.dim}: {r.count} iterations from {min(ends)} to {max(ends)} of {r.total}"
            )


def _check_range(
    ranges: Mapping[tuple[str, int], Sequence[LoopRange]], s: StateDecl, site: Site, report: Report
) -> None:
    for r in ranges.get((s.type.dims[0].name, s.chunk), ()) if s.type.dims else ():
        if s.type.dims[0].size != r.count:
            message = f"{s.name} holds {s.type.dims[0].size} iterations of {r.dim}, the chunk has {r.count}"
            report.error("E0650", site, message)
