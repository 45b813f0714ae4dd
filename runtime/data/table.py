"""`csv(path, …)`: columns of numbers; `images(path)`: rows of pixels and a label."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from math import isqrt, prod

import numpy as np

from compiler.model import DataSpec
from compiler.program import InputDecl
from dsl.data import dataclass
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span
from runtime.data.columns import Column
from runtime.data.files import MAX_LONG, TextFile
from runtime.data.reader import Reader, converted, expect_range, stored
from runtime.data.shuffle import chosen
from runtime.inputs import Array
from runtime.numpy import quiet

_CELLS = 1 << 14
"""Cells that are text at the same time: a string takes twenty times the memory of its number."""


@dataclass(frozen=True)
class Table:
    """Examples in memory, one per row of every input's column; epochs in random order, batches run across their ends.

    made: what a row of numbers is, as an example of the input.
    """

    inputs: tuple[InputDecl, ...]
    columns: Mapping[str, Column]
    made: Callable[[InputDecl, Array], Array]

    def batch(self, seed: int, step: int) -> dict[str, Array]:
        total, size = next(iter(self.columns.values())).length, self.inputs[0].type.shape[0]
        rows = chosen(step, size, total, seed, shuffle=True)
        made = {i.name: self.made(i, self.columns[i.name].take(rows)) for i in self.inputs}
        return {i.name: stored(made[i.name].reshape(i.type.shape), i) for i in self.inputs}


def open_csv(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Inputs `[b]` or `[b, n]`. Named arguments: input = "column", or "column, column, …" for as many as n is.

    An input that is not named takes the column of its own name. `limit`: bytes of text that are read.
    """
    file, span, chosen_columns = TextFile(spec), spec.span, dict(spec.options)
    rows = _rows(file)
    header = [c.strip() for c in next(rows, [])]
    rows = chain(_expected(next(rows, None), file, len(header), 2), rows)
    places: list[list[int]] = []
    shown: list[str] = []
    for decl in inputs:
        named = str(chosen_columns.get(decl.name, decl.name))
        wanted = [named] if named in header else [c.strip() for c in named.split(",")]
        for column in wanted:
            if column not in header:
                help = did_you_mean(column, header) or f"the columns are {', '.join(header)}"
                message = f"`{file.path}` has no column `{column}` for the input `{decl.name}`"
                raise fail("E0706", message, span, help=help)
        places.append([header.index(column) for column in wanted])
        shown.append(
            f"column `{named}` of `{file.path}`" if len(wanted) == 1 else f"the columns `{named}` of `{file.path}`"
        )
    found = [Column(len(at), decl.type.dtype != "f64") for at, decl in zip(places, inputs, strict=True)]
    for block in _blocks(rows, file, len(header), first=2):
        for numbers, at, what in zip(found, places, shown, strict=True):
            numbers.append(_numbers([row[i] for row in block for i in at], what, span))
    for numbers, decl, what in zip(found, inputs, shown, strict=True):
        if prod(decl.type.shape[1:]) != numbers.width or len(decl.type.dims) > 2:
            _misfit(decl, "one number" if numbers.width == 1 else str(numbers.width), what, span)
        _close(numbers, decl, what, file)
    columns = {decl.name: column for decl, column in zip(inputs, found, strict=True)}
    return Table(inputs, columns, lambda _, values: values)


