"""Bounds of the numbers that ops have: all of them have some, in graphs as in programs of others."""

from __future__ import annotations

import pytest

from compiler.graph import Dim, Type
from compiler.layout import Layout
from compiler.ops.base import OpError
from compiler.ops.comm import LayoutError, Operand
from compiler.ops.numbers import BOUNDS, expect_numbers
from compiler.ops.shape import Shift, Slice
from compiler.ops.zigzag import ZigZagAcross, sources
from compiler.text.attrs import OPS, attributes
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from tests.robust.test_programs import FIT, edited, found

WHOLE = ("int", "tuple[int, ...]")


def test_every_whole_number_of_an_op_has_bounds() -> None:
    fields = {op: {a.field for a in attributes(op) if a.kind in WHOLE} for op in OPS.values()}
    assert {op: set(of) for op, of in BOUNDS.items()} == {op: of for op, of in fields.items() if of}


LINE = "    accumulate %loss into loss\n"
FAR = "4611686018427387904"
CASES = {
    "ahead": ("E0612", "%far: f32[d=4] in host = move %w from hbm to host ahead 1000000000000"),
    "ahead of nothing": ("E0619", "%far: f32[d=4] in host = move %w from hbm to host ahead 1"),
    "before": ("E0612", "%q: int32[d=4] = iota over d=4 zigzag -1"),
    "around": ("E0612", "%q: f32[d=4] = shift %w over d by 1000000000000000 with 0.0 around"),
    "stride": ("E0612", f"%q: f32[o=1, k=3] = window %w dim d out o=1 kernel k=3 stride {FAR} pad 0 fill 0.0"),
    "dilation": (
        "E0612",
        f"%q: f32[o=4, k=1] = window %w dim d out o=4 kernel k=1 stride 1 pad 0 fill 0.0 dilation {FAR}",
    ),
    "more than there are": ("E0617", "%q: f32[s=4/dp] = zigzag_across %s s over dp among 4"),
    "as many as there are": ("", "%q: f32[s=4/dp] = zigzag_across %s s over dp among 2"),
    "in order": ("", "%q: int32[d=4] = iota over d=4 zigzag 0"),
}


@pytest.mark.parametrize(("code", "line"), CASES.values(), ids=CASES)
def test_numbers_of_programs(code: str, line: str) -> None:
    split = "    %f: f32[s=8] = full 1.0\n    %s: f32[s=4/dp] = shard %f s over dp\n"
    text = edited(FIT, LINE, f"{split}    {line}\n{LINE}")
    assert found(text)[:1] == ([code] if code else [])
    if not code:
        assert len(api.run(Source("p.npu", text), 1).losses) == 1


def test_numbers_are_told_with_their_bounds() -> None:
    for op, told in ((Slice("d", 0, 4, "e", 10**50), "slice: `by` is 10^50"), (Shift("d", -(2**41)), "`by` is -2199")):
        with pytest.raises(OpError) as caught:
            expect_numbers(op)
        assert told in caught.value.message and "to 1099511627776" in str(caught.value.help)


def test_numbers_of_jobs() -> None:
    """The same, where somebody writes them in the language."""
    job = "use std.optimizers (sgd)\nmodel m {\n  dim d = 4\n  weight w[d] ~ ones\n  loss sum(LINE)\n}\n"
    job += "job j {\n  train m()\n  optimizer sgd(lr = 0.1)\n}\n"
    for line in ("shift(w, d, 10 ** 15, around = true)", "slice(w, d -> e, 0..4, step = 10 ** 15)"):
        with pytest.raises(ParcError) as caught:
            api.compile(Source("main.par", job.replace("LINE", line)))
        assert [d.code for d in caught.value.diagnostics] == ["E0206"], caught.value
        assert "can be" in str(caught.value.diagnostics[0].help)


def test_the_order_of_others_is_that_of_so_many() -> None:
    """An order of 4 on an axis of 2 is a change of places like any other: all elements, each once."""
    op = ZigZagAcross("s", ("cp",), 4)
    operand = Operand("x", Type("f32", (Dim("s", 16),)), Layout((("cp",),)))
    assert op.after(operand, {"cp": 2, "dp": 2}) == operand.layout
    with pytest.raises(LayoutError, match="zig-zag order of 4 devices, where there are 2"):
        op.after(operand, {"cp": 2})
    moved = [
        at + i for device in range(2) for _, at, n in sources(op, 16, 8 * device, 8 * device + 8) for i in range(n)
    ]
    assert sorted(moved) == list(range(16)) and moved != list(range(16))
