"""The lowered program: per class of devices, functions of local ops, collectives and effects, and a schedule.

Text form: `compiler.text` (printer and parser, `parse(show(p)) == p`); legality: `compiler.verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from math import prod

from compiler.graph import Dim, Graph, Type
from compiler.homes import Homes
from compiler.layout import TIME, Layout
from compiler.loop_ranges import Affine as Affine
from compiler.loop_ranges import LoopRange as LoopRange
from compiler.loop_ranges import WholeLoop as WholeLoop
from compiler.memory.tiers import FIRST, RowCache
from compiler.model import DataInput, Init
from compiler.ops.base import Op
from compiler.ops.comm import Comm
from compiler.ops.effects import Accumulate, Effect, Input, Load, Read, Save, Write
from compiler.ops.move import Move
from compiler.origin import Origin, Phase, Role
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """kind `mesh`: devices; `place`: devices that hold different stages; `time`: micro-batches (its name is `TIME`)."""

    name: str
    size: int
    kind: str


@dataclass(frozen=True, slots=True)
class StateDecl:
    """A named buffer of each device of a class.

    `logical` is the name in the model that was placed: chunks and copies have names of their own.
    whole: the name in the serial program, where it has one for all parts of a loop that the strategy has cut.
    frozen: a weight that no update renews. within: a state's integers stay in [low, high): executors refuse others.
    numbers: of a gradient that is a list of rows, the buffer with their numbers.
    cache: of a table in another memory, what the devices keep of it.
    Types of stacked tensors have the local count of layers as the size of the loop dim; see LoopRange.
    iterations: loops of the serial program, outermost first, that the strategy has taken apart, so that this is a part
    of the tensor in one iteration of each, `first`. The tensor has these dims in front there.
    """

    name: str
    role: Role
    type: Type
    layout: Layout
    chunk: int = 0
    init: Init | None = None
    memory: str = FIRST
    logical: str = ""
    frozen: bool = False
    numbers: str = ""
    whole: str = ""
    cache: RowCache | None = None
    within: tuple[int, int] | None = None
    iterations: tuple[WholeLoop, ...] = ()


def listed(decl: StateDecl) -> bool:
    """Whether each micro-batch puts a part of its own into an accumulator: a list of rows, or their numbers."""
    return decl.role in (Role.GRADIENT, Role.ROWS) and TIME in decl.layout.split_axes


def whole_list(decl: StateDecl, count: int) -> tuple[Type, Layout]:
    """What the update reads of it: the parts of so many micro-batches along a dim of their own."""
    at = decl.layout.dim_of(TIME)
    assert at is not None
    dims = tuple(Dim(d.name, d.size // count) if i == at else d for i, d in enumerate(decl.type.dims))
    layout = Layout(((), *(tuple(a for a in axes if a != TIME) for axes in decl.layout.dims)), decl.layout.pending)
    return Type(decl.type.dtype, (Dim(STEPS, count), *dims)), layout


STEPS = "microbatch"
"""The dim of the micro-batches in what the update reads of their lists."""


class FunctionPhase(StrEnum):
    """What a function is for. The value is the letter by which texts of programs and of schedules name it."""

    STATISTICS = "P"
    """Adds up over the micro-batches what a whole batch is needed for; `chunk` is the number of the round, and `ROUNDS`
    more for each chunk of the model (`in_round`)."""
    TOTALS = "S"
    """Makes totals of that, once in each round."""
    FORWARD = "F"
    BACKWARD = "B"
    WEIGHTS = "W"
    """The gradients of weights, where `BACKWARD` leaves them for later."""
    METRICS = "E"
    """Makes metrics, and new contents of states, of what the forward passes added up, once."""
    UPDATE = "U"

    @property
    def per_microbatch(self) -> bool:
        """Whether it runs once for each micro-batch; all others run once."""
        return self in (*MODEL_PASSES, FunctionPhase.STATISTICS)

    @property
    def words(self) -> str:
        """What it is called where there is room."""
        return _WORDS[self.value]

    @property
    def of_chunk(self) -> bool:
        """Whether there is one for each chunk of the rolled loop."""
        return self in MODEL_PASSES

    def at(self, chunk: int) -> int:
        """Of which chunk of its group a function with this number is."""
        if self is FunctionPhase.STATISTICS:
            return chunk // ROUNDS
        return chunk if self.of_chunk else 0

    @property
    def of_round(self) -> bool:
        """Whether it belongs to a round of statistics, which `chunk` counts."""
        return self in (FunctionPhase.STATISTICS, FunctionPhase.TOTALS)

    @property
    def before(self) -> FunctionPhase | None:
        """What has to run on a chunk's micro-batch before."""
        return {"B": FunctionPhase.FORWARD, "W": FunctionPhase.BACKWARD}.get(self.value)

    def rank(self, chunk: int) -> tuple[int, int]:
        """Where in a step it stands: all of one rank run before any of the next."""
        if self.of_round:
            return 0, 2 * (chunk % ROUNDS) + (self is FunctionPhase.TOTALS)
        return {"E": 2, "U": 3}.get(self.value, 1), 0


