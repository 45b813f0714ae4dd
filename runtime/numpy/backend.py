"""numpy as a `runtime.backend.Backend`: one device's arrays, without lead axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.graph import Type
from compiler.memory.tiers import FILES, FIRST
from compiler.model import Init
from compiler.ops.base import Op
from runtime.backend import Index, Position, Shape
from runtime.numpy.base import STORAGE, Array, CallContext, Env, Kernel, LocalValue, kernel, rounded
from runtime.numpy.cached import CachedTable
from runtime.numpy.disk import DiskArray, PartsArray
from runtime.numpy.initial import init_array

AnyArray = Array | DiskArray


class Numpy:
    """Kernels and arrays of numpy. All memories of a device are this process's, but for those that are files."""

    def plan(self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], position: Position) -> Kernel:
        return kernel.plan(op, ins, outs, Env((), position.sizes, position.coords, position.start))

    def makes(self, op: Op) -> bool:
        return False  # nothing is written over

    def plan_over(
        self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], position: Position, operand: int
    ) -> Kernel | None:
        return None

    def context(self, micro: int, seed: int) -> CallContext:
        return CallContext(micro, seed)

    def initial(self, init: Init, name: str, type: Type, seed: int, region: Sequence[tuple[int, int]]) -> Array:
        return init_array(init, name, type, seed, region)

    def empty(self, shape: Shape, dtype: str, memory: str = FIRST) -> AnyArray:
        return DiskArray.empty(shape, STORAGE[dtype]) if memory in FILES else np.empty(shape, STORAGE[dtype])

    def full(self, shape: Shape, dtype: str, value: float, memory: str = FIRST) -> AnyArray:
        if memory not in FILES:
            return np.full(shape, value, STORAGE[dtype])
        found = DiskArray.empty(shape, STORAGE[dtype])
        found.fill(value)
        return found

    def own(self, x: AnyArray) -> AnyArray:
        return x if isinstance(x, DiskArray) else np.array(x)  # such are made by moves alone, each for itself

    def copy(self, x: AnyArray) -> AnyArray:
        return DiskArray.of(x) if isinstance(x, DiskArray) else np.array(x)

    def shape(self, x: Array) -> Shape:
        return np.shape(x)

    def part(self, x: Array, index: Index) -> Array:
        key: tuple[Any, ...] = (*index, ...)  # with the dots, a view even where no dim is left
        view: Array = x[key]
        return view

    def element(self, x: Array, i: int) -> Array:
        return x[i, ...]

    def concat(self, parts: Sequence[Array], dim: int) -> Array:
        return np.concatenate(parts, dim)

    def assign(self, into: Array, x: Array) -> None:
        into[...] = x

    def accumulate(self, into: AnyArray, x: AnyArray, fn: str) -> None:
        combine = np.maximum if fn == "max" else np.add
        if isinstance(into, DiskArray):
            into.write(combine(into.read(), np.asarray(x)))
        else:
            combine(into, x, out=into)

    def rounded(self, x: AnyArray, dtype: str) -> AnyArray:
        return rounded(x.read(), dtype) if isinstance(x, DiskArray) else rounded(x, dtype)

    def from_host(self, array: Array, dtype: str, memory: str = FIRST) -> AnyArray:
        if memory in FILES:
            return DiskArray.of(np.asarray(array, STORAGE[dtype]))
        return np.array(array, STORAGE[dtype])

    def to_host(self, x: AnyArray | CachedTable) -> Array:
        return x.read() if isinstance(x, PartsArray) else x

    def cached(self, x: AnyArray | CachedTable, rows: int) -> tuple[CachedTable, Sequence[AnyArray]]:
        table = x if isinstance(x, CachedTable) else CachedTable(x, rows)
        return table, (table.base, *table.parts)
