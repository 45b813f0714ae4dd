"""What the stages agree on in U: each value is a piece, a part, or the same on all groups that need it.

A buffer of a loop that is cut holds a piece: this group's iterations. Ops that take iterations one by one make pieces
of pieces; those that reduce them make parts, which only a reduction between all stages brings together. The gradient
of a weight that several groups hold is a part as well. Everything else is the same wherever it is, and may be written
where all groups that hold the buffer have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from compiler.graph import Graph, Node, Value
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.comm import Comm
from compiler.ops.create import Full
from compiler.ops.effects import Effect, Load, Read, StageReduce, Write
from compiler.ops.elementwise import Cast, Map
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass, Function, FunctionPhase, Program, StateDecl
from compiler.text.locations import Site
from compiler.verify.pieces import (
    Same,
    Source,
    StagePart,
    StagePiece,
    State,
    Wrong,
    counted_sources,
    cut_dim,
    flat_dims,
    told_part,
    walking_loop,
)
from compiler.verify.report import Report, head
from dsl.data import dataclass

ADDED = (Role.GRADIENT, Role.ROWS)
"""What passes add up for the update: of each stage what its own make."""

_ADDING = {"sum": "add", "max": "maximum"}

_ONE_BY_ONE = "the loop takes one after the other; sums over them are closed in U"

_HELP = "stage_reduce among all of them before"


@dataclass(slots=True)
class _Frame:
    """A body being followed: states and types of its values, and where it stands."""

    cls: DeviceClass
    site: Site
    states: dict[str, State] = field(default_factory=dict)
    vars: dict[str, Value] = field(default_factory=dict)
    inside: bool = False


@dataclass(slots=True)
class _Reduction:
    """What each group brings to a reduction between groups."""

    op: StageReduce
    site: Site
    brought: dict[int, frozenset[Source]] = field(default_factory=dict)


def _own_name(decl: StateDecl) -> str:
    """Of what a buffer is a copy or a stage's piece: parts of a loop that are loops of their own are apart."""
    return decl.logical or decl.name


def check_across(program: Program, report: Report) -> None:
    """All functions, U above all, if there are several groups."""
    if program.groups > 1:
        _Checker(program, report).run()


