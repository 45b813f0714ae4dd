"""What a class of devices computes of whole batches: P and S before the first micro-batch, E behind the last.

P adds up over the micro-batches, S makes totals of it, once, with the collectives that this takes; there is a pair for
each round. E makes the loss and metrics of what F has added up. A class computes what it reads itself: data is
everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from compiler.graph import Graph, Names, Node, Value
from compiler.ops.effects import Accumulate, Input, Read, Write
from compiler.origin import Role
from compiler.passes.buffers import BufferNames
from compiler.passes.emit import Emitter
from compiler.passes.place.place import Placed
from compiler.passes.place.results import untimed
from compiler.passes.prune import prune_nodes
from compiler.program import (
    ORIGINS,
    Affine,
    Function,
    FunctionPhase,
    Run,
    Schedule,
    StateDecl,
    Update,
    phase_in,
)
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Batch:
    """`before` and `after` are in the order in which they run. needed: totals, by name, that those behind read."""

    before: tuple[Function, ...]
    after: tuple[Function, ...]
    states: tuple[StateDecl, ...]
    needed: frozenset[str] = frozenset()

    def scheduled(self, schedule: Schedule, microbatches: int) -> Schedule:
        """The schedule with these functions in it."""
        first = tuple(
            Run(f.phase, f.chunk, Affine(0), Affine(microbatches if f.per_microbatch else 1)) for f in self.before
        )
        last = tuple(Run(f.phase, f.chunk, Affine(0), Affine(1)) for f in self.after)
        ends = [i for i, e in enumerate(schedule) if isinstance(e, Update)] or [len(schedule)]
        return (*first, *schedule[: ends[0]], *last, *schedule[ends[0] :])


def lower_batch(
    placed: Placed,
    names: BufferNames,
    made: Collection[str],
    finishes: bool,
    summed: Mapping[str, StateDecl],
) -> Batch:
    """What runs behind the last micro-batch; what runs before the first: `lower_rounds`. made: names of the buffers
    that the class' forward passes fill, from which what waits is finished; finishes: whether the other metrics are
    made here; summed: by state, the buffer in which its new contents are summed up."""
    needed = set[str]()
    states: list[StateDecl] = []
    after: list[Function] = []
    roots, ends = _ends(placed, names, made, finishes)
    if placed.finish is not None and roots:
        needed = {v.name for v in _used(prune_nodes(placed.finish.nodes, roots), roots)} & _totals(placed)
        after.append(_function(FunctionPhase.METRICS, 0, placed, names, placed.finish, roots, [s.name for s in ends]))
        states += ends
    if summed:
        body = after.pop().body.nodes if after else ()
        after.append(Function(FunctionPhase.METRICS, 0, Graph("", (), (*body, *_renewed(body, summed)), ())))
    return Batch((), tuple(after), tuple(states), frozenset(needed))


def _ends(
    placed: Placed, names: BufferNames, made: Collection[str], finishes: bool
) -> tuple[list[Value], list[StateDecl]]:
    """What is finished here, and the buffers of the results."""
    graph, finish = placed.finish, placed.training.finish
    if graph is None:
        return [], []
    results = _results(placed, names)
    found = [
        (results[i], v)
        for i, part, v in zip(placed.waiting, graph.inputs, graph.outputs)
        if names.totals[part.name] in made
    ]
    if finishes and finish is not None:
        rest = zip(finish.metrics, graph.outputs[len(placed.waiting) :], strict=True)
        found += [((Role.METRIC, m, names.metrics[m]), v) for m, v in rest]
    decls = [StateDecl(name, role, v.type, v.layout, logical=logical) for (role, logical, name), v in found]
    return [v for _, v in found], decls


def _renewed(body: Sequence[Node], summed: Mapping[str, StateDecl]) -> Iterable[Node]:
    """The sums become what the states contain."""
    names = Names(v.name for node in body for v in node.outputs)
    for state, decl in summed.items():
        read = Read(decl.name)
        origin = ORIGINS[phase_in(FunctionPhase.METRICS, read)]
        value = Value(names.fresh(decl.name), decl.type, origin=origin, layout=decl.layout)
        yield Node(read, (), (value,))
        yield Node(Write(state), (value,), ())


def _function(
    phase: FunctionPhase,
    chunk: int,
    placed: Placed,
    names: BufferNames,
    graph: Graph,
    roots: Sequence[Value],
    into: Sequence[str],
) -> Function:
    """The part of the graph that the roots need; each is added to a buffer."""
    emit = Emitter(placed, Names(), phase)
    nodes = prune_nodes(graph.nodes, roots)
    used = _used(nodes, roots)
    for v in graph.inputs:
        if v not in used:
            continue
        kept = v.name if v.name in placed.weights or v.name in (s.name for s in placed.training.model.states) else None
        buffer = names.totals.get(v.name, kept)
        effect = Input(v.name) if buffer is None else Read(buffer)
        emit.effect(effect, v, v.layout)
    for node in nodes:
        emit.node(node)
    for v, buffer in zip(roots, into, strict=True):
        emit.do(Accumulate(buffer), v)
    return Function(phase, chunk, emit.body())


def _used(nodes: Iterable[Node], roots: Iterable[Value]) -> set[Value]:
    return {v for node in nodes for v in node.inputs} | set(roots)


def _totals(placed: Placed) -> set[str]:
    return {v.name for v in placed.training.totals}


def _results(placed: Placed, names: BufferNames) -> list[tuple[Role, str, str]]:
    """Role, logical name and buffer of the forward pass' first outputs: the loss and the metrics that are sums."""
    training = placed.training
    loss = [(Role.LOSS, "loss", names.loss)] if training.model.scored else []
    return [*loss, *((Role.METRIC, m, names.metrics[m]) for m in training.summed)]


def sum_decls(placed: Placed, names: BufferNames) -> list[tuple[StateDecl, Value]]:
    """The buffers in which the loss and metrics that are sums are added up, and the values that F adds: their own, or
    those of what waits."""
    given = zip(_results(placed, names), placed.forward.outputs)
    own = [(StateDecl(name, role, v.type, untimed(v.layout), logical=at), v) for (role, at, name), v in given]
    waiting = dict(zip(placed.waiting, placed.parts))
    return [_part(names, *waiting[i]) if i in waiting else pair for i, pair in enumerate(own)]


def part_decls(placed: Placed, names: BufferNames) -> list[tuple[StateDecl, Value]]:
    """The buffers in which parts of other metrics are added up, and the values that F adds."""
    return [_part(names, v, total) for v, total in placed.parts[len(placed.waiting) :]]


def _part(names: BufferNames, value: Value, total: Value) -> tuple[StateDecl, Value]:
    name = names.totals[total.name]
    return StateDecl(name, Role.STATISTIC, value.type, untimed(value.layout), logical=name), value
