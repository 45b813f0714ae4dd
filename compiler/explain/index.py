"""The values of a placed training graph that are one tensor of the `.par` file, and what is sent for them.

A weight has a slice in each iteration of its loop, copies in other layouts, a gradient, a new value. `family` finds
them by structure, not by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from compiler.graph import Dim, Graph, Names, Node, Type, Value
from compiler.layout import TIME, Layout, local_type
from compiler.model import Weight
from compiler.ops.base import Op
from compiler.ops.comm import Comm, Relayout
from compiler.ops.effects import Send, StageReduce
from compiler.ops.elementwise import Cast, Map, Transpose
from compiler.ops.repeat import Repeat
from compiler.ops.rows import WriteRows
from compiler.ops.shape import Rename
from compiler.origin import Phase
from compiler.passes.copying import expanded
from compiler.passes.place.lists import lists_of
from compiler.passes.place.place import Placed
from compiler.passes.stage import Staged
from compiler.program import FunctionPhase, Program
from compiler.relayout import RelayoutStep, plan_relayout
from compiler.text.printer import show_type
from compiler.traffic import sent_bytes
from compiler.walk import graph_values
from dsl.data import dataclass

_PHASES = {
    FunctionPhase.STATISTICS: "statistics",
    FunctionPhase.TOTALS: "statistics",
    FunctionPhase.FORWARD: "forward",
    FunctionPhase.BACKWARD: "backward",
    FunctionPhase.WEIGHTS: "backward",
    FunctionPhase.METRICS: "metrics",
    FunctionPhase.UPDATE: "update",
}

ITSELF, GRADIENT, UPDATED = "", "gradient", "new value"


@dataclass(frozen=True, slots=True)
class LayoutChange:
    """A collective (or several) that brings a value of the tensor's family into the layout of its readers.

    `of`: "" for the tensor itself, `gradient`, or `new value`; `phase`: forward, backward, update; `times` in a step,
    each of `bytes` that one device sends.
    """

    kind: str
    of: str
    phase: str
    result: str
    type: str
    reader: str
    times: int
    bytes: float


@dataclass(frozen=True, slots=True)
class Place:
    """A node, the graph (or body) that it stands in, its phase, and how often one device runs it in a step."""

    node: Node
    graph: Graph
    phase: str
    times: int


class Index:
    """All nodes and values of a placed graph, bodies of loops too.

    Of a loop that is cut into stages, sizes and times are those of the device with most iterations.
    """

    def __init__(self, placed: Placed, staged: Staged, program: Program) -> None:
        self.placed, self.staged, self.program = placed, staged, program
        self.most = {c.label: max(sum(c.counts[g :: staged.groups]) for g in range(staged.groups)) for c in staged.cuts}
        self.training = placed.training
        rounds = placed.sizes.get(TIME, 1)
        runs = [("forward", placed.forward, rounds), ("backward", placed.backward, rounds)]
        self.update = replace(placed.update, nodes=tuple(expanded(placed.update.nodes, Names(placed.names))))
        runs += [("metrics", placed.finish, 1)] if placed.finish is not None else []
        runs += [("update", self.update, 1)]
        for r in placed.rounds:
            runs += [("statistics", r.batch, rounds), ("statistics", r.settle, 1)]
        self.graphs = [g for _, g, _ in runs]
        self.places = [p for phase, g, times in runs for p in self._walk(g, phase, times)]
        self.values: dict[str, Value] = {}
        for graph in self.graphs:
            self.values |= {v.name: v for v in graph.inputs}
        for p in self.places:
            self.values |= {v.name: v for v in p.node.outputs}
            if isinstance(p.node.op, Repeat):
                self.values |= {v.name: v for v in p.node.op.body.inputs}
        self.made = {v.name: p.node for p in self.places for v in p.node.outputs}

    def _walk(self, graph: Graph, phase: str, times: int) -> Iterator[Place]:
        for node in graph.nodes:
            yield Place(node, graph, phase, times)
            if isinstance(node.op, Repeat):
                yield from self._walk(node.op.body, phase, times * self._iterations(node, node.op))

    def _iterations(self, node: Node, op: Repeat) -> int:
        return self.most[op.label] if self.staged.is_cut(node) else op.count

    def type(self, value: Value) -> Type:
        """The value's type as a stage has it: stacks of the cut loop hold its own iterations."""
        totals = {(c.label, c.total) for c in self.staged.cuts}
        dims = (Dim(d.name, self.most[d.name]) if (d.name, d.size) in totals else d for d in value.type.dims)
        return Type(value.type.dtype, tuple(dims))

    def local(self, value: Value, layout: Layout | None = None) -> Type:
        """What one device holds of it."""
        return local_type(self.type(value), layout or value.layout, self.placed.sizes)

    def cut_loops(self) -> Iterator[tuple[Node, Repeat]]:
        """The loops that are cut into stages, forward and backward."""
        for p in self.places:
            if self.staged.is_cut(p.node) and isinstance(p.node.op, Repeat):
                yield p.node, p.node.op

    def inside(self, body: Graph) -> set[str]:
        """Names of the values of a body, inner loops too."""
        return {v.name for v in graph_values(body)}

    def source(self, value: Value) -> Value:
        """What a relayout was made from."""
        node = self.made.get(value.name)
        while node is not None and isinstance(node.op, Relayout):
            value = node.inputs[0]
            node = self.made.get(value.name)
        return value

    def shown(self, value: Value, layout: Layout | None = None) -> str:
        """The type with the value's layout, or another one."""
        return show_type(self.type(value), layout or value.layout, self.placed.sizes)

    def family(self, value: Value, weight: Weight | None) -> dict[str, str]:
        """Names of the values that are the tensor, its gradient or its new value, in whatever layout."""
        found: dict[str, str] = {value.name: ITSELF}
        found |= self._handed_on(value)
        if weight is not None and weight.trained:
            at = self.training.model.trained.index(weight)
            lists = lists_of(self.training)
            for i, (name, _) in enumerate(self.training.added):
                if name == weight.name:  # of lists there are several, and the numbers of rows besides
                    if i not in lists or self.training.backward.outputs[i] is not lists[i][2]:
                        self._backwards(self.placed.backward.outputs[i], GRADIENT, found)
                    found[self.placed.totals[i].name] = GRADIENT
            self._backwards(self.update.outputs[at], UPDATED, found)
        elif weight is None:
            of = self.training.cotangents.get(value.name)
            found |= {of: GRADIENT} if of is not None else {}
            again = {n: v.origin for n, v in self.values.items() if v.origin.phase is Phase.AGAIN}
            found |= {n: ITSELF for n, origin in again.items() if origin.of == value.name}
        saved = list(zip(self.placed.forward.outputs[self.training.results :], self.placed.kept, strict=True))
        for made, round in zip(self.placed.rounds, self.training.rounds, strict=True):
            sums = zip(made.batch.outputs, made.settle.inputs, round.totals, strict=True)
            found |= {v.name: ITSELF for row in sums if row[2].name in found for v in row}
        for graph in self.graphs:
            self._forwards(graph, found, weight is not None)
            if graph is self.placed.forward:
                found |= {part.name: found[out.name] for out, part in self.placed.parts if out.name in found}
                found |= {kept.name: found[out.name] for out, kept in saved if out.name in found}
        return found

    def _handed_on(self, value: Value) -> dict[str, str]:
        """What stages hand to each other is one tensor (and one gradient): inside the cut loop, and behind it."""
        loops = list(self.cut_loops())
        sent = {
            i.op.name for c in self.program.classes for f in c.functions for i in f.body.nodes if isinstance(i.op, Send)
        }
        first = {op.label: (node, op) for node, op in reversed(loops)}
        for node, op in first.values():
            for inner, out in zip(op.body.inputs[: op.carries], node.outputs):
                if value.name not in (inner.name, out.name):
                    continue
                found = {inner.name: ITSELF, out.name: ITSELF}
                # Backward, the carries that are sent are the gradients of the forward's, in their order.
                same = [v for v in op.body.inputs[: op.carries] if v.type == inner.type]
                for back, loop in (pair for pair in loops if pair[1].label == op.label and pair[1] is not op):
                    carried = list(zip(loop.body.inputs[: loop.carries], back.outputs))
                    mine = [(v, w) for v, w in carried if v.type == inner.type and v.name in sent]
                    found |= {v.name: GRADIENT for pair in mine[same.index(inner) :][:1] for v in pair}
                return found
        return {}

    def _forwards(self, graph: Graph, found: dict[str, str], weight: bool) -> None:
        """What is made of the family's values by moving them; into loops, and out of them stacked."""

        def moves(op: Op) -> bool:
            return (isinstance(op, Comm) and op.message) or (weight and isinstance(op, Cast))

        for node in graph.nodes:
            op = node.op
            if isinstance(op, Repeat):
                for outer, inner in list(zip(node.inputs, op.body.inputs, strict=True))[op.carries :]:
                    if outer.name in found:
                        found.setdefault(inner.name, found[outer.name])
                self._forwards(op.body, found, weight)
                for inner, out in list(zip(op.body.outputs, node.outputs, strict=True))[op.carries :]:
                    if inner.name in found:
                        found.setdefault(out.name, found[inner.name])
            elif node.inputs and node.inputs[0].name in found:
                relation = found[node.inputs[0].name]
                # A gradient under another dim's name is still that gradient; a renamed tensor has a name of its own.
                if moves(op) or (relation == GRADIENT and isinstance(op, (Rename, Transpose))):
                    found.setdefault(node.outputs[0].name, relation)

    def _backwards(self, value: Value, relation: str, found: dict[str, str]) -> None:
        """What a gradient or new value was made from by moving it, out of loops too."""
        todo = [value]
        while todo:
            v = todo.pop()
            if found.setdefault(v.name, relation) != relation:
                continue
            node = self.made.get(v.name)
            if node is None:
                continue
            if isinstance(node.op, Repeat):
                i = node.outputs.index(v)
                todo.append(node.op.body.outputs[i])
            elif isinstance(node.op, (Relayout, Cast)) and node.inputs[0].name not in found:
                todo.append(node.inputs[0])
            elif isinstance(node.op, WriteRows):
                todo += [x for x in node.inputs[1:] if x.name not in found]
            elif relation == GRADIENT and isinstance(node.op, Map) and node.op.fn == "add":
                todo += [x for x in node.inputs if x.type == v.type and x.name not in found]

    def changes(self, family: Mapping[str, str]) -> Iterator[LayoutChange]:
        sizes = self.placed.sizes
        for p in self.places:
            op, source = p.node.op, p.node.inputs[0] if p.node.inputs else None
            if source is None or source.name not in family or not (isinstance(op, Comm) and op.message):
                continue
            before = source.layout
            out = p.node.output
            steps = (
                plan_relayout(source.type, before, op.layout, sizes)
                if isinstance(op, Relayout)
                else [RelayoutStep(op, out.layout)]
            )
            total = 0.0
            kinds: list[str] = []
            for s in steps:
                sent = sent_bytes(s.op, self.type(source), before, sizes)
                if sent is not None:
                    total += sent
                    kinds.append(f"{s.op.mnemonic.replace('_', '-')} over {', '.join(s.op.over())}")
                before = s.layout
            if kinds:
                yield LayoutChange(
                    ", then ".join(kinds),
                    family[source.name],
                    p.phase,
                    out.name,
                    self.shown(out),
                    self._readers(out, p.graph, family),
                    p.times,
                    total,
                )

    def messages(self, family: Mapping[str, str]) -> Iterator[LayoutChange]:
        """What goes to other stages: of the device that sends most, once for each name."""
        found: dict[tuple[str, str], LayoutChange] = {}
        for cls in self.program.classes:
            for f in cls.functions:
                times = self.program.runs(f)
                for instr in f.body.nodes:
                    op = instr.op
                    name = op.name if isinstance(op, Send) else op.key if isinstance(op, StageReduce) else ""
                    if not name or name not in family:
                        continue
                    var = instr.inputs[0]
                    sent = sent_bytes(op, var.type, var.layout, self.program.sizes) or 0.0
                    kind, reader = "all-reduce over stages", "the optimizer"
                    if isinstance(op, Send):
                        kind, reader = "send", f"stage {op.to:+d}"
                    shown = show_type(var.type, var.layout, self.program.sizes)
                    change = LayoutChange(kind, family[name], _PHASES[f.phase], var.name, shown, reader, times, sent)
                    found.setdefault((change.phase, name), change)
        yield from found.values()

    def _readers(self, value: Value, graph: Graph, family: Mapping[str, str]) -> str:
        """The first reader; what leaves the graph is read by what comes after it."""
        for node in graph.nodes:
            if any(v.name == value.name for v in node.inputs):
                if isinstance(node.op, Comm) and node.op.message:
                    return self._readers(node.output, graph, family)
                return node.op.label if isinstance(node.op, Repeat) else node.outputs[0].name
        if graph is self.update:
            return "the next step"
        if graph is self.placed.backward:
            return "the optimizer"
        if any(graph in (r.batch, r.settle) for r in self.placed.rounds):
            return "the forward pass"
        if graph is self.placed.finish:
            return "the end of the step"
        return "the sum over iterations" if graph is not self.placed.forward else "the end of the forward pass"
