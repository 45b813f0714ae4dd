"""`offload`: what rests in another memory is moved to the devices' own before it is read, and back when it is renewed.

The update goes from weight to weight: what belongs to one is moved in, renewed, moved out, and the next ones are on
their way in the meantime (`prefetch`). Of a weight with a loop's dim each iteration is moved by itself (`paged`). The
values do not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import field, replace

from compiler.graph import Graph, Names, Node, Value
from compiler.memory.tiers import FIRST, HOST
from compiler.model import Training
from compiler.ops.call import Call
from compiler.ops.effects import Read, Write
from compiler.ops.move import Move
from compiler.origin import Role, within
from compiler.passes.copying import away, substituted
from compiler.passes.elsewhere import Elsewhere
from compiler.passes.far_rows import in_place_of, renewed, tables
from compiler.passes.on_host import MovedValues, between, on_host
from compiler.passes.paged import Tier, paged
from compiler.program import DeviceClass, Function, FunctionPhase, Program, StateDecl
from compiler.row_caches import ALL_OF_IT, cache_of, without
from compiler.strategy import OffloadRule, RunRule
from compiler.walk import called, graph_values
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.source import Span

CLASS_OF = {Role.OPTIMIZER: "optimizer", Role.WEIGHT: "weights", Role.SAVED: "activations"}
"""The class of tensors, as strategies call it, of the buffers of a role."""


@dataclass(frozen=True, slots=True)
class Resting:
    """What can rest in another memory: class of tensors -> name -> the path that scopes speak of. owner: of a state the
    weight; loops: of a weight the dims that count iterations; lists: whether gradients of tables may be lists; dense:
    why those of some are not. kind: of what several classes have, the one that counts."""

    paths: Mapping[str, Mapping[str, str]]
    owner: Mapping[str, str]
    loops: Mapping[str, frozenset[str]]
    lists: bool = True
    dense: Mapping[str, str] = field(default_factory=dict)

    def kind(self, cls: str, name: str) -> str:
        """Rows are weights, or the optimizer's."""
        return cls if cls != "rows" else "optimizer" if name in self.owner else "weights"


def resting(training: Training) -> Resting:
    """What of a training can."""
    owner = {s.name: s.of for s in training.states if s.of is not None}
    weights = training.model.weights
    saved = {v.name: v.origin.path for v in training.saved}
    paths = {"optimizer": owner, "weights": {w.name: w.name for w in weights}, "activations": saved}
    of_rows = tables(training.job.model)
    paths["rows"] = {w.name: w.name for w in weights if w.name in of_rows}
    paths["rows"] |= {name: of for name, of in owner.items() if of in of_rows}
    lists = bool(training.listed or training.dense)
    return Resting(paths, owner, {w.name: frozenset(w.loops) for w in weights}, lists, training.dense)


def offload(program: Program, rules: Sequence[OffloadRule], runs: Sequence[RunRule], of: Resting) -> Program:
    """The program with buffers where the rules say, and with what moves their contents. Classes of devices that share
    their functions share them again."""
    if not rules and not runs:
        return program
    tiers: dict[tuple[str, str], Tier] = {}
    spans: dict[str, Span] = {}  # of rules that state a cache, by the name of a buffer
    for rule in reversed(rules):  # the first counts
        for kind in rule.classes:
            names = [name for name, path in of.paths[kind].items() if within(path, rule.scope)]
            tier = Tier(rule.memory, rule.prefetch, kind == "rows", rule.cache if kind == "rows" else None)
            tiers.update(dict.fromkeys(((of.kind(kind, name), name) for name in names), tier))
            spans.update(dict.fromkeys(names, rule.span))
    made: dict[int, tuple[Function, ...]] = {}
    classes: list[DeviceClass] = []
    for cls in program.classes:
        mine = {s.name: tiers[key] for s in cls.states if (key := (CLASS_OF.get(s.role, ""), s.logical)) in tiers}
        states = tuple(_resting(s, mine[s.name], program.sizes) if s.name in mine else s for s in cls.states)
        if id(cls.functions) not in made:
            taken = {s.name for s in cls.states if s.role is Role.WEIGHT and _runs(runs, "take", s.logical)}
            update, others = _Update(cls.states, mine, of, runs), Elsewhere(mine, taken)
            made[id(cls.functions)] = tuple(
                replace(f, body=(update if f.phase is FunctionPhase.UPDATE else others).run(f.body))
                for f in cls.functions
            )
        classes.append(replace(cls, states=states, functions=made[id(cls.functions)]))
    return program.with_classes(_cached(classes, spans, of))


