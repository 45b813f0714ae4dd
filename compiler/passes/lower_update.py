"""The update function of a class: its own weights and states, and what groups must agree on (the gradients' norm)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf

from compiler.graph import Graph, Names, Node, Type, Value
from compiler.layout import Layout
from compiler.lists import row_lists
from compiler.model import State
from compiler.ops.comm import Relayout
from compiler.ops.create import Full
from compiler.ops.effects import Read, StageReduce, Write
from compiler.ops.elementwise import Map
from compiler.origin import Role
from compiler.passes.across import Across
from compiler.passes.buffers import BufferNames, of_chunk
from compiler.passes.emit import Emitter, PieceEmitter
from compiler.passes.place.place import Placed
from compiler.passes.stage import Staged
from compiler.program import StateDecl

Deps = frozenset[str]


class ClassUpdate:
    """U of one class: its declarations and its body, of which either can be had without the other.

    over: what the stages have pieces of; homes: the virtual stages that hold each weight, or their own part of it.
    """

    def __init__(
        self,
        placed: Placed,
        staged: Staged,
        over: Across,
        buffers: BufferNames,
        groups: tuple[int, ...],
        homes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.placed, self.staged, self.over, self.buffers, self.groups = placed, staged, over, buffers, groups
        self.homes = homes
        self.training = placed.training
        # Weights of which each stage has a part of its own.
        self.apart = {w.name for w in self.training.model.weights if staged.cut_of(*w.loops)}
        self.trained = placed.training.trained
        self.graph = placed.update
        self.names = Names()
        added = [name for name, _ in self.training.added]
        self.total = {v.name: name for v, name in zip(placed.totals, added, strict=True)}
        self.buffer = {v.name: name for v, name in zip(placed.totals, buffers.added, strict=True)}
        self.owner = {s.name: s.of for s in self.training.states}
        self.addends = dict(zip(buffers.added, staged.addends, strict=True))
        self.deps: dict[str, Deps] = {}
        self.roots: set[str] = set()
        self.chain: dict[str, str] = {}  # value -> "sum" or "max": what the parts of weights make of it
        self.partial: dict[str, Value | None] = {}  # of chain values and roots: this class's part
        self.readers: dict[str, list[Node]] = {}
        self._here: dict[str, list[int]] = {}
        for node in self.graph.nodes:
            for v in node.inputs:
                self.readers.setdefault(v.name, []).append(node)
        self._depend(frozenset())
        if over.closing:
            self._depend(frozenset(name for name, fn in over.closing.items() if not self._joins(name, fn)))

    def _joins(self, name: str, fn: str) -> bool:
        """Whether a value is but an addend of a sum over weights (or one of a maximum), which groups agree on."""
        found = self.readers.get(name, ())
        return bool(found) and all(
            self.chain.get(r.outputs[0].name) == fn or (isinstance(r.op, Relayout) and self._joins(r.output.name, fn))
            for r in found
        )

    def _depend(self, closing: frozenset[str]) -> None:
        """Weights that each value depends on; a sum (or maximum) over several weights is a root that groups agree on.

        So is `closing`, of which the stages of a loop that is cut have parts, and the one sum that there is for a
        single weight, if counters or reports depend on it.
        """
        self.roots, self.chain = set(closing), {}
        for v in self.graph.inputs:
            weight = self.total.get(v.name) or (v.name if v.name in self.placed.weights else self.owner.get(v.name))
            self.deps[v.name] = frozenset((weight,)) if weight else frozenset()
        shared = self._shared() if len(self.trained) == 1 else set()
        for node in self.graph.nodes:
            fn = self._joining(node)
            if fn is None:  # it needs what all parts make
                self.roots.update(v.name for v in node.inputs if v.name in self.chain)
            union = Deps()
            for v in node.inputs:
                if v.name not in self.roots and self.deps[v.name] is not union:
                    union = union | self.deps[v.name] if union else self.deps[v.name]
            if len(union) > 2:  # several: which they are does not matter
                union = frozenset(sorted(union)[:2])
            for out in node.outputs:
                self.deps[out.name] = union
            out = node.outputs[0]
            if len(union) == 1 and out.name in shared and not out.type.dims:
                self.roots.add(out.name)
            if len(union) < 2:
                continue
            if fn is None:
                raise NotImplementedError(f"{out.name}: only sums and maxima join the updates of several weights")
            self.chain[out.name] = fn
        self.roots.update(v.name for v in self.graph.outputs if v.name in self.chain)

    def _joining(self, node: Node) -> str | None:
        """What an op makes of parts of several weights: "sum" or "max", if that is all that it does; None: more."""
        fn = _adds(node, self.readers)
        if fn is None:
            return None
        for v in node.inputs:
            joined = self.chain.get(v.name)
            part = len(self.deps[v.name]) == 1 or (joined == fn if fn else joined is not None)
            if v.name in self.roots or not part:
                return None
        return fn or self.chain.get(node.inputs[0].name)

    def _shared(self) -> set[str]:
        """Values that outputs which belong to no weight (counters, reports) depend on."""
        owners = [*(w.name for w in self.trained), *(self.owner[s.name] for s in self.training.states)]
        wanted = {v.name for i, v in enumerate(self.graph.outputs) if i >= len(owners) or owners[i] is None}
        for node in reversed(self.graph.nodes):
            if any(v.name in wanted for v in node.outputs):
                wanted |= {v.name for v in node.inputs}
        return wanted

    def here(self, weight: str) -> list[int]:
        """Chunks of this class that hold the weight."""
        found = self._here.get(weight)
        if found is not None:
            return found
        found = self._here[weight] = []
        for chunk in self.staged.chunks_of(self.groups):
            if self.staged.of_chunk(self.groups, chunk) & set(self.homes[weight]):
                found.append(chunk)
        return found

    def _contributes(self, buffer: str, chunk: int) -> bool:
        """Whether the backward pass of this class adds to the buffer."""
        stages = self.staged.of_chunk(self.groups, chunk)
        return any(stages & self.staged.stages_of(v, self.staged.backward) for v in self.addends[buffer])

    def states(self) -> list[StateDecl]:
        """The declarations."""
        return [*self._declare({c: self._emitter(c) for c in self.staged.chunks_of(self.groups)}), *self._reported()]

    def _reported(self) -> Iterator[StateDecl]:
        values = self.graph.outputs[len(self.trained) + len(self.training.states) :]
        for logical, v in zip(self.training.reports, values, strict=True):
            layout = Layout(tuple(() for _ in v.type.dims))
            yield StateDecl(self.buffers.reports[logical], Role.REPORT, v.type, layout, logical=logical)

    def body(self) -> Graph:
        """What it does. To be asked for once: names are given out."""
        chunks = self.staged.chunks_of(self.groups)
        emits = {c: self._emitter(c) for c in chunks}
        main = emits[0]
        functions: dict[tuple[int, ...], dict[int, Graph]] = {}  # by numbers of iterations
        for c in chunks:
            emits[c].nodes, emits[c].called = main.nodes, main.called
            emits[c].functions = functions.setdefault(tuple(emits[c].counts.values()), emits[c].functions)
        self._enter(emits)
        for node in self.graph.nodes:
            out = node.outputs[0]
            if out.name in self.chain:
                self._add_up(node, emits)
            else:
                weights = self.deps[out.name]
                own = None if weights else next((self.over.loops.get(v.name) for v in node.outputs), None)
                for c in self._chunks(weights) if own is None else [c for c in chunks if emits[c].counts[own.label]]:
                    emits[c].node(node)
                if not weights and own is None:
                    for other in chunks[1:]:
                        for v in node.outputs:
                            emits[other].defined[v.name] = main.value(v)
            if out.name in self.roots:
                if out.name not in self.chain:
                    self.partial[out.name] = self._part(out, self._fn(out), emits)
                self._agree(out, emits)
        targets = [w.name for w in self.trained] + [s.name for s in self.training.states]
        reports = list(zip(self.training.reports, self.graph.outputs[len(targets) :], strict=True))
        inputs = set(self.graph.inputs)
        for logical, v in reports:
            if v in inputs:  # what a state was before this step
                main.do(Write(self.buffers.reports[logical]), v)
        for name, v in zip(targets, self.graph.outputs, strict=False):
            weight = name if name in self.homes else self.owner.get(name)
            for c in self._chunks(frozenset((weight,)) if weight else frozenset()):
                emits[c].do(Write(of_chunk(name, c if weight else 0)), v)
        for logical, v in reports:
            if v not in inputs:
                main.do(Write(self.buffers.reports[logical]), v)
        return Graph("", (), tuple(main.nodes), ())

    def _chunks(self, weights: Deps) -> list[int]:
        return self.here(next(iter(weights))) if weights else [0]

    def _emitter(self, chunk: int) -> PieceEmitter:
        (stage,) = self.staged.of_chunk(self.groups[:1], chunk)
        return PieceEmitter(self.placed, self.names, self.over, {c.label: c.counts[stage] for c in self.staged.cuts})

    def _declare(self, emits: Mapping[int, PieceEmitter]) -> list[StateDecl]:
        found: list[StateDecl] = []
        placed = self.placed
        states: dict[str | None, list[State]] = {}
        for s in self.training.states:
            states.setdefault(s.of, []).append(s)
        sums: dict[str, list[tuple[str, Type, Layout]]] = {}
        added = zip(self.training.added, self.buffers.added, placed.accumulators, strict=True)
        for (name, g), buffer, layout in added:
            sums.setdefault(name, []).append((buffer, g.type, layout))
        lists = self._lists()
        for w in self.training.model.weights:
            for c in self.here(w.name):
                name, layout, frozen = of_chunk(w.name, c), placed.weights[w.name], not w.trained
                type = emits[c].type(w.value)
                found.append(StateDecl(name, Role.WEIGHT, type, layout, c, w.init, logical=w.name, frozen=frozen))
                for k, (buffer, grad, at) in enumerate(sums.get(w.name, ())):
                    if not self._contributes(buffer, c):
                        continue
                    index = lists.get(buffer)
                    role = Role.ROWS if k and index is None else Role.GRADIENT
                    own = emits[c].piece(grad, w.name)
                    numbers = of_chunk(index, c) if index is not None else ""
                    found.append(StateDecl(of_chunk(buffer, c), role, own, at, c, logical=w.name, numbers=numbers))
                for s in states.get(w.name, ()):
                    name, type, at = of_chunk(s.name, c), emits[c].type(s.value), placed.states[s.name]
                    found.append(StateDecl(name, Role.OPTIMIZER, type, at, c, s.init, logical=s.name))
        for s in states.get(None, ()):
            at = placed.states[s.name]
            found.append(StateDecl(s.name, Role.COUNTER, s.value.type, at, 0, s.init, logical=s.name))
        return found

    def _lists(self) -> dict[str, str]:
        """By the buffers of lists' rows, those of their numbers."""
        found: dict[str, str] = {}
        names = {v.name: buffer for v, buffer in zip(self.training.update.inputs, self.buffers.added)}
        for _, _, operands in row_lists(self.training.update):
            own = [names[name] for name in operands]
            found.update(zip(own[::2], own[1::2], strict=True))
        return found

    def _enter(self, emits: Mapping[int, Emitter]) -> None:
        placed = self.placed
        used = {v.name for n in self.graph.nodes for v in n.inputs} | {v.name for v in self.graph.outputs}
        for v in self.graph.inputs:
            if v.name not in used:
                continue
            weight = next(iter(self.deps[v.name]), None)
            for c in self.here(weight) if weight else [0]:
                emit = emits[c]
                if v.name in self.total:
                    assert weight is not None
                    if self._contributes(self.buffer[v.name], c):
                        emit.effect(Read(of_chunk(self.buffer[v.name], c)), v, v.layout)
                    else:  # reads the weight, but its gradient arises elsewhere
                        emit.effect(Full(0.0, v.type.dtype, emit.type(v).dims), v, v.layout)
                elif weight == v.name:
                    emit.effect(Read(of_chunk(v.name, c)), v, placed.weights[v.name])
                else:
                    emit.effect(Read(of_chunk(v.name, c if weight else 0)), v, placed.states[v.name])
            if weight and v.name in self.total:
                self._join(emits, v, weight, v.layout)
            if not weight:
                for other in list(emits)[1:]:
                    emits[other].defined[v.name] = emits[0].value(v)

    def _join(self, emits: Mapping[int, Emitter], value: Value, weight: str, layout: Layout) -> None:
        """The gradient of a weight that several virtual stages hold is summed over them: here, then over the groups.

        Of a loop's own iterations the copies of a stage are summed, those of one stage after those of the other: the
        groups that have them come to them in one order."""
        chunks = self.here(weight)
        if weight in self.apart:
            self._join_copies(emits, value, chunks, layout)
        if weight in self.apart or not chunks:
            return
        current = self._sum([emits[c].value(value) for c in chunks], "sum", value, layout, emits[0])
        everywhere = self.staged.everywhere
        groups = tuple(sorted({everywhere.group(copy) for s in self.homes[weight] for copy in everywhere.copies(s)}))
        if len(groups) > 1:
            op = StageReduce(self.buffer[value.name], "sum", groups)
            current = emits[0].add(op, (current,), f"{value.name}.joined", value, layout)
        for c in chunks:
            emits[c].defined[value.name] = current

    def _join_copies(self, emits: Mapping[int, Emitter], value: Value, chunks: Sequence[int], layout: Layout) -> None:
        everywhere = self.staged.everywhere
        if everywhere.ways == 1:
            return
        (group,) = self.groups
        for stage, chunk in sorted((everywhere.stage(group, c) % everywhere.way, c) for c in chunks):
            groups = tuple(sorted(everywhere.group(copy) for copy in everywhere.copies(stage)))
            op = StageReduce(f"{self.buffer[value.name]}#{stage}", "sum", groups)
            current = emits[chunk].value(value)
            emits[chunk].defined[value.name] = emits[chunk].add(op, (current,), f"{value.name}.joined", value, layout)

    def _sum(self, parts: Sequence[Value], fn: str, value: Value, layout: Layout, emit: Emitter) -> Value:
        """The sum (or, if `fn` is "max", the maximum) of values of one type and layout."""
        op = Map("maximum" if fn == "max" else "add", (None, None))
        current = parts[0]
        for part in parts[1:]:
            current = emit.add(op, (current, part), f"{value.name}.part", value, layout)
        return current

    def _fn(self, value: Value) -> str:
        """What stages and weights make of their parts of it."""
        return self.chain.get(value.name) or self.over.closing.get(value.name, "sum")

    def _part(self, leaf: Value, fn: str, emits: Mapping[int, Emitter]) -> Value | None:
        """What this class has for one weight, if it has: of several chunks, their sum or maximum (`fn`). A weight held
        by several stages counts in the first, and in the first of a stage's copies."""
        (weight,) = self.deps[leaf.name]
        first = range(self.staged.stages) if weight in self.apart else self.homes[weight][:1]
        stages = {c: self.staged.everywhere.stage(self.groups[0], c) for c in self.here(weight)}
        parts = [emits[c].value(leaf) for c, stage in stages.items() if stage in first]
        return self._sum(parts, fn, leaf, leaf.layout, emits[0]) if parts else None

    def _add_up(self, node: Node, emits: Mapping[int, Emitter]) -> None:
        """One step of a sum over weights (or a change of layout on the way): of those parts that this class has."""
        out, main = node.output, emits[0]
        fn = self._fn(out)
        parts = [self.partial[v.name] if v.name in self.chain else self._part(v, fn, emits) for v in node.inputs]
        here = [v for v in parts if v is not None]
        if not here:
            self.partial[out.name] = None
        elif isinstance(node.op, Relayout):
            main.defined[node.inputs[0].name] = here[0]
            main.node(node)
            self.partial[out.name] = main.value(out)
        else:
            self.partial[out.name] = self._sum(here, fn, out, out.layout, main)

    def _agree(self, root: Value, emits: Mapping[int, Emitter]) -> None:
        """The sum (or maximum) of this class's parts, then over all groups."""
        main, fn = emits[0], self._fn(root)
        layout = root.layout
        current = self.partial[root.name]
        if current is None:
            none = Full(-inf if fn == "max" else 0.0, root.type.dtype, root.type.dims)
            current = main.add(none, (), f"{root.name}.none", root, layout)
        if self.staged.groups > 1:
            op = StageReduce(root.name, fn, tuple(range(self.staged.groups)))
            current = main.add(op, (current,), root.name, root, layout)
        for emit in emits.values():
            emit.defined[root.name] = current


def _adds(node: Node, readers: Mapping[str, list[Node]]) -> str | None:
    """What an op makes of two values of one type, "sum" or "max"; "": nothing, it changes the layout of what is read by
    such ops alone. None for all others."""
    if isinstance(node.op, Relayout):
        found = readers.get(node.output.name, ())
        return "" if found and all(_adds(r, readers) is not None for r in found) else None
    if not isinstance(node.op, Map) or len(node.inputs) != 2:
        return None
    if any(v.type != node.output.type for v in node.inputs):
        return None
    return {"add": "sum", "maximum": "max"}.get(node.op.fn)


def lower_update(update: ClassUpdate) -> tuple[Graph, list[StateDecl]]:
    """The body of U and the declarations of weights, gradients, optimizer states and counters of the class."""
    return update.body(), update.states()


LowerUpdate = Callable[[ClassUpdate], tuple[Graph, list[StateDecl]]]
"""`lower_update`, or what is put in its place."""
