"""The update function of a class: its own weights and states, and what groups must agree on (the gradients' norm)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compiler.graph import Names, Node, Value
from compiler.layout import Layout
from compiler.model import Weight
from compiler.ops.create import Full
from compiler.ops.effects import Read, StageReduce, Write
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.passes.emit import Emitter, Part
from compiler.passes.place.place import Placed
from compiler.passes.stage import ALL, Stage, Staged
from compiler.program import Body, Instr, StateDecl, Var

Deps = frozenset[str]


def lower_update(
    placed: Placed, staged: Staged, groups: tuple[int, ...], part: Callable[[int], Part | None]
) -> tuple[Body, list[StateDecl]]:
    """The body of U and the declarations of weights, gradients, optimizer states and counters of the class."""
    return _Update(placed, staged, groups, part).lower()


class _Update:
    def __init__(
        self, placed: Placed, staged: Staged, groups: tuple[int, ...], part: Callable[[int], Part | None]
    ) -> None:
        self.placed, self.staged, self.groups, self.part = placed, staged, groups, part
        self.training = placed.training
        self.graph = placed.update
        self.names = Names()
        self.total = {v.name: w.name for v, w in zip(placed.totals, self.training.model.weights, strict=True)}
        self.homes = {w.name: self._homes(w, i) for i, w in enumerate(self.training.model.weights)}
        self.owner = {s.name: s.of for s in self.training.states}
        self.deps: dict[str, Deps] = {}
        self.roots: dict[str, list[Value]] = {}
        self._depend()

    def _homes(self, weight: Weight, index: int) -> tuple[int, ...]:
        """Virtual stages that hold the weight (all, for a weight of the cut loop)."""
        cut = self.staged.cut
        if cut is not None and cut.label in weight.loops:
            return (ALL,)
        if self.staged.stages == 1:
            return (0,)
        found: set[int] = set()
        last = self.staged.stages - 1
        found |= _readers(weight.name, self.placed.forward.nodes, self.staged.forward, self.staged, 0)
        found |= _readers(weight.name, self.placed.backward.nodes, self.staged.backward, self.staged, last)
        if self.placed.late is not None:
            found |= _readers(weight.name, self.placed.late.nodes, self.staged.backward, self.staged, last)
        for v in self.staged.addends[index]:
            place = self.staged.backward.get(v.name)
            if place not in (None, ALL):
                found.add(place)
        return tuple(sorted(found)) or (0,)

    def _depend(self) -> None:
        """Weights that each value depends on; a scalar sum over several weights is a root that groups agree on."""
        made: dict[str, Node] = {}
        chain: set[str] = set()
        for v in self.graph.inputs:
            weight = self.total.get(v.name) or (v.name if v.name in self.placed.weights else self.owner.get(v.name))
            self.deps[v.name] = frozenset((weight,)) if weight else frozenset()
        readers: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for v in node.inputs:
                readers.setdefault(v.name, []).append(node)
        for node in self.graph.nodes:
            union = frozenset().union(*(self.deps[v.name] for v in node.inputs)) if node.inputs else frozenset()
            for out in node.outputs:
                made[out.name] = node
                self.deps[out.name] = union
            out = node.outputs[0]
            if len(union) < 2:
                continue
            if not (isinstance(node.op, Map) and node.op.fn == "add" and not out.type.dims):
                raise NotImplementedError(f"{out.name}: only sums of scalars join the updates of several weights")
            chain.add(out.name)
            if not all(
                isinstance(r.op, Map) and r.op.fn == "add" and not r.output.type.dims for r in readers.get(out.name, ())
            ):
                self.roots[out.name] = [leaf for v in node.inputs for leaf in _leaves(v, chain, made)]
                self.deps[out.name] = frozenset()
        self.chain = chain

    def here(self, weight: str) -> list[int]:
        """Chunks of this class that hold the weight."""
        found = []
        for chunk in range(self.staged.chunks):
            stages = {g + chunk * self.staged.groups for g in self.groups}
            if self.homes[weight] == (ALL,) or stages & set(self.homes[weight]):
                found.append(chunk)
        return found

    def _contributes(self, weight: str, chunk: int) -> bool:
        """Whether the backward pass of this class adds to the weight's gradient."""
        stages = {g + chunk * self.staged.groups for g in self.groups}
        index = next(i for i, w in enumerate(self.training.model.weights) if w.name == weight)
        places = [self.staged.backward.get(v.name) for v in self.staged.addends[index]]
        return any(p == ALL or (p or 0) in stages for p in places)

    def lower(self) -> tuple[Body, list[StateDecl]]:
        chunks = range(self.staged.chunks)
        parts = {c: self.part(self.groups[0] + c * self.staged.groups) for c in chunks}
        emits = {c: Emitter(self.placed, self.names, parts[c]) for c in chunks}
        main = emits[0]
        for c in chunks:
            emits[c].instrs = main.instrs
        states = self._declare(parts)
        self._enter(emits)
        for node in self.graph.nodes:
            out = node.outputs[0]
            if out.name in self.roots:
                self._agree(out, emits)
            elif out.name in self.chain:
                continue
            else:
                weights = self.deps[out.name]
                for c in self._chunks(weights):
                    emits[c].node(node)
                    if not weights:
                        for other in chunks[1:]:
                            for v in node.outputs:
                                emits[other].renamed[v.name] = main.name(v)
        targets = [w.name for w in self.training.model.weights] + [s.name for s in self.training.states]
        for name, v in zip(targets, self.graph.outputs, strict=False):
            weight = name if name in self.homes else self.owner.get(name)
            for c in self._chunks(frozenset((weight,)) if weight else frozenset()):
                emits[c].do(Write(name + _suffix(c if weight else 0)), v)
        for name, v in zip(self.training.reports, self.graph.outputs[len(targets) :], strict=True):
            main.do(Write(name), v)
            states.append(StateDecl(name, "report", v.type, Layout(tuple(() for _ in v.type.dims)), logical=name))
        return Body((), tuple(main.instrs), ()), states

    def _chunks(self, weights: Deps) -> list[int]:
        return self.here(next(iter(weights))) if weights else [0]

    def _declare(self, parts: dict[int, Part | None]) -> list[StateDecl]:
        found: list[StateDecl] = []
        placed = self.placed
        for w, g, layout in zip(self.training.model.weights, self.training.gradients, placed.accumulators, strict=True):
            for c in self.here(w.name):
                part = parts[c]
                type = part.type(w.value.type) if part else w.value.type
                name = w.name + _suffix(c)
                found.append(StateDecl(name, "weight", type, placed.weights[w.name], c, w.init, logical=w.name))
                grad = part.type(g.type) if part else g.type
                if self._contributes(w.name, c):
                    found.append(StateDecl(f"{w.name}.grad{_suffix(c)}", "gradient", grad, layout, c, logical=w.name))
                for s in self.training.states:
                    if s.of == w.name:
                        st = part.type(s.value.type) if part else s.value.type
                        found.append(
                            StateDecl(
                                s.name + _suffix(c), "optimizer", st, placed.states[s.name], c, s.init, logical=s.name
                            )
                        )
        for s in self.training.states:
            if s.of is None:
                found.append(
                    StateDecl(s.name, "counter", s.value.type, placed.states[s.name], 0, s.init, logical=s.name)
                )
        return found

    def _enter(self, emits: dict[int, Emitter]) -> None:
        placed = self.placed
        used = {v.name for n in self.graph.nodes for v in n.inputs} | {v.name for v in self.graph.outputs}
        layouts = {v.name: layout for v, layout in zip(placed.totals, placed.accumulators, strict=True)}
        for v in self.graph.inputs:
            if v.name not in used:
                continue
            weight = next(iter(self.deps[v.name]), None)
            for c in self.here(weight) if weight else [0]:
                emit = emits[c]
                if v.name in self.total:
                    assert weight is not None
                    if self._contributes(weight, c):
                        emit.effect(Read(f"{weight}.grad{_suffix(c)}"), v, layouts[v.name])
                    else:  # reads the weight, but its gradient arises elsewhere
                        emit.effect(Full(0.0, v.type.dtype, emit.type(v.type).dims), v, layouts[v.name])
                    self._join(emit, v, weight, layouts[v.name])
                elif weight == v.name:
                    emit.effect(Read(v.name + _suffix(c)), v, placed.weights[v.name])
                else:
                    emit.effect(Read(v.name + _suffix(c if weight else 0)), v, placed.states[v.name])
            if not weight:
                for other in list(emits)[1:]:
                    emits[other].renamed[v.name] = emits[0].name(v)

    def _join(self, emit: Emitter, value: Value, weight: str, layout: Layout) -> None:
        """The gradient of a weight that several groups hold is summed over them."""
        groups = tuple(sorted({s % self.staged.groups for s in self.homes[weight]}))
        if self.homes[weight] == (ALL,) or len(groups) < 2:
            return
        name = self.names.fresh(f"{value.name}.joined")
        op = StageReduce(f"{weight}.grad", "sum", groups)
        emit.instrs.append(Instr(op, (emit.name(value),), (Var(name, emit.type(value.type), layout),)))
        emit.renamed[value.name] = name

    def _agree(self, root: Value, emits: dict[int, Emitter]) -> None:
        """The sum of this class's parts, then over all groups. A weight held by several groups counts in the first."""
        main = emits[0]
        layout = self.placed.layouts[root.name]
        current: str | None = None
        for leaf in self.roots[root.name]:
            (weight,) = self.deps[leaf.name]
            homes = self.homes[weight]
            for c in self.here(weight):
                stage = self.groups[0] + c * self.staged.groups
                if homes != (ALL,) and stage != homes[0]:
                    continue
                name = emits[c].name(leaf)
                if current is None:
                    current = name
                    continue
                sum_ = self.names.fresh(f"{root.name}.part")
                main.instrs.append(Instr(Map("add", (None, None)), (current, name), (Var(sum_, root.type, layout),)))
                current = sum_
        if current is None:
            current = self.names.fresh(f"{root.name}.none")
            main.instrs.append(Instr(Full(0.0, root.type.dtype, ()), (), (Var(current, root.type, layout),)))
        if self.staged.groups > 1:
            name = self.names.fresh(root.name)
            everyone = tuple(range(self.staged.groups))
            main.instrs.append(
                Instr(StageReduce(root.name, "sum", everyone), (current,), (Var(name, root.type, layout),))
            )
            current = name
        for emit in emits.values():
            emit.renamed[root.name] = current


def _suffix(chunk: int) -> str:
    return f"#{chunk}" if chunk else ""


def _leaves(value: Value, chain: set[str], made: dict[str, Node]) -> list[Value]:
    if value.name not in chain:
        return [value]
    return [leaf for v in made[value.name].inputs for leaf in _leaves(v, chain, made)]


def _readers(weight: str, nodes: tuple[Node, ...], where: Mapping[str, Stage], staged: Staged, begin: int) -> set[int]:
    """Stages that read a weight, through the movable nodes (casts, gathers, what data and weights make).

    `begin`: the stage in which the cut loop's carries enter.
    """
    reached = {weight}
    found: set[int] = set()
    for node in nodes:
        hits = [i for i, v in enumerate(node.inputs) if v.name in reached]
        if not hits:
            continue
        if staged.is_cut(node):
            assert isinstance(node.op, Repeat)
            found |= {begin} if max(hits) < node.op.carries else set(range(staged.stages))
            continue
        place = where.get(node.outputs[0].name)
        if place is None:
            reached |= {v.name for v in node.outputs}
        elif place != ALL:
            found.add(place)
    return found
