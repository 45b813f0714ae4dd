"""States of a model in forward functions: which of them a stage has, their buffers, and how these are renewed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from compiler.graph import Node, Value
from compiler.layout import TIME
from compiler.model import State
from compiler.ops.base import Movement
from compiler.ops.effects import Accumulate, Write
from compiler.ops.elementwise import Cast
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.passes.buffers import BufferNames, of_chunk
from compiler.passes.emit import Emitter, LoopPart
from compiler.passes.place.place import Placed
from compiler.passes.prune import prune_nodes
from compiler.passes.stage import Staged
from compiler.program import StateDecl

Renewed = tuple[State, Value]
"""A state, and the value that it contains after the forward pass: its own, where nothing renews it."""


def contents(placed: Placed) -> list[Renewed]:
    """All states of the model."""
    training = placed.training
    outputs = placed.forward.outputs[training.asked : training.results]
    return list(zip(training.model.states, outputs, strict=True))


def by_each(placed: Placed, where: Mapping[str, int | None]) -> frozenset[str]:
    """States, by name, that every stage renews, whether it reads them or not: where totals of a first pass are read at
    the end, each entry does what is left where it likes, and states must lie in the same places for all of them.

    Those are they whose training renews them of data and states alone, which each can have: an evaluation that renews
    others lets them lie where it reads them. where: stages of the values of the forward pass."""
    job = placed.training.job
    if not job.strategy.two_passes or not job.model.states:
        return frozenset()
    weights, found = {w.value for w in job.model.weights}, set[str]()
    whole = dict(
        zip((s.name for s in job.model.states), job.model.graph.outputs[-len(job.model.states) :], strict=True)
    )
    for s, v in contents(placed):
        used = {x for node in prune_nodes(job.model.graph.nodes, [whole[s.name]]) for x in node.inputs}
        if where.get(v.name) is None and weights.isdisjoint(used):
            found.add(s.name)
    return frozenset(found)


def held(placed: Placed, staged: Staged, stage: int) -> set[str]:
    """States, by name, that a stage has whether it reads them or not. Those of a loop that is cut: where some of its
    iterations are, whether the entry renews them or not."""
    where = staged.forward
    each, found = by_each(placed, where), set[str]()
    for s, v in contents(placed):
        cut = staged.cut_of(*s.loops)
        has = s.name in each or stage in staged.stages_of(v, where) if cut is None else stage in cut.stages
        found.update([s.name] if has else [])
    return found


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
        name = of_chunk(s.name, chunk)
        found.append(StateDecl(name, s.role, type, layout, chunk, s.init, logical=s.name, within=s.within))
    return found


def adding(
    placed: Placed, names: BufferNames, renewed: Sequence[Renewed], chunk: int, part: LoopPart | None
) -> dict[str, StateDecl]:
    """By the names of the states: the buffers in which what they are to contain is summed up over the micro-batches."""
    found = {}
    for s, v in renewed:
        if v.name != s.name and v.layout.pending_on(TIME) is not None:
            name, type = of_chunk(names.renewed[s.name], chunk), part.type(v.type) if part else v.type
            found[s.name] = StateDecl(name, Role.STATISTIC, type, placed.states[s.name], chunk, logical=name)
    return found


def renew(
    emit: Emitter, placed: Placed, renewed: Sequence[Renewed], chunk: int, summed: Mapping[str, StateDecl]
) -> None:
    """Write the new contents, or add to them. What is still the memory of another state is copied before that is
    renewed."""
    for s, v in renewed:
        if s.name in summed:
            emit.do(Accumulate(summed[s.name].name), v)
    renewed = [(s, v) for s, v in renewed if s.name not in summed]
    nodes, states = placed.forward.nodes, {s.name for s, _ in renewed}
    for s, v in renewed:
        if v.name != s.name and not states.isdisjoint(_shared(nodes, v)):
            copy = emit.add(Cast(v.type.dtype), [emit.value(v)], f"{s.name}.copy", v, v.layout)
            emit.defined[f"{s.name}.copy"] = copy
    for s, v in renewed:
        if v.name == s.name:
            continue
        copied = emit.defined.get(f"{s.name}.copy")
        emit.write(Write(of_chunk(s.name, chunk)), emit.value(v) if copied is None else copied)


def _shared(nodes: Sequence[Node], value: Value) -> set[str]:
    """Names of values in whose memory this one may be: what it is a view of, or what a loop carries through."""
    made = {v.name: (node, k) for node in nodes for k, v in enumerate(node.outputs)}
    while value.name in made:
        node, k = made[value.name]
        if node.op.movement is Movement.VIEW:
            value = node.inputs[0]
            continue
        if isinstance(node.op, Repeat) and k < node.op.carries:
            body = node.op.body
            if _shared(body.nodes, body.outputs[k]) & {v.name for v in body.inputs if v is not body.inputs[k]}:
                return {name for v in node.inputs[: node.op.carries] for name in _shared(nodes, v)}
        break
    return {value.name}
