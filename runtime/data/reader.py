"""What readers have in common, and how one is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from compiler.graph import RANGES
from compiler.model import DataSpec
from compiler.program import InputDecl
from compiler.readers import check_data
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.source import Span
from runtime.data.synthetic import synthetic
from runtime.inputs import Array
from runtime.numpy import STORAGE, quiet, rounded
from runtime.readable import Readable


class Reader(Protocol):
    """Gives batches: the whole logical array of every input, or what reads of it what is asked for (`Readable`). The
    same seed and step (from 0) give the same batch, whatever was read before."""

    def batch(self, seed: int, step: int) -> Mapping[str, Readable]: ...


Open = Callable[[DataSpec, tuple[InputDecl, ...]], Reader]
"""Opens a job's data for the inputs, both of which fit (`compiler/readers.py`)."""

READERS: dict[str, Open] = {}
"""Reader's name -> how it is opened."""


def open_data(spec: DataSpec | None, inputs: Sequence[InputDecl], every: Sequence[InputDecl] | None = None) -> Reader:
    """The reader that a job names, or made-up data; all that can be wrong is found here (E0704 to E0707, E0760, E0761),
    but for what stands in files of which each step reads a piece (E0706, E0761).

    every: all inputs that the data are of, where a program takes some of them only.
    """
    if spec is None:
        return Synthetic(tuple(inputs))
    given = tuple(inputs if every is None else every)
    check_data(spec, {i.name: i.type for i in given})
    reader, taken = READERS[spec.reader](spec, given), frozenset(i.name for i in inputs)
    return reader if taken >= {i.name for i in given} else SomeInputs(reader, taken)


@dataclass(frozen=True)
class SomeInputs:
    """Some of the inputs that a reader fills, by name."""

    reader: Reader
    names: frozenset[str]

    def batch(self, seed: int, step: int) -> dict[str, Readable]:
        return {name: x for name, x in self.reader.batch(seed, step).items() if name in self.names}


@dataclass(frozen=True)
class Synthetic:
    """`synthetic()`: random batches that fit the inputs."""

    inputs: tuple[InputDecl, ...]

    def batch(self, seed: int, step: int) -> dict[str, Array]:
        return synthetic(self.inputs, seed, step)


def open_synthetic(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Makes a reader of random data in the inputs' types and ranges."""
    return Synthetic(inputs)


def converted(values: Array, decl: InputDecl, what: str, span: Span | None) -> Array:
    """Numbers (one at least) in the input's dtype; E0706 where they are not of its range."""
    if not decl.type.is_float:
        whole = values.dtype.kind != "f" or np.array_equal(values, np.floor(values))
        expect_range(decl, whole, values.min(), values.max(), what, span)
        return stored(values, decl)
    found = stored(values, decl)
    if not np.isfinite(found).all() and np.isfinite(values).all():  # what is infinite in the file stays so
        message = f"the input `{decl.name}` is {decl.type.dtype}, which has no numbers as large as {what}"
        reach = f"it reaches from {float(values.min()):.4g} to {float(values.max()):.4g}"
        raise fail("E0706", f"{message}: {reach}", span, help="scale them, or declare a wider type")
    return found


def stored(values: Array, decl: InputDecl) -> Array:
    """Numbers in range, in the input's dtype."""
    with quiet():
        return rounded(np.asarray(values, STORAGE[decl.type.dtype]), decl.type.dtype)


def expect_range(decl: InputDecl, whole: bool, lowest: float, highest: float, what: str, span: Span | None) -> None:
    """Raise E0706 unless an input of integers has all those that lie between two numbers. whole: whether they are."""
    if not np.isfinite([float(lowest), float(highest)]).all():
        message = f"the input `{decl.name}` is {decl.type.dtype}, {what} has values that are not finite"
        raise fail("E0706", message, span)
    if not whole:
        raise fail("E0706", f"the input `{decl.name}` is {decl.type.dtype}, {what} has fractions", span)
    least, most = int(lowest), int(highest)
    first, last = RANGES.get(decl.type.dtype, (0, 1))
    low, high = first if decl.low is None else decl.low, last + 1 if decl.high is None else decl.high
    if least < low or most >= high:
        message = f"the input `{decl.name}` is in {low}..{high}, {what} reaches from {least} to {most}"
        help = f"declare it `in {least}..{most + 1}` and make the dim that it indexes large enough"
        fits = first <= least and most <= last and decl.type.dtype != "bool"
        raise fail("E0706", message, span, help=help if fits else f"{decl.type.dtype} has no such numbers")
