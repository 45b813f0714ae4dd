"""What the stages agree on in U: each value is a piece, a part, or the same on all groups that need it.

A buffer of a loop that is cut holds a piece: this group's iterations. Ops that take iterations one by one make pieces
of pieces; those that reduce them make parts, which only a reduction between all stages brings together. The gradient
of a weight that several groups hold is a part as well. Everything else is the same wherever it is, and may be written
where all groups that hold the buffer have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from compiler.declared import logical
from compiler.graph import Graph, Node, Value
from compiler.ops.base import Loop, Op
from compiler.ops.call import Call
from compiler.ops.comm import Comm
from compiler.ops.create import Full
from compiler.ops.effects import Effect, Load, Read, StageReduce, Write
from compiler.ops.elementwise import Cast, Map
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass, Function, FunctionPhase, Program, StateDecl
from compiler.text.locations import Site
from compiler.verify.report import Report, head
from dsl.data import dataclass

Source = tuple[str, frozenset[str], int]
"""What is added up: "piece", "gradient" or "same"; of which buffers (logical names); of which chunk."""

_ADDING = {"sum": "add", "max": "maximum"}

_ONE_BY_ONE = "the loop takes one after the other; sums over them are closed in U"

_HELP = "stage_reduce among all of them before"


@dataclass(frozen=True, slots=True)
class _Same:
    """The same on `groups`; made of the buffers and reductions `of`; alike along the dims `flat`; `zero`: all zeros."""

    groups: frozenset[int]
    of: frozenset[str] = frozenset()
    flat: frozenset[str] = frozenset()
    zero: bool = False


@dataclass(frozen=True, slots=True)
class _Piece:
    """The chunk's iterations, along `dim`."""

    dim: str
    chunk: int
    of: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the parts that `fn` brings together; made from `sources`."""

    fn: str
    sources: frozenset[Source]

    @property
    def of(self) -> frozenset[str]:
        return frozenset[str]().union(*(names for _, names, _ in self.sources))


_State = _Same | _Piece | _Part


class _Wrong(Exception):
    """What is wrong with an instruction."""


@dataclass(slots=True)
class _Frame:
    """A body being followed: states and types of its values, and where it stands."""

    cls: DeviceClass
    site: Site
    states: dict[str, _State] = field(default_factory=dict)
    vars: dict[str, Value] = field(default_factory=dict)
    inside: bool = False


@dataclass(slots=True)
class _Reduction:
    """What each group brings to a reduction between groups."""

    op: StageReduce
    site: Site
    brought: dict[int, frozenset[Source]] = field(default_factory=dict)


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
                cut = _cut(s, cls) is not None
                if s.role is Role.GRADIENT or cut:
                    kind = "piece" if cut else "gradient"
                    self.places.setdefault((kind, logical(s)), set()).update((g, s.chunk) for g in cls.groups)
                if s.role is not Role.GRADIENT and not cut:
                    self.holders.setdefault(logical(s), set()).update(cls.groups)
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
            except _Wrong as why:
                self.report.error("E0632", frame.site.inner(i), f"{head(instr)}: {why}", _HELP)
                lost = _Same(self.everyone, flat=frozenset(n for v in instr.outputs for n in v.type.names))
                frame.states.update((v.name, lost) for v in instr.outputs)  # one mistake, one error

    def instr(self, instr: Node, frame: _Frame, site: Site, declared: Mapping[str, StateDecl]) -> None:
        op, states, cls = instr.op, frame.states, frame.cls
        given = [states[v.name] for v in instr.inputs]
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
        own = {r.dim for r in frame.cls.ranges if r.chunk == function.chunk and r.count < r.total}
        pieces: dict[str, _Piece] = {}
        for i, instr in enumerate(function.body.nodes if own else ()):
            frame.vars.update((v.name, v) for v in instr.outputs)
            op, given = instr.op, [v.name for v in instr.inputs if v.name in pieces]
            if isinstance(op, (Read, Load)):
                dim = _cut(declared[op.name], frame.cls)
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
                    loop = _walked(loops, [pieces.get(v.name, _Same(self.everyone)) for v in instr.inputs])
                    if loop.kind != "pass" or loop.placed:
                        raise _Wrong(f"reads all iterations of {pieces[given[0]].dim}, of which each stage has its own")
                except _Wrong as why:
                    self.report.error("E0632", frame.site.inner(i), f"{head(instr)}: {why}", _ONE_BY_ONE)
                    continue
                made = [(v, name) for v, name in zip(instr.outputs, loop.outs, strict=True) if name is not None]
            pieces.update((v.name, _Piece(dim, function.chunk, frozenset())) for v, dim in made)

    # --- buffers and reductions ----------------------------------------------------------------------

    def read(self, decl: StateDecl, cls: DeviceClass) -> _State:
        name = logical(decl)
        dim = _cut(decl, cls)
        if dim is not None:
            return _Piece(dim, decl.chunk, frozenset((name,)))
        if decl.role is not Role.GRADIENT:
            return _Same(frozenset(self.holders[name]), frozenset((name,)))
        return self.whole(_Part("sum", frozenset((("gradient", frozenset((name,)), decl.chunk),))), cls)

    def whole(self, part: _Part, cls: DeviceClass) -> _State:
        """A gradient that no other group has a part of is there as soon as those of all chunks are added."""
        if len(part.of) == 1 and len(cls.groups) == 1 and all(kind == "gradient" for kind, _, _ in part.sources):
            (name,), (group,) = part.of, cls.groups
            if self.places["gradient", name] == {(group, chunk) for _, _, chunk in part.sources}:
                return _Same(frozenset((group,)), part.of)
        return part

    def write(self, decl: StateDecl, value: _State, cls: DeviceClass) -> None:
        dim, name = _cut(decl, cls), logical(decl)
        if isinstance(value, _Part):
            raise _Wrong(f"{_told(value)}, which other stages have parts of")
        if dim is not None:
            if isinstance(value, _Piece) and (value.dim, value.chunk) != (dim, decl.chunk):
                raise _Wrong(f"these are the iterations of chunk {value.chunk} along {value.dim}")
            if isinstance(value, _Same) and dim not in value.flat:
                raise _Wrong(f"the buffer holds the stage's own iterations of {dim}, the value is the same on all")
            return
        if isinstance(value, _Piece):
            raise _Wrong(f"the value has the stage's own iterations of {value.dim}")
        without = sorted(self.holders[name] - value.groups)
        if without:
            raise _Wrong(f"stage {without[0]} holds {name} too, but does not have what the value is made of")

    def reduce(self, op: StageReduce, value: _State, site: Site, cls: DeviceClass) -> _State:
        if isinstance(value, _Piece):
            raise _Wrong(f"the stages have different iterations of {value.dim}")
        if isinstance(value, _Part) and value.fn != op.fn:
            raise _Wrong(f"parts of a {value.fn}")
        sources = value.sources if isinstance(value, _Part) else _counted(value)
        reduction = self.reductions.setdefault(op.key, _Reduction(op, site))
        reduction.brought.update(dict.fromkeys(cls.groups, sources))
        return _Same(frozenset(op.groups), frozenset((op.key,)))

    def complete(self, reduction: _Reduction) -> None:
        """All parts of what is brought are there, and what is the same on several groups is there once."""
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
                if missing:
                    group, chunk = missing[0]
                    message = f"{what}: stage {group} has a part of {told} (chunk {chunk}) that is not in it"
                    self.report.error("E0632", reduction.site, message, "every part is added, of every chunk")
                    break

    # --- ops -----------------------------------------------------------------------------------------

    def local(self, op: Op, instr: Node, given: Sequence[_State], frame: _Frame) -> list[_State]:
        if any(isinstance(s, _Part) for s in given):
            return [self.parts(op, given, frame)] * len(instr.outputs)
        if isinstance(op, Comm):
            return [given[0]]
        if isinstance(op, Full):
            return [_Same(self.everyone, flat=frozenset(instr.outputs[0].type.names), zero=op.value == 0)]
        ins = [frame.vars[v.name] for v in instr.inputs]
        if isinstance(op, (Map, Cast)):
            return [self.pointwise(op, instr.outputs[0], ins, given)]
        loops = op.loops([v.type for v in ins], [v.type for v in instr.outputs])
        of = frozenset[str]().union(*(s.of for s in given))
        pieces = [s for s in given if isinstance(s, _Piece)]
        if not pieces:
            groups = self.everyone.intersection(*(s.groups for s in given if isinstance(s, _Same)))
            return [_Same(groups, of, _flat(loops, given, k)) for k in range(len(instr.outputs))]
        if len({s.chunk for s in pieces}) > 1:
            raise _Wrong("iterations of two chunks")
        loop = _walked(loops, given)
        if loop.kind not in ("pass", "sum", "max") or loop.placed:
            raise _Wrong(f"needs to know all iterations of {pieces[0].dim}, of which each stage has its own")
        for s, name in zip(given, loop.ins, strict=True):
            if isinstance(s, _Same) and name is not None and name not in s.flat:
                raise _Wrong(f"what is the same on all stages meets the stage's own iterations of {pieces[0].dim}")
        chunk = pieces[0].chunk
        if loop.kind == "pass":
            return [_Piece(name, chunk, of) if name else _Same(self.everyone, of) for name in loop.outs]
        if frame.inside:
            raise _Wrong(f"reduces the stage's own iterations of {pieces[0].dim} inside a loop")
        read = frozenset[str]().union(*(s.of for s in pieces))
        sources = frozenset(("piece", frozenset((name,)), chunk) for name in read if ("piece", name) in self.places)
        return [_Part(loop.kind, sources)] * len(instr.outputs)

    def pointwise(self, op: Op, out: Value, ins: Sequence[Value], given: Sequence[_State]) -> _State:
        """What `local` says of an elementwise op, in which dims of one name are one loop: most ops of U are such."""
        of = given[0].of if len(given) == 1 else frozenset[str]().union(*(s.of for s in given))
        pieces = {(s.dim, s.chunk) for s in given if isinstance(s, _Piece)}
        same = [(v.type, s) for v, s in zip(ins, given, strict=True) if isinstance(s, _Same)]
        if not pieces:
            names = out.type.names
            flat = frozenset(n for n in names if all(n in s.flat or n not in type.names for type, s in same))
            zero = all(s.zero for _, s in same) and op == Map("add", (None, None))
            return _Same(self.everyone.intersection(*(s.groups for _, s in same)), of, flat, zero)
        if len(pieces) > 1:
            raise _Wrong("pairs iterations with others, of which each stage has its own")
        ((dim, chunk),) = pieces
        if any(dim in type.names and dim not in s.flat for type, s in same):
            raise _Wrong(f"what is the same on all stages meets the stage's own iterations of {dim}")
        return _Piece(dim, chunk, of)

    def parts(self, op: Op, given: Sequence[_State], frame: _Frame) -> _State:
        """Parts stay parts in what is linear (or keeps the largest); sums may have addends that are the same."""
        held = [i for i, s in enumerate(given) if isinstance(s, _Part)]
        fns = {s.fn for s in given if isinstance(s, _Part)}
        sources = frozenset[Source]().union(*(s.sources for s in given if isinstance(s, _Part)))
        if len(fns) == 1 and not any(isinstance(s, _Piece) for s in given):
            (fn,) = fns
            more = [_counted(s) for s in given if isinstance(s, _Same)]
            counted = all(s.of or (s.zero and fn == "sum") for s in given if isinstance(s, _Same))
            added = len(given) == 2 and counted and op == Map(_ADDING[fn], (None, None))
            linear = fn == "sum" and frozenset(held) in op.linear(len(given))
            if added or linear or isinstance(op, Comm) or (fn == "max" and op.selects()):
                return self.whole(_Part(fn, sources.union(*more) if added else sources), frame.cls)
        part = next(s for s in given if isinstance(s, _Part))
        raise _Wrong(f"{_told(part)}, which other stages have parts of")

    def repeat(self, op: Repeat, instr: Node, given: Sequence[_State], frame: _Frame, site: Site) -> None:
        """A loop of the optimizer: what is carried is pieces from the first iteration on, or never."""
        for s in given:
            if isinstance(s, _Part):
                raise _Wrong(f"{_told(s)}, which other stages have parts of")
        if any(isinstance(s, _Piece) and s.dim == op.label for s in given[op.carries : op.carries + op.stacks]):
            raise _Wrong(f"walks all iterations of {op.label}, of which each stage has its own")
        states = list(given)
        for _ in range(op.carries + 1):
            names = [p.name for p in op.body.inputs]
            begin = dict(zip(names, states, strict=True))
            inner = _Frame(frame.cls, site, begin, dict(zip(names, op.body.inputs, strict=True)), inside=True)
            self.body(op.body, inner, {})
            made = [inner.states[v.name] for v in op.body.outputs]
            changed = [i for i in range(op.carries) if isinstance(made[i], _Piece) and isinstance(states[i], _Same)]
            for i in changed:
                before, after = states[i], made[i]
                if isinstance(before, _Same) and isinstance(after, _Piece) and after.dim not in before.flat:
                    raise _Wrong(f"what is the same on all stages becomes iterations of {after.dim}")
                states[i] = after
            if not changed:
                break
        for i, out in enumerate(instr.outputs):
            first = states[i] if i < op.carries else made[i]
            frame.states[out.name] = made[i] if isinstance(made[i], _Piece) else first


def _cut(decl: StateDecl, cls: DeviceClass) -> str | None:
    """The dim of the cut loop of which the buffer holds the chunk's iterations."""
    first = decl.type.dims[0].name if decl.type.dims else None
    return next((r.dim for r in cls.ranges if r.chunk == decl.chunk and r.dim == first and r.count < r.total), None)


