"""What computes: arrays and kernels, as an interface. `runtime.numpy` is its first implementation.

An array is the backend's own thing; whoever is written against this interface (`runtime.rank`, `runtime.comm`) looks
into none. Shapes are tuples of ints, dtypes those of the language (`compiler.graph.ITEMSIZE`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

from compiler.graph import Type
from compiler.layout import TIME, piece_of_dim
from compiler.memory.tiers import FIRST
from compiler.model import Init
from compiler.ops.base import ByOp, Op
from dsl.data import dataclass

Array = Any
"""An array of the backend."""

Shape = tuple[int, ...]
Index = tuple[slice, ...]
"""Of leading dims; the others are taken whole."""

Kernel = Callable[..., Any]
"""Called with (context, *operands); gives the result, or a tuple where the op has several."""


@dataclass(frozen=True, slots=True)
class Renewing:
    """A kernel of an op that `renews` an operand: `renew(ctx, *operands)` makes the result in that operand's memory."""

    run: Kernel
    renew: Kernel

    def __call__(self, ctx: Any, *operands: Array) -> Array:
        return self.run(ctx, *operands)

    def over(self, ctx: Any, into: Array, *others: Array) -> Array:
        """The result in the memory of the first operand."""
        self.renew(ctx, into, *others)
        return into


@dataclass(frozen=True, slots=True)
class Slicewise:
    """A kernel that takes some operands (by number) as a list of their slices along the first dim, too."""

    run: Kernel
    operands: frozenset[int]

    def __call__(self, ctx: Any, *operands: Array) -> Any:
        return self.run(ctx, *operands)


@dataclass(frozen=True, slots=True)
class LocalValue:
    """A value as one device, or a stack of devices, holds it.

    type: local sizes (borders of a halo included); lead: sizes of the lead axes; logical: the whole tensor;
    axes: for each dim the axes that split it, major to minor (the time axis too); order: lead axes and dims, outermost
    first, as a new array of it best lies in memory (empty: as they are numbered). No kernel may rely on that.
    """

    type: Type
    lead: Shape
    logical: Type
    axes: tuple[tuple[str, ...], ...]
    order: tuple[int, ...] = ()

    @staticmethod
    def whole(type: Type) -> LocalValue:
        """The value of the serial program: not split, no lead axes."""
        return LocalValue(type, (), type, ((),) * len(type.dims))

    @property
    def shape(self) -> Shape:
        return self.lead + self.type.shape


@dataclass(frozen=True, slots=True)
class Position:
    """Where a device stands: the sizes of all axes, and its own coordinates on those of the mesh.

    start: what counts as position 0 of an `iota`, where the device holds a later part of a loop.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    coords: Mapping[str, int] = field(default_factory=dict)
    start: int = 0

    def offset(self, value: LocalValue, dim: int) -> Callable[[int], int]:
        """From a micro-batch to the logical position of the first element of the device's piece along `dim`."""
        size, axes = value.logical.dims[dim].size, value.axes[dim]
        first, second = (piece_of_dim(size, axes, self.sizes, {**self.coords, TIME: micro})[0] for micro in (0, 1))
        return lambda micro: first + (second - first) * micro


