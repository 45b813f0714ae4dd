"""`csv(path, …)`: columns of numbers; `images(path)`: rows of pixels and a label."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from compiler.program import InputDecl
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span
from runtime.data.files import read_text
from runtime.data.reader import Arguments, Reader, Table, as_input
from runtime.inputs import Array


def open_csv(arguments: Arguments, inputs: tuple[InputDecl, ...]) -> Reader:
    """Inputs of one dim (the batch). Named arguments: input = "column"; else the column of the input's name."""
    path, span = arguments.path(), arguments.span
    chosen = arguments.options([i.name for i in inputs])
    size = _batch_size(inputs, span)
    header, rows = _rows(read_text(path, arguments.spec.folder, span), path, span)
    columns: dict[str, Array] = {}
    for decl in inputs:
        column = chosen.get(decl.name, decl.name)
        if not isinstance(column, str) or column not in header:
            help = did_you_mean(str(column), header) or f"the columns are {', '.join(header)}"
            raise fail("E0706", f"`{path}` has no column `{column}` for the input `{decl.name}`", span, help=help)
        at = header.index(column)
        values = _numbers([row[at] for row in rows], f"column `{column}` of `{path}`", span)
        columns[decl.name] = as_input(values, decl, f"column `{column}` of `{path}`", span)
    return Table(columns, size)


def open_images(arguments: Arguments, inputs: tuple[InputDecl, ...]) -> Reader:
    """Rows of pixels and, last, a label. Inputs: a float one (pixels divided by `top`) and an int32 one (labels).

    `top`: the largest value of a pixel (16 if left out: scikit-learn's digits).
    """
    path, span = arguments.path(), arguments.span
    top = arguments.options(("top",)).get("top", 16)
    if isinstance(top, bool) or not isinstance(top, (int, float)) or not top > 0:
        raise fail("E0705", "`top` is the largest value of a pixel: a number above 0", span)
    floats = [i for i in inputs if i.type.is_float]
    labels = [i for i in inputs if not i.type.is_float]
    if len(floats) != 1 or len(labels) > 1:
        found = ", ".join(f"{i.name}: {i.type}" for i in inputs)
        help = "`input image : f32[b, y, x, c]` and `input label : int32[b] in 0..10`"
        raise fail("E0706", f"`images` gives an image and a label, the model's inputs are {found}", span, help=help)
    size = _batch_size(inputs, span)
    _, rows = _rows(read_text(path, arguments.spec.folder, span), path, span, header=False)
    values = _numbers([cell for row in rows for cell in row], f"`{path}`", span).reshape(len(rows), -1)
    pixels, kinds = values[:, :-1] / top, values[:, -1]
    image = floats[0]
    if pixels.shape[1] != int(np.prod(image.type.shape[1:])):
        want = " x ".join(str(d.size) for d in image.type.dims[1:])
        message = f"the images of `{path}` have {pixels.shape[1]} pixels, the input `{image.name}` takes {want}"
        raise fail("E0706", message, span)
    columns = {image.name: as_input(pixels.reshape(-1, *image.type.shape[1:]), image, f"`{path}`", span)}
    for decl in labels:
        columns[decl.name] = as_input(kinds, decl, f"the label of `{path}`", span)
    return Table(columns, size)


def _batch_size(inputs: Sequence[InputDecl], span: Span | None) -> int:
    sizes = {i.type.shape[0] if i.type.dims else 0 for i in inputs}
    if len(sizes) != 1 or 0 in sizes:
        raise fail("E0706", "all inputs need the batch as their first dim", span, help="`input x : int32[b] in 0..n`")
    return sizes.pop()


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
