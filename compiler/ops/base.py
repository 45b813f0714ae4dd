"""What every op answers for itself: types, derivative, how its loops split, flops. Kernels are in `runtime.numpy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from compiler.graph import Builder, Type, Value

if TYPE_CHECKING:
    pass

Kind = Literal["pass", "sum", "max", "halo", "whole"]


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
          `halo`  splitting needs `halo` (elements from the left, from the right neighbour) of operand 0, or, on the
                  adjoint, gives a result with such borders that are added to the neighbours'.
          `whole`  cannot be split.
    size: what must be divisible (for split/merge of dims the major part).
    placed: a piece's elements depend on where in the whole it stands (positions, random bits, rows found by number).
    """

    kind: Kind
    size: int
    ins: tuple[str | None, ...]
    outs: tuple[str | None, ...]
    halo: tuple[int, int] = (0, 0)
    placed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which split rules may speak of the loop: results' first, then operands'."""
        return tuple(dict.fromkeys(n for n in (*self.outs, *self.ins) if n is not None))


@dataclass(frozen=True, slots=True)
class Op:
    """Base of all ops: a frozen dataclass of its attributes. `mnemonic` is its name in text."""

    mnemonic: ClassVar[str] = ""

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

    def vjp(
        self, b: Builder, inputs: Sequence[Value], outputs: Sequence[Value], cotangents: Sequence[Value | None]
    ) -> list[Value | None]:
        """Cotangents of the inputs (None: not differentiable or zero), built with `b` from other ops.

        May use `inputs` and `outputs` as values; those used are saved for the backward pass.
        """
        return [None] * len(inputs)

    def differentiable(self, i: int) -> bool:
        """Whether a result's cotangent reaches operand `i` (if that is a float): whether `vjp` gives it one."""
        return True

    def flops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        """Floating-point operations on (local) types; multiply-add = 2. Default: one per result element."""
        return sum(t.elements for t in outputs)

    def default_name(self, inputs: Sequence[Value]) -> str:
        """Stem of the result's name where the source gave none."""
        return self.mnemonic

    def cheap(self) -> bool:
        """True if the backward pass computes the result again rather than keep it (views, iota, constants)."""
        return False
