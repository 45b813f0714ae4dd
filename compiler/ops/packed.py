"""Weights that rest in fewer bits: what makes of them the numbers that products take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import ClassVar

from compiler.graph import FLOATS, Dim, Type
from compiler.ops.base import Derive, Loop, Misuse, Op, OpError
from compiler.ops.common import expect_dim, expect_dtype, listed, replace
from compiler.weight_format import BITS, INTEGERS, SPARSE, replaced, unit, words
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class _Unpacking(Op):
    """Base: `dim` of the first operand has blocks of words, of so many elements of the result. Other operands have the
    result's dims, or some, as large or in fewer blocks, all of whose elements have one number there."""

    unpacks: ClassVar[bool] = True
    dim: str

    @property
    def _code(self) -> str:
        raise NotImplementedError

    def _result(self, packed: Type, dtype: str) -> Type:
        """The result, for words of this type."""
        size, per = expect_dim(self.mnemonic, packed, self.dim), words(self._code)
        expect_dtype(self.mnemonic, packed, ("uint32",), "words")
        if size % per:
            message = f"{self.mnemonic}: `{self.dim}` has {size} words, which are no blocks of {per}"
            raise OpError("E0206", message)
        return replace(Type(dtype, packed.dims), self.dim, Dim(self.dim, size // per * unit(self._code)))

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        found = []
        for d in outputs[0].dims:
            has = [t.size(d.name) if t.has(d.name) else None for t in inputs]
            size = d.size // unit(self._code) if d.name == self.dim else d.size
            for other in has[1:]:
                size = size if other is None else gcd(size, other)
            found.append(Loop("pass", size, tuple(None if n is None else d.name for n in has), (d.name,)))
        return tuple(found)

    def differentiable(self, i: int) -> bool:
        return False  # what is stored so is not trained

    def cheap(self) -> bool:
        return True  # the backward pass reads what rests, too

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _OfCode(_Unpacking):
    """Base: the words are of a format that has a name."""

    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "code"), ("over", "dim"))
    derived: ClassVar[Mapping[str, Derive]] = {}
    code: str

    @property
    def _code(self) -> str:
        return self.code


@dataclass(frozen=True, slots=True)
class Dequantise(_OfCode):
    """`(q - zero) * scale`, where q are numbers of `code` that are packed in words along `dim`, least bits first.

    Operands: words (uint32); scales, in the result's type; zero points, where there are any. Integers are stored from 0
    on: without zero points 0 stands in the middle, for `int4` as 8. `fp8` are bits of e4m3 (no infinity, 2 NaN).
    """

    mnemonic: ClassVar[str] = "dequantise"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if not 2 <= len(inputs) <= 3:
            raise Misuse(f"dequantise takes words, scales and perhaps zero points, got {len(inputs)} operands")
        if self.code not in BITS:
            raise OpError("E0207", f"dequantise: there is no format `{self.code}`", f"there are {listed(BITS)}")
        packed, *others = inputs
        expect_dtype("dequantise", others[0], FLOATS, "scales")
        result = self._result(packed, others[0].dtype)
        for t in others:
            if t != others[0]:
                raise OpError("E0203", f"dequantise: scales are {others[0]}, zero points {t}")
            for d in t.dims:
                size = expect_dim("dequantise", result, d.name)
                if size % d.size:
                    raise OpError("E0206", f"dequantise: {d.size} scales along `{d.name}`, which has {size}")
        if len(others) > 1 and self.code == "fp8":
            raise OpError("E0203", "dequantise: fp8 has no zero points")
        return (result,)


@dataclass(frozen=True, slots=True)
class Integers(_OfCode):
    """`q - middle` as int32: the numbers of `code` that are packed in words along `dim`, before any scale. Products of
    such add up in 32 bits."""

    mnemonic: ClassVar[str] = "integers"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if len(inputs) != 1:
            raise Misuse(f"integers takes words, got {len(inputs)} operands")
        if self.code not in INTEGERS:
            raise OpError("E0207", f"integers: there is no format `{self.code}`", f"there are {listed(INTEGERS)}")
        return (self._result(inputs[0], "int32"),)

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Pack(Op):
    """Whole numbers from 0 on, of as many bits as `code` has, in words (uint32) along `dim`, least bits first: what
    `integers` and `dequantise` read."""

    mnemonic: ClassVar[str] = "pack"
    joins: ClassVar[bool] = True
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "code"), ("over", "dim"))
    derived: ClassVar[Mapping[str, Derive]] = {}
    code: str
    dim: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if len(inputs) != 1:
            raise Misuse(f"pack takes numbers, got {len(inputs)} operands")
        if self.code not in INTEGERS:
            raise OpError("E0207", f"pack: there is no format `{self.code}`", f"there are {listed(INTEGERS)}")
        size = expect_dim("pack", inputs[0], self.dim)
        expect_dtype("pack", inputs[0], (*FLOATS, "int32"), "numbers")
        if size % unit(self.code):
            message = f"pack: `{self.dim}` has {size} numbers, which are no blocks of {unit(self.code)}"
            raise OpError("E0206", message)
        dims = replaced(inputs[0].dims, self.dim, words(self.code), unit(self.code))
        return (Type("uint32", dims),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        blocks = outputs[0].size(self.dim) // words(self.code)
        sizes = {d.name: blocks if d.name == self.dim else d.size for d in inputs[0].dims}
        return tuple(Loop("pass", size, (name,), (name,)) for name, size in sizes.items())

    def differentiable(self, i: int) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Expand(_Unpacking):
    """Elements of which two of each four along `dim` are there, and zeros between them.

    Operands: words (uint32), of whose 32 bits each says of an element whether it is there, least bits first; those that
    are there, half as many along `dim`.
    """

    mnemonic: ClassVar[str] = "expand"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"),)

    @property
    def _code(self) -> str:
        return SPARSE

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if len(inputs) != 2:
            raise Misuse(f"expand takes words and elements, got {len(inputs)} operands")
        packed, kept = inputs
        expect_dtype("expand", kept, FLOATS, "elements")
        result = self._result(packed, kept.dtype)
        half = replace(result, self.dim, Dim(self.dim, result.size(self.dim) // 2))
        if kept != half:
            raise OpError("E0203", f"expand: of {result} half is {half}, got {kept}")
        return (result,)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({1}),)
