"""The lowered program: per class of devices, functions of local ops, collectives and effects, and a schedule.

Text form: `compiler.text` (printer and parser, `parse(show(p)) == p`); legality: `compiler.verify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compiler.graph import Type
from compiler.layout import Layout
from compiler.model import Init
from compiler.ops.base import Op
from compiler.ops.comm import Comm
from compiler.ops.effects import Effect
from compiler.origin import FORWARD, Origin, Phase


@dataclass(frozen=True, slots=True)
class Var:
    """A value of a function: its *logical* type and its layout (the piece: `local_type(type, layout, sizes)`).

    Of its origin a program tells the phase: moved, for what collectives and effects give; again; else its function's.
    """

    name: str
    type: Type
    layout: Layout
    origin: Origin = FORWARD


@dataclass(frozen=True, slots=True)
class Instr:
    """`outputs = op(inputs)`; inputs name earlier outputs, parameters of the enclosing body, or outer values."""

    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[Var, ...]


@dataclass(frozen=True, slots=True)
class Body:
    """A straight line of instructions. `params`/`results` are empty for functions, whose effects are instructions."""

    params: tuple[Var, ...]
    instrs: tuple[Instr, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LocalRepeat(Op):
    """`ops.repeat.Repeat` in a lowered program: the same meaning, with a `Body` (so that programs compare by value).

    instruction inputs  = carries (initial) + stacks (leading dim `label` of size `count`, not split) + invariants
    body.params         = carries + slices + invariants
    body.results        = carries (next) + results of the iteration
    instruction outputs = carries (final) + stacks of results
    The body holds no effects (`ops.effects`) and reads nothing but its parameters and its own values.
    """

    mnemonic: ClassVar[str] = "repeat"
    label: str
    count: int
    body: Body
    carries: int
    stacks: int
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """kind `mesh`: devices; `place`: devices that hold different stages; `time`: micro-batches (its name is `TIME`)."""

    name: str
    size: int
    kind: str


@dataclass(frozen=True, slots=True)
class Affine:
    """`base + slope * g`, g = index of the device group (flattened coordinate over the place axes)."""

    base: int
    slope: int = 0

    def at(self, group: int) -> int:
        return self.base + self.slope * group


@dataclass(frozen=True, slots=True)
class LoopRange:
    """Which part of the rolled loop `dim` a chunk holds: iterations first(g) … first(g)+count-1 of `total`."""

    dim: str
    chunk: int
    first: Affine
    count: int
    total: int


@dataclass(frozen=True, slots=True)
class StateDecl:
    """A named buffer of each device of a class.

    role: `weight`, `optimizer`, `counter` (live across steps), `gradient`, `loss`, `metric` (accumulate over the
    micro-batches of a step), `statistic` (of a whole batch: what P or F adds up over the micro-batches, and what S
    makes of it), `report` (a scalar that U writes), `saved` (one per micro-batch in flight, from F to B).
    `name` carries `#chunk` for chunks beyond the first. `logical` is the name in the serial program (without `#chunk`).
    frozen: a weight that no update renews.
    Types of stacked tensors have the local count of layers as the size of the loop dim; see LoopRange.
    """

    name: str
    role: str
    type: Type
    layout: Layout
    chunk: int = 0
    init: Init | None = None
    memory: str = "hbm"
    logical: str = ""
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """`F` (forward), `B` (backward), `W` (weight gradients) of a chunk; `U` (update, chunk 0, whole class).

    What is needed of a whole batch: `P` (adds up over the micro-batches) and `S` (makes totals of that, once) before
    the first `F`, with the number of their round as `chunk`; `E` (makes metrics of what `F` added up, once) before U.
    """

    name: str
    chunk: int
    body: Body


PER_MICROBATCH = ("P", "F", "B", "W")
"""Functions that run once for each micro-batch; all others run once in a step."""

PHASES = {"B": Phase.GRADIENT, "W": Phase.GRADIENT, "U": Phase.UPDATE}
"""What functions compute for, if not forward."""

ORIGINS = {phase: Origin(phase=phase) for phase in Phase}


def phase_in(function: str, op: Op | None = None) -> Phase:
    """The phase of what an op gives in a function (or of a loop's parameter), unless it is computed again."""
    return Phase.MOVED if isinstance(op, Comm | Effect) else PHASES.get(function, Phase.FORWARD)


ALL_CHUNKS = -1
"""As the chunk of a `Run` or of a step of a `For`: its numbers count (chunk, micro-batch) pairs, in the order of
interleaved schedules. Number k is round k // (groups * chunks), position r = k % (groups * chunks) in it: micro-batch
round * groups + r % groups of chunk r // groups (for all but `F` counted from the last chunk). `schedules.unroll`
resolves it; text: `F.*[0..7]`."""


@dataclass(frozen=True, slots=True)
class Run:
    """`F.1[lo..hi]`: the action on micro-batches lo(g) … hi(g)-1 in order."""

    action: str
    chunk: int
    low: Affine
    high: Affine


@dataclass(frozen=True, slots=True)
class For:
    """`for i in 0..count { F[i+a] B[i+b] }`, micro-batch of a step = i*stride + offset(g)."""

    count: Affine
    stride: int
    steps: tuple[tuple[str, int, Affine], ...]  # (action, chunk, offset)


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


@dataclass(frozen=True, slots=True)
class InputDecl:
    """A data input, as the data reader must deliver it: logical type of the whole batch; integers in [low, high)."""

    name: str
    type: Type
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """One program per class of devices. `axes` major to minor, the time axis (if micro-batched) first."""

    name: str
    axes: tuple[Axis, ...]
    inputs: tuple[InputDecl, ...]
    classes: tuple[DeviceClass, ...]
    seed: int = 0
    stages: int = 1  # virtual stages = groups * chunks; stage v lives on group v % groups as chunk v // groups

    @property
    def sizes(self) -> dict[str, int]:
        return {a.name: a.size for a in self.axes}

    @property
    def groups(self) -> int:
        """Number of device groups."""
        n = 1
        for a in self.axes:
            n *= a.size if a.kind == "place" else 1
        return n

    @property
    def microbatches(self) -> int:
        return next((a.size for a in self.axes if a.kind == "time"), 1)

    @property
    def devices(self) -> int:
        n = 1
        for a in self.axes:
            n *= a.size if a.kind != "time" else 1
        return n
