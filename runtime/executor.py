"""What runs a program: the interface, and what executors share whose devices are all in this process.

Logical arrays go in and come out, as numpy's; how states, inputs and values are kept is an executor's own affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

import numpy as np

from compiler.declared import bounded, logical, logical_type
from compiler.graph import Names, Type, Value
from compiler.layout import Layout
from compiler.ops.effects import Input, Read
from compiler.ops.rows import ReadRows
from compiler.origin import Role
from compiler.passes.copying import expanded
from compiler.program import LASTING, DeviceClass, FunctionPhase, Program, StateDecl
from compiler.row_caches import for_others
from compiler.walk import graph_values, walk
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.distribute import Array, own_part
from runtime.inputs import check_batch
from runtime.mesh import Mesh
from runtime.numpy import quiet
from runtime.readable import Readable
from runtime.state import Arrays, Piece, initial_array, joined, magnitudes

_SHOWN = 8
"""Of those that hang."""


@dataclass(frozen=True)
class StepResult:
    """What one step (or another entry) computes, as logical arrays by name. `loss` is 0 where there is none;
    `gradients` only where asked for; `reports` come from the update; `outputs` are the model's, for the whole batch.

    magnitudes: what the absolute values of the parts of each gradient add up to (called before the next step).
    """

    loss: Array
    metrics: Arrays
    gradients: Arrays
    reports: Arrays
    magnitudes: Callable[[], Arrays] = dict
    outputs: Arrays = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What the caches of a table did, of all devices together, in rows: asked for (looked up by the device, and in the
    update by others whose rows it renews), fetched from where the table rests, and returned there."""

    asked: int
    fetched: int
    returned: int

    @property
    def hits(self) -> float:
        """The share of the rows asked for that did not have to be fetched."""
        return 1 - self.fetched / self.asked if self.asked else 0.0


class _Counts(Protocol):
    asked: int
    fetched: int
    returned: int


def cache_use(program: Program, counted: Iterable[tuple[str, _Counts]]) -> dict[str, CacheUse]:
    """Of tables that are looked up, by their logical names, what the caches of all devices did together."""
    others = _for_others(program)
    found: dict[str, CacheUse] = {}
    for name, now in counted:
        if now.asked:
            old = found.get(name, CacheUse(0, 0, 0))
            asked = round(now.asked * (1 + others.get(name, 0.0)))
            found[name] = CacheUse(old.asked + asked, old.fetched + now.fetched, old.returned + now.returned)
    return found


def _for_others(program: Program) -> dict[str, float]:
    """By the logical names of tables with caches: rows that a device's updates ask for beside those that it has looked
    up, for each of these (of those that others have looked up it may have to renew a part only)."""
    found: dict[str, float] = {}
    for cls in program.classes:
        decls = {s.name: s for s in cls.states if s.cache is not None and s.role is Role.WEIGHT}
        for f in cls.functions if decls else ():
            nodes = expanded(f.body.nodes, Names(v.name for v in graph_values(f.body)))
            read = {node.output: node.op.name for node in nodes if isinstance(node.op, Read)}
            for node in nodes:
                op = node.op
                if isinstance(op, ReadRows) and (name := read.get(node.inputs[0], "")) in decls:
                    share = op.pieces / op.parts
                    found[decls[name].logical] = share * for_others(node, nodes, program.sizes)
    return found


