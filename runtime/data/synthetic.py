"""Made-up batches, for runs without data and for proofs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.program import InputDecl
from runtime.inputs import Array
from runtime.numpy import STORAGE, rounded


def synthetic(inputs: Sequence[InputDecl], seed: int, step: int, whole: bool = False) -> dict[str, Array]:
    """Integers uniform in the input's range (0..1 where it has none), bools fair, floats normal.

    The same for the same seed and step. `whole`: floats are small whole numbers, whose sums are exact.
    """
    batch: dict[str, Array] = {}
    for i, decl in enumerate(inputs):
        rng = np.random.default_rng((seed % 2**63, step, i))
        dtype, shape = decl.type.dtype, decl.type.shape
        if decl.type.is_float:
            values = rng.integers(-2, 3, shape).astype(np.float64) if whole else rng.standard_normal(shape)
            batch[decl.name] = rounded(np.asarray(values, STORAGE[dtype]), dtype)
        else:
            low = decl.low or 0
            high = decl.high if decl.high is not None else low + 2
            batch[decl.name] = np.asarray(rng.integers(low, high, shape), STORAGE[dtype])
    return batch
