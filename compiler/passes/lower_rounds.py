"""What is made of whole batches before the first micro-batch, where stages have parts of it: each computes what lies on
it, sends what others go on with, as in the forward pass, and at the end those have the totals that read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from compiler.graph import Graph, Names, Value
from compiler.ops.base import Op
from compiler.ops.create import Full
from compiler.ops.effects import Accumulate, Read, StageReduce
from compiler.origin import Role
from compiler.passes.buffers import BufferNames, of_chunk
from compiler.passes.emit import Emitter, LoopPart
from compiler.passes.lower_batch import Batch
from compiler.passes.lower_states import contents, declared
from compiler.passes.messages import NOTHING, Ways, messages
from compiler.passes.place.place import Placed
from compiler.passes.prune import prune_nodes
from compiler.passes.stage import Stage, Staged
from compiler.program import Function, FunctionPhase, StateDecl, in_round
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError


@dataclass(frozen=True, slots=True)
class RoundStages:
    """where: the stage of each value of a round; owners: of each of its totals, None where whoever reads it makes it;
    ways: what stages send each other in it; hands_on: those that send something, what a loop carries too."""

    where: Mapping[str, Stage]
    owners: tuple[Stage, ...]
    ways: Ways
    hands_on: frozenset[int]


class Lowered(Protocol):
    """A class of groups."""

    groups: tuple[int, ...]
    states: list[StateDecl]

    def part(self, stage: int) -> LoopPart | None:
        """Which iterations of cut loops a stage has."""

    @property
    def needed(self) -> set[str]:
        """Names of the totals that its functions read."""

    def statistics(self, graph: Graph, chunk: int, stages: RoundStages, ends: Sequence[tuple[Op, Value]]) -> Graph:
        """The part of a round's graph that a chunk computes, for others too. ends: what becomes of its results."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """Of a class: functions in the order in which they run, and their buffers."""

    before: tuple[Function, ...]
    states: tuple[StateDecl, ...]

    def beside(self, batch: Batch) -> Batch:
        """With what runs behind the last micro-batch."""
        return replace(batch, before=self.before, states=(*batch.states, *self.states))


def staged_rounds(placed: Placed, staged: Staged) -> list[RoundStages]:
    """Where each round is computed."""
    found = []
    for round, where in zip(placed.rounds, staged.rounds, strict=True):
        owners = tuple(where.get(v.name) for v in round.batch.outputs)
        pairs = zip(round.batch.outputs, owners, strict=True)
        ends = [(v.name, frozenset((s,))) for v, s in pairs if s is not None]
        ways = messages(round.batch, staged, where, ends, True) if ends else NOTHING
        hands_on = {source for source, _ in ways.edges}
        hands_on |= {s for node in round.batch.nodes if (cut := staged.cut_at(node)) is not None for s in cut.way(True)}
        apart = next((s for s in (*owners, *hands_on) if s is not None), None)
        visits = staged.homes.chunks > 1 and staged.rule is None  # which only the second pass says
        if apart is not None and (visits or staged.everywhere.ways > 1):
            raise _refused(placed)
        found.append(RoundStages(where, owners, ways, frozenset(hands_on)))
    return found


def _refused(placed: Placed) -> ParcError:
    strategy = placed.training.job.strategy
    spans = [*(p.span for p in strategy.pipelines), *(p.span for p in strategy.places)]
    message = "the first of `two passes` goes through each place once, and here places have several stages"
    help = "a pipeline, of one way, or places that no values come back to"
    notes = (("this makes stages", spans[0]),)
    return ParcError(Diagnostic("E0563", message, strategy.microbatch_span, notes, help))


