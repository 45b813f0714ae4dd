"""Windows: what convolutions and poolings look through, and the adjoint, which adds the windows back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from compiler.graph import FLOATS, Dim, Type
from compiler.ops.base import Derive, Loop, Op, OpError
from compiler.ops.common import (
    expect_dim,
    expect_distinct,
    expect_dtype,
    expect_fill,
    expect_operands,
    expect_positive,
    pass_loops,
    replace,
    rest,
)
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class _Windowed(Op):
    """Base of `window` and its adjoint. stride: from window to window; pad: elements before the start (and behind the
    end); dilation: from element to element within a window."""

    derived: ClassVar[Mapping[str, Derive]] = {"dilation": lambda _: 1}

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)


def span(kernel: int, dilation: int) -> int:
    """From the first to the last element of a window of so many, both included."""
    return (kernel - 1) * dilation + 1


def _check(op: str, dim: Dim, out: Dim, kernel: Dim, stride: int, pad: int, dilation: int) -> None:
    """Raise E0206 unless `out` windows of `kernel` elements, `stride` apart, fit `dim` with `pad` before its start."""
    expect_positive(op, (dim, out, kernel))
    wide = span(kernel.size, dilation)
    if dilation < 1:
        raise OpError("E0206", f"{op}: dilation {dilation} must be at least 1")
    if stride < 1 or pad < 0 or pad >= wide:
        raise OpError("E0206", f"{op}: stride {stride} must be at least 1, pad {pad} in 0..{wide - 1}")
    full = (dim.size + 2 * pad - wide) // stride + 1
    if out.size != full and out.size * stride != dim.size:
        raise OpError(
            "E0206",
            f"{op}: {out.size} windows of {wide}, {stride} apart, on `{dim.name}` of size {dim.size}, pad {pad}",
            f"`{out.name}` must be {full} = ({dim.size} + 2*{pad} - {wide}) // {stride} + 1"
            + (f" (or {dim.size // stride}: as many as strides)" if dim.size % stride == 0 else ""),
        )


def _halo(dim: Dim, out: Dim, wide: int, stride: int, pad: int) -> tuple[int, int] | None:
    """Borders that a piece of `dim` needs; None where equal pieces of dim and out do not belong together."""
    if dim.size != stride * out.size:
        return None
    return pad, max(0, wide - stride - pad)


def _loops(
    op: Window | Fold, x: Sequence[Type], y: Sequence[Type], dim: Dim, out: Dim, kernel: Dim
) -> tuple[Loop, ...]:
    adjoint = isinstance(op, Fold)
    halo = _halo(dim, out, span(kernel.size, op.dilation), op.stride, op.pad)
    fill = op.fill if isinstance(op, Window) else 0.0
    wide, narrow = (dim.name,), (out.name,)
    ins, outs = (narrow, wide) if adjoint else (wide, narrow)
    position = Loop("halo" if halo else "whole", out.size, ins, outs, halo or (0, 0), gives=adjoint, fill=fill)
    offset: tuple[str | None, ...] = (kernel.name,)
    nothing: tuple[str | None, ...] = (None,)
    inside = Loop("whole", kernel.size, *((offset, nothing) if adjoint else (nothing, offset)))
    others = rest(x[0], dim.name, out.name, kernel.name)
    return (*pass_loops(x, y, others), position, inside)


@dataclass(frozen=True, slots=True)
class Window(_Windowed):
    """`result[…, out = o, kernel = k, …] = x[…, dim = o*stride + k*dilation - pad, …]`, `fill` outside.

    `out` and `kernel` take the place of `dim`. `out.size` is (size + 2*pad - span)//stride + 1, where span is
    (kernel - 1)*dilation + 1, or size/stride (then the border after the end is what is needed).
    """

    mnemonic: ClassVar[str] = "window"
    builtin: ClassVar[str] = "window"
    dim: str
    out: Dim
    kernel: Dim
    stride: int = 1
    pad: int = 0
    fill: float = 0.0
    dilation: int = 1

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("window", inputs, 1)
        size = expect_dim("window", inputs[0], self.dim)
        _check("window", Dim(self.dim, size), self.out, self.kernel, self.stride, self.pad, self.dilation)
        expect_fill("window", self.fill, inputs[0].dtype)
        out = replace(inputs[0], self.dim, self.out, self.kernel)
        expect_distinct("window", out.names)
        return (out,)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        dim = Dim(self.dim, inputs[0].size(self.dim))
        return _loops(self, inputs, outputs, dim, self.out, self.kernel)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),) if self.fill == 0 else ()


@dataclass(frozen=True, slots=True)
class Fold(_Windowed):
    """The adjoint of `window`: `result[…, dim = o*stride + k*dilation - pad, …] += x[…, out = o, kernel = k, …]`.

    `dim` stands in the place of `out`; what falls outside is dropped.
    """

    mnemonic: ClassVar[str] = "fold"
    out: str
    kernel: str
    dim: Dim
    stride: int = 1
    pad: int = 0
    dilation: int = 1

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("fold", inputs, 1)
        x = inputs[0]
        expect_dtype("fold", x, (*FLOATS, "int32"), "numbers")
        out, kernel = self._dims(x)
        _check("fold", self.dim, out, kernel, self.stride, self.pad, self.dilation)
        kept = Type(x.dtype, tuple(d for d in x.dims if d.name != self.kernel))
        result = replace(kept, self.out, self.dim)
        expect_distinct("fold", result.names)
        return (result,)

    def _dims(self, x: Type) -> tuple[Dim, Dim]:
        return Dim(self.out, expect_dim("fold", x, self.out)), Dim(self.kernel, expect_dim("fold", x, self.kernel))

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        out, kernel = self._dims(inputs[0])
        return _loops(self, inputs, outputs, self.dim, out, kernel)

    def terms(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        return inputs[0].size(self.kernel)

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return False
