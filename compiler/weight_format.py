"""How weights rest in fewer bits than they are computed with: formats, and what of a weight is stored."""

from __future__ import annotations

from math import gcd

from dsl.data import dataclass

BITS = {"int8": 8, "int4": 4, "int3": 3, "fp8": 8}
"""Of formats that store a number for each element."""

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


def places(code: str) -> tuple[tuple[int, int], ...]:
    """Of each element of a block: in which of its words its lowest bit is, and which bit of that."""
    bits = 1 if code == SPARSE else BITS[code]
    return tuple(divmod(bits * i, WORD) for i in range(unit(code)))


def e4m3(byte: int) -> float:
    """The number that 8 bits are as fp8 e4m3fn: 1 of sign, 4 of exponent (with a bias of 7), 3 of mantissa."""
    sign, exponent, mantissa = -1.0 if byte >> 7 else 1.0, byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))