class Executor(Protocol):
    """Runs a program's steps, and lets its states be read and replaced.

    steps: the number of updates so far. added: how often a sum over devices is rounded on its way, in 16 bits.
    """

    program: Program
    steps: int
    added: int

    @property
    def caches(self) -> Mapping[str, CacheUse]:
        """By the logical names of tables of which rows are kept: what their caches did since the run began."""
        ...

    def weights(self) -> Arrays:
        """The weights as logical arrays by name."""
        ...

    def states(self) -> Arrays:
        """The optimizer's states and the counters as logical arrays by name."""
        ...

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Replace weights and states, by their logical names; ValueError for a name or a shape that is not there."""
        ...

    def pieces(self, roles: tuple[str, ...], only_update: bool | None = None) -> list[Piece]:
        """What is in the buffers of these roles, group by group."""
        ...

    def step(self, batch: Mapping[str, Readable], gradients: bool = False) -> StepResult:
        """Run one training step on a logical batch.

        Args:
            batch: by the names of the program's inputs.
            gradients: whether the result holds them.

        Raises:
            ParcError: E0702, the schedule hangs; E0703, devices differ that must hold the same.
            ValueError: the batch does not fit the inputs' declarations.
        """
        ...

    def call(self, entry: str, batch: Mapping[str, Readable]) -> StepResult:
        """Run an entry of the program once, on the states as they are. KeyError if there is none; raises as `step`."""
        ...


class LocalExecutor(ABC):
    """An `Executor` whose devices are all in this process; subclasses say how devices keep arrays and run functions.

    A subclass sets up its devices and then calls `super().__init__`, which fills their states.
    """

    added = 0

    @property
    def caches(self) -> Mapping[str, CacheUse]:
        """What caches of rows did, by the names of their tables; nothing, where none are kept."""
        return {}

    def __init__(
        self, program: Program, initial: Mapping[str, Array] | None = None, shares: LocalExecutor | None = None
    ) -> None:
        """Runs the program's first entry; others have an executor of their own that shares this one's states.

        Args:
            initial: logical arrays by name in place of the declared initialisers.
            shares: whose states this one takes, instead of initial ones.
        """
        self.program, self.mesh, self.steps = program, Mesh.of(program), 0
        groups = [(g, cls) for cls in program.classes for g in cls.groups]
        self.classes = {g: cls for g, cls in sorted(groups, key=lambda x: x[0])}
        self._inputs = {id(cls): inputs_of(cls) for cls in program.classes}
        self._updated = {id(cls): updated(cls) for cls in program.classes}
        self.lasting = {logical(s): logical_type(s, c) for c in program.classes for s in c.states if s.role in LASTING}
        self._types = {i.name: i.type for i in program.inputs}
        self._updates = any(f.phase is FunctionPhase.UPDATE for cls in program.classes for f in cls.functions)
        self._others: dict[str, LocalExecutor] = {}
        if shares is None:
            self.begin(initial or {})

    # --- how it keeps and computes

    @abstractmethod
    def fill(self, group: int, decl: StateDecl, part: Array) -> None:
        """Put the group's part of a logical array into its buffer."""

    @abstractmethod
    def held(self, group: int, decl: StateDecl) -> Array | None:
        """What is in the group's buffer, as a stacked array (`runtime.distribute`); None where nothing is yet."""

    @abstractmethod
    def share(self, group: int, decl: StateDecl, other: Any) -> bool:
        """Let the group's buffer be that of another executor of this kind; False if it has none."""

    @abstractmethod
    def deliver(self, values: Mapping[str, Readable]) -> None:
        """Take a step's inputs, as logical arrays by name, scalars of the executor's own among them."""

    @abstractmethod
    def play(self) -> None:
        """Run the schedules of all devices; E0702 where they hang."""

    @abstractmethod
    def end_step(self) -> None:
        """Let go of inputs and of what was accumulated."""

    # --- states

    def weights(self) -> Arrays:
        """The weights as logical arrays by name."""
        return self.collect((Role.WEIGHT,), add=False)

    def states(self) -> Arrays:
        """The optimizer's states and the counters as logical arrays by name."""
        return self.collect((Role.OPTIMIZER, Role.COUNTER, Role.STATE), add=False)

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Replace weights and states, by their logical names; ValueError for a name or a shape that is not there."""
        for name, array in arrays.items():
            if name not in self.lasting:
                raise ValueError(f"the program has no weight or state `{name}`")
            if np.shape(array) != self.lasting[name].shape:
                raise ValueError(f"`{name}` is {self.lasting[name]}, the array has shape {list(np.shape(array))}")
        self._put(lambda name, type, decl: initial_array(name, type, decl, 0, arrays) if name in arrays else None)

    def begin(self, initial: Mapping[str, Array]) -> None:
        """Fill all lasting buffers: with what is given for them, else as they are declared."""
        self._put(lambda name, type, decl: initial_array(name, type, decl, self.program.seed, initial))

    def _put(self, made: Callable[[str, Type, StateDecl], Array | None]) -> None:
        """Fill each lasting buffer with its part of the logical array that `made` gives; None leaves it as it is."""
        arrays: dict[str, Array | None] = {}
        for g, cls in self.classes.items():
            for decl in cls.states:
                if decl.role not in LASTING:
                    continue
                name = logical(decl)
                if arrays.get(name) is None:  # of another piece it may be left as it is
                    arrays[name] = made(name, logical_type(decl, cls), decl)
                array = arrays[name]
                if array is not None:
                    self.fill(g, decl, own_part(array, decl, cls, g))

    def collect(self, roles: tuple[str, ...], add: bool, only_update: bool | None = None) -> Arrays:
        """The logical arrays of buffers of these roles; `add`: the parts of several groups are added up.

        only_update: of buffers that U fills only, or of the others only.
        """
        return joined(self.pieces(roles, only_update), self.mesh, add)

    def pieces(self, roles: tuple[str, ...], only_update: bool | None = None) -> list[Piece]:
        """What is in the buffers of these roles."""
        found: list[Piece] = []
        for g, cls in self.classes.items():
            for decl in cls.states:
                if decl.role not in roles:
                    continue
                if only_update is not None and (decl.name in self._updated[id(cls)]) != only_update:
                    continue
                x = self.held(g, decl)
                if x is not None:
                    found.append((decl, cls, g, x))
        return found

    # --- a step

    def call(self, entry: str, batch: Mapping[str, Readable]) -> StepResult:
        """Run an entry of the program once, on the states as they are; KeyError if there is none."""
        if entry == self.program.entries[0].name:
            return self.step(batch)
        if entry not in self._others:
            self._others[entry] = type(self)(self.program.only(entry), shares=self)
        other = self._others[entry]
        self._lend(other)
        other.steps = self.steps
        result = other.step(batch)
        for g, cls in other.classes.items():
            for decl in cls.states:
                if decl.role is Role.STATE:
                    self.share(g, decl, other)
        return result

    def beside(self, program: Program) -> LocalExecutor:
        """An executor of another program that has the same weights: where they lie alike they are in memory once."""
        other = type(self)(program, shares=self)
        self._lend(other)
        return other

    def _lend(self, other: LocalExecutor) -> None:
        """Let the other one's states be this one's."""
        missing: dict[str, StateDecl] = {}
        for g, cls in other.classes.items():
            for decl in cls.states:
                if decl.role in LASTING and not other.share(g, decl, self):
                    missing[logical(decl)] = decl
        if missing:  # what nothing renews may lie on more devices there
            held = {**self.weights(), **self.states()}
            other.put({name: held[name] for name in missing if name in held})

    def step(self, batch: Mapping[str, Readable], gradients: bool = False) -> StepResult:
        """Run the first entry on a logical batch; E0702 if the schedule hangs, ValueError if the batch does not fit."""
        read = {name for inputs in self._inputs.values() for name, _ in inputs}
        values = check_batch([i for i in self.program.inputs if i.name in read or i.name in batch], batch)
        for inputs in self._inputs.values():
            values.update((name, self._scalar(name)) for name, _ in inputs if name not in values)
        self.deliver(values)
        with quiet():
            self.play()
            self._hold_within()
            loss = self.collect((Role.LOSS,), add=True)
            pieces = self.pieces((Role.GRADIENT, Role.ROWS)) if gradients else []
            result = StepResult(
                next(iter(loss.values())) if loss else np.zeros(()),
                self.collect((Role.METRIC,), add=True, only_update=False),
                joined(pieces, self.mesh, add=True),
                self.collect((Role.METRIC, Role.REPORT), add=False, only_update=True),
                lambda: magnitudes(pieces, self.mesh),
                self.collect((Role.OUTPUT,), add=True),
            )
        self.steps += self._updates
        self.end_step()
        return result

    def _hold_within(self) -> None:
        """Raise E0789 where a state's integers have left the range that they are declared to stay in."""
        for g, cls in self.classes.items():
            for decl in bounded(cls):
                x = self.held(g, decl)
                low, high = decl.within or (0, 0)
                if x is not None and x.size and not (low <= x.min() and x.max() < high):
                    found = x.max() if x.max() >= high else x.min()
                    message = f"`{logical(decl)}` is {found} behind this step, and stays in {low}..{high}"
                    help = "take fewer steps, or a model of more positions: a run begins at the first one again"
                    raise fail("E0789", f"{message}: what was computed means nothing", help=help)

    def _scalar(self, name: str) -> Array:
        """The number of updates so far: the counter of that name, or our own count."""
        for g, cls in self.classes.items():
            decl = next((s for s in cls.states if s.name == name), None)
            x = None if decl is None else self.held(g, decl)
            if x is not None:
                return np.array(x.flat[0], np.int32)
        return np.array(self.steps, np.int32)

    def inputs(self, group: int) -> Iterator[tuple[str, Value, Type]]:
        """The inputs that a group reads: name, the value that it becomes there, and the logical type."""
        for (name, _), var in self._inputs[id(self.classes[group])].items():
            yield name, var, self._types.get(name, Type("int32"))


def check_hang(who: str, waits: Sequence[str]) -> None:
    """Raise E0702 if anybody waits for what never comes; `who`: what runs schedules: `device group`."""
    if waits:
        raise fail(
            "E0702", f"the schedule hangs: no {who} can go on", notes=[(told, None) for told in waits[:_SHOWN]],
            help="every receive needs a send that comes before it in the order of the stage that sends",
        )  # fmt: skip


def inputs_of(cls: DeviceClass) -> dict[tuple[str, Layout], Value]:
    """The inputs that a class reads, by name and layout."""
    return {
        (instr.op.name, instr.outputs[0].layout): instr.outputs[0]
        for f in cls.functions
        for instr, _ in walk(f.body)
        if isinstance(instr.op, Input)
    }


def updated(cls: DeviceClass) -> frozenset[str]:
    """The buffers that the update fills."""
    return frozenset[str]().union(*(f.writes for f in cls.functions if f.phase is FunctionPhase.UPDATE))