_WORDS = {
    "P": "statistics of the batch",
    "S": "totals of statistics",
    "F": "forward pass",
    "B": "backward pass",
    "W": "gradients of weights",
    "E": "metrics of the batch",
    "U": "update",
}

MODEL_PASSES = (FunctionPhase.FORWARD, FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS)
"""The phases that go through the chunks, in this order for each micro-batch."""


ROUNDS = 1000
"""More than a step has rounds."""


def in_round(round: int, chunk: int) -> int:
    """The number of the function that a chunk has in a round of statistics."""
    assert round < ROUNDS, round
    return round + ROUNDS * chunk


FunctionKey = tuple[FunctionPhase, int]
"""What tells a function from the others of its class of devices: its phase and its chunk (or round)."""


@dataclass(frozen=True, slots=True)
class Function:
    """What devices run at once: a pass of a `chunk` through the model, or what a step does before and after them."""

    phase: FunctionPhase
    chunk: int
    body: Graph

    @property
    def key(self) -> FunctionKey:
        return self.phase, self.chunk

    @property
    def per_microbatch(self) -> bool:
        return self.phase.per_microbatch

    @property
    def reads(self) -> frozenset[str]:
        """The buffers whose contents it takes in."""
        return frozenset(name for name, writes in _touched(self.body) if not writes)

    @property
    def writes(self) -> frozenset[str]:
        """The buffers that it adds to or whose contents it renews."""
        return frozenset(name for name, writes in _touched(self.body) if writes)


def _touched(body: Graph) -> Iterator[tuple[str, bool]]:
    for instr in body.nodes:
        if isinstance(instr.op, (Read, Load, Accumulate, Save, Write)):
            yield instr.op.name, not isinstance(instr.op, (Read, Load))


PHASES = {
    FunctionPhase.BACKWARD: Phase.GRADIENT,
    FunctionPhase.WEIGHTS: Phase.GRADIENT,
    FunctionPhase.UPDATE: Phase.UPDATE,
}
"""What functions compute for, if not forward."""

ORIGINS = {phase: Origin(phase=phase) for phase in Phase}


def phase_in(function: FunctionPhase, op: Op | None = None) -> Phase:
    """The phase of what an op gives in a function (or of a loop's parameter), unless it is computed again."""
    return Phase.MOVED if isinstance(op, (Comm, Effect, Move)) else PHASES.get(function, Phase.FORWARD)


ALL_CHUNKS = -1
"""As the chunk of a `Run` or of a step of a `For`: its numbers count (chunk, micro-batch) pairs, in the order of
interleaved schedules: in rounds of n micro-batches (`schedules.Turn`), in each n of the first chunk, then the same n of
the second, and so on (for all but `F` from the last chunk on). `schedules.unroll` resolves it; text: `F.*[0..7]`."""


@dataclass(frozen=True, slots=True)
class Run:
    """`F.1[lo..hi]`: the action on micro-batches lo(g) … hi(g)-1 in order."""

    action: FunctionPhase
    chunk: int
    low: Affine
    high: Affine


@dataclass(frozen=True, slots=True)
class For:
    """`for i in 0..count { F[i+a] B[i+b] }`, micro-batch of a step = i*stride + offset(g)."""

    count: Affine
    stride: int
    steps: tuple[tuple[FunctionPhase, int, Affine], ...]  # (action, chunk, offset)


@dataclass(frozen=True, slots=True)
class Update:
    """`U`."""


