"""How each op's attributes are spelled in `.npu`, for the printer and the parser alike.

An instruction is `results = op operands attributes`. An attribute is a word and a value; which words, and in which
order, stands in the op's class (`Op.spelling`; without it fields go by their names). What the result's type says
already (`Op.derived`) is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

from compiler.graph import Dim, Value
from compiler.layout import TIME
from compiler.ops.base import Derive, Op
from compiler.ops.comm import Relayout
from compiler.ops.registry import OPS as REGISTRY
from compiler.ops.repeat import Repeat
from dsl.data import dataclass

OPS: dict[str, type[Op]] = {
    **{m: c for m, c in REGISTRY.items() if c is not Relayout},
    Repeat.mnemonic: Repeat,
}
"""Ops that a lowered program may hold."""

WORD = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*(?:#\d+)?", re.ASCII)
AXES = "axes"
"""The field of ops that holds axes of the mesh."""

_VALUES = frozenset(("true", "false", "none", "inf", "nan"))


@dataclass(frozen=True, slots=True)
class Attr:
    """One attribute: the word before it ("" for none), its field and what it may hold."""

    word: str
    field: str
    kind: str
    derive: Derive | None

    @property
    def many(self) -> bool:
        return self.kind.startswith("tuple[")


_SPELLED: dict[str, tuple[Attr, ...]] = {}


def attributes(op: type[Op]) -> tuple[Attr, ...]:
    """The attributes of an op in the order of its text."""
    known = _SPELLED.get(op.__qualname__)
    if known is None:
        kinds = {f.name: str(f.type) for f in fields(op)}
        spelled = op.spelling or tuple((name, name) for name in kinds)
        known = tuple(Attr(word, name, kinds[name], op.derived.get(name)) for word, name in spelled)
        _SPELLED[op.__qualname__] = known
    return known


_SCALARS: dict[str, Callable[[object], bool]] = {
    "str": lambda v: isinstance(v, str),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "bool": lambda v: isinstance(v, bool),
    "Dim": lambda v: isinstance(v, Dim),
    "tuple[str, str]": lambda v: isinstance(v, tuple) and len(v) == 2 and all(isinstance(x, str) for x in v),
}


def fits(kind: str, value: object) -> bool:
    """Whether an attribute annotated `kind` may hold the value."""
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    if kind.startswith("tuple[") and kind.endswith(", ...]"):
        return isinstance(value, tuple) and all(fits(kind[6:-6], v) for v in value)
    return False


def describe(kind: str) -> str:
    """What a value of this kind is called in messages."""
    names = {"str": "a name", "int": "an integer", "float": "a number", "Dim": "a dim `name=size`"}
    if kind.startswith("tuple["):
        inner = kind[6:-6]
        return "a list of pairs `old -> new`" if inner.startswith("tuple") else f"a list of: {names.get(inner, inner)}"
    return names.get(kind, kind)


# --- values --------------------------------------------------------------------------------------


@lru_cache(1 << 14)
def quote(name: str) -> str:
    """A name as it stands in text: bare where it is a plain word, in quotes otherwise."""
    return name if WORD.fullmatch(name) and name not in _VALUES else json.dumps(name)


MICRO = "mb"
"""The axis of micro-batches in text, where an axis stands; one of the mesh that is called so stands in quotes."""


def show_axis(name: str) -> str:
    """An axis as it stands in text."""
    return MICRO if name == TIME else json.dumps(name) if name == MICRO else quote(name)


def show_number(value: float) -> str:
    """Exactly: `float(show_number(x))` is x, and integers stay integers."""
    return repr(value)


def show_dims(dims: Sequence[Dim]) -> str:
    """Prints dims as a type has them: `b=8, d=4`."""
    return ", ".join(f"{quote(d.name)}={d.size}" for d in dims)


def show_value(value: Any, many: bool = False, name: Callable[[str], str] = quote) -> str:
    """An attribute's value; `many`: a list, whose brackets are left out around a single element; name: of names."""
    if isinstance(value, str):
        return name(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return show_number(value)
    if isinstance(value, Dim):
        return f"{quote(value.name)}={value.size}"
    if isinstance(value, tuple):
        parts = (
            _runs(value)
            if len(value) > 2 and all(type(v) is int for v in value)
            else [_element(v, name) for v in value]
        )
        return parts[0] if many and len(value) == 1 else f"({', '.join(parts)})"
    raise TypeError(f"{value!r} has no text form")


def _element(value: Any, name: Callable[[str], str]) -> str:
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value):
        return f"{quote(value[0])} -> {quote(value[1])}"
    return show_value(value, name=name)


def _runs(values: Sequence[int]) -> list[str]:
    return [show_run(first, last) for first, last in runs(values)]


def runs(values: Sequence[int]) -> list[tuple[int, int]]:
    """Integers as (first, last) of maximal runs that ascend by one."""
    found: list[tuple[int, int]] = []
    for v in values:
        if found and v == found[-1][1] + 1:
            found[-1] = (found[-1][0], v)
        else:
            found.append((v, v))
    return found


def show_run(first: int, last: int) -> str:
    """`first..last`, both included."""
    return str(first) if first == last else f"{first}..{last}"


def show_attributes(op: Op, outputs: Sequence[Value], without: str = "") -> str:
    """The attributes of an op, each preceded by a space; without: the field that is left out."""
    text = ""
    for a in attributes(type(op)) if not isinstance(op, Relayout) else ():  # whose layout is that of its result
        if a.field == without:
            continue
        value = getattr(op, a.field)
        if a.derive is not None and outputs and value == a.derive(outputs[0].type):
            continue
        if a.kind == "bool":
            text += f" {a.word}" if value else ""
        else:
            text += f" {a.word}" if a.word else ""
            text += f" {show_value(value, a.many, show_axis if a.field == AXES else quote)}"
    return text


def show_within(within: tuple[int, int] | None) -> str:
    """The range that a state's integers stay in, behind what else is said of it."""
    return "" if within is None else f" within {within[0]}..{within[1]}"