class _Checker:
    def __init__(self, program: Program, report: Report) -> None:
        self.program, self.report = program, report
        self.everyone = frozenset(range(program.groups))
        self.holders: dict[str, set[int]] = {}  # of buffers that are no pieces, by logical name
        self.places: dict[tuple[str, str], set[tuple[int, int]]] = {}  # (kind, logical name) -> (group, chunk)
        for cls in program.classes:
            for s in cls.states:
                cut = cut_dim(s, cls) is not None
                if s.role in ADDED or cut:
                    kind = "piece" if cut else "gradient"
                    self.places.setdefault((kind, _own_name(s)), set()).update((g, s.chunk) for g in cls.groups)
                if s.role not in ADDED and not cut:
                    self.holders.setdefault(_own_name(s), set()).update(cls.groups)
        self.reductions: dict[str, _Reduction] = {}

    def run(self) -> None:
        for c, cls in enumerate(self.program.classes):
            for i, f in enumerate(cls.functions):
                declared = {s.name: s for s in cls.states}
                if f.phase is FunctionPhase.UPDATE:
                    self.body(f.body, _Frame(cls, Site(c, "fn", i)), declared)
                elif cls.ranges:
                    self.passes(f, _Frame(cls, Site(c, "fn", i)), declared)
        for reduction in self.reductions.values():
            self.complete(reduction)

    def body(self, body: Graph, frame: _Frame, declared: Mapping[str, StateDecl]) -> None:
        for i, instr in enumerate(body.nodes):
            frame.vars.update((v.name, v) for v in instr.outputs)
            try:
                self.instr(instr, frame, frame.site.inner(i), declared)
            except Wrong as why:
                self.report.error("E0632", frame.site.inner(i), f"{head(instr)}: {why}", _HELP)
                lost = Same(self.everyone, flat=frozenset(n for v in instr.outputs for n in v.type.names))
                frame.states.update((v.name, lost) for v in instr.outputs)  # one mistake, one error

    def instr(self, instr: Node, frame: _Frame, site: Site, declared: Mapping[str, StateDecl]) -> None:
        op, states, cls = instr.op, frame.states, frame.cls
        given = [states[v.name] for v in instr.inputs]
        if not isinstance(op, StageReduce) and any(isinstance(s, StagePiece) and s.shared for s in given):
            raise Wrong("the operand is what this stage's micro-batches add to a gradient, its copies have other parts")
        if isinstance(op, Read):
            states[instr.outputs[0].name] = self.read(declared[op.name], cls)
        elif isinstance(op, Write):
            self.write(declared[op.name], given[0], cls)
        elif isinstance(op, StageReduce):
            states[instr.outputs[0].name] = self.reduce(op, given[0], site, cls)
        elif isinstance(op, Repeat):
            self.repeat(op, instr, given, frame, site)
        elif isinstance(op, Call):
            params = [p.name for p in op.body.inputs]
            begin = dict(zip(params, given, strict=True))
            inner = _Frame(cls, site, begin, dict(zip(params, op.body.inputs, strict=True)), frame.inside)
            self.body(op.body, inner, {})
            states.update((v.name, inner.states[r.name]) for v, r in zip(instr.outputs, op.body.outputs, strict=True))
        else:
            made = self.local(op, instr, given, frame)
            states.update((v.name, s) for v, s in zip(instr.outputs, made, strict=True))

    def passes(self, function: Function, frame: _Frame, declared: Mapping[str, StateDecl]) -> None:
        """F, B and the like: the loop walks its pieces, nothing else reads across them; no reduction would close it."""
        chunk = function.phase.at(function.chunk)
        own = {r.dim for r in frame.cls.ranges if r.chunk == chunk and r.count < r.total}
        pieces: dict[str, StagePiece] = {}
        for i, instr in enumerate(function.body.nodes if own else ()):
            frame.vars.update((v.name, v) for v in instr.outputs)
            op, given = instr.op, [v.name for v in instr.inputs if v.name in pieces]
            if isinstance(op, (Read, Load)):
                dim = cut_dim(declared[op.name], frame.cls)
                made = [] if dim is None else [(instr.outputs[0], dim)]
            elif isinstance(op, Repeat) and op.label in own:
                made = [(v, op.label) for v in instr.outputs[op.carries :]]
            elif not given or isinstance(op, (Effect, Repeat)):
                continue
            elif isinstance(op, Comm):
                made = [(v, pieces[given[0]].dim) for v in instr.outputs]
            else:
                ins = [frame.vars[v.name].type for v in instr.inputs]
                loops = op.loops(ins, [v.type for v in instr.outputs])
                try:
                    loop = walking_loop(loops, [pieces.get(v.name, Same(self.everyone)) for v in instr.inputs])
                    if loop.kind != "pass" or loop.placed:
                        raise Wrong(f"reads all iterations of {pieces[given[0]].dim}, of which each stage has its own")
                except Wrong as why:
                    self.report.error("E0632", frame.site.inner(i), f"{head(instr)}: {why}", _ONE_BY_ONE)
                    continue
                made = [(v, name) for v, name in zip(instr.outputs, loop.outs, strict=True) if name is not None]
            pieces.update((v.name, StagePiece(dim, chunk, frozenset())) for v, dim in made)

    # --- buffers and reductions ----------------------------------------------------------------------

    def read(self, decl: StateDecl, cls: DeviceClass) -> State:
        name = _own_name(decl)
        dim = cut_dim(decl, cls)
        if dim is not None:
            shared = decl.role in ADDED and self.program.homes.ways > 1
            return StagePiece(dim, decl.chunk, frozenset((name,)), shared)
        if decl.role not in ADDED:
            return Same(frozenset(self.holders[name]), frozenset((name,)))
        return self.whole(StagePart("sum", frozenset((("gradient", frozenset((name,)), decl.chunk),))), cls)

    def whole(self, part: StagePart, cls: DeviceClass) -> State:
        """A gradient that no other group has a part of is there as soon as those of all chunks are added."""
        if len(part.of) == 1 and len(cls.groups) == 1 and all(kind == "gradient" for kind, _, _ in part.sources):
            (name,), (group,) = part.of, cls.groups
            if self.places["gradient", name] == {(group, chunk) for _, _, chunk in part.sources}:
                return Same(frozenset((group,)), part.of)
        return part

    def write(self, decl: StateDecl, value: State, cls: DeviceClass) -> None:
        dim, name = cut_dim(decl, cls), _own_name(decl)
        if isinstance(value, StagePart):
            raise Wrong(f"{told_part(value)}, which other stages have parts of")
        if dim is not None:
            if isinstance(value, StagePiece) and (value.dim, value.chunk) != (dim, decl.chunk):
                raise Wrong(f"these are the iterations of chunk {value.chunk} along {value.dim}")
            if isinstance(value, Same) and dim not in value.flat:
                raise Wrong(f"the buffer holds the stage's own iterations of {dim}, the value is the same on all")
            return
        if isinstance(value, StagePiece):
            raise Wrong(f"the value has the stage's own iterations of {value.dim}")
        without = sorted(self.holders[name] - value.groups)
        if without:
            raise Wrong(f"stage {without[0]} holds {name} too, but does not have what the value is made of")

    def reduce(self, op: StageReduce, value: State, site: Site, cls: DeviceClass) -> State:
        if isinstance(value, StagePiece) and value.shared:
            return self.reduce_copies(op, value, site, cls)
        if isinstance(value, StagePiece):
            raise Wrong(f"the stages have different iterations of {value.dim}")
        if isinstance(value, StagePart) and value.fn != op.fn:
            raise Wrong(f"parts of a {value.fn}")
        sources = value.sources if isinstance(value, StagePart) else counted_sources(value)
        reduction = self.reductions.setdefault(op.key, _Reduction(op, site))
        reduction.brought.update(dict.fromkeys(cls.groups, sources))
        return Same(frozenset(op.groups), frozenset((op.key,)))

    def reduce_copies(self, op: StageReduce, value: StagePiece, site: Site, cls: DeviceClass) -> State:
        """What copies of one stage have added up, each of its own micro-batches."""
        homes, reduction = self.program.homes, self.reductions.setdefault(op.key, _Reduction(op, site))
        for group in cls.groups:
            stage = homes.stage(group, value.chunk)
            groups = {homes.group(copy) for copy in homes.copies(stage)}
            if op.fn != "sum" or groups != set(op.groups):
                raise Wrong(f"the copies of the stage are on {', '.join(map(str, sorted(groups)))}, to be summed")
            reduction.brought[group] = frozenset((("copy", value.of, stage % homes.way),))
        return replace(value, shared=False)

    def complete(self, reduction: _Reduction) -> None:
        """All parts of what is brought are there, and what is the same on several groups is there once."""
        copies = {source for sources in reduction.brought.values() for source in sources if source[0] == "copy"}
        if copies:
            if len(set(reduction.brought.values())) > 1:
                message = f"stage_reduce {reduction.op.key}: what is summed is not of copies of one stage"
                self.report.error("E0632", reduction.site, message, "each adds what it has of the same weight")
            return
        homes = self.program.homes
        brought: dict[tuple[str, frozenset[str]], list[tuple[int, int]]] = {}
        for group, sources in reduction.brought.items():
            for kind, names, chunk in sources:
                brought.setdefault((kind, names), []).append((group, chunk))
        what = f"stage_reduce {reduction.op.fn} as {reduction.op.key}"
        for (kind, names), found in brought.items():
            told = ", ".join(sorted(names))
            if kind == "same":
                if len(found) > 1 and reduction.op.fn == "sum":
                    message = f"{what}: {told} counts on stages {' and '.join(str(g) for g, _ in found)}, once each"
                    self.report.error("E0632", reduction.site, message, "one of the stages that have it adds it")
                continue
            for name in sorted(names):
                missing = sorted(self.places[kind, name] - set(found))
                if kind == "piece" and homes.ways > 1:  # one of a stage's copies adds its piece
                    stages = [homes.stage(g, c) % homes.way for g, c in found]
                    missing = [(g, c) for g, c in missing if homes.stage(g, c) % homes.way not in stages]
                    if len(set(stages)) < len(stages) and reduction.op.fn == "sum":
                        message = f"{what}: {told} counts on copies of one stage, once each"
                        self.report.error("E0632", reduction.site, message, "one of the copies adds it")
                        break
                if missing:
                    group, chunk = missing[0]
                    message = f"{what}: stage {group} has a part of {told} (chunk {chunk}) that is not in it"
                    self.report.error("E0632", reduction.site, message, "every part is added, of every chunk")
                    break

    # --- ops -----------------------------------------------------------------------------------------

    def local(self, op: Op, instr: Node, given: Sequence[State], frame: _Frame) -> list[State]:
        if any(isinstance(s, StagePart) for s in given):
            return [self.parts(op, given, frame)] * len(instr.outputs)
        if isinstance(op, Comm):
            return [given[0]]
        if isinstance(op, Full):
            return [Same(self.everyone, flat=frozenset(instr.outputs[0].type.names), zero=op.value == 0)]
        ins = [frame.vars[v.name] for v in instr.inputs]
        if isinstance(op, (Map, Cast)):
            return [self.pointwise(op, instr.outputs[0], ins, given)]
        loops = op.loops([v.type for v in ins], [v.type for v in instr.outputs])
        of = frozenset[str]().union(*(s.of for s in given))
        pieces = [s for s in given if isinstance(s, StagePiece)]
        if not pieces:
            groups = self.everyone.intersection(*(s.groups for s in given if isinstance(s, Same)))
            return [Same(groups, of, flat_dims(loops, given, k)) for k in range(len(instr.outputs))]
        if len({s.chunk for s in pieces}) > 1:
            raise Wrong("iterations of two chunks")
        loop = walking_loop(loops, given)
        if loop.kind not in ("pass", "sum", "max") or loop.placed:
            raise Wrong(f"needs to know all iterations of {pieces[0].dim}, of which each stage has its own")
        for s, name in zip(given, loop.ins, strict=True):
            if isinstance(s, Same) and name is not None and name not in s.flat:
                raise Wrong(f"what is the same on all stages meets the stage's own iterations of {pieces[0].dim}")
        chunk = pieces[0].chunk
        if loop.kind == "pass":
            return [StagePiece(name, chunk, of) if name else Same(self.everyone, of) for name in loop.outs]
        if frame.inside:
            raise Wrong(f"reduces the stage's own iterations of {pieces[0].dim} inside a loop")
        read = frozenset[str]().union(*(s.of for s in pieces))
        sources = frozenset(("piece", frozenset((name,)), chunk) for name in read if ("piece", name) in self.places)
        return [StagePart(loop.kind, sources)] * len(instr.outputs)

    def pointwise(self, op: Op, out: Value, ins: Sequence[Value], given: Sequence[State]) -> State:
        """What `local` says of an elementwise op, in which dims of one name are one loop: most ops of U are such."""
        of = given[0].of if len(given) == 1 else frozenset[str]().union(*(s.of for s in given))
        pieces = {(s.dim, s.chunk) for s in given if isinstance(s, StagePiece)}
        same = [(v.type, s) for v, s in zip(ins, given, strict=True) if isinstance(s, Same)]
        if not pieces:
            names = out.type.names
            flat = frozenset(n for n in names if all(n in s.flat or n not in type.names for type, s in same))
            zero = all(s.zero for _, s in same) and op == Map("add", (None, None))
            return Same(self.everyone.intersection(*(s.groups for _, s in same)), of, flat, zero)
        if len(pieces) > 1:
            raise Wrong("pairs iterations with others, of which each stage has its own")
        ((dim, chunk),) = pieces
        if any(dim in type.names and dim not in s.flat for type, s in same):
            raise Wrong(f"what is the same on all stages meets the stage's own iterations of {dim}")
        return StagePiece(dim, chunk, of)

    def parts(self, op: Op, given: Sequence[State], frame: _Frame) -> State:
        """Parts stay parts in what is linear (or keeps the largest); sums may have addends that are the same."""
        held = [i for i, s in enumerate(given) if isinstance(s, StagePart)]
        fns = {s.fn for s in given if isinstance(s, StagePart)}
        sources = frozenset[Source]().union(*(s.sources for s in given if isinstance(s, StagePart)))
        if len(fns) == 1 and not any(isinstance(s, StagePiece) for s in given):
            (fn,) = fns
            more = [counted_sources(s) for s in given if isinstance(s, Same)]
            counted = all(s.of or (s.zero and fn == "sum") for s in given if isinstance(s, Same))
            added = len(given) == 2 and counted and op == Map(_ADDING[fn], (None, None))
            linear = fn == "sum" and frozenset(held) in op.linear(len(given))
            if added or linear or isinstance(op, Comm) or (fn == "max" and op.selects()):
                return self.whole(StagePart(fn, sources.union(*more) if added else sources), frame.cls)
        part = next(s for s in given if isinstance(s, StagePart))
        raise Wrong(f"{told_part(part)}, which other stages have parts of")

    def repeat(self, op: Repeat, instr: Node, given: Sequence[State], frame: _Frame, site: Site) -> None:
        """A loop of the optimizer: what is carried is pieces from the first iteration on, or never."""
        for s in given:
            if isinstance(s, StagePart):
                raise Wrong(f"{told_part(s)}, which other stages have parts of")
        walked = [
            s for s in given[op.carries : op.carries + op.stacks] if isinstance(s, StagePiece) and s.dim == op.label
        ]
        if walked:
            return self.one_by_one(op, instr, given, walked, frame, site)
        states = list(given)
        for _ in range(op.carries + 1):
            names = [p.name for p in op.body.inputs]
            begin = dict(zip(names, states, strict=True))
            inner = _Frame(frame.cls, site, begin, dict(zip(names, op.body.inputs, strict=True)), inside=True)
            self.body(op.body, inner, {})
            made = [inner.states[v.name] for v in op.body.outputs]
            changed = [i for i in range(op.carries) if isinstance(made[i], StagePiece) and isinstance(states[i], Same)]
            for i in changed:
                before, after = states[i], made[i]
                if isinstance(before, Same) and isinstance(after, StagePiece) and after.dim not in before.flat:
                    raise Wrong(f"what is the same on all stages becomes iterations of {after.dim}")
                states[i] = after
            if not changed:
                break
        for i, out in enumerate(instr.outputs):
            first = states[i] if i < op.carries else made[i]
            frame.states[out.name] = made[i] if isinstance(made[i], StagePiece) else first

    def one_by_one(
        self, op: Repeat, instr: Node, given: Sequence[State], walked: Sequence[StagePiece], frame: _Frame, site: Site
    ) -> None:
        """A loop over a stage's own iterations, none of which reads what another makes."""
        if op.carries:
            raise Wrong(f"walks all iterations of {op.label}, of which each stage has its own")
        if len({s.chunk for s in walked}) > 1 or any(isinstance(s, StagePiece) and s not in walked for s in given):
            raise Wrong("pairs iterations with others, of which each stage has its own")
        if any(isinstance(s, Same) and op.label not in s.flat for s in given[: op.stacks]):
            raise Wrong(f"what is the same on all stages meets the stage's own iterations of {op.label}")
        begin: dict[str, State] = {
            p.name: Same(self.everyone, s.of) if isinstance(s, StagePiece) else s
            for p, s in zip(op.body.inputs, given, strict=True)
        }
        inner = _Frame(frame.cls, site, begin, {p.name: p for p in op.body.inputs}, inside=True)
        self.body(op.body, inner, {})
        for v, out in zip(op.body.outputs, instr.outputs, strict=True):
            frame.states[out.name] = StagePiece(op.label, walked[0].chunk, inner.states[v.name].of)
