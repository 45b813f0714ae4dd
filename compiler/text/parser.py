"""Reads `.npu` text. Errors are collected line by line (codes E0601 to E0608); every text gives a program or errors."""

from __future__ import annotations

from typing import Any

from compiler.model import Init
from compiler.ops.base import Op
from compiler.ops.common import listed
from compiler.ops.elementwise import ARITY, Map
from compiler.program import (
    ALL_CHUNKS,
    Affine,
    Axis,
    Body,
    DeviceClass,
    For,
    Function,
    InputDecl,
    Instr,
    LocalRepeat,
    LoopRange,
    Program,
    Run,
    Schedule,
    StateDecl,
    Update,
    Var,
)
from compiler.text.attrs import OPS, attributes, describe, fits
from compiler.text.cursor import MAX_NESTING, Cursor
from compiler.text.lexer import Token
from compiler.text.locations import Locations, Site
from compiler.text.names import ROLES, default_chunk, default_logical
from compiler.text.printer import show_devices
from dsl.diagnostics import Diagnostics, ParcError, did_you_mean

MAX_AXES = 64
MAX_DEVICES = 10**9


def parse_program(text: str, name: str = "program.npu") -> Program:
    """The program that the text describes. Raises `ParcError` with all errors found."""
    return parse_located(text, name)[0]


def parse_located(text: str, name: str = "program.npu") -> tuple[Program, Locations]:
    """The program, and where each of its parts stands in the text."""
    return _Parser(text, name).program()


