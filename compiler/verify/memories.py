"""Memories: a value is read only in the memory where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.graph import Graph, Node, Value
from compiler.memory.tiers import FIRST, HOST
from compiler.ops.call import Call
from compiler.ops.effects import Accumulate, Effect, Load, Read, Save, Write
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass, Program
from compiler.row_caches import without
from compiler.text.locations import Site
from compiler.verify.report import Report, head


def check_memories(program: Program, report: Report) -> None:
    """All functions of all classes, whose values and buffers are known to be well-defined."""
    for c, cls in enumerate(program.classes):
        for k, reason in without(cls):
            s = cls.states[k]
            report.error("E0619", Site(c, "state", k), f"{s.role} {s.name} has a cache: {reason}", None)
        checker = _Checker(cls, report)
        for i, function in enumerate(cls.functions):
            checker.body(function.body, Site(c, "fn", i))


class _Checker:
    def __init__(self, cls: DeviceClass, report: Report) -> None:
        self.report = report
        self.buffers: Mapping[str, str] = {s.name: s.memory for s in cls.states}
        self.called: set[int] = set()
        self.slices: set[Value] = set()  # of loops, and what is the same in all iterations

    def body(self, body: Graph, site: Site) -> None:
        for i, instr in enumerate(body.nodes):
            op = instr.op
            memory = self.buffers[op.name] if isinstance(op, (Read, Write, Accumulate, Save, Load)) else FIRST
            special = isinstance(op, (Repeat, Call, Move))
            if special or not all([v.memory == memory for v in (*instr.inputs, *instr.outputs)]):
                self.instr(instr, instr.inputs, site.inner(i))

    def instr(self, instr: Node, ins: Sequence[Value], site: Site) -> None:
        match instr.op:
            case Repeat() as op:
                self.loop(op, instr, ins, site)
            case Call() as op:
                self.call(op, instr, ins, site)
            case Move(source, target):
                if source == target:
                    self.report.error("E0619", site, f"{head(instr)}: from {source} to {target} is no move")
                self.early(instr.op, instr, site)
                self.lie(instr, ins[:1], source, "is moved from", site)
                self.lie(instr, ins[1:], target, "makes room in", site)
                self.lie(instr, instr.outputs, target, "is moved to", site)
            case Read(name) | Write(name) | Accumulate(name) | Save(name) | Load(name):
                self.lie(instr, (*ins, *instr.outputs), self.buffers[name], f"goes with {name}, which lies in", site)
            case op:
                others = [v for i, v in enumerate(ins) if i != op.reaches]
                place = self.place(instr, others)
                self.lie(instr, others, place, "is read in", site)
                made = place if op.reaches is None or op.renews != op.reaches else ins[op.reaches].memory
                self.lie(instr, instr.outputs, made, "is made in", site)

    def place(self, instr: Node, ins: Sequence[Value]) -> str:
        """Where it is computed: on the hosts, if all that it reads and makes is there; messages are the devices'."""
        if instr.op.message or isinstance(instr.op, Effect):
            return FIRST
        there = {v.memory for v in (*ins, *(() if instr.op.reaches == instr.op.renews == 0 else instr.outputs))}
        return HOST if there == {HOST} else FIRST

    def early(self, op: Move, instr: Node, site: Site) -> None:
        """Iterations that have not begun have slices, and what is the same in all; nothing else is there of them."""
        if op.ahead < 0 or (op.ahead and instr.inputs[0] not in self.slices):
            message = f"{head(instr)}: %{instr.inputs[0].name} is not there {op.ahead} iterations ahead"
            help = "`ahead` is for slices of a loop, and for what is the same in all its iterations"
            self.report.error("E0619", site, message, help)

    def loop(self, op: Repeat, instr: Node, ins: Sequence[Value], site: Site) -> None:
        """A loop moves nothing: parameters lie where operands do, results and stacks where values of the body do."""
        self.slices.update(op.body.inputs[op.carries :])
        self.body(op.body, site)
        for given, param in zip(ins, op.body.inputs, strict=True):
            self.lie(instr, (param,), given.memory, f"is given %{given.name}, which lies in", site)
        inner = {v.name: v for v in (*op.body.inputs, *(v for n in op.body.nodes for v in n.outputs))}
        made = [inner[v.name] for v in op.body.outputs]
        for result, out in zip(made, instr.outputs, strict=True):
            self.lie(instr, (out,), result.memory, f"is %{result.name}, which lies in", site)
        for result, param in zip(made[: op.carries], op.body.inputs, strict=False):
            self.lie(instr, (param,), result.memory, f"leaves an iteration as %{result.name}, which lies in", site)

    def call(self, op: Call, instr: Node, ins: Sequence[Value], site: Site) -> None:
        """A function moves what it is given no more than a loop does."""
        if id(op.body) not in self.called:
            self.called.add(id(op.body))
            self.body(op.body, site)
        for given, param in zip(ins, op.body.inputs, strict=True):
            self.lie(instr, (given,), param.memory, f"is read as %{param.name}, which lies in", site)
        for result, out in zip(op.body.outputs, instr.outputs, strict=True):
            self.lie(instr, (out,), result.memory, f"is %{result.name}, which lies in", site)

    def lie(self, instr: Node, values: Sequence[Value], memory: str, why: str, site: Site) -> None:
        for v in values:
            if v.memory != memory:
                help = f"`move` it from {v.memory} to {memory} before" if v not in instr.outputs else None
                message = f"{head(instr)}: %{v.name} {why} {memory}, but it is said to lie in {v.memory}"
                self.report.error("E0619", site, message, help)
