"""numpy as a `runtime.backend.Backend`: one device's arrays, without lead axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.graph import Type
from compiler.memory.tiers import FIRST
from compiler.model import Init
from compiler.ops.base import Op
from runtime.backend import Index, Position, Shape
from runtime.numpy.base import STORAGE, Array, CallContext, Env, Kernel, LocalValue, kernel, rounded
from runtime.numpy.initial import init_array


class Numpy:
    """Kernels and arrays of numpy. All memories of a device are this process's."""

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

    def empty(self, shape: Shape, dtype: str, memory: str = FIRST) -> Array:
        return np.empty(shape, STORAGE[dtype])

    def full(self, shape: Shape, dtype: str, value: float, memory: str = FIRST) -> Array:
        return np.full(shape, value, STORAGE[dtype])

    def own(self, x: Array) -> Array:
        return np.array(x)

    def copy(self, x: Array) -> Array:
        return np.array(x)

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

    def accumulate(self, into: Array, x: Array, fn: str) -> None:
        (np.maximum if fn == "max" else np.add)(into, x, out=into)

    def rounded(self, x: Array, dtype: str) -> Array:
        return rounded(x, dtype)

    def from_host(self, array: Array, dtype: str, memory: str = FIRST) -> Array:
        return np.array(array, STORAGE[dtype])

    def to_host(self, x: Array) -> Array:
        return x
