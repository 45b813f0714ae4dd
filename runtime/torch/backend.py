"""PyTorch as a `runtime.backend.Backend`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compiler.graph import Type
from compiler.memory.tiers import FIRST
from compiler.model import Init
from compiler.ops.base import Op
from runtime.backend import Index, Kernel, LocalValue, Position, Shape
from runtime.numpy.initial import init_array
from runtime.torch import kernels
from runtime.torch.base import MAKERS, OVER, STORAGE, Standpoint, TorchCall, kernel

for _found in iter_modules(kernels.__path__):
    import_module(f"{kernels.__name__}.{_found.name}")


class Torch:
    """Kernels and arrays of PyTorch. All memories of a device are its own.

    device: the torch device that arrays are on.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def plan(self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], position: Position) -> Kernel:
        return kernel.plan(op, ins, outs, Standpoint(position, self.device))

    def makes(self, op: Op) -> bool:
        return type(op) in MAKERS

    def plan_over(
        self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], position: Position, operand: int
    ) -> Kernel | None:
        planner = OVER.get(type(op))
        return planner(op, ins, outs, operand) if planner is not None else None

    def context(self, micro: int, seed: int) -> TorchCall:
        return TorchCall(micro, seed)

    def initial(self, init: Init, name: str, type: Type, seed: int, region: Sequence[tuple[int, int]]) -> Tensor:
        return self.from_host(init_array(init, name, type, seed, region), type.dtype)

    def empty(self, shape: Shape, dtype: str, memory: str = FIRST) -> Tensor:
        return torch.empty(shape, dtype=STORAGE[dtype], device=self.device)

    def full(self, shape: Shape, dtype: str, value: float, memory: str = FIRST) -> Tensor:
        return torch.full(shape, value, dtype=STORAGE[dtype], device=self.device)

    def own(self, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    def copy(self, x: Tensor) -> Tensor:
        return x.clone()

    def shape(self, x: Tensor) -> Shape:
        return tuple(x.shape)

    def part(self, x: Tensor, index: Index) -> Tensor:
        return x[index] if index else x

    def element(self, x: Tensor, i: int) -> Tensor:
        return x[i]

    def concat(self, parts: Sequence[Tensor], dim: int) -> Tensor:
        return torch.cat(list(parts), dim)

    def assign(self, into: Tensor, x: Tensor) -> None:
        into.copy_(x)

    def accumulate(self, into: Tensor, x: Tensor, fn: str) -> None:
        if fn == "max":
            torch.maximum(into, x, out=into)
        else:
            into.add_(x)

    def rounded(self, x: Tensor, dtype: str) -> Tensor:
        return x  # the types are real

    def from_host(self, array: Any, dtype: str, memory: str = FIRST) -> Tensor:
        source = np.ascontiguousarray(array)
        if source.dtype == np.uint32:
            source = source.astype(np.int64)
        if not source.flags.writeable:
            source = source.copy()
        return torch.from_numpy(source).reshape(np.shape(array)).to(self.device, STORAGE[dtype], copy=True)

    def cached(self, x: Tensor, rows: int) -> tuple[Tensor, Sequence[Tensor]]:
        return x, (x,)  # all of a process's memories are one

    def to_host(self, x: Tensor) -> Any:
        x = x.detach().cpu()
        if x.dtype in (torch.bfloat16, torch.float16):  # as numpy keeps them
            x = x.float()
        elif x.dtype == torch.int64:
            return x.numpy().astype(np.uint32)
        return x.numpy()

    def settled(self) -> None:
        """Wait until the device has done all that it was told."""
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize(self.device)