def _cached(classes: Sequence[DeviceClass], spans: Mapping[str, Span], of: Resting) -> list[DeviceClass]:
    """The classes, with caches of what rows alone are needed of. spans: of rules, by the logical names of buffers.
    Raises ParcError (E0575) for a rule that gives no table one (but where all gradients are to be whole: not lists)."""
    refused = [dict(without(cls)) for cls in classes]
    kept = {
        spans[s.logical]
        for cls, no in zip(classes, refused)
        for k, s in enumerate(cls.states)
        if s.cache and k not in no
    }
    found = []
    for cls, no in zip(classes, refused, strict=True):
        for k, reason in no.items():
            name = cls.states[k].logical
            trains = any(f.phase is FunctionPhase.UPDATE for f in cls.functions)
            if spans[name] not in kept and trains and (of.lists or reason != ALL_OF_IT):
                message = f"there can be no cache of `{name}`: {reason}"
                raise fail("E0575", message, spans[name], help=_for_rows(name, reason, of))
        states = tuple(replace(s, cache=None) if k in no else s for k, s in enumerate(cls.states))
        found.append(replace(cls, states=states) if no else cls)
    return found


def _for_rows(name: str, reason: str, of: Resting) -> str:
    """What lets rows of a table be enough. name: of the table, or of a state of its optimizer."""
    why = of.dense.get(of.owner.get(name, name))
    if why is not None and reason == ALL_OF_IT:
        return f"its gradient is no list of rows: {why}"
    return "optimizers that renew the rows that were used alone, as `rowwise_adagrad(…)`, need no more of it"


def _resting(decl: StateDecl, tier: Tier, sizes: Mapping[str, int]) -> StateDecl:
    """A buffer where its tier is."""
    cache = None if tier.cache is None else cache_of(tier.cache, decl, sizes)
    return replace(decl, memory=tier.memory, cache=cache)


def _runs(runs: Sequence[RunRule], kind: str, weight: str) -> bool:
    """Whether this runs on the hosts for a weight."""
    return any(kind in r.kinds and within(weight, r.scope) for r in runs)


