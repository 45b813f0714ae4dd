"""`csv(path, …)`: columns of numbers; `images(path)`: rows of pixels and a label."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from math import isqrt

import numpy as np

from compiler.model import DataSpec
from compiler.program import InputDecl
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span
from runtime.data.files import read_text
from runtime.data.reader import Reader, Table, as_input
from runtime.inputs import Array


def open_csv(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Inputs `[b]` or `[b, n]`. Named arguments: input = "column", or "column, column, …" for as many as n is.

    An input that is not named takes the column of its own name.
    """
    path, span, chosen = str(spec.path), spec.span, dict(spec.options)
    size = inputs[0].type.shape[0]
    header, rows = _rows(read_text(path, spec.folder, span), path, span)
    columns: dict[str, Array] = {}
    for decl in inputs:
        named = str(chosen.get(decl.name, decl.name))
        wanted = [named] if named in header else [c.strip() for c in named.split(",")]
        for column in wanted:
            if column not in header:
                help = did_you_mean(column, header) or f"the columns are {', '.join(header)}"
                raise fail("E0706", f"`{path}` has no column `{column}` for the input `{decl.name}`", span, help=help)
        at = [header.index(column) for column in wanted]
        what = f"column `{named}` of `{path}`" if len(at) == 1 else f"the columns `{named}` of `{path}`"
        values = _numbers([row[i] for row in rows for i in at], what, span).reshape(len(rows), -1)
        if len(decl.type.dims) == 1 and len(at) == 1:
            values = values[:, 0]
        columns[decl.name] = as_input(values, decl, what, span)
    return Table(columns, size)


def open_images(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Rows of pixels and, last, a label. Inputs: a float one (pixels divided by `top`) and an int32 one (labels).

    `top`: the largest value of a pixel (16 if left out: scikit-learn's digits). An image input `[b, y, x, …]` whose
    sides are n times those of square images shows each pixel n x n times.
    """
    path, span = str(spec.path), spec.span
    top = dict(spec.options).get("top", 16)
    floats = [i for i in inputs if i.type.is_float]
    labels = [i for i in inputs if not i.type.is_float]
    size = inputs[0].type.shape[0]
    _, rows = _rows(read_text(path, spec.folder, span), path, span, header=False)
    values = _numbers([cell for row in rows for cell in row], f"`{path}`", span).reshape(len(rows), -1)
    pixels, kinds = values[:, :-1] / top, values[:, -1]
    image = floats[0]
    pixels = _enlarged(pixels, image.type.shape[1:])
    if pixels.shape[1] != int(np.prod(image.type.shape[1:])):
        want = " x ".join(str(d.size) for d in image.type.dims[1:])
        message = f"the images of `{path}` have {pixels.shape[1]} pixels, the input `{image.name}` takes {want}"
        raise fail("E0706", message, span)
    columns = {image.name: as_input(pixels.reshape(-1, *image.type.shape[1:]), image, f"`{path}`", span)}
    for decl in labels:
        columns[decl.name] = as_input(kinds, decl, f"the label of `{path}`", span)
    return Table(columns, size)


def _enlarged(pixels: Array, shape: Sequence[int]) -> Array:
    """Square images, one per row, with pixels repeated along both sides to fit `(y, x, …)`, if that can be."""
    side = isqrt(pixels.shape[1])
    if len(shape) < 2 or side * side != pixels.shape[1] or shape[0] != shape[1] or shape[0] % side:
        return pixels
    images = pixels.reshape(-1, side, side)
    return images.repeat(shape[0] // side, 1).repeat(shape[1] // side, 2).reshape(len(pixels), -1)


def _rows(text: str, path: str, span: Span | None, header: bool = True) -> tuple[list[str], list[list[str]]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise fail("E0704", f"`{path}` is no table: {error}", span) from None
    names = [c.strip() for c in rows.pop(0)] if header and rows else []
    if not rows:
        raise fail("E0707", f"`{path}` has no rows", span)
    width = len(names or rows[0])
    for number, row in enumerate(rows, 2 if header else 1):
        if len(row) != width:
            raise fail("E0704", f"row {number} of `{path}` has {len(row)} cells, the first one has {width}", span)
    return names, rows


def _numbers(cells: Sequence[str], what: str, span: Span | None) -> Array:
    try:
        values = np.array(cells, np.float64)
    except ValueError as error:
        raise fail("E0704", f"{what} has something that is no number: {error}", span) from None
    if not np.isfinite(values).all():
        raise fail("E0704", f"{what} has values that are not finite", span)
    return values
