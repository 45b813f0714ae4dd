"""What readers have in common, and how one is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from compiler.model import DataSpec
from compiler.program import InputDecl
from dsl.data import dataclass
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span
from runtime.data.synthetic import synthetic
from runtime.inputs import Array
from runtime.numpy import STORAGE, rounded


class Reader(Protocol):
    """Gives batches: the whole logical array of every input. The same seed and step give the same batch."""

    def batch(self, seed: int, step: int) -> dict[str, Array]: ...


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of `data reader(…)`, taken one by one; what is left over is an error (E0705)."""

    spec: DataSpec

    @property
    def span(self) -> Span:
        return self.spec.span

    def path(self) -> str:
        """The first argument."""
        path = self.spec.path
        if path is None:
            name = self.spec.reader
            raise fail("E0705", f"`{name}` needs the path of a file", self.span, help=f'`data {name}("data/file")`')
        self.at_most(1)
        return path

    def at_most(self, count: int) -> None:
        """Refuse more unnamed arguments than that."""
        if len(self.spec.args) > count:
            message = f"`{self.spec.reader}` takes {count} unnamed argument{'s' * (count != 1)}"
            raise fail("E0705", f"{message}, got {len(self.spec.args)}", self.span)

    def options(self, known: Sequence[str]) -> dict[str, Any]:
        """The named arguments, which must be among these."""
        for name, _ in self.spec.options:
            if name not in known:
                help = did_you_mean(name, known) or (f"there are {', '.join(known)}" if known else "it has none")
                raise fail("E0705", f"`{self.spec.reader}` has no option `{name}`", self.span, help=help)
        return dict(self.spec.options)


def open_data(spec: DataSpec | None, inputs: Sequence[InputDecl]) -> Reader:
    """The reader that a job names, or made-up data; all that can be wrong is found here (E0704 to E0707)."""
    if spec is None:
        return Synthetic(tuple(inputs))
    if spec.reader not in READERS:
        help = did_you_mean(spec.reader, READERS) or f"there are {', '.join(READERS)}"
        raise fail("E0705", f"there is no data reader `{spec.reader}`", spec.span, help=help)
    return READERS[spec.reader](Arguments(spec), tuple(inputs))


@dataclass(frozen=True)
class Synthetic:
    """`synthetic()`: random batches that fit the inputs."""

    inputs: tuple[InputDecl, ...]

    def batch(self, seed: int, step: int) -> dict[str, Array]:
        return synthetic(self.inputs, seed, step)


def open_synthetic(arguments: Arguments, inputs: tuple[InputDecl, ...]) -> Reader:
    """Makes a reader of random data in the inputs' types and ranges; ParcError if there are any arguments."""
    arguments.at_most(0)
    arguments.options(())
    return Synthetic(inputs)


@dataclass(frozen=True)
class Table:
    """Examples in memory, one per row of every input's array; epochs in random order, batches run across their ends."""

    columns: dict[str, Array]
    size: int

    def batch(self, seed: int, step: int) -> dict[str, Array]:
        total = len(next(iter(self.columns.values())))
        wanted = np.arange(step * self.size, (step + 1) * self.size)
        rows = np.empty(self.size, np.int64)
        for epoch in np.unique(wanted // total):
            order = np.random.default_rng((seed % 2**63, int(epoch))).permutation(total)
            here = wanted // total == epoch
            rows[here] = order[wanted[here] % total]
        return {name: column[rows] for name, column in self.columns.items()}


def as_input(values: Array, decl: InputDecl, what: str, span: Span | None) -> Array:
    """Examples (one per row) in the input's dtype; E0706 where they do not fit its shape or range."""
    shape = decl.type.shape[1:]
    if values.shape[1:] != shape:
        got = " x ".join(map(str, values.shape[1:])) or "one number"
        want = " x ".join(map(str, shape)) or "one number"
        raise fail("E0706", f"the input `{decl.name}` takes {want} per example, {what} has {got}", span)
    if not decl.type.is_float:
        if not np.array_equal(values, np.floor(values)):
            raise fail("E0706", f"the input `{decl.name}` is {decl.type.dtype}, {what} has fractions", span)
        least, most = int(values.min()), int(values.max())
        if (decl.low is not None and least < decl.low) or (decl.high is not None and most >= decl.high):
            bounds = f"{decl.low if decl.low is not None else ''}..{decl.high if decl.high is not None else ''}"
            message = f"the input `{decl.name}` is in {bounds}, {what} reaches from {least} to {most}"
            help = f"declare it `in {least}..{most + 1}` and make the dim that it indexes large enough"
            raise fail("E0706", message, span, help=help)
    return rounded(np.asarray(values, STORAGE[decl.type.dtype]), decl.type.dtype)


READERS: dict[str, Callable[[Arguments, tuple[InputDecl, ...]], Reader]] = {"synthetic": open_synthetic}
"""Reader's name -> how it is opened."""