Schedule = tuple[Run | For | Update, ...]


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """Device groups (coordinates over the place axes, flattened) that run the same code."""

    groups: tuple[int, ...]
    ranges: tuple[LoopRange, ...]
    states: tuple[StateDecl, ...]
    functions: tuple[Function, ...]
    schedule: Schedule

    def sums_of(self, role: Role) -> frozenset[str]:
        """The buffers in which passes add up what becomes those of the role: these themselves, or parts of them."""
        found = {s.name for s in self.states if s.role is role}
        for body in (f.body for f in self.functions if f.phase is FunctionPhase.METRICS):
            needed = {v for n in body.nodes if isinstance(n.op, Accumulate) and n.op.name in found for v in n.inputs}
            for node in reversed(body.nodes):
                if not needed.isdisjoint(node.outputs):
                    needed.update(node.inputs)
                    found |= {node.op.name} if isinstance(node.op, Read) else set()
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class InputDecl:
    """A data input, as the data reader must deliver it: logical type of the whole batch; integers in [low, high)."""

    name: str
    type: Type
    low: int | None = None
    high: int | None = None

    @staticmethod
    def of(given: DataInput) -> InputDecl:
        """That of a model's input."""
        return InputDecl(given.value.name, given.value.type, given.low, given.high)


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that a program can be asked to do, such as `train_step`: what each class of devices runs for it.

    States that live across steps are those of the program: entries that declare one of a name share it.
    """

    name: str
    classes: tuple[DeviceClass, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The data that it takes in (and `step`), in the order of first use."""
        ops = (i.op for c in self.classes for f in c.functions for i in f.body.nodes)
        return tuple(dict.fromkeys(op.name for op in ops if isinstance(op, Input)))

    @property
    def scored(self) -> bool:
        """Whether it gives a loss."""
        return any(s.role is Role.LOSS for c in self.classes for s in c.states)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it gives, by logical names: the loss, metrics, outputs of the model, reports."""
        found = {s.logical: RESULTS.index(s.role) for c in self.classes for s in c.states if s.role in RESULTS}
        return tuple(sorted(found, key=found.__getitem__))


RESULTS = (Role.LOSS, Role.METRIC, Role.OUTPUT, Role.REPORT)
"""Roles of buffers whose contents an entry gives to whoever asked."""

LASTING = (Role.WEIGHT, Role.OPTIMIZER, Role.COUNTER, Role.STATE)
"""Roles of buffers that live across steps, for all entries."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program per class of devices. `axes` major to minor, the time axis (if micro-batched) first."""

    name: str
    axes: tuple[Axis, ...]
    inputs: tuple[InputDecl, ...]
    entries: tuple[Entry, ...]
    seed: int = 0
    homes: Homes = Homes()

    @property
    def classes(self) -> tuple[DeviceClass, ...]:
        """Those of the first entry, which is the only one in most programs (`only`)."""
        return self.entries[0].classes if self.entries else ()

    def with_classes(self, classes: Iterable[DeviceClass]) -> Program:
        """The program with others in the first entry."""
        first = Entry(self.entries[0].name if self.entries else "train_step", tuple(classes))
        return replace(self, entries=(first, *self.entries[1:]))

    def only(self, entry: str) -> Program:
        """The program with this entry alone; KeyError if there is none."""
        for e in self.entries:
            if e.name == entry:
                return replace(self, entries=(e,))
        raise KeyError(entry)

    @property
    def sizes(self) -> dict[str, int]:
        return {a.name: a.size for a in self.axes}

    @property
    def groups(self) -> int:
        return prod([a.size for a in self.axes if a.kind == "place"])

    @property
    def stages(self) -> int:
        """Number of stages; a group has several where its chunks are."""
        return len(self.homes)

    @property
    def microbatches(self) -> int:
        return next((a.size for a in self.axes if a.kind == "time"), 1)

    @property
    def devices(self) -> int:
        return prod([a.size for a in self.axes if a.kind != "time"])

    def runs(self, function: Function) -> int:
        """How often a device runs it in a step: of several ways through the model, on the micro-batches of one."""
        if not function.per_microbatch:
            return 1
        return self.microbatches // (self.homes.ways if function.phase.of_chunk else 1)


def on_updates(program: Program, change: Callable[[DeviceClass, Graph], Graph]) -> Program:
    """The program with other bodies of U. Classes that share their functions share them again."""
    made: dict[int, tuple[Function, ...]] = {}

    def functions(cls: DeviceClass) -> tuple[Function, ...]:
        if id(cls.functions) not in made:
            made[id(cls.functions)] = tuple(
                replace(f, body=change(cls, f.body)) if f.phase is FunctionPhase.UPDATE else f for f in cls.functions
            )
        return made[id(cls.functions)]

    return program.with_classes(replace(c, functions=functions(c)) for c in program.classes)
