"""What kernels are given: local values, the environment they run in, and the context of a call.

An array of a value has the shape `lead + local shape`. Lead axes are mesh axes: of the axis' size where the value
differs between devices, of size 1 where it is replicated. Without lead axes the same kernels serve the serial
interpreter and the executor that runs each device by itself.

Dtypes: f64, f32, int32, uint32 and bool are numpy's own. bf16 and f16 are float32 arrays that hold only values of the
narrow type: sums inside an op are float32's, every result is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from compiler.layout import TIME, piece_of_dim
from dsl.data import dataclass
from runtime.backend import Kernel as Kernel
from runtime.backend import Kernels
from runtime.backend import LocalValue as LocalValue

Array = NDArray[Any]
STORAGE: dict[str, type[Any]] = {
    "f64": np.float64,
    "f32": np.float32,
    "bf16": np.float32,
    "f16": np.float32,
    "int32": np.int32,
    "uint32": np.uint32,
    "bool": np.bool_,
}
"""The numpy type that holds values of a dtype."""


@dataclass(frozen=True, slots=True)
class Into:
    """A kernel that can write its results where it is told.

    run(ctx, *operands, out=None): `out` has for each result an array in one piece, of the result's shape, or None. A
    result that is not the very array that was given lies elsewhere (the kernel could not write there).
    order: lead axes and dims, outermost first, as its one result then lies in memory; empty: it is not told.
    """

    run: Kernel
    order: tuple[int, ...] = ()

    def __call__(self, ctx: CallContext, *operands: Array) -> Any:
        return self.run(ctx, *operands)


def rounded(x: Array, dtype: str) -> Array:
    """`x` with every element rounded to what `dtype` can hold; itself where its storage type is exact."""
    if dtype == "bf16":
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)
    if dtype == "f16":
        return x.astype(np.float16).astype(np.float32)
    return x


def finish(kernel: Kernel, dtype: str) -> Kernel:
    """The kernel with its (one) result rounded to `dtype`."""
    if dtype not in ("bf16", "f16"):
        return kernel
    return lambda ctx, *arrays: rounded(kernel(ctx, *arrays), dtype)


def quiet() -> np.errstate:
    """Overflow and 0/0 are values here, not warnings. Executors run programs inside `with quiet():`."""
    return np.errstate(all="ignore")


@dataclass(frozen=True, slots=True)
class CallContext:
    """What changes from call to call: which micro-batch, and the seed of random numbers.

    empty: makes the arrays of large results; an executor may give one that uses memory again.
    """

    micro: int = 0
    seed: int = 0
    empty: Callable[[tuple[int, ...], Any], Array] = np.empty


Offset = Callable[[CallContext], "Array | int"]


@dataclass(frozen=True, slots=True)
class Env:
    """lead_axes: names of the lead axes; sizes: of all axes; coords: this device's place on axes that do not lead;
    start: what counts as position 0 of an `iota`."""

    lead_axes: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    coords: Mapping[str, int] = field(default_factory=dict)
    start: int = 0

    @property
    def lead(self) -> int:
        return len(self.lead_axes)

    def offset(self, value: LocalValue, dim: int) -> Offset:
        """Logical position of the first element of a piece along `dim` (its index in the type).

        The result is an int, or int64 of the shape of the lead axes, size 1 where it does not vary.
        """
        size, axes = value.logical.dims[dim].size, value.axes[dim]
        at: dict[str, Array | int] = dict(self.coords)
        for i, axis in enumerate(self.lead_axes) if axes else ():
            shape = [1] * self.lead
            shape[i] = self.sizes[axis]
            at[axis] = np.arange(shape[i], dtype=np.int64).reshape(shape)
        fixed: Array | int = piece_of_dim(size, axes, self.sizes, {**at, TIME: 0}, np.minimum)[0]
        if TIME not in axes:
            return lambda ctx: fixed
        stride = piece_of_dim(size, axes, self.sizes, {**at, TIME: 1}, np.minimum)[0] - fixed
        return lambda ctx: fixed + ctx.micro * stride


def spread(offset: Array | int, rank: int, axis: int | None = None, size: int = 0) -> Array | int:
    """An offset (shape of the lead axes) as an array of lead + `rank` axes; plus 0..size-1 along local `axis`."""
    out = offset.reshape(offset.shape + (1,) * rank) if isinstance(offset, np.ndarray) else offset
    if axis is None:
        return out
    shape = [1] * rank
    shape[axis] = size
    return out + np.arange(size, dtype=np.int64).reshape(shape)


def aligned(value: LocalValue, names: tuple[str, ...], lead: int) -> Callable[[Array], Array] | None:
    """How to view the value's array with local dims `names` (size 1 where it lacks one); None: as it is."""
    own = value.type.names
    if own == names:
        return None
    order = [n for n in names if n in own]
    perm = (*range(lead), *(lead + own.index(n) for n in order))
    pick = (*(slice(None),) * lead, *(slice(None) if n in own else None for n in names))
    if perm == tuple(range(len(perm))):
        return lambda a: a[pick]
    return lambda a: a.transpose(perm)[pick]


def laid(value: LocalValue) -> tuple[int, ...]:
    """Lead axes and dims of the value, outermost first, as a new array of it is to lie in memory."""
    return value.order or tuple(range(len(value.shape)))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes this one."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def empty_as(value: LocalValue) -> Callable[[CallContext], Array]:
    """Makes arrays of this value, in memory as its order says."""
    shape, storage, order = value.shape, STORAGE[value.type.dtype], value.order
    if not order:
        return lambda ctx: ctx.empty(shape, storage)
    there, back = tuple(shape[i] for i in order), inverse(order)
    return lambda ctx: ctx.empty(there, storage).transpose(back)


def literal(value: bool | int | float, dtype: str) -> Any:
    """A number of a program in the storage type of `dtype`; too large a one is infinite there, as results are."""
    with quiet():
        return STORAGE[dtype](value)


kernel = Kernels()
"""`@kernel(Op, …)` above a planner registers it."""

PLANNERS = kernel.planners
