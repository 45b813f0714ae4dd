"""More ways to break a program than `tests.program.mutations` has, which keep it legal more often: what computes
something else with the right types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from compiler.graph import Node
from compiler.model import Init
from compiler.ops.effects import Accumulate, Read
from compiler.ops.elementwise import Map
from compiler.program import Program
from tests.mutations.test_caught import crossed
from tests.program.mutations import _edited, _places, _with, _with_class, mutations

KINDS = {
    "operands": "two operands change places",
    "function": "another function of the same operands",
    "twice": "a gradient is accumulated twice",
    "other": "another weight is read",
    "order": "two elements of the schedule change places",
    "init": "a weight begins otherwise",
}

_OTHER = {"add": "sub", "sub": "add", "mul": "add", "div": "mul", "maximum": "minimum", "minimum": "maximum",
          "exp": "tanh", "tanh": "sin", "sin": "cos", "sqrt": "rsqrt", "rsqrt": "sqrt", "gt": "ge", "lt": "le",
          "ge": "gt", "le": "lt", "eq": "ne", "neg": "abs"}  # fmt: skip
_ORDERED = ("sub", "div", "pow", "gt", "lt", "ge", "le", "where")


def all_mutations(program: Program) -> Iterator[tuple[str, Program]]:
    """(what was done, the broken program): those of the tests, and more."""
    yield from mutations(program)
    yield from crossed(program)
    for c, cls in enumerate(program.classes):
        for f, function in enumerate(cls.functions):
            for path, instr in _places(function.body, ()):
                for kind, made in _broken(instr):
                    values = ", ".join(v.name for v in (*instr.inputs, *instr.outputs))
                    name = f"{kind}: {instr.op.mnemonic} {values} (class {c}, {function.phase}.{function.chunk})"
                    yield name, _with(program, c, f, _edited(function.body, path, made))
            yield from _other_reads(program, c, f)
        for i, (a, b) in enumerate(pairwise(cls.schedule)):
            if a != b:
                schedule = (*cls.schedule[:i], b, a, *cls.schedule[i + 2 :])
                yield (
                    f"order: elements {i}, {i + 1} (class {c})",
                    _with_class(program, c, replace(cls, schedule=schedule)),
                )
    yield from _begun(program)


def _broken(instr: Node) -> Iterator[tuple[str, list[Node]]]:
    op = instr.op
    if isinstance(op, Map):
        if op.fn in _ORDERED and len(instr.inputs) >= 2:
            *rest, a, b = instr.inputs
            if a is not b and (a.type, a.layout) == (b.type, b.layout):
                yield "operands", [replace(instr, inputs=(*rest, b, a))]
        if op.fn in _OTHER:
            yield "function", [replace(instr, op=replace(op, fn=_OTHER[op.fn]))]
    if isinstance(op, Accumulate):
        yield "twice", [instr, instr]


def _other_reads(program: Program, c: int, f: int) -> Iterator[tuple[str, Program]]:
    """A function reads a weight or a state of the same type and layout in place of another."""
    function = program.classes[c].functions[f]
    reads = [(i, n) for i, n in enumerate(function.body.nodes) if isinstance(n.op, Read)]
    for (i, a), (_, b) in pairwise(reads):
        u, v = a.outputs[0], b.outputs[0]
        assert isinstance(a.op, Read) and isinstance(b.op, Read)
        if (u.type, u.layout) == (v.type, v.layout) and a.op.name != b.op.name:
            made = [replace(a, op=b.op)]
            name = f"other: {b.op.name} for {a.op.name} (class {c}, {function.phase}.{function.chunk})"
            yield name, _with(program, c, f, _edited(function.body, (i,), made))


def _begun(program: Program) -> Iterator[tuple[str, Program]]:
    """A weight or a state begins otherwise, wherever there is a part of it."""
    begun = {s.logical: s.init for cls in program.classes for s in cls.states if s.init is not None}
    for name, init in begun.items():
        other = Init("ones", ()) if init.kind != "ones" else Init("zeros", ())
        classes = [
            replace(
                cls, states=tuple(replace(s, init=other) if s.logical == name and s.init else s for s in cls.states)
            )
            for cls in program.classes
        ]
        yield f"init: {name} is {other.kind}", program.with_classes(tuple(classes))