class _Update:
    """Of one class of devices: what the update reads and writes of buffers that rest elsewhere."""

    def __init__(
        self, states: Sequence[StateDecl], tiers: Mapping[str, Tier], of: Resting, runs: Sequence[RunRule]
    ) -> None:
        """tiers: by buffer; runs: what runs on the hosts."""
        self.tiers, self.loops, self.runs = tiers, of.loops, runs
        owner = {s.name: of.owner.get(s.logical, s.logical) for s in states}
        self.groups: dict[str, Hashable] = {s.name: (owner[s.name], s.chunk) for s in states}
        renewed = (s.name for s in states if s.role in (Role.WEIGHT, Role.OPTIMIZER))
        self.hosted = {name for name in renewed if _runs(runs, "update", owner[name])}

    def run(self, body: Graph) -> Graph:
        """The body, with moves."""
        if not self.tiers and not self.hosted:
            return body
        self.names = Names(v.name for v in graph_values(body))
        self.known: dict[tuple[Hashable, ...], Graph | None] = {}
        self.hosts: set[Node] = set()
        writes = ((n.inputs[0], n.op.name) for n in body.nodes if isinstance(n.op, Write))
        self.written = {v: name for v, name in writes if name in self.tiers}
        self.readers = Counter(v.name for n in body.nodes for v in {*n.inputs} if not isinstance(n.op, Write))
        self.far: dict[Value, str] = {}
        env: dict[Value, Value] = {}
        self.there = between(body.nodes, self.hosted)
        nodes = [self._rests(node, env) for node in _at_once(body.nodes, self.tiers)]
        ahead = self._ahead(nodes)
        copies = MovedValues(self.names)
        found: list[Node] = []
        for i, node in enumerate(nodes):
            for far, memory in ahead.get(i, ()):
                copies.at(far, memory, found)
            if isinstance(node.op, Write) and node.op.name in self.tiers:
                found += self._written(node, node.op.name, copies)
            else:
                wanted = tuple(copies.at(v, m, found) for v, m in zip(node.inputs, self._wants(node), strict=True))
                same = all(a is b for a, b in zip(wanted, node.inputs, strict=True))
                found.append(node if same else replace(node, inputs=wanted))
        return replace(body, nodes=_named(found, called(body.nodes)))

    def _rests(self, node: Node, env: dict[Value, Value]) -> Node:
        """The node, where `read`, and a function that moves an iteration at a time, give values that rest elsewhere.
        env: those in the place of others."""
        if isinstance(node.op, Read) and node.op.name in self.tiers:
            far = replace(node.output, memory=self.tiers[node.op.name].memory)
            env[node.output], self.far[far] = far, node.op.name
            return replace(node, outputs=(far,))
        found = substituted(node, env)
        if isinstance(node.op, Call):
            if node in self.there:
                found = self._computed_there(found, node.op, node.outputs)
            else:
                found = self._by_rows(found, node.op) or self._paged(found, node.op)
        elif node in self.there:
            renews = node.op.reaches is not None and node.op.renews == node.op.reaches
            place = found.inputs[0].memory if renews and found.inputs[0].memory != FIRST else HOST
            found = replace(found, outputs=tuple(replace(v, memory=place) for v in node.outputs))
            self.hosts.add(found)
        elif self._reads_rows(found):
            found = renewed(found, env)
        env.update((old, new) for old, new in zip(node.outputs, found.outputs, strict=True) if old is not new)
        return found

    def _reads_rows(self, node: Node) -> bool:
        """Whether it needs rows alone of what rests elsewhere, and may have them there."""
        at = node.far
        return at is not None and (node.inputs[at] not in self.far or self.tiers[self.far[node.inputs[at]]].rows)

    def _wants(self, node: Node) -> list[str]:
        """In which memory it needs each operand."""
        if isinstance(node.op, Call):
            return [v.memory for v in node.op.body.inputs]
        found = [HOST if node in self.hosts else FIRST] * len(node.inputs)
        at = node.op.reaches
        if at is not None and node.inputs[at].memory != FIRST and (node in self.hosts or self._reads_rows(node)):
            found[at] = node.inputs[at].memory
        return found

    def _ahead(self, nodes: Sequence[Node]) -> dict[int, list[tuple[Value, str]]]:
        """By instruction, what is moved before it, and where to: what it reads, and what weights behind it read."""
        first: dict[tuple[Value, str], int] = {}
        for i, node in enumerate(nodes):
            for v, memory in zip(node.inputs, self._wants(node), strict=True):
                name = self.far.get(v)
                kept = isinstance(node.op, Write) and node.op.name == name  # it is what it was
                if name is not None and not kept and v.memory != memory:
                    first.setdefault((v, memory), i)
        groups: dict[Hashable, int] = {}
        for (v, _), i in sorted(first.items(), key=lambda x: x[1]):
            groups.setdefault(self.groups[self.far[v]], i)
        order = list(groups)
        found: dict[int, list[tuple[Value, str]]] = {}
        for (v, memory), i in sorted(first.items(), key=lambda x: order.index(self.groups[self.far[x[0][0]]])):
            at = order.index(self.groups[self.far[v]]) - self.tiers[self.far[v]].ahead
            found.setdefault(min(i, groups[order[max(0, at)]]), []).append((v, memory))
        return found

    def _written(self, node: Node, name: str, copies: MovedValues) -> Iterator[Node]:
        """A `write` of what was made here, or rests there already."""
        (value,) = node.inputs
        memory = self.tiers[name].memory
        old = next((v for v, n in self.far.items() if n == name), None)
        if value is old or (value.memory == memory and value not in self.far):
            yield node
            return
        made = copies.made.get((value, FIRST), value)
        moved = away(made, memory, self.names)
        yield Node(Move(made.memory, memory), (made,) if old is None else (made, old), (moved,))
        yield replace(node, inputs=(moved,))

    def _computed_there(self, node: Node, op: Call, results: Sequence[Value]) -> Node:
        """A call that the hosts compute. results: what it gave before."""
        given = []
        for v in node.inputs:
            tier = self.tiers[self.far[v]] if v in self.far else None
            given.append(v.memory if tier is None or tier.rows or tier.memory == HOST else HOST)
        wanted = [None if v in self.written else FIRST for v in results]
        key = (id(op.body), *given, *wanted)
        if key not in self.known:
            self.known[key] = on_host(op.body, given, wanted)
        return self._calling(node, op, self.known[key]) or node

    def _by_rows(self, node: Node, op: Call) -> Node | None:
        """A call that needs rows alone of what rests elsewhere, as one of a function that renews them there."""
        given = {k: self.tiers[self.far[v]] for k, v in enumerate(node.inputs) if v in self.far}
        if not any(tier.rows for tier in given.values()):
            return None
        key = (id(op.body), *((k, tier.memory) for k, tier in given.items()))
        if key not in self.known:
            self.known[key] = in_place_of(op.body, {k: tier.memory for k, tier in given.items()})
        return self._calling(node, op, self.known[key])

    def _calling(self, node: Node, op: Call, body: Graph | None) -> Node | None:
        """The call, of another function."""
        if body is None:
            return None
        outputs = (replace(v, memory=r.memory) for v, r in zip(node.outputs, body.outputs, strict=True))
        return Node(replace(op, body=body), node.inputs, tuple(outputs), node.span)

    def _paged(self, node: Node, op: Call) -> Node:
        """A call that renews what rests elsewhere, as one of a function that moves an iteration at a time; itself where
        that cannot be."""
        given = {k: self.far[v] for k, v in enumerate(node.inputs) if v in self.far}
        place = {name: k for k, name in given.items()}
        renewed = {j: self.written[v] for j, v in enumerate(node.outputs) if v in self.written}
        results = {j: place[name] for j, name in renewed.items() if name in place}
        lead = next((node.inputs[k].type.dims[0] for k in given if node.inputs[k].type.dims), None)
        alone = all(self.readers[node.inputs[k].name] == 1 for k in given)
        if lead is None or not alone or len(results) < len(renewed) or lead.name not in self.loops.get(op.at, ()):
            return node
        tiers = {k: self.tiers[name] for k, name in given.items()}
        key = (id(op.body), lead, *tiers.items(), *results.items())
        if key not in self.known:
            self.known[key] = paged(op.body, lead, tiers, results)
        return self._calling(node, op, self.known[key]) or node


