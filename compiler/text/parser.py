"""Reads `.npu` text. Errors are collected line by line (codes E0601 to E0608); every text gives a program or errors."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.homes import Homes
from compiler.memory.tiers import FIRST, RowCache
from compiler.ops.common import listed
from compiler.origin import DECLARED
from compiler.program import (
    Axis,
    DeviceClass,
    Entry,
    Function,
    InputDecl,
    LoopRange,
    Program,
    Schedule,
    StateDecl,
    WholeLoop,
)
from compiler.text.locations import HEAD, Locations, Site
from compiler.text.printer import show_devices, show_entry
from compiler.text.schedules import ScheduleParser
from compiler.text.sharing import extent, with_code_of
from dsl.diagnostics import ParcError, did_you_mean

MAX_AXES = 64
MAX_DEVICES = 10**9
MAX_STAGES = 10**6
MAX_SHARED = 1_000_000
"""States and instructions that all classes together take over from others."""


def parse_program(text: str, name: str = "program.npu") -> Program:
    """The program that the text describes. Raises `ParcError` with all errors found."""
    return parse_located(text, name)[0]


def parse_located(text: str, name: str = "program.npu") -> tuple[Program, Locations]:
    """The program, and where each of its parts stands in the text."""
    return _Parser(text, name).program()


class _Parser(ScheduleParser):
    def __init__(self, text: str, name: str) -> None:
        super().__init__(text, name)
        self.header = Program("", (), (), ())
        self.shared = 0
        self.first = 0
        """Classes of the entries before this one."""

    # --- the whole ---

    def program(self) -> tuple[Program, Locations]:
        self.skip_lines()
        self.word("program")
        name = self.text("the program's name")
        self.end_line()
        axes = self._mesh()
        self.sizes = {a.name: a.size for a in axes}
        homes = self._homes(Program(name, axes, (), ()).groups)
        seed = self._setting("seed", 0)
        inputs: list[InputDecl] = []
        entries: list[Entry] = []
        self.header = Program(name, axes, (), (), seed, homes)
        while self.sees_word("input"):
            line = self.token
            inputs.append(self._input())
            self.where.spans[Site(HEAD, "input", len(inputs) - 1)] = self.span(line)
        while not self.sees("end"):
            entries.append(self._entry(entries))
        self.found.raise_if_any()
        return Program(name, axes, tuple(inputs), tuple(entries), seed, homes), self.where

    def _entry(self, before: Sequence[Entry]) -> Entry:
        """The stages up to the next `entry`; its head is left out where there is nothing but `train_step`."""
        start, name = self.token, "train_step"
        stated: tuple[list[str], list[str]] | None = None
        if self.take_word("entry"):
            name = self.text("the entry's name")
            self.mark("(")
            inputs = self._names(")")
            self.mark(")")
            stated = inputs, self._names("newline") if self.take("->") else []
            self.end_line()
            self.skip_lines()
        self.first = sum(len(e.classes) for e in before)
        classes: list[DeviceClass] = []
        while not self.sees("end") and not self.sees_word("entry"):
            if not self.sees_word("stage"):
                self.give_up("`entry` or `stage`" if classes else "`stage`")
            classes.append(self._class(classes))
            self.skip_lines()
        entry = Entry(name, tuple(classes))
        if any(e.name == name for e in before):
            raise self.error("E0605", f"there are two entries `{name}`", start)
        if stated is not None and not self.found.failed and stated != (list(entry.inputs), list(entry.outputs)):
            raise self.error("E0606", "this is not what the entry takes and gives", start, f"it is {show_entry(entry)}")
        return entry

    def _names(self, end: str) -> list[str]:
        found: list[str] = []
        while not self.sees(end):
            found.append(self.text())
            if not self.take(","):
                break
        return found

    def _homes(self, groups: int) -> Homes:
        """`stages 4`, dealt round and round; `stages on (0, 1, 1, 0)`; of several ways `stages on (0, 1), (1, 0)`."""
        start = self.token
        if not self.take_word("stages"):
            return Homes()
        if self.take_word("on"):
            listed, ways = self._way(), 1
            length = len(listed)
            while self.take(",") and len(listed) <= MAX_STAGES:
                listed, ways = listed + self._way(), ways + 1
                if len(listed) != ways * length:
                    self.give_up("as many stages as the first way has")
            homes = Homes(tuple(listed), ways)
        else:
            homes = Homes.dealt(groups, min(self.natural(), MAX_STAGES + 1))
        if len(homes) > MAX_STAGES:
            raise self.error("E0608", f"more than {MAX_STAGES:,} stages", start, f"at most {MAX_STAGES:,}")
        self.end_line()
        return homes

    def _way(self) -> list[int]:
        """`(0, 1)`: of each stage the group."""
        self.mark("(")
        listed: list[int] = []
        while not self.sees(")") and len(listed) <= MAX_STAGES:
            listed.append(self.natural("the group of a stage"))
            if not self.take(","):
                break
        self.mark(")")
        return listed

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
            name = self.axis_name("the name of an axis")
            self.mark("=")
            size = self.natural("the size of the axis")
            kind = self.next().text if self.token.kind in ("word", "string") else "mesh"
            if kind not in ("mesh", "place", "time") or size < 1 or any(a.name == name for a in axes):
                help = "an axis has a name of its own, a size of at least 1 and is plain, `place` or `time`"
                raise self.error("E0605", f"`{name}` is not a proper axis", start, help)
            devices *= size if kind != "time" else 1
            axes.append(Axis(name, size, kind))
            if devices > MAX_DEVICES:
                message = f"`{name}` makes it a mesh of {devices:,} devices"
                raise self.error("E0608", message, start, f"at most {MAX_DEVICES:,}: make axes shorter")
            if len(axes) > MAX_AXES:
                message = f"a mesh of more than {MAX_AXES} axes: `{name}` is one too many"
                raise self.error("E0608", message, start, f"at most {MAX_AXES}: make one of several")
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
        return InputDecl(name, type, *self.bounds())

    # --- classes ---

    def _class(self, earlier: list[DeviceClass]) -> DeviceClass:
        start, index = self.token, self.first + len(earlier)
        self.word("stage")
        groups = self.runs(self.header.groups - 1)
        self.mark(":")
        self.word("devices")
        self._devices(groups)
        other = self._other(earlier, index) if self.sees_word("as") else None
        self.where.spans[Site(index)] = self.span(start)
        self.mark("{")
        self.end_line()
        ranges: list[LoopRange] = []
        states: list[StateDecl] = []
        functions: list[Function] = []
        schedule: Schedule = ()
        self.functions = {}
        while not self.sees("}"):
            if self.sees("end"):
                self.give_up("`}`")
            line = self.token
            if self.sees_word("loop"):
                ranges.append(self._range())
            elif other is not None and not self.sees_word("schedule"):
                raise self.error("E0601", "a class `as` another one has loops and a schedule of its own, nothing else")
            elif self.callee():
                continue
            elif self.sees_word("fn"):
                functions.append(self.function(Site(index, "fn", len(functions))))
            elif self.sees_word("schedule"):
                schedule = self.schedule()
                self.where.spans[Site(index, "schedule")] = self.span(line)
            else:
                state = self._state()
                if state is not None:
                    self.where.spans[Site(index, "state", len(states))] = self.span(line)
                    states.append(state)
        self.mark("}")
        self.end_line()
        cls = DeviceClass(groups, tuple(ranges), tuple(states), tuple(functions), schedule)
        if other is None:
            return cls
        shared = with_code_of(cls, other)
        if shared is None:
            raise self.error("E0606", "these loops are not those of the class that it is as", start)
        return shared

    def _other(self, earlier: list[DeviceClass], index: int) -> DeviceClass:
        """`as 1..8`: the class whose code is taken over."""
        start = self.next()
        groups = self.runs(self.header.groups - 1)
        found = next((i for i, c in enumerate(earlier) if c.groups == groups), None)
        if found is None:
            raise self.error("E0606", "there is no class of these stages above", start)
        self.shared += extent(earlier[found])
        if self.shared > MAX_SHARED:
            raise self.error("E0608", "too many classes that are as others", start)
        self.where.same[index] = self.where.same.get(self.first + found, self.first + found)
        return earlier[found]

    def _devices(self, groups: tuple[int, ...]) -> None:
        """Follows from the mesh; checked, so that a text that has been edited does not lie."""
        start = self.token
        given = ""
        while not self.sees("{"):
            if self.sees_word("as"):
                break
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
        within = self._whole_loop() if self.take_word("in") else None
        chunk = self.natural() if self.take_word("chunk") else 0
        self.end_line()
        return LoopRange(dim, chunk, first, count, total, within)

    def _whole_loop(self) -> WholeLoop:
        label, total = self.text("the whole loop's name"), self.natural()
        self.word("from")
        return WholeLoop(label, self.natural(), total)

    def _iteration(self) -> WholeLoop:
        first = self.natural()
        self.word("of")
        return WholeLoop(self.text("the loop's name"), first, self.natural())

    def _part_of(self) -> str:
        self.word("of")
        return self.text()

    def _cache(self) -> RowCache:
        rows = self.natural("rows of a cache")
        return RowCache(rows, float(self.number()) if self.take_word("hits") else None)

    def _state(self) -> StateDecl | None:
        try:
            role = next((r for r in DECLARED if self.take_word(r)), None)
            if role is None:
                raise self.error(
                    "E0601",
                    f"expected `loop`, `fn`, `schedule` or a state's role, found {self.token}",
                    help=did_you_mean(self.token.text, (*DECLARED, "loop", "fn", "schedule"))
                    or f"roles: {listed(DECLARED)}",
                )
            name = self.text("the state's name")
            self.mark(":")
            type, layout = self.type()
            init = self.initialiser() if self.take("=") else None
            within = self.range() if self.take_word("within") else None
            memory = self.text() if self.take_word("in") else FIRST
            cache = self._cache() if self.take_word("cache") else None
            logical = self.text() if self.take_word("of") else name
            whole = self._part_of() if self.take_word("part") else ""
            iterations: list[WholeLoop] = []
            while self.take_word("iteration"):
                iterations.append(self._iteration())
            numbers = self.text() if self.take_word("at") else ""
            chunk = self.natural() if self.take_word("chunk") else 0
            frozen = self.take_word("frozen")
            self.end_line()
            given = (
                name,
                role,
                type,
                layout,
                chunk,
                init,
                memory,
                logical,
                frozen,
                numbers,
                whole,
                cache,
                within,
                tuple(iterations),
            )
            return StateDecl(*given)
        except ParcError as error:
            self.skip(error)
            return None
