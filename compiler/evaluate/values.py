"""What names and expressions stand for: static values, dims, tensors, weights, axes, definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Union

from compiler.graph import Dim, Value
from dsl import ast
from dsl.data import dataclass
from dsl.units import Quantity

AUTO = "auto"
"""What stands for a number that `parc plan` finds, where nothing else is called so."""

if TYPE_CHECKING:
    from compiler.evaluate.frame import Frame
    from compiler.evaluate.modules import Module

Number = int | float
Static = Union[bool, int, float, str, Quantity, tuple["Static", ...]]  # noqa: UP007 (recursive)


@dataclass(frozen=True, slots=True)
class DimList:
    """Several dims, as in `over (h, w)`."""

    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class AxisRef:
    """A mesh axis in a strategy; stands for its size where a number is expected."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Words:
    """Names that a strategy hands to a tactic: `over (h, f)`."""

    names: tuple[str, ...]


@dataclass(slots=True, eq=False)
class WeightVar:
    """A declared weight. Reading it casts it to the compute dtype, once per graph; `raw` is in master precision.

    `declared` is the whole weight (with loop dims); `raw` the part that the declaring graph sees, in `frame`.
    """

    declared: Value
    raw: Value
    read: bool = False
    casts: dict[Frame, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallResults:
    """What a call with several results gives."""

    values: tuple[Bound, ...]


class Broken:
    """The value of a name whose definition had an error that is already reported."""


BROKEN = Broken()


@dataclass(frozen=True, slots=True, eq=False)
class Defined:
    """A definition and the module that it stands in. read: the definition, as it is parsed."""

    name: str
    read: Callable[[], ast.Definition]
    module: Module

    @property
    def item(self) -> ast.Definition:
        return self.read()


Bound = Static | Dim | DimList | AxisRef | Words | Value | WeightVar | CallResults | Broken


class Skip(Exception):
    """Something cannot be evaluated because of an error that is already reported."""


def kind_of(value: Bound) -> str:
    """The value's kind, for messages: `a tensor bf16[b=4]`."""
    match value:
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a float"
        case str():
            return "a string"
        case Quantity():
            return str(value.dimension)
        case tuple():
            return "a list"
        case Dim():
            return f"the dim `{value.name}`"
        case DimList():
            return "a list of dims"
        case AxisRef():
            return f"the mesh axis `{value.name}`"
        case Words():
            return "a list of names"
        case Value():
            return f"a tensor {value.type}"
        case WeightVar():
            return f"a weight {value.raw.type}"
        case CallResults():
            return f"{len(value.values)} results"
        case Broken():
            return "an erroneous value"


def show_static(value: Static) -> str:
    """As it would be written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(show_static, value))}]"
    return str(value)


def is_static(value: Bound) -> bool:
    """Whether the value is known when the file is evaluated (dims and axes are: their sizes)."""
    return isinstance(value, (bool, int, float, str, Quantity, tuple, Dim, AxisRef))


def plain(value: Bound) -> Bound:
    """A dim or an axis as its size, everything else as it is."""
    return value.size if isinstance(value, (Dim, AxisRef)) else value