def lower_rounds(
    placed: Placed, names: BufferNames, staged: Staged, rounds: Sequence[RoundStages], classes: Sequence[Lowered]
) -> list[Rounds]:
    """The rounds of each class, in their order. The last first: it says what it needs of those before it."""
    before: list[list[Function]] = [[] for _ in classes]
    states: list[list[StateDecl]] = [[] for _ in classes]
    for k in reversed(range(len(rounds))):
        totals = [names.totals[t.name] for t in placed.training.rounds[k].totals]
        readers = [_readers(t.name, classes) for t in placed.training.rounds[k].totals]
        for c, cls in enumerate(classes):
            stages = [s for chunk in staged.chunks_of(cls.groups) for s in staged.of_chunk(cls.groups[:1], chunk)]
            made = [
                [i for i, s in enumerate(rounds[k].owners) if _makes(s, stage, readers[i], () if chunk else cls.groups)]
                for chunk, stage in enumerate(stages)
            ]
            has = [i for i, groups in enumerate(readers) if groups & {*cls.groups}]
            met = {i: _meeting(rounds[k].owners[i], readers[i], staged) for i in {*has}.union(*made)}
            functions, decls = _round(placed, names, k, rounds[k], cls, stages, made, has, met, totals)
            before[c][:0] = functions
            there = {s.name for s in (*cls.states, *states[c])}
            reads = {n.op.name for f in functions for n in f.body.nodes if isinstance(n.op, Read)} - there
            states[c] += decls
            for chunk, stage in enumerate(stages):  # what only the first pass reads
                alone = [(s, v) for s, v in contents(placed) if of_chunk(s.name, chunk) in reads]
                states[c] += declared(placed, alone, chunk, cls.part(stage))
    return [Rounds(tuple(b), tuple(s)) for b, s in zip(before, states, strict=True)]


def _readers(total: str, classes: Sequence[Lowered]) -> set[int]:
    """The groups that read a total."""
    return {g for cls in classes if total in cls.needed for g in cls.groups}


def _makes(owner: Stage, stage: int, readers: Collection[int], groups: Sequence[int]) -> bool:
    """Whether groups compute a total: their own that anyone reads, or what they read and everyone can compute."""
    return bool(readers) and owner == stage if owner is not None else not {*groups}.isdisjoint(readers)


def _meeting(owner: Stage, readers: Collection[int], staged: Staged) -> tuple[int, ...]:
    """The groups that have to meet for a total: the one that makes it, and who reads it, if these are others."""
    groups = {*readers, *([] if owner is None else [staged.homes.group(owner)])}
    return tuple(sorted(groups)) if owner is not None and len(groups) > 1 else ()


def _round(
    placed: Placed,
    names: BufferNames,
    k: int,
    stages: RoundStages,
    cls: Lowered,
    chunks: Sequence[int],
    made: Sequence[Sequence[int]],
    has: Sequence[int],
    met: Mapping[int, tuple[int, ...]],
    totals: Sequence[str],
) -> tuple[list[Function], list[StateDecl]]:
    """P of each chunk and S of a class. chunks: their stages; made: of each, numbers of the totals that it computes;
    has: of those that the class reads; met: by number, the groups that meet for it."""
    round = placed.rounds[k]
    functions: list[Function] = []
    states: list[StateDecl] = []
    mine = sorted(i for of in made for i in of)
    parts = {i: names.totals[round.settle.inputs[i].name] for i in mine}
    for chunk, (stage, of) in enumerate(zip(chunks, made, strict=True)):
        if of or stage in stages.hands_on:
            ends = [(Accumulate(parts[i]), round.batch.outputs[i]) for i in of]
            body = cls.statistics(round.batch, chunk, stages, ends)
            functions.append(Function(FunctionPhase.STATISTICS, in_round(k, chunk), body))
    states += [_decl(name, round.settle.inputs[i]) for i, name in parts.items()]
    if mine or has:
        emit = Emitter(placed, Names(), FunctionPhase.TOTALS)
        nodes = prune_nodes(round.settle.nodes, [round.settle.outputs[i] for i in mine])
        for i in mine:
            v = round.settle.inputs[i]
            emit.effect(Read(parts[i]), v, v.layout)
        for node in nodes:
            emit.node(node)
        for i in sorted({*mine, *has}):
            v = round.settle.outputs[i]
            if i not in mine:
                emit.effect(Full(0.0, v.type.dtype, v.type.dims), v, v.layout)
            if met[i]:
                value = emit.add(StageReduce(totals[i], "sum", met[i]), (emit.value(v),), totals[i], v, v.layout)
                emit.defined[v.name] = value
            if i in has:
                emit.do(Accumulate(totals[i]), v)
        functions.append(Function(FunctionPhase.TOTALS, k, emit.body()))
        states += [_decl(totals[i], round.settle.outputs[i]) for i in has]
    return functions, states


def _decl(name: str, value: Value) -> StateDecl:
    return StateDecl(name, Role.STATISTIC, value.type, value.layout, logical=name)
