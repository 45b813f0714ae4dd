"""Checks a batch against the inputs that a program declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.program import InputDecl
from dsl.diagnostics import did_you_mean, fail
from runtime.kernels import STORAGE, rounded

Array = NDArray[Any]


def check_batch(inputs: Sequence[InputDecl], batch: Mapping[str, Any]) -> dict[str, Array]:
    """The batch as arrays of the declared dtypes. Raises E0705 (missing, wrong shape) or E0706 (out of range)."""
    arrays: dict[str, Array] = {}
    for decl in inputs:
        if decl.name not in batch:
            raise fail("E0705", f"the batch lacks the input `{decl.name}`", help=did_you_mean(decl.name, batch))
        array = np.asarray(batch[decl.name])
        if array.shape != decl.type.shape:
            raise fail("E0705", f"the input `{decl.name}` is {decl.type}, the batch has shape {list(array.shape)}")
        if decl.low is not None and array.size and array.min() < decl.low:
            raise fail("E0706", f"the input `{decl.name}` has a value {array.min()}, below {decl.low}")
        if decl.high is not None and array.size and array.max() >= decl.high:
            raise fail(
                "E0706", f"the input `{decl.name}` has a value {array.max()}, it must be below {decl.high}",
                help="make the dim that it indexes larger, or map the data to fewer values",
            )  # fmt: skip
        arrays[decl.name] = rounded(np.asarray(array, STORAGE[decl.type.dtype], order="C"), decl.type.dtype)
    return arrays
