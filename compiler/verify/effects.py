"""Buffers: effects agree with the declarations; gradients add up, weights are renewed, saved values come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from compiler.graph import Graph, Node, Type, Value
from compiler.layout import TIME, Layout
from compiler.ops.call import Call
from compiler.ops.effects import Accumulate, Effect, Input, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import (
    LASTING,
    MODEL_PASSES,
    DeviceClass,
    Function,
    FunctionPhase,
    Program,
    StateDecl,
    listed,
    whole_list,
)
from compiler.text.locations import Site
from compiler.verify.report import Report, head
from compiler.walk import called

STEP = Type("int32")
"""Of the number of the step, an input that need not be declared."""

LEARNED = tuple(r for r in LASTING if r is not Role.STATE)
"""What updates renew; states of the model are renewed by forward passes."""

RENEWED = (*LEARNED, Role.REPORT)
ADDED = (Role.GRADIENT, Role.ROWS, Role.LOSS, Role.METRIC, Role.STATISTIC)

Roles = tuple[Role, ...]


class Rights(NamedTuple):
    """Roles of the buffers that functions of a phase may touch, by how they touch them."""

    read: Roles = ()
    write: Roles = ()
    add: Roles = ()
    save: Roles = ()
    load: Roles = ()

    def of(self, op: Read | Write | Accumulate | Save | Load) -> Roles:
        """Those that the effect may be for."""
        return {"read": self.read, "write": self.write, "accumulate": self.add, "save": self.save, "load": self.load}[
            op.mnemonic
        ]


SENDING = (FunctionPhase.STATISTICS, *MODEL_PASSES)
"""The phases in which stages send each other values."""

REDUCING = (FunctionPhase.TOTALS, FunctionPhase.UPDATE)
"""Those in which they add up."""

RIGHTS = {
    FunctionPhase.STATISTICS: Rights(read=(*LASTING, Role.STATISTIC), add=(Role.STATISTIC,)),
    FunctionPhase.TOTALS: Rights(read=(Role.STATISTIC,), add=(Role.STATISTIC,)),
    FunctionPhase.FORWARD: Rights(
        read=(*LASTING, Role.STATISTIC),
        write=(Role.STATE,),
        add=(*ADDED, Role.OUTPUT),
        save=(Role.SAVED, Role.OUTPUT),
    ),
    FunctionPhase.BACKWARD: Rights(
        read=(*LEARNED, Role.STATISTIC), add=ADDED[:4], save=(Role.SAVED,), load=(Role.SAVED,)
    ),
    FunctionPhase.WEIGHTS: Rights(read=(*LEARNED, Role.STATISTIC), add=ADDED[:4], load=(Role.SAVED,)),
    FunctionPhase.METRICS: Rights(read=(Role.STATISTIC,), write=(Role.STATE,), add=(Role.LOSS, Role.METRIC)),
    FunctionPhase.UPDATE: Rights(read=(*LEARNED, *ADDED[:4]), write=RENEWED),
}
"""What each phase is for, said of buffers: updates renew what is learned, forward passes the model's states. Behind a
forward pass nobody knows what a state contained, for the next micro-batch's may have renewed it: it is saved."""


def check_buffers(program: Program, report: Report) -> None:
    """All effects of all functions, and what each class does with each of its buffers in a step."""
    for c, cls in enumerate(program.classes):
        checker = _Class(program, cls, c, report)
        for i, function in enumerate(cls.functions):
            checker.function(function, Site(c, "fn", i))
        checker.totals()


def inner_effects(body: Graph, site: Site) -> Iterator[tuple[Node, Site]]:
    """Effects inside loops and functions, at any depth; those of a function once."""
    functions = {id(g) for g in called(body.nodes)}
    for i, instr in enumerate(body.nodes):
        first = isinstance(instr.op, Call) and id(instr.op.body) in functions
        functions.discard(id(instr.op.body) if isinstance(instr.op, Call) else 0)
        if first or isinstance(instr.op, Repeat):
            assert isinstance(instr.op, Call | Repeat)
            here = site.inner(i)
            for j, inner in enumerate(instr.op.body.nodes):
                if isinstance(inner.op, Effect):
                    yield inner, here.inner(j)
            yield from inner_effects(instr.op.body, here)


