"""Elementwise ops: maps that broadcast by dim name, casts, and changes of dims' order and presence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from compiler.graph import DIGITS, DTYPES, FLOATS, Dim, Type, Value
from compiler.ops.base import Derive, Loop, Misuse, Op, OpError
from compiler.ops.common import (
    View,
    dims_of,
    dtype_of,
    expect_distinct,
    expect_literal,
    expect_operands,
    expect_positive,
    listed,
    merged_sizes,
    names_of,
    pass_loops,
)
from compiler.ops.functions import FUNCTIONS, INTEGERS, ElementwiseFunction, Literal
from dsl.data import dataclass

_NO_CAST = "there is no implicit cast: `cast(x, compute)`"


@dataclass(frozen=True, slots=True)
class Map(Op):
    """`fn` elementwise. `slots`: None takes the next operand; a number or bool is a literal in that place.

    Operands broadcast by dim name. Dims of the result: those of the operand with most dims (the first such), then new
    ones as they come. Literals take the operands' dtype; float dtypes must agree, there is no implicit cast.
    """

    mnemonic: ClassVar[str] = "map"
    pointwise: ClassVar[bool] = True
    joins: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    fn: str
    slots: tuple[Literal, ...]

    @property
    def function(self) -> ElementwiseFunction:
        """What is known of `fn`; KeyError if there is none."""
        return FUNCTIONS[self.fn]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if self.fn not in FUNCTIONS:
            raise OpError("E0207", f"there is no elementwise function `{self.fn}`", f"there are {listed(FUNCTIONS)}")
        if len(self.slots) != self.function.operands:
            raise Misuse(f"{self.fn} takes {self.function.operands} operands, got {len(self.slots)}")
        expect_operands(self.fn, inputs, sum(s is None for s in self.slots))
        if not inputs:
            raise Misuse(f"{self.fn} needs at least one tensor among its operands")
        sizes = merged_sizes(self.fn, inputs)
        lead = max(inputs, key=lambda t: len(t.dims))
        names = dict.fromkeys((*lead.names, *(n for t in inputs for n in t.names)))
        return (Type(self._dtype(inputs), tuple(Dim(n, sizes[n]) for n in names)),)

    def _dtype(self, inputs: Sequence[Type]) -> str:
        fn, slots = self.fn, self.slots
        typed = list(inputs)
        if fn == "where":
            if slots[0] is not None or typed[0].dtype != "bool":
                got = "a literal" if slots[0] is not None else str(typed[0])
                raise OpError("E0202", f"where needs a bool tensor as its condition, got {got}")
            typed, slots = typed[1:], slots[1:]
            if not typed:
                help = "`where(c, true, false)` is `c`, `where(c, false, true)` is `not c`"
                raise OpError("E0202", "where of two literals has no dtype", help)
        dtypes = list(dict.fromkeys(t.dtype for t in typed))
        if len(dtypes) > 1:
            raise OpError("E0202", f"{fn}: operands are {dtypes[0]} and {dtypes[1]}", _NO_CAST)
        self._check_dtype(dtypes[0], slots)
        return "bool" if self.function.test else dtypes[0]

    def _check_dtype(self, dtype: str, slots: Sequence[Literal]) -> None:
        fn = self.fn
        takes = self.function.takes
        if dtype not in takes:
            want = "float" if takes[0] in FLOATS else takes[0]
            raise OpError("E0202", f"{fn} is not defined for {dtype}; it needs {want} operands", "cast first")
        for s in slots:
            if s is not None:
                expect_literal(fn, s, dtype)
        if dtype in INTEGERS and fn in ("floordiv", "mod") and slots[1] == 0:
            raise OpError("E0211", f"{fn}: division by zero")

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        fn, slots = self.fn, self.slots
        if fn == "neg":
            return (frozenset({0}),)
        if fn in ("add", "sub") and all(s is None or s == 0 for s in slots):
            return (frozenset(range(n_inputs)),)
        if fn == "mul":
            return tuple(frozenset({i}) for i in range(n_inputs))
        if fn == "div" and slots[0] is None:
            return (frozenset({0}),)
        if fn == "where" and slots[0] is None and all(s is None or s == 0 for s in slots[1:]):
            return (frozenset(range(1, n_inputs)),)
        return ()

    def passes_max(self, all: bool) -> bool:
        return self.fn == "maximum" and all

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return self.function.exact

    def differentiable(self, i: int) -> bool:
        return self.function.rule is not None

    def default_name(self, inputs: Sequence[Value]) -> str:
        return self.fn


@dataclass(frozen=True, slots=True)
class Cast(Op):
    """To another dtype: floats round to nearest even, floats to integers truncate, to bool: not zero."""

    mnemonic: ClassVar[str] = "cast"
    builtin: ClassVar[str] = "cast"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("to", "dtype"),)
    derived: ClassVar[Mapping[str, Derive]] = {"dtype": dtype_of}
    pointwise: ClassVar[bool] = True
    joins: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    dtype: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("cast", inputs, 1)
        if self.dtype not in DTYPES:
            raise OpError("E0207", f"there is no dtype `{self.dtype}`", f"there are {listed(DTYPES)}")
        return (inputs[0].with_dtype(self.dtype),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),) if self.dtype in FLOATS else ()

    def selects(self) -> bool:
        return True

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        source = inputs[0].dtype
        return not {source, self.dtype} <= DIGITS.keys() or DIGITS[self.dtype] >= DIGITS[source]

    def cheap(self) -> bool:
        # To the wide dtypes only: casting down again would mean to keep the wider operand.
        return self.dtype in ("f64", "f32")


@dataclass(frozen=True, slots=True)
class Broadcast(View):
    """The operand repeated along the dims that it lacks; the result has exactly `dims` in this order."""

    mnemonic: ClassVar[str] = "broadcast"
    fuses: ClassVar[bool] = True
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("to", "dims"),)
    derived: ClassVar[Mapping[str, Derive]] = {"dims": dims_of}
    dims: tuple[Dim, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("broadcast", inputs, 1)
        out = Type(inputs[0].dtype, self.dims)
        expect_distinct("broadcast", out.names)
        expect_positive("broadcast", self.dims)
        missing = [n for n in inputs[0].names if not out.has(n)]
        if missing:
            raise OpError("E0204", f"broadcast of {inputs[0]}: the result {out} lacks dim {listed(missing)}")
        merged_sizes("broadcast", (inputs[0], out))
        return (out,)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)


@dataclass(frozen=True, slots=True)
class Transpose(View):
    """The same tensor with its dims in the order `dims`."""

    mnemonic: ClassVar[str] = "transpose"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("to", "dims"),)
    derived: ClassVar[Mapping[str, Derive]] = {"dims": names_of}
    dims: tuple[str, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("transpose", inputs, 1)
        expect_distinct("transpose", self.dims)
        x = inputs[0]
        if set(self.dims) != set(x.names):
            raise OpError("E0204", f"transpose to {listed(self.dims)}: the operand {x} has dims {listed(x.names)}")
        return (Type(x.dtype, tuple(Dim(n, x.size(n)) for n in self.dims)),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)


@dataclass(frozen=True, slots=True)
class StopGradient(View):
    """The operand itself; no derivative passes."""

    mnemonic: ClassVar[str] = "stop_gradient"
    fuses: ClassVar[bool] = True
    builtin: ClassVar[str] = "stop_gradient"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("stop_gradient", inputs, 1)
        return (inputs[0],)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)

    def differentiable(self, i: int) -> bool:
        return False