class Backend(Protocol):
    """Kernels and arrays of one kind of device.

    No function changes an operand but `assign` and `accumulate`, which write into their first one.
    """

    def plan(self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], position: Position) -> Kernel:
        """A closure that computes `op` on arrays of these local values; KeyError for ops that are not computation.

        Its results may be views of operands. Values of narrow types are rounded to what these can hold.
        """
        ...

    def makes(self, op: Op) -> bool:
        """Whether each result of `op` lies in memory that was made for it, of which nobody else knows."""
        ...

    def plan_over(
        self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], position: Position, operand: int
    ) -> Kernel | None:
        """A closure that does what that of `plan` does, bit by bit, and writes the result over an operand, which it
        gives back; None if there is none."""
        ...

    def context(self, micro: int, seed: int) -> Any:
        """What a kernel is called with: the micro-batch, and the seed of random numbers."""
        ...

    def initial(self, init: Init, name: str, type: Type, seed: int, region: Sequence[tuple[int, int]]) -> Array:
        """The initial contents of a `region` of the logical tensor `name`: (start, stop) along each dim.

        Each element is a function of seed, name and logical position, as `runtime.numpy.initial` defines it.
        """
        ...

    def empty(self, shape: Shape, dtype: str, memory: str = FIRST) -> Array:
        """A new array with any contents in this memory."""
        ...

    def full(self, shape: Shape, dtype: str, value: float, memory: str = FIRST) -> Array:
        """A new array in this memory with this value everywhere."""
        ...

    def own(self, x: Array) -> Array:
        """`x` in memory that nothing else refers to: a copy, unless it is known to be so."""
        ...

    def copy(self, x: Array) -> Array:
        """A new array in the memory of `x`, with its contents."""
        ...

    def shape(self, x: Array) -> Shape:
        """The sizes of `x`."""
        ...

    def part(self, x: Array, index: Index) -> Array:
        """A part of `x`: a view of the same memory."""
        ...

    def element(self, x: Array, i: int) -> Array:
        """`x[i]`, without the leading dim: a view of the same memory."""
        ...

    def concat(self, parts: Sequence[Array], dim: int) -> Array:
        """A new array: the parts in a row along `dim`."""
        ...

    def assign(self, into: Array, x: Array) -> None:
        """Put the contents of `x` into `into`, whose shape is that of `x` but for leading dims of size 1."""
        ...

    def accumulate(self, into: Array, x: Array, fn: str) -> None:
        """Add `x` to `into` (fn `sum`), or take the larger elements (`max`); shapes as for `assign`. Not rounded."""
        ...

    def rounded(self, x: Array, dtype: str) -> Array:
        """`x` with every element rounded to what `dtype` can hold; may be `x` itself where it is."""
        ...

    def from_host(self, array: Any, dtype: str, memory: str = FIRST) -> Array:
        """A new array in this memory with the contents of an array of numpy."""
        ...

    def cached(self, x: Array, rows: int) -> tuple[Array, Sequence[Array]]:
        """The table `x`, of which so many rows are kept in the device's memory (itself, if it is such a one already),
        and what it consists of: the array that rests elsewhere, and those that it takes in the device's memory (rows,
        their numbers, when they were used last, which are renewed; a backend may keep none)."""
        ...

    def to_host(self, x: Array) -> Any:
        """The contents as an array of numpy."""
        ...


Planner = Callable[[Any, Sequence[LocalValue], Sequence[LocalValue], Any], Kernel]
"""From an op, its operands' and results' local values, and where they are, to a kernel."""


class Kernels:
    """The kernels of a backend. `@kernel(Op, …)` above a planner registers it, where `kernel` is an instance."""

    def __init__(self) -> None:
        self.planners: ByOp[Planner] = ByOp()

    def __call__(self, *ops: type[Op]) -> Callable[[Planner], Planner]:
        """Register the planner that follows as that of these ops."""
        return self.planners.of(*ops)

    def plan(self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], where: Any) -> Kernel:
        """A closure that computes `op`; KeyError for ops that are not computation."""
        return self.planners[type(op)](op, ins, outs, where)


def on_views(f: Callable[..., Array], views: Sequence[Callable[[Array], Array] | None]) -> Kernel:
    """The kernel that applies `f` to its operands, each seen by its view (None: as it is)."""
    match views:
        case [None]:
            return lambda ctx, x: f(x)
        case [None, None]:
            return lambda ctx, x, y: f(x, y)
        case [None, v] if v is not None:
            return lambda ctx, x, y: f(x, v(y))
        case [u, None] if u is not None:
            return lambda ctx, x, y: f(u(x), y)
    return lambda ctx, *xs: f(*(x if v is None else v(x) for x, v in zip(xs, views)))
