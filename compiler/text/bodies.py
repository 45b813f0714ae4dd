"""Reads functions of `.npu` text: instructions, loops, ops with their attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compiler.graph import Graph, Node, Type, Value
from compiler.memory.tiers import FIRST
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.comm import Relayout
from compiler.ops.common import listed
from compiler.ops.elementwise import Map
from compiler.ops.functions import FUNCTIONS
from compiler.ops.repeat import Repeat
from compiler.origin import Origin, Phase
from compiler.program import ALL_CHUNKS, ORIGINS, Function, FunctionPhase, phase_in
from compiler.regions.region import Region, RegionKind
from compiler.text.attrs import AXES, OPS, attributes, describe, fits
from compiler.text.cursor import Cursor
from compiler.text.lexer import Lexeme
from compiler.text.locations import Locations, Site
from compiler.text.regions import FUSE, read_regions
from compiler.text.regions import WORD as REGION
from dsl.diagnostics import Diagnostics, ParcError, did_you_mean
from dsl.limits import MAX_LOOPS
from dsl.source import Span

UNKNOWN = Type("f32")
"""Of a value that nothing defines."""

UNSTATED = Origin()
"""Of a value of which the text does not say what it is for."""


class BodyParser(Cursor):
    """Collects errors line by line: after one it goes on at the next line."""

    ops: Mapping[str, type[Op]] = OPS

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text, name)
        self.found = Diagnostics()
        self.where = Locations()
        self.scope: dict[str, Value] = {}  # values of the body that is being read
        self.free: dict[str, Value] = {}  # values that all bodies may read
        self.functions: dict[str, Graph] = {}  # that calls may name
        self.lines: dict[str, dict[Site, Span]] = {}  # where what they do stands; until they are called
        self.phase = FunctionPhase.FORWARD

    def give_up(self, what: str) -> None:
        """An error after which nothing can be made of the rest."""
        try:
            self.expected(what)
        except ParcError as error:
            for d in error.diagnostics:
                self.found.add(d)
        self.found.raise_if_any()

    def skip(self, error: ParcError) -> None:
        """Keep the error and go on at the next line; give up where the line has brackets of its own."""
        for d in error.diagnostics:
            self.found.add(d)
        while not self.sees("newline"):
            if self.token.kind in ("end", "{", "}") or self.found.full:
                self.found.raise_if_any()
            self.next()
        self.next()

    def action(self) -> tuple[FunctionPhase, int]:
        """`F`, `F.1`; in schedules also `F.*`."""
        t = self.token
        name = self.text("a function's name")
        head, dot, tail = name.partition(".") if t.kind == "word" else (name, "", "")
        if head not in list(FunctionPhase) or (dot and not (tail.isascii() and tail.isdigit())):
            help = f"one of {listed(list(FunctionPhase))}, then its chunk, if that is not the first: `F.1`"
            raise self.error("E0601", f"`{name}` is not a function's name", t, help)
        if dot:
            return FunctionPhase(head), int(tail[:9])
        if not self.take("."):
            return FunctionPhase(head), 0
        return FunctionPhase(head), ALL_CHUNKS if self.take("*") else self.natural("a chunk")

    def callee(self) -> bool:
        """Whether a function that others call comes next; reads it."""
        if not self.sees_word("fn") or [t.kind for t in self.tokens[self.at + 2 : self.at + 3]] != ["("]:
            return False
        self.next()
        start, self.phase = self.token, FunctionPhase.UPDATE
        name = self.text("a function's name")
        self.mark("(")
        params: list[Value] = []
        while not self.sees(")"):
            params.append(self._var())
            if not self.take(","):
                break
        self.mark(")")
        self.mark("{")
        self.end_line()
        inputs = self._with_phase(params)
        self.scope = {v.name: v for v in inputs}
        outer, self.where = self.where, Locations()
        nodes, regions = self.nodes(Site(0), 0)
        self.lines[name], self.where = self.where.spans, outer
        self.word("yield")
        results = self._operands()
        self.end_line()
        self.mark("}")
        self.end_line()
        if name in self.functions:
            raise self.error("E0606", f"there are two functions `{name}`", start)
        self.functions[name] = Graph(name, inputs, nodes, results, regions)
        return True

    def function(self, site: Site) -> Function:
        start = self.token
        self.word("fn")
        phase, chunk = self.action()
        self.where.spans[site] = self.span(start)
        self.phase = phase
        self.mark("{")
        self.end_line()
        self.scope = {}
        nodes, regions = self.marked(site, 0)
        self.mark("}")
        self.end_line()
        return Function(phase, chunk, Graph("", (), nodes, (), regions))

    def marked(self, site: Site, depth: int) -> tuple[tuple[Node, ...], tuple[Region, ...]]:
        """Instructions up to a `}` or a `yield`, and the regions behind them."""
        nodes, fused = self.nodes(site, depth)
        while self.sees_word(REGION):
            try:
                return nodes, (*fused, *read_regions(self, nodes))
            except ParcError as error:
                self.skip(error)
        return nodes, fused

    def nodes(self, site: Site, depth: int) -> tuple[tuple[Node, ...], tuple[Region, ...]]:
        """Instructions up to a `}`, a `yield` or a mark, and which of them stand in a `fuse { … }` together."""
        found: list[Node] = []
        fused: list[Region] = []
        inside = -1  # how many there are before the `fuse` that is open
        while (inside >= 0 or not self.sees("}")) and not self.sees_word("yield") and not self.sees_word(REGION):
            start = self.token
            if start.kind == "end":
                self.give_up("`}`")
            try:
                if inside >= 0 and self.take("}"):
                    fused.append(self._fused(found[inside:], start))
                    inside = -1
                    self.end_line()
                    continue
                if self.sees_word(FUSE):
                    if inside >= 0:
                        raise self.error("E0601", "a `fuse` inside of another", start, "end the outer one first: `}`")
                    self.next()
                    self.mark("{")
                    inside = len(found)
                    self.end_line()
                    continue
                here = site.inner(len(found))
                instr = self.instruction(here, depth)
                if here not in self.where.spans:
                    self.where.spans[here] = self.span(start)
                self.end_line()
                found.append(instr)
                self.scope.update((v.name, v) for v in instr.outputs)
            except ParcError as error:
                self.skip(error)
        if inside >= 0:
            self.give_up("`}`, the end of the `fuse`")
        return tuple(found), tuple(fused)

    def _fused(self, nodes: Sequence[Node], start: Lexeme) -> Region:
        """The region of the nodes before its `}`. Raises E0652 where one gives nothing."""
        if not nodes or not all([node.outputs for node in nodes]):
            help = "`fuse { … }` is around element-wise instructions and reductions"
            raise self.error("E0652", "a fused region is made of instructions that give values", start, help)
        return Region(RegionKind.FUSED, tuple([node.outputs[0].name for node in nodes]))

    def _var(self) -> Value:
        name = self.value_name()
        self.mark(":")
        type, layout = self.type()
        memory = self.text("a memory") if self.take_word("in") else FIRST
        stated = next((p for p in Phase if self.take_word(p)), None)
        origin = UNSTATED if stated is None else ORIGINS[stated]
        return Value(name, type, origin=origin, layout=layout, memory=memory)

    def _with_phase(self, values: Sequence[Value], op: Op | None = None) -> tuple[Value, ...]:
        """The values, with the phase of what an op gives here (of a loop's parameters) where none is stated."""
        origin = ORIGINS[phase_in(self.phase, op)]
        return tuple(replace(v, origin=origin) if v.origin is UNSTATED else v for v in values)

    def _operand(self) -> Value:
        """A value that is defined above; what is not is the verifier's affair."""
        name = self.value_name()
        return self.scope.get(name) or self.free.get(name) or Value(name, UNKNOWN)

    def _operands(self) -> tuple[Value, ...]:
        found: list[Value] = []
        if self.sees("%"):
            found.append(self._operand())
            while self.take(","):
                found.append(self._operand())
        return tuple(found)

    def instruction(self, site: Site, depth: int) -> Node:
        outputs: list[Value] = []
        start = self.token
        if self.sees("%"):
            outputs.append(self._var())
            while self.take(","):
                outputs.append(self._var())
            self.mark("=")
        head = self.token
        name = self.text("an op")
        if name == Repeat.mnemonic:
            return self._repeat(self._with_phase(outputs), start, site, depth)
        if name == Call.mnemonic:
            return self._call(self._with_phase(outputs), site)
        if name in FUNCTIONS:
            return self._map(name, self._with_phase(outputs))
        op = self.ops.get(name)
        if op is None or op is Map:
            raise self.error("E0603", f"there is no op `{name}`", head, did_you_mean(name, (*OPS, *FUNCTIONS)))
        inputs = self._operands()
        made = self._attributes(op, tuple(outputs))
        return Node(made, inputs, self._with_phase(outputs, made))

    def _call(self, outputs: tuple[Value, ...], site: Site) -> Node:
        start = self.token
        name = self.text("a function")
        body = self.functions.get(name)
        if body is None:
            raise self.error("E0603", f"there is no function `{name}` above", start, did_you_mean(name, self.functions))
        for inner, span in self.lines.pop(name, {}).items():  # what is wrong with it is told at the first call
            self.where.spans[replace(site, path=(*site.path, *inner.path))] = span
        inputs = self._operands()
        self.word("at")
        return Node(Call(body, self.text("what it is for")), inputs, outputs)

    def _attributes(self, op: type[Op], outputs: tuple[Value, ...]) -> Op:
        given: dict[str, Any] = {}
        if op is Relayout:
            return Relayout(outputs[0].layout)
        for a in attributes(op):
            start = self.token
            if a.kind == "bool":
                given[a.field] = self.take_word(a.word)
                continue
            if a.derive is not None and not self.sees_word(a.word):
                value = a.derive(outputs[0].type) if outputs else None
            else:
                if a.word:
                    self.word(a.word)
                bare = not self.sees("(")
                value = self.value(axes=a.field == AXES)
                if a.many and bare:
                    value = ((value, self.value()),) if self.take("->") else (value,)
            if not fits(a.kind, value):
                raise self.error("E0604", f"{op.mnemonic}: `{a.field}` takes {describe(a.kind)}", start)
            given[a.field] = value
        return op(**given)

    def _map(self, fn: str, outputs: tuple[Value, ...]) -> Node:
        inputs: list[Value] = []
        slots: list[float | int | bool | None] = []
        while not self.sees("newline"):
            if self.sees("%"):
                inputs.append(self._operand())
                slots.append(None)
            elif self.sees_word("true") or self.sees_word("false"):
                slots.append(self.next().text == "true")
            else:
                slots.append(self.number())
            if not self.take(","):
                break
        return Node(Map(fn, tuple(slots)), tuple(inputs), outputs)

    def _repeat(self, outputs: tuple[Value, ...], start: Lexeme, site: Site, depth: int) -> Node:
        if depth >= MAX_LOOPS:
            raise self.error("E0608", f"loops are nested deeper than {MAX_LOOPS}", start)
        label = self.text("the loop's name")
        count = self.natural()
        scan = self.take_word("scan")
        reverse = self.take_word("reverse")
        path = self.text("the loop's path") if self.take_word("as") else label
        self.mark("(")
        params: list[Value] = []
        sources: list[Value] = []
        counts = {"=": 0, "each": 0, "with": 0}
        order = tuple(counts)
        while not self.sees(")"):
            params.append(self._var())
            how = self.token.text
            if how not in counts or any(counts[later] for later in order[order.index(how) + 1 :]):
                self.expected("`=` (carried), then `each` (one slice per iteration), then `with` (the same in all)")
            self.next()
            counts[how] += 1
            sources.append(self._operand())
            if not self.take(","):
                break
        self.mark(")")
        self.where.spans[site] = self.span(start)
        self.mark("{")
        self.end_line()
        inputs = self._with_phase(params)
        outer, self.scope = self.scope, {p.name: p for p in inputs}
        nodes, regions = self.marked(site, depth + 1)
        self.word("yield")
        results = self._operands()
        self.scope = outer
        self.end_line()
        self.mark("}")
        body = Graph(path, inputs, nodes, results, regions)
        return Node(Repeat(label, count, body, counts["="], counts["each"], reverse, scan), tuple(sources), outputs)
