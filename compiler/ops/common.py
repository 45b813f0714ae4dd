"""Checks and building blocks that the op definitions share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from math import inf, isinf, isnan
from typing import ClassVar

from compiler.graph import BEYOND_F32, RANGES, Dim, Type
from compiler.ops.base import Loop, Misuse, Movement, Op, OpError
from dsl.data import dataclass


def listed(names: Iterable[str]) -> str:
    """Names for a message: `b`, `s`, `d`; `(none)` where there are none."""
    return ", ".join(f"`{n}`" for n in names) or "(none)"


def expect_operands(op: str, inputs: Sequence[Type], count: int) -> None:
    """Raise Misuse unless there are `count` operands."""
    if len(inputs) != count:
        raise Misuse(f"{op} takes {count} operand{'s' * (count != 1)}, got {len(inputs)}")


def expect_dim(op: str, type: Type, dim: str) -> int:
    """The size of `dim`; E0204 where the operand lacks it."""
    if type.has(dim):
        return type.size(dim)
    near = get_close_matches(dim, type.names, n=1)
    help = f"did you mean `{near[0]}`?" if near else f"its dims are {listed(type.names)}"
    raise OpError("E0204", f"{op}: the operand {type} has no dim `{dim}`", help)


def expect_distinct(op: str, names: Sequence[str]) -> None:
    """Raise E0205 if a name occurs twice."""
    twice = [n for i, n in enumerate(names) if n in names[:i]]
    if twice:
        raise OpError(
            "E0205", f"{op}: the result would have dim `{twice[0]}` twice", "rename one first: `rename(x, s -> t)`"
        )


def expect_dtype(op: str, type: Type, allowed: Sequence[str], what: str) -> None:
    """Raise E0202 unless the operand's dtype is one of `allowed`, called `what` in the message."""
    if type.dtype not in allowed:
        raise OpError("E0202", f"{op} needs {what}, got {type}", f"cast it: `cast(x, {allowed[0]})`")


def expect_literal(op: str, value: int | float | bool, dtype: str) -> None:
    """Raise E0202 unless a number is of the dtype's kind, E0206 unless it is one of the dtype's.

    What f32 holds may stand in narrower floats, too, where it may be infinite: layers are written for all precisions.
    """
    if isinstance(value, bool) != (dtype == "bool"):
        raise OpError("E0202", f"{op}: the literal {value} does not fit an operand of dtype {dtype}")
    if dtype in RANGES:
        low, high = RANGES[dtype]
        if isinf(value) or isnan(value) or value != int(value):
            raise OpError("E0202", f"{op}: the literal {value} does not fit an operand of dtype {dtype}")
        if not low <= value <= high:
            message = f"{op}: the literal {value} is beyond {dtype}, which reaches from {low} to {high}"
            raise OpError("E0206", message, "take a number that the type has, or cast the operands to another first")
    elif dtype not in ("bool", "f64") and BEYOND_F32 <= abs(value) < inf:
        message = f"{op}: the literal {value} is beyond {dtype}, where it is infinite"
        raise OpError("E0206", message, "take one below 3.4e38, or compute this in f64: `cast`")


def expect_fill(op: str, value: int | float | bool, dtype: str) -> None:
    """As `expect_literal`, of what a tensor is filled with: 0 and 1 stand for false and true."""
    expect_literal(op, bool(value) if dtype == "bool" and value in (0, 1) else value, dtype)


def expect_positive(op: str, dims: Iterable[Dim]) -> None:
    """Raise E0206 for an empty dim."""
    for d in dims:
        if d.size < 1:
            raise OpError("E0206", f"{op}: dim `{d.name}` has size {d.size}; sizes are at least 1")


def expect_blocks(op: str, dim: str, size: int, parts: int) -> None:
    """Raise OpError (E0435) if a dim does not divide into the blocks of a zig-zag order."""
    if parts < 1 or size % (2 * parts):
        message = f"{op}: `{dim}` of size {size} does not divide into 2 x {parts} blocks"
        raise OpError("E0435", message, "choose a size that does, or another degree")


def merged_sizes(op: str, inputs: Sequence[Type]) -> dict[str, int]:
    """Name -> size over all operands; E0203 where two operands disagree."""
    sizes: dict[str, int] = {}
    for t in inputs:
        for d in t.dims:
            if sizes.setdefault(d.name, d.size) != d.size:
                raise OpError(
                    "E0203",
                    f"{op}: dim `{d.name}` has size {sizes[d.name]} in one operand and {d.size} in another",
                    "dims of one name must be of one size; rename one if they are different things",
                )
    return sizes


def pass_loops(inputs: Sequence[Type], outputs: Sequence[Type], names: Iterable[str]) -> tuple[Loop, ...]:
    """A freely splittable loop for each of `names`, walking the dim of that name wherever it occurs."""
    return _pass_loops(tuple(inputs), tuple(outputs), tuple(names))


@lru_cache(1 << 14)
def _pass_loops(inputs: tuple[Type, ...], outputs: tuple[Type, ...], names: tuple[str, ...]) -> tuple[Loop, ...]:
    return tuple([_same_name_loop("pass", n, inputs, outputs) for n in names])


def same_name_loop(kind: str, name: str, inputs: Sequence[Type], outputs: Sequence[Type]) -> Loop:
    """A loop over the dim `name` of all operands and results that have it."""
    return _same_name_loop(kind, name, tuple(inputs), tuple(outputs))


@lru_cache(1 << 14)
def _same_name_loop(kind: str, name: str, inputs: tuple[Type, ...], outputs: tuple[Type, ...]) -> Loop:
    size = next(t.size(name) for t in (*inputs, *outputs) if t.has(name))
    return Loop(
        kind,  # type: ignore[arg-type]
        size,
        tuple([name if t.has(name) else None for t in inputs]),
        tuple([name if t.has(name) else None for t in outputs]),
    )


def rest(type: Type, *without: str) -> tuple[str, ...]:
    """The names of the dims but for some."""
    return tuple(n for n in type.names if n not in without)


def replace(type: Type, name: str, *dims: Dim) -> Type:
    """The type with `dims` in the place of dim `name`."""
    out: list[Dim] = []
    for d in type.dims:
        out.extend(dims if d.name == name else (d,))
    return Type(type.dtype, tuple(out))


def dtype_of(type: Type) -> str:
    """The dtype of a result: for `Op.derived`."""
    return type.dtype


def dims_of(type: Type) -> tuple[Dim, ...]:
    """The dims of a result: for `Op.derived`."""
    return type.dims


def names_of(type: Type) -> tuple[str, ...]:
    """The names of a result's dims: for `Op.derived`."""
    return type.names


@dataclass(frozen=True, slots=True)
class View(Op):
    """Base of linear ops of one operand that only rearrange: computed again rather than kept."""

    movement: ClassVar[Movement] = Movement.VIEW

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)

    def cheap(self) -> bool:
        return True
