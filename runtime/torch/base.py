"""What kernels share: tensors by dtype, and the table in which kernels register themselves.

bf16, f16, f32, f64, int32 and bool are torch's own types: sums inside an op are made in wider ones, every result is
rounded. uint32, for which torch has hardly any kernels, is int64 whose values are kept in 0 … 2^32 - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from compiler.ops.base import Op
from dsl.data import dataclass
from runtime.backend import Kernel, Kernels, LocalValue, Position

T = TypeVar("T")

STORAGE: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "int32": torch.int32,
    "uint32": torch.int64,
    "bool": torch.bool,
}
"""The type of tensors that hold values of a dtype."""

NARROW = ("bf16", "f16")
"""Floats of which more than two are never added up in their own type."""

UINT32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class TorchCall:
    """What changes from call to call: the micro-batch, and the seed of random numbers."""

    micro: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Standpoint:
    """Where a kernel runs: the device's place in the mesh, and the torch device that its tensors are on."""

    position: Position
    device: torch.device

    def offset(self, value: LocalValue, dim: int) -> Callable[[int], int]:
        """From a micro-batch to the logical position of the first element of the piece along `dim`."""
        return self.position.offset(value, dim)


kernel = Kernels()
"""`@kernel(Op, …)` above a planner registers it."""

PLANNERS = kernel.planners

MAKERS: set[type[Op]] = set()
"""Ops whose kernels give new memory for each of their results, never a view of an operand or of what they keep."""


def maker(*ops: type[Op]) -> Callable[[T], T]:
    """`@maker(Op, …)` above a planner says that its kernels do."""
    MAKERS.update(ops)
    return lambda planner: planner


PlannerOver = Callable[[Any, Sequence[LocalValue], Sequence[LocalValue], int], Kernel | None]
"""From an op, its operands' and results' local values, and the operand that is written over, to a kernel."""

OVER: dict[type[Op], PlannerOver] = {}
"""`@over(Op, …)` above a planner enters it."""


def over(*ops: type[Op]) -> Callable[[PlannerOver], PlannerOver]:
    """Registers a planner of kernels that write their result over an operand."""

    def enter(planner: PlannerOver) -> PlannerOver:
        OVER.update(dict.fromkeys(ops, planner))
        return planner

    return enter


def aligned(value: LocalValue, names: tuple[str, ...]) -> Callable[[Tensor], Tensor] | None:
    """How to view the value's tensor with dims `names` (size 1 where it lacks one); None: as it is."""
    own = value.type.names
    if own == names:
        return None
    perm = tuple(own.index(n) for n in names if n in own)
    shape = tuple(value.type.size(n) if n in own else 1 for n in names)
    trailing = names[len(names) - len(own) :] == own
    if trailing:
        return None  # torch fills in leading dims of size 1 by itself
    if perm == tuple(range(len(perm))):
        return lambda x: x.view(shape) if x.is_contiguous() else x.reshape(shape)
    inserted = tuple(i for i, n in enumerate(names) if n not in own)

    def view(x: Tensor) -> Tensor:
        x = x.permute(perm)
        for i in inserted:
            x = x.unsqueeze(i)
        return x

    return view


def expanded(value: LocalValue, names: tuple[str, ...]) -> Callable[[Tensor], Tensor]:
    """How to view the value's tensor with exactly dims `names`, of size 1 where it lacks one."""
    own = value.type.names
    perm = tuple(own.index(n) for n in names if n in own)
    inserted = tuple(i for i, n in enumerate(names) if n not in own)

    def view(x: Tensor) -> Tensor:
        x = x.permute(perm)
        for i in inserted:
            x = x.unsqueeze(i)
        return x

    return view


def number(value: float | int | bool, dtype: str) -> Any:
    """A literal of a program as an operand of this dtype takes it; too large a one is infinite."""
    if dtype == "bool":
        return bool(value)
    if dtype in ("int32", "uint32"):
        return int(value)
    return torch.tensor(value, dtype=torch.float64).to(STORAGE[dtype]).item()


def wrapped(run: Kernel, dtype: str) -> Kernel:
    """The kernel with a (single) result of uint32 taken modulo 2^32."""
    return (lambda ctx, *xs: run(ctx, *xs) & UINT32) if dtype == "uint32" else run


Values = Sequence[LocalValue]