class _Parser(Cursor):
    def __init__(self, text: str, name: str) -> None:
        super().__init__(text, name)
        self.found = Diagnostics()
        self.where = Locations()
        self.header = Program("", (), (), ())

    # --- the whole ---

    def program(self) -> tuple[Program, Locations]:
        self.skip_lines()
        self.word("program")
        name = self.text("the program's name")
        self.end_line()
        axes = self._mesh()
        self.sizes = {a.name: a.size for a in axes}
        stages = self._setting("stages", 1)
        seed = self._setting("seed", 0)
        inputs: list[InputDecl] = []
        classes: list[DeviceClass] = []
        self.header = Program(name, axes, (), (), seed, stages)
        while self.sees_word("input"):
            inputs.append(self._input())
        while not self.sees("end"):
            if not self.sees_word("stage"):
                self._give_up("`stage`")
            classes.append(self._class(len(classes)))
            self.skip_lines()
        self.found.raise_if_any()
        return Program(name, axes, tuple(inputs), tuple(classes), seed, stages), self.where

    def _give_up(self, what: str) -> None:
        """An error after which nothing can be made of the rest."""
        try:
            self.expected(what)
        except ParcError as error:
            for d in error.diagnostics:
                self.found.add(d)
        self.found.raise_if_any()

    def _setting(self, word: str, default: int) -> int:
        if not self.take_word(word):
            return default
        value = self.natural()
        self.end_line()
        return value

    def _mesh(self) -> tuple[Axis, ...]:
        self.word("mesh")
        self.mark("(")
        axes: list[Axis] = []
        devices = 1
        while not self.sees(")"):
            start = self.token
            name = self.text("the name of an axis")
            self.mark("=")
            size = self.natural("the size of the axis")
            kind = self.next().text if self.token.kind in ("word", "string") else "mesh"
            if kind not in ("mesh", "place", "time") or size < 1 or any(a.name == name for a in axes):
                help = "an axis has a name of its own, a size of at least 1 and is plain, `place` or `time`"
                raise self.error("E0605", f"`{name}` is not a proper axis", start, help)
            devices *= size if kind != "time" else 1
            axes.append(Axis(name, size, kind))
            if devices > MAX_DEVICES or len(axes) > MAX_AXES:
                raise self.error("E0608", f"a mesh of more than {MAX_DEVICES} devices or {MAX_AXES} axes", start)
            if not self.take(","):
                break
        self.mark(")")
        self.end_line()
        return tuple(axes)

    def _input(self) -> InputDecl:
        self.word("input")
        name = self.text("the input's name")
        self.mark(":")
        start = self.token
        type, layout = self.type()
        if any(layout.dims) or layout.pending or layout.halo:
            raise self.error("E0605", "inputs are declared with their whole sizes, without axes", start)
        low: int | None = None
        high: int | None = None
        if self.take_word("in"):
            low = None if self.sees("..") else self.integer()
            self.mark("..")
            high = None if self.sees("newline") else self.integer()
        self.end_line()
        return InputDecl(name, type, low, high)

    # --- classes ---

    def _class(self, index: int) -> DeviceClass:
        start = self.token
        self.word("stage")
        groups = self.runs(self.header.groups - 1)
        self.mark(":")
        self.word("devices")
        self._devices(groups)
        self.where.spans[Site(index)] = self.span(start)
        self.mark("{")
        self.end_line()
        ranges: list[LoopRange] = []
        states: list[StateDecl] = []
        functions: list[Function] = []
        schedule: Schedule = ()
        while not self.sees("}"):
            if self.sees("end"):
                self._give_up("`}`")
            line = self.token
            if self.sees_word("loop"):
                ranges.append(self._range())
            elif self.sees_word("fn"):
                functions.append(self._function(Site(index, "fn", len(functions))))
            elif self.sees_word("schedule"):
                schedule = self._schedule()
                self.where.spans[Site(index, "schedule")] = self.span(line)
            else:
                state = self._state()
                if state is not None:
                    self.where.spans[Site(index, "state", len(states))] = self.span(line)
                    states.append(state)
        self.mark("}")
        self.end_line()
        return DeviceClass(groups, tuple(ranges), tuple(states), tuple(functions), schedule)

    def _devices(self, groups: tuple[int, ...]) -> None:
        """Follows from the mesh; checked, so that a text that has been edited does not lie."""
        start = self.token
        given = ""
        while not self.sees("{"):
            if self.token.kind in ("newline", "end", "string"):
                self.expected("`{`")
            given += self.next().text
        want = show_devices(self.header, groups)
        if given != want.replace(" ", ""):
            raise self.error("E0606", "these devices do not follow from mesh and stages", start, f"they are {want}")

    def _range(self) -> LoopRange:
        self.word("loop")
        dim = self.text("the loop's name")
        self.mark(":")
        count = self.natural()
        self.word("of")
        total = self.natural()
        self.word("from")
        first = self.group_affine()
        chunk = self.natural() if self.take_word("chunk") else 0
        self.end_line()
        return LoopRange(dim, chunk, first, count, total)

    def _state(self) -> StateDecl | None:
        try:
            if self.token.kind == "word" and self.token.text not in ROLES:
                raise self.error(
                    "E0601",
                    f"expected `loop`, `fn`, `schedule` or a state's role, found {self.token}",
                    help=did_you_mean(self.token.text, (*ROLES, "loop", "fn", "schedule")) or f"roles: {listed(ROLES)}",
                )
            role = self.text("a state's role")
            name = self.text("the state's name")
            self.mark(":")
            type, layout = self.type()
            init = self._init() if self.take("=") else None
            memory = self.text() if self.take_word("in") else "hbm"
            logical = self.text() if self.take_word("of") else default_logical(name)
            chunk = self.natural() if self.take_word("chunk") else default_chunk(name)
            self.end_line()
            return StateDecl(name, role, type, layout, chunk, init, memory, logical)
        except ParcError as error:
            self._skip(error)
            return None

    def _init(self) -> Init:
        kind = self.text("an initialiser")
        args: list[float] = []
        if self.take("("):
            while not self.sees(")"):
                args.append(self.number())
                if not self.take(","):
                    break
            self.mark(")")
        return Init(kind, tuple(args))

    def _skip(self, error: ParcError) -> None:
        """Keep the error and go on at the next line; give up where the line has brackets of its own."""
        for d in error.diagnostics:
            self.found.add(d)
        while not self.sees("newline"):
            if self.token.kind in ("end", "{", "}") or self.found.full:
                self.found.raise_if_any()
            self.next()
        self.next()

    # --- functions ---

    def _action(self) -> tuple[str, int]:
        """`F`, `F.1`, `"odd name".1`; in schedules also `F.*`."""
        t = self.token
        name = self.text("a function's name")
        if t.kind == "word" and "." in name:
            head, _, tail = name.rpartition(".")
            if "." in head or not tail.isdigit():
                raise self.error("E0601", f"`{name}` is not a function's name", t, "a function and its chunk: `F.1`")
            return head, int(tail[:9])
        if not self.take("."):
            return name, 0
        return name, ALL_CHUNKS if self.take("*") else self.natural("a chunk")

    def _function(self, site: Site) -> Function:
        start = self.token
        self.word("fn")
        name, chunk = self._action()
        self.where.spans[site] = self.span(start)
        self.mark("{")
        self.end_line()
        instrs = self._instrs(site, 0)
        self.mark("}")
        self.end_line()
        return Function(name, chunk, Body((), instrs, ()))

    def _instrs(self, site: Site, depth: int) -> tuple[Instr, ...]:
        """Instructions up to a `}` or a `yield`."""
        found: list[Instr] = []
        while not self.sees("}") and not self.sees_word("yield"):
            start = self.token
            if start.kind == "end":
                self._give_up("`}`")
            try:
                here = site.inner(len(found))
                instr = self._instr(here, depth)
                if here not in self.where.spans:
                    self.where.spans[here] = self.span(start)
                self.end_line()
                found.append(instr)
            except ParcError as error:
                self._skip(error)
        return tuple(found)

    def _var(self) -> Var:
        name = self.value_name()
        self.mark(":")
        return Var(name, *self.type())

    def _instr(self, site: Site, depth: int) -> Instr:
        outputs: list[Var] = []
        start = self.token
        if self.sees("%"):
            outputs.append(self._var())
            while self.take(","):
                outputs.append(self._var())
            self.mark("=")
        head = self.token
        name = self.text("an op")
        if name == LocalRepeat.mnemonic:
            return self._repeat(tuple(outputs), start, site, depth)
        if name in ARITY:
            return self._map(name, tuple(outputs))
        op = OPS.get(name)
        if op is None or op is Map:
            raise self.error("E0603", f"there is no op `{name}`", head, did_you_mean(name, (*OPS, *ARITY)))
        inputs = []
        if self.sees("%"):
            inputs.append(self.value_name())
            while self.take(","):
                inputs.append(self.value_name())
        return Instr(self._attributes(op, tuple(outputs)), tuple(inputs), tuple(outputs))

    def _attributes(self, op: type[Op], outputs: tuple[Var, ...]) -> Op:
        given: dict[str, Any] = {}
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
                value = self.value()
                if a.many and bare:
                    value = ((value, self.value()),) if self.take("->") else (value,)
            if not fits(a.kind, value):
                raise self.error("E0604", f"{op.mnemonic}: `{a.field}` takes {describe(a.kind)}", start)
            given[a.field] = value
        return op(**given)

    def _map(self, fn: str, outputs: tuple[Var, ...]) -> Instr:
        inputs: list[str] = []
        slots: list[float | int | bool | None] = []
        while not self.sees("newline"):
            if self.sees("%"):
                inputs.append(self.value_name())
                slots.append(None)
            elif self.sees_word("true") or self.sees_word("false"):
                slots.append(self.next().text == "true")
            else:
                slots.append(self.number())
            if not self.take(","):
                break
        return Instr(Map(fn, tuple(slots)), tuple(inputs), outputs)

    def _repeat(self, outputs: tuple[Var, ...], start: Token, site: Site, depth: int) -> Instr:
        if depth >= MAX_NESTING:
            raise self.error("E0608", f"loops are nested deeper than {MAX_NESTING}", start)
        label = self.text("the loop's name")
        count = self.natural()
        reverse = self.take_word("reverse")
        self.mark("(")
        params: list[Var] = []
        sources: list[str] = []
        counts = {"=": 0, "each": 0, "with": 0}
        order = tuple(counts)
        while not self.sees(")"):
            params.append(self._var())
            how = self.token.text
            if how not in counts or any(counts[later] for later in order[order.index(how) + 1 :]):
                self.expected("`=` (carried), then `each` (one slice per iteration), then `with` (the same in all)")
            self.next()
            counts[how] += 1
            sources.append(self.value_name())
            if not self.take(","):
                break
        self.mark(")")
        self.where.spans[site] = self.span(start)
        self.mark("{")
        self.end_line()
        instrs = self._instrs(site, depth + 1)
        self.word("yield")
        results = []
        if self.sees("%"):
            results.append(self.value_name())
            while self.take(","):
                results.append(self.value_name())
        self.end_line()
        self.mark("}")
        body = Body(tuple(params), instrs, tuple(results))
        return Instr(LocalRepeat(label, count, body, counts["="], counts["each"], reverse), tuple(sources), outputs)

    # --- schedule ---

    def _schedule(self) -> Schedule:
        self.word("schedule")
        self.mark("{")
        self.skip_lines()
        elements: list[Run | For | Update] = []
        while not self.sees("}"):
            if self.sees_word("for"):
                elements.append(self._for())
            elif self.sees_word("U") and self.tokens[self.at + 1].kind == "newline":
                self.next()
                elements.append(Update())
            else:
                action, chunk = self._action()
                self.mark("[")
                low = self.group_affine()
                high = self.group_affine() if self.take("..") else Affine(low.base + 1, low.slope)
                self.mark("]")
                elements.append(Run(action, chunk, low, high))
            self.end_line()
        self.mark("}")
        self.end_line()
        return tuple(elements)

    def _for(self) -> For:
        start = self.token
        for part in ("for", "i", "in"):
            self.word(part)
        if self.natural() != 0:
            raise self.error("E0601", "a loop starts at 0", start, "for i in 0..COUNT")
        self.mark("..")
        count = self.group_affine()
        self.mark("{")
        steps: list[tuple[str, int, Affine]] = []
        strides: set[int] = set()
        while not self.sees("}"):
            action, chunk = self._action()
            self.mark("[")
            terms = self.affine("i", "g")
            strides.add(terms["i"])
            steps.append((action, chunk, Affine(terms[""], terms["g"])))
            self.mark("]")
        self.mark("}")
        if len(strides) != 1:
            raise self.error("E0601", "a loop has a step, and all its steps the same factor of `i`", start)
        return For(count, strides.pop(), tuple(steps))
