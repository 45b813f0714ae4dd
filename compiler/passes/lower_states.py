"""States of a model in forward functions: which of them a stage has, their buffers, and how these are renewed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from compiler.graph import Value
from compiler.model import State
from compiler.ops.base import Movement
from compiler.ops.effects import Write
from compiler.ops.elementwise import Cast
from compiler.passes.buffers import of_chunk
from compiler.passes.emit import Emitter, LoopPart
from compiler.passes.place.place import Placed
from compiler.program import StateDecl

Renewed = tuple[State, Value]
"""A state, and the value that it contains after the forward pass: its own, where nothing renews it."""


def contents(placed: Placed) -> list[Renewed]:
    """All states of the model."""
    training = placed.training
    outputs = placed.forward.outputs[training.asked : training.results]
    return list(zip(training.model.states, outputs, strict=True))


def reached(
    pairs: Sequence[Renewed], first: Collection[str], entering: Callable[[Sequence[Value]], Collection[str]]
) -> list[Renewed]:
    """The states, by name, of a stage that has `first`: also those that it reads, for whatever it makes.

    entering: names of what enters the stage, if it makes these values besides.
    """
    found = set(first)
    while pairs:
        wanted = [v for s, v in pairs if s.name in found]
        more = {s.name for s, _ in pairs if s.name not in found} & set(entering(wanted))
        if not more:
            break
        found |= more
    return [(s, v) for s, v in pairs if s.name in found]


def declared(placed: Placed, renewed: Sequence[Renewed], chunk: int, part: LoopPart | None) -> list[StateDecl]:
    """The buffers of these states."""
    found = []
    for s, _ in renewed:
        type, layout = part.type(s.value.type) if part else s.value.type, placed.states[s.name]
        found.append(StateDecl(of_chunk(s.name, chunk), s.role, type, layout, chunk, s.init, logical=s.name))
    return found


def renew(emit: Emitter, placed: Placed, renewed: Sequence[Renewed], chunk: int) -> None:
    """Write the new contents. What is still the memory of another state is copied before that is renewed."""
    made = {v.name: node for node in placed.forward.nodes for v in node.outputs}
    states = {s.name for s, _ in renewed}
    for s, v in renewed:
        source = v
        while (node := made.get(source.name)) is not None and node.op.movement is Movement.VIEW:
            source = node.inputs[0]
        if source.name in states and v.name != s.name:
            copy = emit.add(Cast(v.type.dtype), [emit.value(v)], f"{s.name}.copy", v, v.layout)
            emit.defined[f"{s.name}.copy"] = copy
    for s, v in renewed:
        if v.name == s.name:
            continue
        copied = emit.defined.get(f"{s.name}.copy")
        emit.write(Write(of_chunk(s.name, chunk)), emit.value(v) if copied is None else copied)
