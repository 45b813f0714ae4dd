"""Graphs as text, for reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from compiler.graph import Dim, Graph, Node, Value
from compiler.layout import Layout
from compiler.ops.base import Op
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat

Show = Callable[[Value], str]
"""A value where it is defined: its name and type, as a rule."""


def show_graph(graph: Graph, shown: Show = str) -> str:
    """One node per line, bodies of loops indented.

    graph gpt(%tokens: int32[b=4, s=8], …) {
      %x: f32[b=4, s=8, d=16] = take[dim=v] %wte, %tokens
      …
      return %loss
    }
    """
    lines = [f"graph {graph.name}("]
    lines += [f"    {shown(v)}" for v in graph.inputs]
    lines.append(") {")
    lines += _nodes(graph, "  ", shown)
    lines.append(f"  return {_names(graph.outputs)}".rstrip())
    lines.append("}")
    return "\n".join(lines) + "\n"


def show_op(op: Op) -> str:
    """Mnemonic and attributes: `slice[dim=s, start=0, stop=4, into=s]`."""
    if isinstance(op, Map):
        return op.fn
    # a relayout's layout is that of its result, and shown there
    values = [(f.name, getattr(op, f.name)) for f in fields(op)]
    given = ", ".join(f"{name}={show_attribute(x)}" for name, x in values if not isinstance(x, Layout))
    return f"{op.mnemonic}[{given}]" if given else op.mnemonic


def show_attribute(value: object) -> str:
    """Tuples in parentheses, dims as `name=size`, strings bare."""
    if isinstance(value, tuple):
        inside = ", ".join(show_attribute(v) for v in value)
        return f"({inside})"
    if isinstance(value, Dim | str):
        return str(value)
    return repr(value)


def _names(values: tuple[Value, ...]) -> str:
    return ", ".join(f"%{v.name}" for v in values)


def _nodes(graph: Graph, indent: str, shown: Show) -> Iterator[str]:
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            yield from _repeat(node, node.op, indent, shown)
        else:
            results = ", ".join(map(shown, node.outputs))
            operands = _operands(node)
            yield f"{indent}{results} = {show_op(node.op)}{' ' if operands else ''}{operands}"


def _operands(node: Node) -> str:
    """Operands; those of a map in their slots, among its literals."""
    op = node.op
    if not isinstance(op, Map):
        return _names(node.inputs)
    values = iter(node.inputs)
    return ", ".join(f"%{next(values).name}" if s is None else repr(s) for s in op.slots)


def _repeat(node: Node, op: Repeat, indent: str, shown: Show) -> Iterator[str]:
    order = (" scan" if op.scan else "") + (" reverse" if op.reverse else "")
    yield f"{indent}repeat {op.label} {op.count}{order} {{"
    inner = indent + "  "
    for i, (param, given) in enumerate(zip(op.body.inputs, node.inputs)):
        if i < op.carries:
            yield f"{inner}carry {shown(param)} = %{given.name}"
        elif i < op.carries + op.stacks:
            yield f"{inner}slice {shown(param)} of %{given.name}"
        else:
            yield f"{inner}with  {shown(param)} = %{given.name}"
    yield from _nodes(op.body, inner, shown)
    for i, (result, out) in enumerate(zip(op.body.outputs, node.outputs)):
        yield f"{inner}{'next ' if i < op.carries else 'stack'} %{result.name} -> {shown(out)}"
    yield f"{indent}}}"
