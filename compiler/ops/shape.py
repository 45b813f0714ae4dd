"""Ops that rename, regroup, cut and join dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

from compiler.graph import Dim, Type
from compiler.ops.base import Derive, Loop, Misuse, Movement, Op, OpError
from compiler.ops.common import (
    View,
    expect_dim,
    expect_distinct,
    expect_fill,
    expect_operands,
    expect_positive,
    listed,
    pass_loops,
    replace,
    rest,
    same_name_loop,
)
from compiler.ops.neighbours import ShiftAcross
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Rename(View):
    """`pairs`: (old name, new name)."""

    mnemonic: ClassVar[str] = "rename"
    builtin: ClassVar[str] = "rename"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "pairs"),)
    pairs: tuple[tuple[str, str], ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("rename", inputs, 1)
        new = dict(self.pairs)
        for old in new:
            expect_dim("rename", inputs[0], old)
        out = Type(inputs[0].dtype, tuple(Dim(new.get(d.name, d.name), d.size) for d in inputs[0].dims))
        expect_distinct("rename", out.names)
        return (out,)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        new = dict(self.pairs)
        return tuple(Loop("pass", d.size, (d.name,), (new.get(d.name, d.name),)) for d in inputs[0].dims)


@dataclass(frozen=True, slots=True)
class Split(View):
    """`dim` becomes the dims `into`, major first, in its place."""

    mnemonic: ClassVar[str] = "split"
    builtin: ClassVar[str] = "split"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "dim"), ("into", "into"))
    dim: str
    into: tuple[Dim, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("split", inputs, 1)
        size = expect_dim("split", inputs[0], self.dim)
        expect_positive("split", self.into)
        if not self.into or prod(d.size for d in self.into) != size:
            parts = " * ".join(f"{d.name}={d.size}" for d in self.into) or "nothing"
            product = prod(d.size for d in self.into)
            raise OpError("E0206", f"split: `{self.dim}` of size {size} is not {parts} = {product}")
        out = replace(inputs[0], self.dim, *self.into)
        expect_distinct("split", out.names)
        return (out,)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        major, *minor = self.into
        return (
            *pass_loops(inputs, outputs, rest(inputs[0], self.dim)),
            Loop("pass", outputs[0].size(major.name), (self.dim,), (major.name,)),
            *(Loop("minor", d.size, (self.dim,), (d.name,)) for d in minor),
        )


@dataclass(frozen=True, slots=True)
class Merge(View):
    """The dims `dims`, major first, become one dim `into` in the place of `dims[0]`."""

    mnemonic: ClassVar[str] = "merge"
    builtin: ClassVar[str] = "merge"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "dims"), ("into", "into"))
    movement: ClassVar[Movement] = Movement.COPY
    dims: tuple[str, ...]
    into: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("merge", inputs, 1)
        x = inputs[0]
        if not self.dims or len(set(self.dims)) != len(self.dims):
            raise OpError("E0205", f"merge needs distinct dims, got {listed(self.dims)}")
        size = prod(expect_dim("merge", x, d) for d in self.dims)
        kept = Type(x.dtype, tuple(d for d in x.dims if d.name not in self.dims[1:]))
        out = replace(kept, self.dims[0], Dim(self.into, size))
        expect_distinct("merge", out.names)
        return (out,)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        major, *minor = self.dims
        x = inputs[0]
        return (
            *pass_loops(inputs, outputs, rest(x, *self.dims)),
            Loop("pass", x.size(major), (major,), (self.into,)),
            *(Loop("minor", x.size(n), (n,), (self.into,)) for n in minor),
        )


@dataclass(frozen=True, slots=True)
class _Along(Op):
    """Base of ops of one or more operands that need the whole of one dim, which they may rename."""

    def _dims(self) -> tuple[str, str]:
        """Name of the dim in the operands, and in the result."""
        raise NotImplementedError

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        dim, into = self._dims()
        whole = Loop("whole", outputs[0].size(into), (dim,) * len(inputs), (into,))
        return (*pass_loops(inputs, outputs, rest(inputs[0], dim)), whole)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset(range(n_inputs)),)


@dataclass(frozen=True, slots=True)
class Slice(_Along):
    """Every `step`-th element from `start` to `stop` (exclusive) along `dim`, which is then called `into`."""

    mnemonic: ClassVar[str] = "slice"
    builtin: ClassVar[str] = "slice"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (
        *(("over", "dim"), ("from", "start"), ("to", "stop"), ("by", "step"), ("into", "into")),
    )
    derived: ClassVar[Mapping[str, Derive]] = {"step": lambda _: 1}
    movement: ClassVar[Movement] = Movement.COPY
    dim: str
    start: int
    stop: int
    into: str
    step: int = 1

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("slice", inputs, 1)
        size = expect_dim("slice", inputs[0], self.dim)
        if not 0 <= self.start < self.stop <= size:
            message = f"slice {self.start}..{self.stop} of `{self.dim}` of size {size}"
            raise OpError("E0206", message, f"choose within 0..{size}, not empty")
        if self.step < 1:
            raise OpError("E0206", f"slice by {self.step}: steps are at least 1", "`flip` turns the order around")
        out = replace(inputs[0], self.dim, Dim(self.into, -(-(self.stop - self.start) // self.step)))
        expect_distinct("slice", out.names)
        return (out,)

    def _dims(self) -> tuple[str, str]:
        return self.dim, self.into


@dataclass(frozen=True, slots=True)
class Pad(_Along):
    """`low` elements `value` before and `high` after along `dim`, which is then called `into`."""

    mnemonic: ClassVar[str] = "pad"
    builtin: ClassVar[str] = "pad"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (
        ("over", "dim"),
        ("low", "low"),
        ("high", "high"),
        ("with", "value"),
        ("into", "into"),
    )
    dim: str
    low: int
    high: int
    value: float
    into: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("pad", inputs, 1)
        size = expect_dim("pad", inputs[0], self.dim)
        if self.low < 0 or self.high < 0:
            raise OpError("E0206", f"pad by {self.low} and {self.high}: the amounts are at least 0", "`slice` cuts off")
        expect_fill("pad", self.value, inputs[0].dtype)
        out = replace(inputs[0], self.dim, Dim(self.into, size + self.low + self.high))
        expect_distinct("pad", out.names)
        return (out,)

    def _dims(self) -> tuple[str, str]:
        return self.dim, self.into

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),) if self.value == 0 or self.low == self.high == 0 else ()


@dataclass(frozen=True, slots=True)
class Concat(_Along):
    """The operands one after the other along `dim`, which is then called `into`; their other dims agree."""

    mnemonic: ClassVar[str] = "concat"
    builtin: ClassVar[str] = "concat"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"), ("into", "into"))
    dim: str
    into: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if not inputs:
            raise Misuse("concat takes at least one operand")
        first = inputs[0]
        total = 0
        for t in inputs:
            total += expect_dim("concat", t, self.dim)
            if replace(t, self.dim, Dim(self.dim, 1)) != replace(first, self.dim, Dim(self.dim, 1)):
                raise OpError(
                    "E0203",
                    f"concat along `{self.dim}`: {first} and {t} differ elsewhere too",
                    "dtype, the other dims and their order must agree",
                )
        out = replace(first, self.dim, Dim(self.into, total))
        expect_distinct("concat", out.names)
        return (out,)

    def _dims(self) -> tuple[str, str]:
        return self.dim, self.into


@dataclass(frozen=True, slots=True)
class Flip(_Along):
    """The elements along `dim` in reverse order."""

    mnemonic: ClassVar[str] = "flip"
    builtin: ClassVar[str] = "flip"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"),)
    dim: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("flip", inputs, 1)
        expect_dim("flip", inputs[0], self.dim)
        return (inputs[0],)

    def _dims(self) -> tuple[str, str]:
        return self.dim, self.dim

    def selects(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Shift(Op):
    """Every element moves `by` places along `dim` (forward, or back if negative); `fill` follows, or, `around`, what
    has left at the other end.

    Where the dim is split, elements cross from piece to piece: the op is then `neighbours.ShiftAcross`.
    """

    mnemonic: ClassVar[str] = "shift"
    builtin: ClassVar[str] = "shift"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (
        *(("over", "dim"), ("by", "by"), ("with", "fill"), ("around", "around")),
    )
    derived: ClassVar[Mapping[str, Derive]] = {"around": lambda _: False}
    dim: str
    by: int
    fill: float = 0.0
    around: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("shift", inputs, 1)
        size = expect_dim("shift", inputs[0], self.dim)
        if not 0 < abs(self.by) < size and not self.around:
            message = f"shift by {self.by} along `{self.dim}` of size {size}"
            raise OpError("E0206", message, f"choose 1 to {size - 1}, or -1 to {1 - size}")
        expect_fill("shift", self.fill, inputs[0].dtype)
        return (inputs[0],)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        moved = same_name_loop("move", self.dim, inputs, outputs)
        return (*pass_loops(inputs, outputs, rest(inputs[0], self.dim)), moved)

    def between(self, axes: tuple[str, ...]) -> Op:
        return ShiftAcross(self.dim, axes, self.by, self.fill, self.around)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),) if self.fill == 0 else ()
