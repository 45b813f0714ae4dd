"""Checks a batch against the inputs that a program declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.program import InputDecl
from compiler.strategy import is_page_table
from dsl.diagnostics import fail
from runtime.numpy import STORAGE, rounded
from runtime.readable import Piecewise

Array = NDArray[Any]


def check_batch(inputs: Sequence[InputDecl], batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch as `Readable`s of the declared dtypes: what is read piece by piece as it is, else arrays.

    Raises ValueError where it does not fit (readers' batches do), and ParcError (E0788) for pages that are in no pool.
    """
    arrays: dict[str, Any] = {}
    for decl in inputs:
        if decl.name not in batch:
            raise ValueError(f"the batch lacks the input `{decl.name}`")
        piecewise = isinstance(batch[decl.name], Piecewise)
        array = batch[decl.name] if piecewise else np.asarray(batch[decl.name])
        if array.shape != decl.type.shape:
            raise ValueError(f"the input `{decl.name}` is {decl.type}, the batch has shape {list(array.shape)}")
        if piecewise:
            arrays[decl.name] = array
            continue
        if is_page_table(decl.name) and decl.low is not None and decl.high is not None:
            _hold_pages(decl.name, array, decl.low, decl.high)
        if array.size and decl.low is not None and array.min() < decl.low:
            raise ValueError(f"the input `{decl.name}` has a value {array.min()}, below {decl.low}")
        if array.size and decl.high is not None and array.max() >= decl.high:
            raise ValueError(f"the input `{decl.name}` has a value {array.max()}, it must be below {decl.high}")
        arrays[decl.name] = rounded(np.asarray(array, STORAGE[decl.type.dtype], order="C"), decl.type.dtype)
    return arrays


def _hold_pages(name: str, table: Array, low: int, high: int) -> None:
    """Raise ParcError (E0788) where a sequence is given a page that is not in the pool."""
    out = np.argwhere((table < low) | (table >= high))
    if len(out):
        row, number = (int(i) for i in out[0])
        message = f"`{name}` gives sequence {row} the page {table[row, number]}, the pool has 0..{high}"
        raise fail("E0788", message, help=f"{low} is no page")