def _at_once(nodes: Sequence[Node], buffers: Collection[str]) -> Iterator[Node]:
    """The nodes; a `write` to one of the buffers stands right behind what makes its value and what reads the old one,
    wherever that of its weight does."""
    last: dict[Value, int] = {}  # where a value is made, or read by anything but a `write`
    old: dict[str, Value] = {}
    writes: list[tuple[Node, str]] = []
    for i, node in enumerate(nodes):
        last.update(dict.fromkeys(node.outputs, i))
        if isinstance(node.op, Read):
            old[node.op.name] = node.output
        if isinstance(node.op, Write) and node.op.name in buffers:
            writes.append((node, node.op.name))
        else:
            last.update(dict.fromkeys(node.inputs, i))
    made = {v: i for i, node in enumerate(nodes) for v in node.outputs}
    behind: dict[int, list[Node]] = {}
    for node, name in writes:
        at = max(made[node.inputs[0]], last[old[name]] if name in old else 0)
        behind.setdefault(at, []).append(node)
    moved = {node for node, _ in writes}
    for i, node in enumerate(nodes):
        if node not in moved:
            yield node
        yield from behind.get(i, ())


def _named(nodes: Sequence[Node], before: Sequence[Graph]) -> tuple[Node, ...]:
    """The nodes, with functions of which each has a name of its own; those of before keep theirs."""
    functions = called(nodes)
    kept = {id(g) for g in before}
    names = Names(g.name for g in functions if id(g) in kept)
    new = {id(g): replace(g, name=names.fresh(g.name)) for g in functions if id(g) not in kept}
    return tuple(
        replace(n, op=replace(n.op, body=new[id(n.op.body)])) if isinstance(n.op, Call) and id(n.op.body) in new else n
        for n in nodes
    )
