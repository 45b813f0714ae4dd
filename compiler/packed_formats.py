"""In which formats a program's packed weights rest: found where they are unpacked, so that texts of programs tell it,
too."""

from __future__ import annotations

from math import prod

from compiler.declared import logical, logical_type
from compiler.graph import Graph, Type, Value
from compiler.ops.call import Call
from compiler.ops.effects import Read
from compiler.ops.elementwise import Map
from compiler.ops.packed import Dequantise, Integers
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import Program
from compiler.weight_format import SPARSE, WeightFormat, unit, words
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class RestingFormat:
    """How a weight rests. words: the name of its words; others: those of its other parts. format: with the group that
    it has, all inputs of an output where they share a scale."""

    words: str
    others: tuple[str, ...]
    format: WeightFormat


def packed_formats(program: Program) -> dict[str, RestingFormat]:
    """Those of a program's packed weights, by the names of their words in the serial program."""
    found: dict[str, RestingFormat] = {}
    for cls in program.classes:
        decls = {s.name: s for s in cls.states if s.role is Role.WEIGHT}
        if all(s.type.dtype != "uint32" for s in decls.values()):
            continue
        for function in cls.functions:
            for code, parts in _unpacked(function.body, {}):
                if all(name in decls for name in parts):
                    names = [logical(decls[name]) for name in parts]
                    types = [logical_type(decls[name], cls) for name in parts]
                    found[names[0]] = RestingFormat(names[0], tuple(names[1:]), _format(code, types))
    return found


def _format(code: str, types: list[Type]) -> WeightFormat:
    if code == SPARSE:
        return WeightFormat(code)
    numbers = prod(types[0].shape) // words(code) * unit(code)
    return WeightFormat(code, numbers // (prod(types[1].shape) or 1), len(types) > 2)


def _unpacked(graph: Graph, known: dict[Value, str]) -> list[tuple[str, list[str]]]:
    """What is unpacked in a graph: the format, and the buffers that its operands come from. known: the buffers that
    its inputs come from."""
    found: list[tuple[str, list[str]]] = []
    sums: dict[Value, tuple[str, str]] = {}  # of a weight's integers, not scaled yet: the format, and its words
    for node in graph.nodes:
        if isinstance(node.op, Read):
            known[node.output] = node.op.name
        elif isinstance(node.op, (Repeat, Call)):
            inside = {p: known[v] for p, v in zip(node.op.body.inputs, node.inputs) if v in known}
            found += _unpacked(node.op.body, inside)
        elif isinstance(node.op, Integers):
            if node.inputs[0] in known:
                sums[node.output] = node.op.code, known[node.inputs[0]]
        elif node.op.unpacks:
            if all(v in known for v in node.inputs):
                code = node.op.code if isinstance(node.op, Dequantise) else SPARSE
                found.append((code, [known[v] for v in node.inputs]))
        elif of := [sums[v] for v in node.inputs if v in sums]:
            scales = [known[v] for v in node.inputs if v in known] if isinstance(node.op, Map) else []
            if scales:
                found.append((of[0][0], [of[0][1], *scales]))
            else:
                sums |= dict.fromkeys(node.outputs, of[0])
        elif len(of_all := {known.get(v, "") for v in node.inputs}) == 1 and "" not in of_all:
            known |= dict.fromkeys(node.outputs, *of_all)  # moved, gathered, cut
    return found
