"""Checks a batch against the inputs that a program declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.program import InputDecl
from runtime.numpy import STORAGE, rounded

Array = NDArray[Any]


def check_batch(inputs: Sequence[InputDecl], batch: Mapping[str, Any]) -> dict[str, Array]:
    """The batch as arrays of the declared dtypes. Raises ValueError where it does not fit (readers' batches do)."""
    arrays: dict[str, Array] = {}
    for decl in inputs:
        if decl.name not in batch:
            raise ValueError(f"the batch lacks the input `{decl.name}`")
        array = np.asarray(batch[decl.name])
        if array.shape != decl.type.shape:
            raise ValueError(f"the input `{decl.name}` is {decl.type}, the batch has shape {list(array.shape)}")
        if array.size and decl.low is not None and array.min() < decl.low:
            raise ValueError(f"the input `{decl.name}` has a value {array.min()}, below {decl.low}")
        if array.size and decl.high is not None and array.max() >= decl.high:
            raise ValueError(f"the input `{decl.name}` has a value {array.max()}, it must be below {decl.high}")
        arrays[decl.name] = rounded(np.asarray(array, STORAGE[decl.type.dtype], order="C"), decl.type.dtype)
    return arrays