def _counted(value: _Same | _Piece | _Part) -> frozenset[Source]:
    """What a value that is the same on several groups adds to a sum; nothing, for a constant."""
    return frozenset((("same", value.of, 0),)) if value.of else frozenset()


def _told(part: _Part) -> str:
    names = ", ".join(sorted(part.of))
    return f"the operand is this stage's part of a {part.fn} over {names or 'what they hold'}"


def _walked(loops: Sequence[Loop], given: Sequence[_State]) -> Loop:
    """The one loop that walks the pieces."""
    found = [
        loop
        for loop in loops
        if any(isinstance(s, _Piece) and s.dim == name for s, name in zip(given, loop.ins, strict=True))
    ]
    if len(found) > 1:
        found = [loop for loop in found if loop.kind != "minor"]
    if len(found) != 1:
        raise _Wrong("pairs iterations with each other, of which each stage has its own")
    return found[0]


def _flat(loops: Sequence[Loop], given: Sequence[_State], out: int) -> frozenset[str]:
    """Dims of a result along which all of its elements are alike."""
    return frozenset(
        name
        for loop in loops
        if (name := loop.outs[out]) is not None and loop.kind == "pass" and not loop.placed
        and all(n is None or (isinstance(s, _Same) and n in s.flat) for s, n in zip(given, loop.ins, strict=True))
    )  # fmt: skip
