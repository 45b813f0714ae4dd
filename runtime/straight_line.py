"""What those share that write a function of a program as straight-line Python: one variable per value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from compiler.graph import Graph, Names
from compiler.layout import TIME
from compiler.ops.call import Call
from compiler.passes.copying import expanded
from compiler.program import Function
from compiler.walk import graph_values


class StraightLine:
    """Lines of Python, and the closures and constants that they speak of."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.names: dict[str, Any] = {}
        self.lines: list[str] = []
        self.count = 0
        self.sunk: set[str] = set()
        """Stacks that are made only for the first micro-batch."""
        self.pending = {v.name: fn for i in function.body.nodes for v in i.outputs if (fn := v.layout.pending_on(TIME))}

    def fresh(self) -> str:
        """A variable that is free."""
        self.count += 1
        return f"v{self.count}"

    def bind(self, thing: Any) -> str:
        """A global name for a planned closure or constant."""
        name = f"k{len(self.names)}"
        self.names[name] = thing
        return name

    def put(self, depth: int, line: str) -> None:
        """Write a line."""
        self.lines.append("    " * depth + line)

    def compiled(self, parameters: str, program: str) -> tuple[Callable[..., Any], str]:
        """The lines as a function of these parameters, and its text."""
        text = "\n".join([f"def run({parameters}):", *(self.lines or ["    pass"])])
        exec(compile(text, f"<{program} {self.function.phase}.{self.function.chunk}>", "exec"), self.names)
        return self.names["run"], text


def without_calls(body: Graph) -> Graph:
    """The body with the functions that it calls in their place."""
    if not any(isinstance(i.op, Call) for i in body.nodes):
        return body
    return replace(body, nodes=tuple(expanded(body.nodes, Names(v.name for v in graph_values(body)))))