def open_images(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Rows of pixels and, last, a label. Inputs: a float one (pixels divided by `top`) and an int32 one (labels).

    `top`: the largest value of a pixel (16 if left out: scikit-learn's digits). An image input `[b, y, x, …]` whose
    sides are n times those of square images shows each pixel n x n times. `limit`: bytes of text that are read.
    """
    file, top = TextFile(spec), dict(spec.options).get("top", 16)
    image = next(i for i in inputs if i.type.is_float)
    labels = [i for i in inputs if not i.type.is_float]
    rows = _rows(file)
    first = _expected(next(rows, None), file)
    width = len(first[0])
    pixels, kinds = Column(max(1, width - 1)), Column()
    for block in _blocks(chain(first, rows), file, width, first=1):
        values = _numbers([cell for row in block for cell in row], f"`{file.path}`", spec.span).reshape(len(block), -1)
        pixels.append(values[:, :-1])
        kinds.append(values[:, -1])
    shape, what = image.type.shape[1:], f"`{file.path}`"
    if width == 1 or _scale(pixels.width, shape) ** 2 * pixels.width != prod(shape):
        want = " x ".join(map(str, shape))
        message = f"the images of {what} have {width - 1} pixels, the input `{image.name}` takes {want}"
        raise fail("E0706", message, spec.span)
    _close(pixels, image, what, file, top)
    for decl in labels:
        if decl.type.shape[1:]:
            _misfit(decl, "one number", f"the label of {what}", spec.span)
        _close(kinds, decl, f"the label of {what}", file)

    def made(decl: InputDecl, values: Array) -> Array:
        return _enlarged(values / top, shape) if decl is image else values

    return Table(inputs, {image.name: pixels} | {i.name: kinds for i in labels}, made)


def _misfit(decl: InputDecl, got: str, what: str, span: Span | None) -> None:
    """Raise E0706."""
    want = " x ".join(map(str, decl.type.shape[1:])) or "one number"
    raise fail("E0706", f"the input `{decl.name}` takes {want} per example, {what} has {got}", span)


def _close(column: Column, decl: InputDecl, what: str, file: TextFile, top: float = 1.0) -> None:
    """No more rows come: raise E0706 if they do not fit the input. top: what they will be divided by."""
    column.close()
    if decl.type.is_float:
        with quiet():
            ends = np.array([column.least, column.most]) / top
        if not np.isfinite(ends).all():
            message = f"the pixels of {what} are too large to be divided by `top`, {top:.4g}"
            raise fail("E0706", message, file.span, help="`top` is the largest value of a pixel")
        converted(ends, decl, what, file.span)
    else:
        expect_range(decl, column.whole, column.least, column.most, what, file.span)


def _scale(pixels: int, shape: Sequence[int]) -> int:
    """How often a side of square images is to be repeated to fit `(y, x, …)`; 1 if that cannot be."""
    side = isqrt(pixels)
    fits = side * side == pixels and len(shape) > 1 and shape[0] == shape[1] and shape[0] % side == 0
    return shape[0] // side if fits else 1


def _enlarged(pixels: Array, shape: Sequence[int]) -> Array:
    """Square images, one per row, with pixels repeated along both sides."""
    n, side = _scale(pixels.shape[1], shape), isqrt(pixels.shape[1])
    if n == 1:
        return pixels
    return pixels.reshape(-1, side, side).repeat(n, 1).repeat(n, 2)


def _rows(file: TextFile) -> Iterator[list[str]]:
    """The rows that have any cells; E0704 where it is no table."""
    fed = 0

    def lines() -> Iterator[str]:
        nonlocal fed
        for line in file.lines():
            fed += len(line)
            if fed > MAX_LONG:
                raise file.too_long("row")
            yield line

    try:
        for row in csv.reader(lines()):
            fed = 0
            if row:
                yield row
    except csv.Error as error:
        raise fail("E0704", f"`{file.path}` is no table: {error}", file.span) from None


def _expected(row: list[str] | None, file: TextFile, width: int | None = None, number: int = 1) -> list[list[str]]:
    """The row; E0707 if there is none, E0704 if it has more or fewer cells."""
    if row is None:
        raise fail("E0707", f"`{file.path}` has no rows", file.span)
    if width is not None and len(row) != width:
        message = f"row {number} of `{file.path}` has {len(row)} cells, the first one has {width}"
        raise fail("E0704", message, file.span)
    return [row]


def _blocks(rows: Iterator[list[str]], file: TextFile, width: int, first: int) -> Iterator[list[list[str]]]:
    """The rows, some at a time; E0704 for one that has more or fewer cells. first: the number of the first one."""
    while block := list(islice(rows, max(1, _CELLS // max(1, width)))):
        for number, row in enumerate(block, first):
            _expected(row, file, width, number)
        first += len(block)
        yield block


def _numbers(cells: Sequence[str], what: str, span: Span | None) -> Array:
    try:
        values = np.array(cells, np.float64)
    except ValueError as error:
        raise fail("E0704", f"{what} has something that is no number: {error}", span) from None
    if not np.isfinite(values).all():
        raise fail("E0704", f"{what} has values that are not finite", span)
    return values
