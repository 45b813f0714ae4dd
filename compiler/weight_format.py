"""How weights rest in fewer bits than they are computed with: formats, and what of a weight is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import gcd, prod

from compiler.graph import Dim, Type
from dsl.data import dataclass

BITS = {"int8": 8, "int4": 4, "int3": 3, "fp8": 8}
"""Of formats that store a number for each element."""

INTEGERS = ("int8", "int4", "int3")
"""Of these, integers."""

SPARSE = "sparse"
"""Of each four elements two are stored, in the type of computation, and which they are: 2:4 sparsity."""

FORMATS = (*BITS, SPARSE)

WORD = 32
"""Bits of what the numbers are packed in: `uint32`."""

GROUP = 128
"""So many inputs share a scale, if nothing else is said: what GPTQ and AWQ use."""


def unit(code: str) -> int:
    """The fewest elements that fill whole words."""
    return WORD if code == SPARSE else WORD // gcd(BITS[code], WORD)


def words(code: str) -> int:
    """Words of so many elements."""
    return 1 if code == SPARSE else unit(code) * BITS[code] // WORD


def levels(code: str) -> tuple[int, int]:
    """The least and the largest integer of a format of integers, where zero is in the middle."""
    half = 1 << (BITS[code] - 1)
    return -half, half - 1


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """A format and its numbers.

    group: inputs of a product that share a scale; 0: all of an output. zeros: groups have a zero point of their own.
    """

    code: str
    group: int = 0
    zeros: bool = False

    def __str__(self) -> str:
        said = [f"group = {self.group}"] if self.group else []
        said += ["zeros = true"] if self.zeros else []
        return f"{self.code}({', '.join(said)})" if said else self.code


def bits(code: str) -> int:
    """Of a number in its words; of 2:4 sparsity of whether it is there."""
    return 1 if code == SPARSE else BITS[code]


def places(code: str) -> tuple[tuple[int, int], ...]:
    """Of each element of a block: in which of its words its lowest bit is, and which bit of that."""
    return tuple(divmod(bits(code) * i, WORD) for i in range(unit(code)))


def e4m3(byte: int) -> float:
    """The number that 8 bits are as fp8 e4m3fn: 1 of sign, 4 of exponent (with a bias of 7), 3 of mantissa."""
    sign, exponent, mantissa = -1.0 if byte >> 7 else 1.0, byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


WORDS, SCALE, ZERO, KEPT = "words", "scale", "zero", "kept"
"""What there may be of a weight that is stored."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A weight that rests in parts. type: its own, whole. format: with the group that it has. dim: along which numbers
    are packed; inputs: over which its products sum, major first; scale: the type of its scales, whole. parts: which
    there are, and the names of the weights that they are. loops: so many of its dims come from loops."""

    name: str
    type: Type
    format: WeightFormat
    dim: str
    inputs: tuple[str, ...]
    scale: Type
    parts: dict[str, str]
    loops: int

    def type_of(self, name: str) -> Type:
        """The type of a part, by its name."""
        return self.words if name == self.parts[WORDS] else self.scale

    @property
    def resting(self) -> WeightFormat:
        """The format with the group that it has, where that is all inputs."""
        return (
            self.format if self.format.code == SPARSE else replace(self.format, group=self.format.group or self.count)
        )

    @property
    def count(self) -> int:
        """How many inputs each of its outputs has."""
        return prod(self.type.size(n) for n in self.inputs)

    @property
    def layers(self) -> Iterator[tuple[int, ...]]:
        """The places of its matrices along its loops."""
        return product(*(range(n) for n in self.type.shape[: self.loops]))

    @property
    def words(self) -> Type:
        """The type of its words."""
        return Type("uint32", replaced(self.type.dims, self.dim, words(self.format.code), unit(self.format.code)))


def replaced(dims: Sequence[Dim], name: str, per: int, unit: int) -> tuple[Dim, ...]:
    """The dims, of which that of the name has `per` elements for each `unit`."""
    return tuple(Dim(d.name, d.size // unit * per) if d.name == name else d for d in dims)