class _Class:
    def __init__(self, program: Program, cls: DeviceClass, index: int, report: Report) -> None:
        self.program, self.cls, self.index, self.report = program, cls, index, report
        self.states = {s.name: s for s in cls.states}
        self.inputs = {i.name: i for i in program.inputs}
        self.timed = TIME in program.sizes
        self.writes: Counter[str] = Counter()
        self.added: dict[str, list[tuple[Function, Site]]] = {}
        self.reads: list[tuple[str, Function, Site]] = []
        self.saves: dict[str, tuple[FunctionPhase, int]] = {}
        self.loads: dict[str, list[tuple[FunctionPhase, int, bool, Site]]] = {}

    def function(self, function: Function, site: Site) -> None:
        known: dict[str, Value] = {}
        for instr, here in inner_effects(function.body, site):
            help = "read before it, give it the value, write its result after it"
            self.report.error("E0626", here, f"{head(instr)}: neither a loop nor a function has effects", help)
        for i, instr in enumerate(function.body.nodes):
            known.update((v.name, v) for v in instr.outputs)
            if isinstance(instr.op, Call) and function.phase is not FunctionPhase.UPDATE:
                message = f"{head(instr)}: functions are called in {FunctionPhase.UPDATE} only"
                self.report.error("E0626", site.inner(i), message)
            if isinstance(instr.op, Effect):
                arity = self.arity(instr.op)
                if (len(instr.inputs), len(instr.outputs)) != arity or any(v.name not in known for v in instr.inputs):
                    message = f"{head(instr)}: takes {arity[0]} operands and gives {arity[1]} results"
                    self.report.error("E0612", site.inner(i), message)
                    continue
                value = known[instr.inputs[0].name] if instr.inputs else instr.outputs[0]
                self.effect(instr, value, function, site.inner(i))
                same = [(v.type, v.layout) == (value.type, value.layout) for v in instr.outputs]
                if isinstance(instr.op, StageReduce) and not all(same):
                    self.report.error("E0631", site.inner(i), f"{head(instr)}: operand and result differ")
        if function.phase in (FunctionPhase.UPDATE, FunctionPhase.FORWARD):
            self.stale(function, site)

    @staticmethod
    def arity(op: Effect) -> tuple[int, int]:
        if isinstance(op, StageReduce):
            return 1, 1
        return (0, 1) if isinstance(op, (Input, Read, Load, Recv)) else (1, 0)

    def effect(self, instr: Node, value: Value, function: Function, site: Site) -> None:
        op = instr.op
        if isinstance(op, Input):
            self.input(op, value, instr, site)
        elif isinstance(op, (Read, Write, Accumulate, Save, Load)):
            self.buffer(op, value, instr, function, site)
        elif isinstance(op, (Send, Recv)) and function.phase not in SENDING:
            where = f"{', '.join(SENDING[:-1])} and {SENDING[-1]}"
            self.report.error("E0620", site, f"{head(instr)}: values go between stages in {where} only")
        elif isinstance(op, StageReduce) and function.phase not in REDUCING:
            where = " and ".join(REDUCING)
            self.report.error("E0620", site, f"{head(instr)}: stages are added up in {where} only")

    def input(self, op: Input, value: Value, instr: Node, site: Site) -> None:
        decl = self.inputs.get(op.name)
        buffer = next((s for c in self.program.classes for s in c.states if s.name == op.name), None)
        if decl is None and value.type != STEP:
            self.report.error("E0620", site, f"{head(instr)}: there is no input {op.name}")
        elif decl is None and buffer is not None and (buffer.role is not Role.COUNTER or buffer.type != STEP):
            message = f"{head(instr)}: the number of the step is a counter of {STEP}; {op.name} is {buffer.role} of"
            self.report.error("E0620", site, f"{message} {buffer.type}")
        elif decl is not None and decl.type != value.type:
            self.report.error("E0621", site, f"{head(instr)}: {op.name} is declared as {decl.type}, not {value.type}")
        elif value.layout.pending or value.layout.halo:
            self.report.error("E0621", site, f"{head(instr)}: data has no pending reductions and no borders")

    def buffer(
        self, op: Read | Write | Accumulate | Save | Load, value: Value, instr: Node, function: Function, site: Site
    ) -> None:
        state = self.states.get(op.name)
        if state is None:
            self.report.error("E0620", site, f"{head(instr)}: no buffer {op.name} is declared")
            return
        if state.frozen and isinstance(op, Write):
            self.report.error("E0620", site, f"{head(instr)}: {op.name} is frozen", "nothing renews a frozen weight")
            return
        if state.role not in RIGHTS[function.phase].of(op):
            where = [f"{', '.join(roles)} in {phase}" for phase, r in RIGHTS.items() if (roles := r.of(op))]
            help = f"{op.mnemonic} is for {'; '.join(where)}"
            self.report.error("E0620", site, f"{head(instr)}: {op.name} is a {state.role}, in {function.phase}", help)
            return
        type, want = state.type, state.layout
        if isinstance(op, Accumulate):
            self.added.setdefault(op.name, []).append((function, site))
            if self.timed and function.per_microbatch and not listed(state):
                most = value.layout.pending_on(TIME) == "max" and state.role in (
                    Role.METRIC,
                    Role.STATISTIC,
                    Role.OUTPUT,
                )
                over = (TIME, "max" if most else "sum")
                want = Layout(want.dims, (over, *want.pending))
        elif isinstance(op, Read):
            self.reads.append((op.name, function, site))
            if listed(state):
                type, want = whole_list(state, self.program.microbatches)
        elif isinstance(op, Write):
            self.writes[op.name] += 1
        elif isinstance(op, Save):
            if op.name in self.saves:
                self.report.error("E0625", site, f"{op.name} is saved twice")
            self.saves[op.name] = (function.phase, function.chunk)
        elif isinstance(op, Load):
            self.loads.setdefault(op.name, []).append((function.phase, function.chunk, op.last, site))
        if value.type != type:
            self.report.error("E0621", site, f"{head(instr)}: {op.name} is declared as {type}, not {value.type}")
        elif value.layout != want:
            self.mismatch(op, value.layout, want, head(instr), site)

    def mismatch(self, op: Effect, got: Layout, want: Layout, what: str, site: Site) -> None:
        here, there = dict(got.pending), dict(want.pending)
        if isinstance(op, Accumulate) and here.get(TIME) != there.get(TIME):
            message = f"{what}: the value is no sum pending over the micro-batches"
            help = "what is the same in all micro-batches counts once: `only_first` over mb; a mean has its 1/n inside"
            self.report.error("E0622", site, message, help)
        elif here != there and not isinstance(op, (Read, Load)):
            left = [f"{fn} over {a}" for a, fn in got.pending if there.get(a) != fn]
            message = (
                f"the pending {', '.join(left)} is dropped" if left else "it lacks the reductions still pending there"
            )
            self.report.error("E0615", site, f"{what}: {message}", "all_reduce or reduce_scatter before")
        else:
            self.report.error("E0621", site, f"{what}: the layout differs from the declared one")

    def stale(self, function: Function, site: Site) -> None:
        """Old contents are read before new ones are written: a value that was read is the buffer itself."""
        alias: dict[str, str] = {}
        written: set[str] = set()
        for i, instr in enumerate(function.body.nodes):
            for v in instr.inputs:
                if alias.get(v.name) in written:
                    message = f"{head(instr)}: %{v.name} is the buffer {alias[v.name]}, which has new contents by now"
                    self.report.error("E0624", site.inner(i), message, "move the `write` behind the last reader")
            if isinstance(instr.op, Read) and instr.outputs:
                if instr.op.name in written:
                    message = f"{head(instr)}: {instr.op.name} has been written before"
                    self.report.error("E0624", site.inner(i), message, "read it before")
                alias[instr.outputs[0].name] = instr.op.name
            elif isinstance(instr.op, Write):
                written.add(instr.op.name)

    def totals(self) -> None:
        """Once all functions are known: what is missing."""
        updated = any(f.phase is FunctionPhase.UPDATE for f in self.cls.functions)
        for i, s in enumerate(self.cls.states):
            site = Site(self.index, "state", i)
            if s.role in RENEWED and not s.frozen and self.writes[s.name] != updated:
                message = f"{s.role} {s.name} is written {self.writes[s.name]} times in a step"
                self.report.error("E0623", site, message, f"{FunctionPhase.UPDATE} writes each of them once")
            if s.role is Role.STATE and self.writes[s.name] > 1:
                message = f"{s.role} {s.name} is written {self.writes[s.name]} times for a micro-batch"
                self.report.error("E0623", site, message, f"one {FunctionPhase.FORWARD} writes it once")
            if s.frozen and s.role is not Role.WEIGHT:
                self.report.error("E0620", site, f"{s.role} {s.name} is frozen", "only a weight can be")
            if s.role in ADDED and s.name not in self.added:
                self.report.error("E0622", site, f"nothing is accumulated into {s.role} {s.name}")
            if s.role in (Role.STATISTIC, Role.METRIC):
                self.settled(s)
            if s.role is Role.SAVED:
                self.saved(s, site)
            if s.role is Role.OUTPUT and (made := len(self.added.get(s.name, ())) + (s.name in self.saves)) != 1:
                message = f"output {s.name} is made {made} times for a micro-batch"
                self.report.error("E0622", site, message, "one function saves its part, or adds to it")
            elif s.role is Role.OUTPUT and (s.name in self.saves) != (TIME in s.layout.split_axes):
                split = "split over the micro-batches" if s.name not in self.saves else "one for all micro-batches"
                message = f"output {s.name} is {split}"
                self.report.error("E0622", site, message, "what is split over them is saved, all else accumulated")

    def settled(self, s: StateDecl) -> None:
        """What is made of a whole batch is made in one place, and read behind it."""
        added = self.added.get(s.name, [])
        for _, site in added[1:]:
            self.report.error("E0622", site, f"{s.role} {s.name} is accumulated twice", "one function makes it")
        for function, _ in added[:1]:
            for name, reader, site in self.reads:
                if name == s.name and reader.phase.rank(reader.chunk) <= function.phase.rank(function.chunk):
                    message = f"{reader.phase} reads {s.name}, which {function.phase} makes: it does not run before"
                    help = "P.0, S.0, P.1, S.1, … run before F, B and W, and these before E"
                    self.report.error("E0624", site, message, help)

    def saved(self, s: StateDecl, site: Site) -> None:
        loads = self.loads.get(s.name, [])
        if s.name not in self.saves:
            self.report.error("E0625", site, f"{s.name} is declared, but no function saves it")
            return
        if not loads:
            self.report.error("E0625", site, f"{s.name} is saved, but never loaded, and so never freed")
            return
        saver, chunk = self.saves[s.name]
        order = {phase: k for k, phase in enumerate(MODEL_PASSES)}
        ranked = sorted(loads, key=lambda entry: order[entry[0]])
        for k, (name, c, last, where) in enumerate(ranked):
            if c != chunk or order[name] <= order[saver]:
                message = f"{s.name} is loaded in {name}.{c}, but saved in {saver}.{chunk}"
                self.report.error("E0625", where, message, "a later action of the same chunk loads it")
            if last != (k == len(ranked) - 1):
                message = f"{s.name}: the last load, and no other, is marked `last`"
                self.report.error("E0625", where, message, "after it the buffer is free")
