"""Facts as text: numbers, texts, lists and records of a job (`MeshAxis(name = "dp", size = 2)`).

What a field holds by default is left out; spans stand in a table of their own (`compiler.text.spans`).
"""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import compiler.cluster
import compiler.model
import compiler.strategy
from compiler.text.attrs import show_number
from compiler.text.cursor import MAX_NESTING, Cursor
from dsl.diagnostics import did_you_mean
from dsl.units import Dimension, Quantity

RECORDS: dict[str, type[Any]] = {
    name: cls
    for module in (compiler.cluster, compiler.model, compiler.strategy)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and is_dataclass(cls)
} | {"Quantity": Quantity, "Dimension": Dimension}


def is_told(f: Field[Any]) -> bool:
    """Whether a field stands in the record, and not in the table of spans."""
    return "Span" not in str(f.type)


def show_fact(value: object) -> str:
    """Any fact that `FactParser.fact` reads."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return show_number(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(show_fact, value))})"
    assert is_dataclass(value), value
    told = [(f.name, getattr(value, f.name)) for f in fields(value) if is_told(f)]
    defaults = {f.name: f.default for f in fields(value) if f.default is not MISSING}
    given = (f"{name} = {show_fact(x)}" for name, x in told if name not in defaults or defaults[name] != x)
    return f"{type(value).__name__}({', '.join(given)})"


@cache
def _hints(name: str) -> dict[str, Any]:
    return get_type_hints(RECORDS[name])


def fits(value: object, hint: Any) -> bool:
    """Whether a fact is of the type that a record states."""
    inner = get_args(hint)
    if hint is Any:
        return True
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        of = [inner[0]] * len(value) if inner[-1:] == (Ellipsis,) else inner
        return len(of) == len(value) and all(map(fits, value, of))
    if inner:  # one of several
        return any(fits(value, h) for h in inner)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is hint


class FactParser(Cursor):
    """Reads facts."""

    def fact(self, depth: int = 0) -> Any:
        """A number, a text in quotes, `true`, `false`, `none`, a list in brackets, or a record."""
        start = self.token
        if depth > MAX_NESTING:
            raise self.error("E0608", f"brackets are nested deeper than {MAX_NESTING}")
        if start.kind == "string":
            return self.next().text
        if start.kind == "(":
            self.next()
            found = []
            while not self.sees(")"):
                found.append(self.fact(depth + 1))
                if not self.take(","):
                    break
            self.mark(")")
            return tuple(found)
        if start.kind == "word" and start.text not in ("inf", "nan"):
            if start.text in ("none", "true", "false"):
                return {"none": None, "true": True, "false": False}[self.next().text]
            return self._record(depth)
        return self.number()

    def fact_of(self, hint: Any) -> Any:
        """A fact of a type."""
        start = self.token
        found = self.fact()
        if not fits(found, hint):
            raise self.error("E0606", f"expected {getattr(hint, '__name__', hint)}", start)
        return found

    def _record(self, depth: int) -> Any:
        start = self.token
        name = self.next().text
        cls = RECORDS.get(name)
        if cls is None:
            raise self.error("E0603", f"there are no facts `{name}`", start, did_you_mean(name, RECORDS))
        known = {f.name: f for f in fields(cls) if is_told(f)}
        given: dict[str, Any] = {}
        self.mark("(")
        while not self.sees(")"):
            here = self.token
            field = self.text("the name of a fact")
            if field not in known or field in given:
                raise self.error("E0606", f"{name} has no `{field}`, or has it already", here)
            self.mark("=")
            at = self.token
            given[field] = self.fact(depth + 1)
            if not fits(given[field], _hints(name)[field]):
                raise self.error("E0606", f"{name}: `{field}` holds {known[field].type}", at)
            if not self.take(","):
                break
        self.mark(")")
        missing = [f for f in known if f not in given and known[f].default is MISSING]
        if missing and known[missing[0]].default_factory is MISSING:
            raise self.error("E0606", f"{name} lacks `{missing[0]}`", start)
        return cls(**given)
