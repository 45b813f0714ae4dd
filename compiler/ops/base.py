"""What every op answers for itself: types, loops, and traits, from which every list elsewhere is derived.

Derivatives are rules in `ops.derivatives`, kernels are registered by backends (`@kernel(Op)` in `runtime.numpy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from enum import Enum
from math import prod
from typing import Any, ClassVar, Literal, TypeVar

from compiler.graph import Type, Value
from dsl.data import dataclass, fix

Kind = Literal["pass", "sum", "max", "halo", "move", "minor", "whole"]


class OpError(Exception):
    """The types do not fit the op. The evaluator turns it into a diagnostic with the call's span."""

    def __init__(self, code: str, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.help = code, message, help


class Misuse(OpError):
    """The wrong number of operands, or others than the body of a loop takes.

    No `.par` text leads here, so it has no code: verifiers report it, elsewhere it is a bug of ours.
    """

    def __init__(self, message: str) -> None:
        super().__init__("", message)


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of an op's loop space: the dim that it walks in each operand and result (None: does not have it).

    kind: `pass`  the loop can be split freely; pieces of results are results of pieces.
          `sum`/`max`  splitting leaves a pending reduction on every result.
          `halo`  splitting needs `halo` (elements from the left, from the right neighbour) of operand 0, or, where the
                  loop `gives` borders, leaves them on the result, to be added to the neighbours'.
          `move`  splitting makes elements cross from piece to piece: the op is then the collective `Op.between(axes)`.
          `minor`  a later part of a dim that is split into dims, or merged of them: can be split where each part before
                  it is split into single elements.
          `whole`  cannot be split.
    size: what must be divisible (for split/merge of dims the major part).
    placed: a piece's elements depend on where in the whole it stands (positions, random bits, rows found by number).
    fill: what stands beyond the ends of a halo.
    names: under which split rules may speak of the loop: results' first, then operands'.
    """

    kind: Kind
    size: int
    ins: tuple[str | None, ...]
    outs: tuple[str | None, ...]
    halo: tuple[int, int] = (0, 0)
    placed: bool = False
    gives: bool = False
    fill: float = 0.0
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fix(self, names=tuple(dict.fromkeys([n for n in (*self.outs, *self.ins) if n is not None])))


def majors(loops: Sequence[Loop], index: int) -> list[int]:
    """The parts of a dim before the part `index`, which is `minor`."""
    loop = loops[index]
    sides = ((of.ins, loop.ins) for of in loops[:index]), ((of.outs, loop.outs) for of in loops[:index])
    shared = [[any(a is not None and a == b for a, b in zip(*pair)) for pair in side] for side in sides]
    return [k for k, found in enumerate(zip(*shared)) if any(found)]


def behind(loops: Sequence[Loop], index: int, sizes: Sequence[int]) -> set[int]:
    """The sizes of dims that the loop `index` walks, but for the parts before it, which are single elements."""
    total = prod(loops[k].size for k in majors(loops, index)) if loops[index].kind == "minor" else 1
    return {size if size == loops[index].size else size // total for size in sizes}


class Movement(Enum):
    """Whether the op only moves elements of its operand, and where to ("movement ops" in tinygrad's words).

    no: it computes. view: the result is the operand's own memory, read in another order or more than once: it costs
    neither time nor bytes. copy: the result is memory of its own, which the kernel before or after fills as it writes
    or reads anyway: bytes, but no time of its own.
    """

    NO = "no"
    VIEW = "view"
    COPY = "copy"


Derive = Callable[[Type], Any]
"""From the type of the first result to the value of an attribute that its text leaves out."""


@dataclass(frozen=True, slots=True)
class Op:
    """Base of all ops: a frozen dataclass of its attributes. Class variables are its traits.

    mnemonic: its name in text.
    builtin: the function of the language that makes it; "" where syntax or passes do.
    spelling: how its attributes read and print: (word before it, field); () for the fields under their own names.
    derived: fields that the text leaves out where the result's type says the same.
    movement: whether it moves elements only.
    pointwise: every element of the result is made of one element of each operand.
    joins: its work is done within the kernel of a neighbour: element-wise work and reductions.
    fuses: pieces of its result, along dims that it has, are made of the same pieces of its operands, wherever these
        stand: fused regions may have it.
    leaf: its result is there without work: positions, constants, data.
    message: other devices take part; what it gives lies in a communication buffer.
    unpacks: its operands are what of the result rests in memory, in fewer bits: kernels read these, and make of them
        what they need as they go; of weights it makes weights.
    renews: the operand whose memory the result may take where nothing needs the operand any more: it is the same but
        for some elements. (Of a pointwise op, any operand's of the result's type.)
    reaches: the operand of which rows alone are read or renewed, so that it may lie in another memory than what is
        computed: the rows cross. A result that renews it lies there, too.
    follows: the operand whose layout says which axes split a loop that walks one of its dims; where the op renews that
        operand, no other axis splits anything: what is large stays where it is.
    """

    mnemonic: ClassVar[str] = ""
    builtin: ClassVar[str] = ""
    spelling: ClassVar[tuple[tuple[str, str], ...]] = ()
    derived: ClassVar[Mapping[str, Derive]] = {}
    movement: ClassVar[Movement] = Movement.NO
    pointwise: ClassVar[bool] = False
    joins: ClassVar[bool] = False
    fuses: ClassVar[bool] = False
    leaf: ClassVar[bool] = False
    message: ClassVar[bool] = False
    unpacks: ClassVar[bool] = False
    renews: ClassVar[int | None] = None
    reaches: ClassVar[int | None] = None
    follows: ClassVar[int | None] = None

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        """Result types; raises OpError."""
        raise NotImplementedError

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        """The loop space: every dim of every operand and result belongs to exactly one loop."""
        raise NotImplementedError

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        """Groups of operands in which the op is jointly linear: add {0,1}; mul {0},{1}; exp none.

        A pending sum may pass through if the pending operands are exactly one group (pending alike).
        """
        return ()

    def passes_max(self, all: bool) -> bool:
        """Whether a pending maximum may pass through: the largest of results is the result for the largest.

        all: every operand is pending.
        """
        return self.selects()

    def selects(self) -> bool:
        """Whether each element of the result is one of the operand's, perhaps in another dtype."""
        return self.movement is not Movement.NO

    def uniform(self) -> float | None:
        """The value of all elements, where it is one."""
        return None

    def sees_padding(self, i: int) -> bool:
        """Whether unused elements of operand `i` along a dim that is summed (or maximised) can reach the result."""
        return True

    def differentiable(self, i: int) -> bool:
        """Whether a result's cotangent reaches operand `i`, if that is a float (`ops.derivatives` has a rule)."""
        return True

    def cheap(self) -> bool:
        """Whether the backward pass computes the result again rather than keep it."""
        return False

    def terms(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        """Most terms that are summed to an element of the result: what rounding errors grow with."""
        return 1

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        """Whether the result is never rounded."""
        return True

    def between(self, axes: tuple[str, ...]) -> Op:
        """The collective that this is where its loop of kind `move` is split on `axes`."""
        raise NotImplementedError(f"{self.mnemonic} has no loop that moves elements between devices")

    def default_name(self, inputs: Sequence[Value]) -> str:
        """Stem of the result's name where the source gave none."""
        return self.mnemonic


Code = TypeVar("Code")


class ByOp(dict[type[Op], Code]):
    """What there is for each op: derivatives, kernels, what executors do for collectives."""

    def of(self, *ops: type[Op]) -> Callable[[Code], Code]:
        """Enter the function that follows for these ops: `@table.of(Op)`."""

        def enter(code: Code) -> Code:
            self.update(dict.fromkeys(ops, code))
            return code

        return enter
