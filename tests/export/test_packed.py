"""What exported files make of weights in fewer bits is what kernels make of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compiler.ops.packed import Dequantise, Expand, Integers, Pack  # noqa: E402
from compiler.weight_format import BITS, levels, words  # noqa: E402
from parc.exporting.torch.local import LOCAL  # noqa: E402
from tests.ops.rows import ROWS, Row  # noqa: E402

UNPACKING = [r for r in ROWS if isinstance(r.op, Dequantise | Expand | Integers | Pack)]


@pytest.mark.parametrize("row", UNPACKING, ids=str)
def test_the_file_reads_the_same_bits(row: Row) -> None:
    library: dict[str, object] = {"torch": torch, "math": math, "DEVICE": "cpu"}
    exec(LOCAL, library)
    from tests.ops.rows import run

    arrays = row.data(5)
    (want,) = run(row.op, row.ins, arrays)
    x, *others = (torch.from_numpy(a.astype(np.int64) if a.dtype == np.uint32 else a) for a in arrays)
    at, names = row.ins[0].index(row.op.dim), row.outs[0].names
    other, *zeros = others or [x]
    if isinstance(row.op, Integers | Pack):
        helper, middle = ("unpacked", -levels(row.op.code)[0]) if isinstance(row.op, Integers) else ("packed", 0)
        got = library[helper](x, at, words(row.op.code), BITS[row.op.code]) - middle  # type: ignore[operator]
    elif isinstance(row.op, Expand):
        assert row.ins[1].names == names
        got = library["expanded_twos"](x, at, other)  # type: ignore[operator]
    else:
        code = row.op.code
        order = tuple(row.ins[1].index(n) if row.ins[1].has(n) else None for n in names)
        zero = zeros[0] if zeros else None if code == "fp8" else -levels(code)[0]
        got = library["dequantised"](x, at, words(code), BITS[code], other, zero, order)  # type: ignore[operator]
    assert np.array_equal(got.numpy(), want, equal_nan=True)
