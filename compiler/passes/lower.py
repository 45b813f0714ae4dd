"""`lower`: a placed training graph becomes a program.

Relayouts turn into collectives, graphs into functions with effects, stages into classes of device groups. One
representative of each class is lowered, so the cost does not grow with stages, layers, micro-batches or devices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.layout import TIME, Layout
from compiler.loop_ranges import Affine, LoopRange
from compiler.ops.base import Op
from compiler.ops.effects import Accumulate, Input, Load, Read, Recv, Save, Send
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.passes.across import Across
from compiler.passes.buffers import BufferNames, buffer_names, of_chunk
from compiler.passes.classes import classes, schedules
from compiler.passes.cuts import CutLoop
from compiler.passes.emit import Emitter, LoopPart
from compiler.passes.entering import nodes_of
from compiler.passes.loop_bodies import LoopBodies
from compiler.passes.lower_batch import lower_batch, part_decls, sum_decls
from compiler.passes.lower_rounds import RoundStages, lower_rounds, staged_rounds
from compiler.passes.lower_states import Renewed, adding, contents, declared, held, reached, renew
from compiler.passes.lower_update import ClassUpdate, LowerUpdate, lower_update
from compiler.passes.messages import NOTHING, Ways, messages
from compiler.passes.place.place import Placed
from compiler.passes.program_axes import program_axes
from compiler.passes.stage import ALL, Stage, Staged
from compiler.passes.states_in_order import check_states_in_order
from compiler.passes.whole_loops import in_whole_loops
from compiler.program import DeviceClass, Entry, Function, FunctionPhase, InputDecl, Program, StateDecl


def lower(
    placed: Placed,
    staged: Staged,
    over: Across,
    bodies: LoopBodies | None = None,
    update: LowerUpdate = lower_update,
) -> Program:
    """The program of all classes of devices, with one entry. bodies: of loops, from somebody who shares them; update:
    `lower_update`, from somebody who wants their bodies later."""
    job, entry = placed.training.job, placed.training.entry
    names, ways = buffer_names(placed), _messages(placed, staged)
    rounds = staged_rounds(placed, staged)
    members = classes(staged, (*ways, *(r.ways for r in rounds)))
    lowered = [_Class(placed, staged, over, names, groups, ways, bodies) for groups in members]
    for one, of_rounds in zip(lowered, lower_rounds(placed, names, staged, rounds, lowered), strict=True):
        one.batch = of_rounds.beside(one.batch)
    orders = schedules(placed, staged, ways, [c.groups for c in lowered])
    homes = _homes(placed, staged, lowered)
    made, count = [c.build(homes, update) for c in lowered], placed.sizes.get(TIME, 1)
    found = [
        DeviceClass(groups, cls.ranges, cls.states, cls.functions, of.batch.scheduled(schedule, count))
        for cls, order, of in zip(made, orders, lowered, strict=True)
        for groups, schedule in order
    ]
    found.sort(key=lambda c: c.groups)
    check_states_in_order(found, staged.rule if placed.training.trains else None)
    inputs = tuple(map(InputDecl.of, placed.training.model.inputs))
    whole = tuple(in_whole_loops(c, placed.training.model) for c in found)
    return Program(job.name, program_axes(placed), inputs, (Entry(entry, whole),), job.seed, staged.everywhere)


def _messages(placed: Placed, staged: Staged) -> tuple[Ways, Ways]:
    """What stages send each other in the forward pass, and in the backward pass."""
    where, results = staged.forward, placed.forward.outputs[: placed.training.results]
    loads = (staged.loads[k.name] | staged.late_loads.get(k.name, frozenset()) for k in placed.kept)
    ends = [(v.name, staged.stages_of(v, where)) for v in results]
    ends += [(v.name, at) for v, at in zip(placed.forward.outputs[len(results) :], loads, strict=True)]
    forward = messages(placed.forward, staged, where, ends, True)
    where, put_off = staged.backward, set(placed.late.outputs) if placed.late is not None else set()
    parts = [v for parts in staged.addends for v in parts if v not in put_off]
    ends = [(v.name, staged.stages_of(v, where)) for v in parts]
    ends += [(v.name, staged.late_loads[v.name]) for v in placed.crossing]
    return forward, messages(placed.backward, staged, where, ends, False)


def _homes(placed: Placed, staged: Staged, lowered: Sequence[_Class]) -> dict[str, tuple[int, ...]]:
    """Virtual stages that hold each weight: who reads it or adds to its gradient (of a loop that is cut: who has some
    of its iterations). Those of one way: their copies hold it as well."""
    found: dict[str, tuple[int, ...]] = {}
    model = placed.training.model
    added: dict[str, list[Value]] = {}
    for (name, _), values in zip(placed.training.added, staged.addends, strict=True):
        added.setdefault(name, []).extend(values)
    for w in model.weights:
        cut = staged.cut_of(*w.loops)
        if cut is not None:
            found[w.name] = tuple(sorted(cut.stages))
            continue
        stages = {staged.counts_at(v, staged.backward) for v in added.get(w.name, ())} - {ALL}
        for cls in lowered:
            for chunk, weights in cls.reads.items():
                if w.name in weights:
                    stages |= staged.of_chunk(cls.groups, chunk)
        found[w.name] = tuple(sorted(stages)) or ((0,) if placed.training.trains else ())
    return found


class _Class:
    """Lowers the code of one class of groups, by its first group."""

    def __init__(
        self,
        placed: Placed,
        staged: Staged,
        over: Across,
        names: BufferNames,
        groups: tuple[int, ...],
        ways: tuple[Ways, Ways],
        bodies: LoopBodies | None,
    ) -> None:
        """ways: what stages send each other in the forward pass, and in the backward pass; bodies: see `lower`."""
        self.placed, self.staged, self.over, self.names, self.groups = placed, staged, over, names, groups
        self.bodies, self.training = bodies, placed.training
        self.ahead, self.back = ways
        self.functions: list[Function] = []
        self.states: list[StateDecl] = []
        self.reads: dict[int, set[str]] = {}  # chunk -> weights that its F, B and W read
        self.totals: set[str] = set()  # of whole batches, that they read
        self.summed: dict[str, StateDecl] = {}  # by state: where its new contents are summed up
        for chunk in staged.chunks_of(groups):
            (stage, *_) = staged.of_chunk(groups[:1], chunk)
            part = self.part(stage)
            late = None if self.placed.late is None else self.late(self.placed.late, stage, chunk, part)
            backward = self.backward(stage, chunk, part, late) if self.training.trains else None
            made = {
                FunctionPhase.FORWARD: self.forward(stage, chunk, part),
                FunctionPhase.BACKWARD: backward,
                FunctionPhase.WEIGHTS: late,
            }
            self.functions += [Function(phase, chunk, body) for phase, body in made.items() if body is not None]
        filled = {s.name for s in self.states}
        self.batch = lower_batch(placed, names, filled, self.finishes(), self.summed)

    @property
    def needed(self) -> set[str]:
        """Names of the totals that its functions read."""
        return self.totals | self.batch.needed

    def statistics(self, graph: Graph, chunk: int, stages: RoundStages, ends: Sequence[tuple[Op, Value]]) -> Graph:
        """P: what a chunk computes of a round, for others too."""
        (stage,) = self.staged.of_chunk(self.groups[:1], chunk)
        emit = Emitter(self.placed, Names(), FunctionPhase.STATISTICS, self.part(stage))
        self._body(emit, graph, stages.where, stage, chunk, [v for _, v in ends], stages.ways, True)
        for op, v in ends:
            emit.do(op, v)
        return emit.body()

    def build(self, homes: Mapping[str, tuple[int, ...]], lower_update: LowerUpdate) -> DeviceClass:
        """homes: the virtual stages that hold each weight; lower_update: see `lower`."""
        of = ClassUpdate(self.placed, self.staged, self.over, self.names, self.groups, homes)
        update, states = lower_update(of)
        functions = [*self.batch.before, *self.functions, *self.batch.after]
        if self.training.trains:
            functions.append(Function(FunctionPhase.UPDATE, 0, update))
        return DeviceClass(self.groups, self.ranges(), (*states, *self._in_order()), tuple(functions), ())

    def _in_order(self) -> list[StateDecl]:
        """All other buffers; the metrics among them in the order of the model."""
        finished = [s for s in self.batch.states if s.role is Role.METRIC]
        found = [*(s for s in self.batch.states if s.role is not Role.METRIC), *self.states, *finished]
        names = self.training.model.metrics
        metrics = sorted((s for s in found if s.role is Role.METRIC), key=lambda s: names.index(s.logical))
        return [metrics.pop(0) if s.role is Role.METRIC else s for s in found]

    def finishes(self) -> bool:
        """Whether metrics are made here of what was added up."""
        parts = part_decls(self.placed, self.names)
        place = self.staged.counts_at(parts[0][1], self.staged.forward) if parts else None
        return place is not None and self.staged.homes.group(place) in self.groups  # there is one way then

    def part(self, stage: int) -> LoopPart | None:
        cuts = self.staged.cuts
        return LoopPart({(c.label, c.total): c.counts[stage] for c in cuts}) if cuts else None

    def ranges(self) -> tuple[LoopRange, ...]:
        found = []
        for cut, chunk in ((c, k) for c in self.staged.cuts for k in self.staged.chunks_of(self.groups)):
            firsts = [cut.firsts[s] for g in self.groups[:2] for s in self.staged.of_chunk((g,), chunk)]
            slope = firsts[-1] - firsts[0]
            first = Affine(firsts[0] - slope * self.groups[0], slope)
            (count,) = (cut.counts[s] for s in self.staged.of_chunk(self.groups[:1], chunk))
            if count:
                found.append(LoopRange(cut.label, chunk, first, count, cut.total))
        return tuple(found)

    # --- forward and backward ----------------------------------------------------------------------

    def forward(self, stage: int, chunk: int, part: LoopPart | None) -> Graph:
        placed, graph = self.placed, self.placed.forward
        where = self.staged.forward
        roots: list[Value] = []
        ends: list[tuple[Op, Value]] = []
        sums = sum_decls(placed, self.names)
        parts = part_decls(placed, self.names)
        for decl, v in (*sums, *parts):
            if self.staged.counts_at(v, where) == stage:
                roots.append(v)
                ends.append((Accumulate(decl.name), v))
                self.states.append(replace(decl, chunk=chunk))
        for logical, v in zip(self.training.model.outputs, graph.outputs[len(sums) + len(parts) :], strict=False):
            if stage in self.staged.stages_of(v, where):
                roots.append(v)
                ends.append(self._output(logical, v, chunk, part))
        results = graph.outputs[: self.training.results]
        for v, kept, saved in zip(graph.outputs[len(results) :], placed.kept, self.training.saved, strict=True):
            if stage in self._readers(kept) | self.staged.with_own_part(v, where):
                roots.append(v)
                ends.append((Save(of_chunk(self.names.saved[saved.name], chunk)), v))
                self._keep(saved.name, v, kept.layout, chunk, part)
        emit = Emitter(placed, Names(), FunctionPhase.FORWARD, part, self.bodies)
        sends = self.ahead.sent_by(stage)
        renewed = self._renewed(stage, roots, sends)
        self.states += declared(placed, renewed, chunk, part)
        roots += [v for s, v in renewed if v.name != s.name]
        inputs = set(graph.inputs)
        early = [(op, v) for op, v in ends if v in inputs]  # before what they are of is renewed
        self._body(emit, graph, where, stage, chunk, roots, self.ahead, True, early=early)
        for op, v in ends:
            if v not in inputs:
                emit.do(op, v)
        summed = adding(placed, self.names, renewed, chunk, part)
        self.states += summed.values()
        self.summed |= {of_chunk(name, chunk): decl for name, decl in summed.items()}
        renew(emit, placed, renewed, chunk, summed)
        return emit.body()

    def _renewed(self, stage: int, roots: Sequence[Value], sends: Collection[str]) -> list[Renewed]:
        """The states of the model that this stage has."""
        graph, where = self.placed.forward, self.staged.forward
        pairs = contents(self.placed)

        def entering(more: Sequence[Value]) -> Collection[str]:
            return nodes_of(self.staged, graph, where, stage, [*roots, *more], sends, True)[1]

        return reached(pairs, held(self.placed, self.staged, stage), entering)

    def _output(self, logical: str, value: Value, chunk: int, part: LoopPart | None) -> tuple[Op, Value]:
        """Declare the buffer of an output: a part for each micro-batch, or what all of them add up to."""
        name, layout = self.names.outputs[logical], value.layout
        timed = layout.pending_on(TIME)
        layout = replace(layout, pending=tuple(p for p in layout.pending if p[0] != TIME))
        type = part.type(value.type) if part else value.type
        self.states.append(StateDecl(name, Role.OUTPUT, type, layout, chunk, logical=logical))
        return (Save(name) if timed is None and TIME in layout.split_axes else Accumulate(name)), value

    def backward(self, stage: int, chunk: int, part: LoopPart | None, late: Graph | None) -> Graph:
        """B: adds up gradients (those that W does not), and saves what W needs of it."""
        placed, graph, where = self.placed, self.placed.backward, self.staged.backward
        put_off = set(placed.late.outputs) if placed.late is not None else set()
        ends = self._gradients(stage, chunk, lambda v: v not in put_off)
        keeps = [(v, self.staged.late_loads[v.name]) for v in placed.crossing]
        held = [v for v, loads in keeps if stage in loads | self.staged.with_own_part(v, where)]
        emit = Emitter(placed, Names(), FunctionPhase.BACKWARD, part, self.bodies)
        reread = {i.op.name for i in late.nodes if isinstance(i.op, Load)} if late is not None else set()
        self._body(emit, graph, where, stage, chunk, [*(v for _, v in ends), *held], self.back, False, reread)
        for name, v in ends:
            emit.do(Accumulate(name), v)
        for v in held:
            self._keep(v.name, v, v.layout, chunk, part)
            emit.do(Save(of_chunk(self.names.saved[v.name], chunk)), v)
        return emit.body()

    def late(self, graph: Graph, stage: int, chunk: int, part: LoopPart | None) -> Graph:
        """W: what no other stage waits for. Nothing is sent."""
        where = self.staged.backward
        outputs = set(graph.outputs)
        ends = self._gradients(stage, chunk, lambda v: v in outputs)
        emit = Emitter(self.placed, Names(), FunctionPhase.WEIGHTS, part, self.bodies)
        self._body(emit, graph, where, stage, chunk, [v for _, v in ends], NOTHING, False)
        for name, v in ends:
            emit.do(Accumulate(name), v)
        return emit.body()

    def _gradients(self, stage: int, chunk: int, mine: Callable[[Value], bool]) -> list[tuple[str, Value]]:
        """Gradient buffer and what this stage adds to it."""
        where = self.staged.backward
        found: list[tuple[str, Value]] = []
        for name, addends in zip(self.names.added, self.staged.addends, strict=True):
            here = [v for v in addends if stage in self.staged.stages_of(v, where)]
            found += [(of_chunk(name, chunk), v) for v in here if mine(v)]
        return found

    def _readers(self, kept: Value) -> frozenset[int]:
        """Stages whose B or W loads what F saved."""
        return self.staged.loads[kept.name] | self.staged.late_loads.get(kept.name, frozenset())

    def _keep(self, name: str, value: Value, layout: Layout, chunk: int, part: LoopPart | None) -> None:
        """Declare a buffer for a value that lives from one function of a micro-batch to the next."""
        type = part.type(value.type) if part else value.type
        full = of_chunk(self.names.saved[name], chunk)
        self.states.append(StateDecl(full, Role.SAVED, type, layout, chunk, logical=name))

    def _body(
        self,
        emit: Emitter,
        graph: Graph,
        where: Mapping[str, Stage],
        stage: int,
        chunk: int,
        roots: Sequence[Value],
        ways: Ways,
        forward: bool,
        reread: Container[str] = (),
        early: Sequence[tuple[Op, Value]] = (),
    ) -> None:
        """Nodes of this stage (and movable ones that it needs), effects for what enters, sends for what others need.

        `reread`: saved values that a later function loads as well. `early`: what becomes at once of what enters.
        """
        sends = ways.sent_by(stage)
        chosen, entering = nodes_of(self.staged, graph, where, stage, roots, sends, forward)
        self._enter(emit, graph, where, stage, chunk, entering, ways, reread, forward)
        sent: set[str] = set()

        def send(value: Value) -> None:
            sent.add(value.name)
            for target in sends[value.name]:
                emit.do(Send(value.name, target - stage), value)

        for name, v in entering.items():
            if name in sends and stage in ways.ways[name]:
                send(v)  # what is only handed on
        for op, v in early:
            emit.do(op, v)
        for node in chosen:
            cut = self.staged.cut_at(node)
            if cut is not None:
                self._cut_loop(emit, node, cut, stage, forward)
            else:
                emit.node(node)
            for v in node.outputs:
                if v.name in sends and v.name not in sent and where.get(v.name) == stage:
                    send(v)
        for name in sends:
            if name not in sent and name in entering:
                send(entering[name])

    def _enter(
        self,
        emit: Emitter,
        graph: Graph,
        where: Mapping[str, Stage],
        stage: int,
        chunk: int,
        entering: Mapping[str, Value],
        ways: Ways,
        reread: Container[str],
        forward: bool,
    ) -> None:
        placed = self.placed
        saved = {k.name: s.name for k, s in zip(placed.kept, self.training.saved, strict=True)}
        if graph is placed.late:
            saved.update((v.name, v.name) for v in placed.crossing)
        inputs = {v: i for i, v in enumerate(graph.inputs)}
        step = self.training.model.step.name if self.training.model.step else None
        for v in sorted(entering.values(), key=lambda v: inputs.get(v, len(inputs))):
            place = where.get(v.name)
            layout = v.layout
            if not forward and v.name in saved and v in inputs:
                name = of_chunk(self.names.saved[saved[v.name]], chunk)
                emit.effect(Load(name, name not in reread), v, layout)
            elif place not in (None, ALL, stage):
                emit.effect(Recv(v.name, ways.source(v.name, stage) - stage), v, layout)
            elif v.name in self.names.totals:
                self.totals.add(v.name)
                emit.effect(Read(self.names.totals[v.name]), v, layout)
            elif v.name in placed.weights:
                self.reads.setdefault(chunk, set()).add(v.name)
                emit.effect(Read(of_chunk(v.name, chunk)), v, placed.weights[v.name])
            elif v.name in placed.states and v.name != step:  # which is an input that need not be declared
                emit.effect(Read(of_chunk(v.name, chunk if forward else 0)), v, placed.states[v.name])
            else:
                emit.effect(Input(v.name), v, layout)

    def _cut_loop(self, emit: Emitter, node: Node, cut: CutLoop, stage: int, forward: bool) -> None:
        """This stage's iterations: carries come from the stage before and go to the one after."""
        op, way = node.op, cut.way(forward)
        assert isinstance(op, Repeat)
        carried: list[Value] = []
        if stage != way[0]:
            # Not under the outer value's name: this stage may read that one as well, as it was before the loop.
            for outer, param in zip(node.inputs[: op.carries], op.body.inputs, strict=False):
                carried.append(emit.received(Recv(param.name, -way.step), outer, outer.layout))
        if cut.counts[stage]:
            emit.repeat(node, op, cut.counts[stage], carried)
        else:  # what stands before or behind the loop is here, and nothing of it
            carried = carried or [emit.value(v) for v in node.inputs[: op.carries]]
            emit.defined.update((out.name, v) for out, v in zip(node.outputs, carried, strict=False))
        if stage != way[-1]:
            for out, param in zip(node.outputs[: op.carries], op.body.inputs, strict=False):
                emit.do(Send(param.name, way.step), out)
