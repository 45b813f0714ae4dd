"""Between stages: every send has its receive, and reductions between stages have all their members."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from compiler.graph import Value
from compiler.ops.effects import Recv, Send, StageReduce
from compiler.program import ROUNDS, FunctionPhase, Program
from compiler.schedules import Edge
from compiler.text.locations import Site
from compiler.verify.report import Report
from dsl.data import dataclass
from dsl.diagnostics import plural


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a message: `stage` sends to (receives from) `peer` in function `kind`."""

    stage: int
    peer: int
    name: str
    sends: bool
    kind: FunctionPhase
    round: int
    var: Value
    site: Site


def _ends(program: Program) -> Iterator[_End]:
    for c, cls in enumerate(program.classes):
        for i, f in enumerate(cls.functions):
            known: dict[str, Value] = {}
            for k, instr in enumerate(f.body.nodes):
                known.update((v.name, v) for v in instr.outputs)
                op = instr.op
                if not isinstance(op, (Send, Recv)):
                    continue
                var = known[instr.inputs[0].name] if isinstance(op, Send) else instr.outputs[0]
                offset = op.to if isinstance(op, Send) else op.source
                for g in cls.groups:
                    stage = program.homes.stage(g, f.phase.at(f.chunk))
                    site = Site(c, "fn", i, (k,))
                    yield _End(
                        stage, stage + offset, op.name, isinstance(op, Send), f.phase, f.chunk % ROUNDS, var, site
                    )


def _tables(program: Program) -> tuple[dict[tuple[int, int, str], _End], dict[tuple[int, int, str], _End], list[_End]]:
    """Sends and receives by (from, to, name), and what comes twice."""
    sends: dict[tuple[int, int, str], _End] = {}
    receives: dict[tuple[int, int, str], _End] = {}
    twice: list[_End] = []
    for end in _ends(program):
        key = (end.stage, end.peer, end.name) if end.sends else (end.peer, end.stage, end.name)
        table = sends if end.sends else receives
        if key in table:
            twice.append(end)
        table[key] = end
    return sends, receives, twice


def message_edges(program: Program) -> list[Edge]:
    """Who waits for whom, of a program whose sends and receives pair up."""
    sends, receives, _ = _tables(program)
    pairs = [(s, r) for key, s in sends.items() if (r := receives.get(key)) is not None]
    return sorted({Edge(s.stage, s.kind, r.stage, r.kind) for s, r in pairs if s.kind.of_chunk})


def check_stages(program: Program, report: Report) -> None:
    """Pairs of sends and receives; reductions between stages."""
    sends, receives, twice = _tables(program)
    told: set[Site] = set()

    def tell(end: _End, message: str, help: str | None = None) -> None:
        if end.site not in told:
            told.add(end.site)
            report.error("E0630", end.site, message, help)

    for end in twice:
        tell(end, f"{end.name} is {'sent' if end.sends else 'received'} twice per micro-batch")
    for key, s in sends.items():
        r = receives.get(key)
        way = program.homes.way
        if s.stage // way != s.peer // way and 0 <= s.peer < program.stages:
            tell(s, f"stage {s.stage} sends {s.name} to stage {s.peer}, which other micro-batches go through")
        if r is None:
            outside = "" if 0 <= s.peer < program.stages else f" (the program has {plural(program.stages, 'stage')})"
            message = f"stage {s.stage} sends {s.name} to stage {s.peer}, which does not receive it{outside}"
            tell(s, message, "the offsets of `send` and `recv` are negatives of each other")
        elif (r.var.type, r.var.layout) != (s.var.type, s.var.layout):
            tell(r, f"stage {r.stage} receives {r.name} in another type or layout than stage {s.stage} sends it")
        elif FunctionPhase.STATISTICS in (s.kind, r.kind) and (s.kind, s.round) != (r.kind, r.round):
            tell(r, f"stage {r.stage} receives {r.name} in {r.kind}, and stage {s.stage} sends it in {s.kind}")
    for key, r in receives.items():
        if key not in sends:
            message = f"stage {r.stage} receives {r.name} from stage {r.peer}, which does not send it"
            tell(r, message, "the offsets of `send` and `recv` are negatives of each other")
    around = _circle({(s.stage, s.peer) for s in sends.values() if s.kind is FunctionPhase.STATISTICS})
    if around is not None:
        end = next(s for s in sends.values() if s.kind is FunctionPhase.STATISTICS and s.stage == around)
        tell(end, f"stage {around} waits for itself: what {end.kind} sends comes back to it in another {end.kind}")
    _check_reductions(program, report)


def _circle(edges: Collection[tuple[int, int]]) -> int | None:
    """A stage from which messages lead back to it; None if there is none."""
    left = {*edges}
    while ends := {to for _, to in left} - {source for source, _ in left}:
        left = {(source, to) for source, to in left if to not in ends}
    return min((source for source, _ in left), default=None)


def _check_reductions(program: Program, report: Report) -> None:
    calls: dict[int, dict[str, tuple[StageReduce, Value, Site]]] = {g: {} for g in range(program.groups)}
    for c, cls in enumerate(program.classes):
        for i, f in enumerate(cls.functions):
            for k, instr in enumerate(f.body.nodes):
                if isinstance(instr.op, StageReduce):
                    site = Site(c, "fn", i, (k,))
                    if instr.op.fn not in ("sum", "max") or len(set(instr.op.groups)) != len(instr.op.groups):
                        report.error("E0631", site, "stage_reduce: `sum` or `max` among groups, each named once")
                    if any(instr.op.key in calls[g] for g in cls.groups):
                        report.error("E0631", site, f"stage_reduce {instr.op.key} comes twice")
                    for g in cls.groups:
                        calls[g][instr.op.key] = (instr.op, instr.outputs[0], site)
    for g, mine in calls.items():
        for key, (op, var, site) in mine.items():
            if g not in op.groups:
                report.error("E0631", site, f"stage_reduce {key}: stage {g} takes part, but is not among {op.groups}")
            for h in op.groups:
                other = calls.get(h, {}).get(key)
                if other is None:
                    report.error("E0631", site, f"stage_reduce {key}: stage {h} does not take part")
                elif (other[0], other[1].type, other[1].layout) != (op, var.type, var.layout):
                    report.error("E0631", site, f"stage_reduce {key}: stages {g} and {h} disagree on what it is")
    if not report.failed:
        _check_reduction_order(calls, report)


def _check_reduction_order(calls: dict[int, dict[str, tuple[StageReduce, Value, Site]]], report: Report) -> None:
    """All members reach each reduction: run them one after the other as long as that goes."""
    rows = {g: list(mine) for g, mine in calls.items()}
    moved = True
    while moved:
        moved = False
        for g, row in rows.items():
            while row and all(rows[h][:1] == row[:1] for h in calls[g][row[0]][0].groups):
                key = row[0]
                for h in calls[g][key][0].groups:
                    rows[h].pop(0)
                moved = True
    stuck = next(((g, row[0]) for g, row in rows.items() if row), None)
    if stuck is not None:
        site = calls[stuck[0]][stuck[1]][2]
        report.error("E0631", site, f"stage_reduce {stuck[1]}: the stages come to it in different orders, and hang")
