"""How often each kind of operation stands in a program's functions: what it computes, apart from names and order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from compiler.ops.call import Call
from compiler.ops.effects import Effect, Input
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.text.attrs import quote, show_attributes, show_value
from compiler.walk import bodies

if TYPE_CHECKING:
    from compiler.graph import Node
    from compiler.program import Program


def operations(program: Program) -> dict[str, float]:
    """`train_step F div ., 32` -> how many stand in the text of that function, of all classes; those of a loop once."""
    found = Counter[str]()
    for entry in program.entries:
        for f in (f for cls in entry.classes for f in cls.functions):
            found.update(f"{entry.name} {f.phase} {_kind(n)}" for body in bodies(f.body) for n in body.nodes)
    return {title: float(found[title]) for title in sorted(found)}


def _kind(node: Node) -> str:
    """The op with its literals and attributes; a point for each operand of an element-wise one that has literals."""
    op = node.op
    if isinstance(op, Repeat):
        return f"repeat {quote(op.label)} {op.count}"
    if isinstance(op, Call):
        return f"call {quote(op.body.name)}"
    if isinstance(op, Map):
        slots = ["." if s is None else show_value(s) for s in op.slots]
        return quote(op.fn) + (f" {', '.join(slots)}" if any(s is not None for s in op.slots) else "")
    unnamed = "name" if isinstance(op, Effect) and not isinstance(op, Input) else ""
    return f"{op.mnemonic}{show_attributes(op, node.outputs, unnamed)}"
