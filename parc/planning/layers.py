"""What a micro-batch takes of a device in the loops of a model, whatever stages, replicas and schedule there are.

It hangs on the axes that split a layer, on what is computed again and on the rows of the batch that a device has
(`SplitLayer` and rows): so one strategy of few devices, that has these in one stage, is lowered for all that share
them. Of it are taken

- the seconds in which kernels and messages of activations keep a device from computing anything else, forward and
  backward, of all iterations of the loops at the top, and of the rest;
- the bytes that these loops keep of a micro-batch from its forward pass to its backward pass.

For fewer rows no row takes less: tiles and waves of a kernel are filled worse, a message is shorter, and launches and
latencies are the same. So what a multiple of the rows takes is a bound, in proportion. For the same reasons one device
that does what several do takes no longer than these take together, with no more to send. And computing things again
adds work to what both passes take without it. Where a device has a single position of a product (`narrow`), only what
is known of these very rows and axes holds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import log2

from compiler.cost.kernels.program import Features, features
from compiler.cost.kernels.work import Collective, Meet, Part, Post, Product, Wait, WorkLoop, WorkNode
from compiler.cost.memory.systems import SystemMemory, Systems
from compiler.cost.price.calibration import Calibration, of_cluster
from compiler.cost.price.machine import machine
from compiler.cost.price.pricer import COMPUTE, PICOSECONDS, Pricer
from compiler.driver import Compiled
from compiler.graph import Graph
from compiler.ops.repeat import Repeat
from compiler.program import MODEL_PASSES, DeviceClass, Function, FunctionKey, FunctionPhase, Program
from dsl.diagnostics import ParcError
from parc.planning.guess import Kin, SplitLayer
from parc.planning.held_layers import kept_by_loops
from parc.planning.layer_work import LayerWork
from parc.planning.narrow import narrow, product_sides
from parc.planning.on_rows import OnRows, TimesOnRows
from parc.planning.pricing import StrategyPricer
from parc.planning.space import DATA, EXPERTS, INNER, POSITIONS, MeshChoice, PlanChoice, PlanRules, PlanSpace
from parc.planning.written import strategy_of

TOO_MANY = "E0542"
"""A weight has no dim that is stored in as many pieces."""

FORWARD: FunctionKey = (FunctionPhase.FORWARD, 0)
BACKWARD: FunctionKey = (FunctionPhase.BACKWARD, 0)

KEPT = 30
"""Functions of which it is kept what works on rows in them."""


class Layers:
    """All that is known of layers so far, found as it is asked for."""

    def __init__(self, space: PlanSpace, pricer: StrategyPricer) -> None:
        self.space, self.pricer = space.everything, pricer
        self.known: dict[SplitLayer, list[LayerWork]] = {}
        self.asked: set[tuple[SplitLayer, int]] = set()
        self.roles = {role.name: role for role in self.space.roles}
        assert pricer.job.cluster is not None
        self.cluster = pricer.job.cluster
        self.cal = of_cluster(self.cluster)
        servers = -(-self.cluster.devices // self.cluster.levels[0].count)
        self.sides, self.whole = product_sides(pricer.job, space.split), dict[Kin, bool]()
        self.bests: dict[Kin, LayerWork | None] = {}  # until more is known
        self.on_rows: dict[tuple[int, ...], OnRows] = {}
        self.late = 1.0 + self.cal.jitter * log2(servers)

    def best(self, kin: Kin) -> LayerWork | None:
        """The closest bound that is known, in proportion to the rows."""
        if kin not in self.bests:
            self.bests[kin] = self._best(kin)
        return self.bests[kin]

    def learn(self, kind: SplitLayer, work: LayerWork) -> None:
        """Keep what was found of a kind."""
        self.known.setdefault(kind, []).append(work)
        self.bests.clear()

    def _best(self, kin: Kin) -> LayerWork | None:
        kind, scaled = kin.layer, self.scaled(kin)
        if (mine := self._closest(kind, kin.rows, scaled)) is not None:
            return mine.of(kin.rows)
        plain = replace(kind, recompute=0)
        if (mine := self._closest(plain, kin.rows, scaled)) is not None:
            return mine.of(kin.rows).again
        if not scaled:
            return None
        found = [self._merged(of, kind, kin.rows) for of in self.known]
        return max((w for w in found if w is not None), key=lambda w: w.backward, default=None)

    def scaled(self, kin: Kin) -> bool:
        """Whether what is known of more rows, or of fewer devices, holds for it in proportion."""
        if kin not in self.whole:
            self.whole[kin] = not narrow(self.sides, self.space.split, self.roles, kin)
        return self.whole[kin]

    def _closest(self, kind: SplitLayer, rows: int, scaled: bool = True) -> LayerWork | None:
        found = [w for w in self.known.get(kind, ()) if (w.covers(rows) if scaled else w.rows == rows)]
        return min(found, key=lambda w: w.rows) if found else None

    def _merged(self, of: SplitLayer, kind: SplitLayer, rows: int) -> LayerWork | None:
        """What is known of fewer devices that share a layer, which do the work of several each."""
        if not self.merges(of, kind):
            return None
        each = self.experts(kind) / self.experts(of)
        mine = self._closest(of, int(rows * each)) if (rows * each).is_integer() else None
        if mine is None:
            return None
        found, times = mine.of(int(rows * each)).loose, of.devices / kind.devices
        products = found.products[0] * times
        backward = products if kind.recompute else (found.forward + found.backward) * times
        alone = replace(found.again, rows=rows, backward=backward, rest=0.0, tail=0.0)
        return replace(alone, fewer=(0.0, backward, 0.0, 0.0), products=(products, 0.0, 0.0))

    def merges(self, of: SplitLayer, kind: SplitLayer) -> bool:
        """Whether devices of the second kind can be put together to those of the first, which do what they did."""
        fewer, more = dict(of.inside), dict(kind.inside)
        return (
            of.recompute == 0
            and of.tables == kind.tables
            and all(more.get(name, 1) % n == 0 for name, n in fewer.items())
            and (of.along, of.heads, of.by) == self._rules(of.inside, kind)
            and (not kind.by or self._positions(of) == self._positions(kind))
        )

    def _rules(self, inside: tuple[tuple[str, int], ...], like: SplitLayer) -> tuple[str, bool, int]:
        kinds = {self.roles[name].kind for name, _ in inside}
        if POSITIONS not in kinds:
            return like.along if INNER in kinds else "", False, 0
        return like.along if INNER in kinds else "", like.heads, like.by

    def _positions(self, kind: SplitLayer) -> dict[str, int]:
        """Devices along axes of positions: on them hangs how much is computed by what is written by hand."""
        return {name: n for name, n in kind.inside if self.roles[name].kind == POSITIONS}

    def experts(self, kind: SplitLayer) -> int:
        """Devices of the axis of experts."""
        return next((n for name, n in kind.inside if self.roles[name].kind == EXPERTS), 1)

    def _fewer(self, kind: SplitLayer) -> list[SplitLayer]:
        """Kinds with fewer and fewer devices to which these can be put together, the least first."""
        found = []
        inside = dict(kind.inside)
        kept = self._positions(kind) if kind.by else {}
        while inside.keys() - kept.keys():
            largest = max((n for n in inside if n not in kept), key=lambda name: inside[name])
            inside[largest] //= next(q for q in range(2, inside[largest] + 1) if inside[largest] % q == 0)
            axes = tuple((name, n) for name, n in inside.items() if n > 1)
            along, heads, by = self._rules(axes, kind)
            found.append(SplitLayer(axes, 0, along, heads, kind.tables, by))
            inside = dict(axes)
        return found[::-1]

    def many(self, kind: SplitLayer) -> int:
        """As many rows as there can be; of two replicas (if the batch has that many) where nothing else shards."""
        most = self.space.batch // self.experts(kind)
        sharded = any(self.roles[name].kind in (EXPERTS, POSITIONS) for name, _ in kind.inside)
        return most if sharded or most % 2 else most // 2

    def closer(self, kin: Kin, sharded: bool) -> bool:
        """Find out more, if there is more to find out: first of fewer devices, then of what is computed but once, of
        many rows; last of these rows. sharded: of candidates whose gradients are sharded, which wait for messages
        (`paces`) rather than for their rows. Of what cannot be lowered nothing is found."""
        if not self.scaled(kin):
            return self._find(kin.layer, kin.rows)
        return self.rougher(kin) or (not sharded and self._find(kin.layer, kin.rows))

    def rougher(self, kin: Kin) -> bool:
        """The same, but for these rows where many speak of them."""
        if not self.scaled(kin):
            return False
        kind = kin.layer
        kinds = dict.fromkeys((*self._fewer(kind), replace(kind, recompute=0), kind))
        return any(self._find(of, self._speaking(of, kin)) for of in kinds)

    def _speaking(self, of: SplitLayer, kin: Kin) -> int:
        """Rows of a kind of which something follows for these: many, if the others are a share of them."""
        rows, many = kin.rows * self.experts(kin.layer) // self.experts(of), self.many(of)
        return many if many % rows == 0 else rows

    def look(self, kind: SplitLayer, rows: int) -> bool:
        """Look at these layers with so many rows, if that was not done yet. Whether something was found."""
        return self._find(kind, rows)

    def _find(self, kind: SplitLayer, rows: int) -> bool:
        nothing = kind.tables and self._replicas(kind, rows) == 1  # that would split tables
        if nothing or (kind, rows) in self.asked:
            return False
        self.asked.add((kind, rows))
        if not self.space.can_share(self._mesh(kind, rows), kind.along, (kind.heads, kind.by), kind.tables):
            return False
        try:
            self.learn(kind, self.work(kind, rows))
        except ParcError:
            return False
        return True

    def _replicas(self, kind: SplitLayer, rows: int) -> int:
        return 2 if self.space.batch % (2 * rows * self.experts(kind)) == 0 else 1

    def work(self, kind: SplitLayer, rows: int) -> LayerWork:
        """Lower a strategy of one stage, of two replicas if the batch has that many rows, its gradients sharded; of one
        where a weight has not so many pieces as both would have. Raises ParcError for one that cannot be."""
        mesh = self._mesh(kind, rows)
        try:
            return self._lowered(kind, rows, mesh)
        except ParcError as error:
            inside = tuple((role, n) for role, n in mesh.axes if role.kind != DATA)
            alone = MeshChoice(inside, mesh.microbatches * mesh.size(DATA))
            shards = 2 in self.space.ways(alone).zero and not kind.tables
            if mesh == alone or not shards or all(d.code != TOO_MANY for d in error.diagnostics):
                raise
        return self._lowered(kind, rows, alone)

    def _lowered(self, kind: SplitLayer, rows: int, mesh: MeshChoice) -> LayerWork:
        zero = 2 if 2 in self.space.ways(mesh).zero else 0
        rules = PlanRules(DATA, zero, kind.recompute, "", 1, kind.along, kind.heads, kind.tables, kind.by)
        compiled = self.pricer.compiled(strategy_of(self.space, PlanChoice(mesh, rules)), update=False)
        return self._measured(compiled, rows, mesh.size(DATA))

    def _mesh(self, kind: SplitLayer, rows: int) -> MeshChoice:
        """Of one stage, with micro-batches of so many rows."""
        inside = tuple((self.roles[name], n) for name, n in kind.inside)
        pieces, replicas = rows * self.experts(kind), self._replicas(kind, rows)
        data = ((next(r for r in self.space.roles if r.kind == DATA), replicas),) if replicas > 1 else ()
        return MeshChoice((*data, *inside), self.space.batch // (pieces * replicas))

    def _measured(self, compiled: Compiled, rows: int, replicas: int) -> LayerWork:
        program = without_update(compiled.program)
        (cls,), found = program.classes, features(program, self.pricer.passes)
        bodies = {f.key: f for f in cls.functions}
        on = machine(program, self.cluster)
        pricer = Pricer(on, self.cal)
        rows_of = self._on_rows(cls)
        times = fewer = self._times(found.parts[0], bodies, rows_of, pricer)
        if self.cal.ring > 0 and any(_beside(node) for part in found.parts[0].values() for node, _ in part.each()):
            fewer = self._times(found.parts[0], bodies, rows_of, pricer, Pricer(on, most_hidden(self.cal)))
        forward, backward, *others = self._times(
            found.parts[0], bodies, rows_of, pricer, Pricer(on, most_hidden(self.cal)), (Product, Collective)
        )
        saved, kept = self._saved(replace(compiled, program=program), found, rows_of)
        products = forward + backward, others[0], others[1]
        return LayerWork(rows, replicas, *times, float(saved), fewer, products, kept=kept)

    def _on_rows(self, cls: DeviceClass) -> OnRows:
        """Of a program's class: that of others whose functions are the very same."""
        key = tuple([id(f.body) for f in cls.functions])
        known = self.on_rows.pop(key, None) or OnRows(cls, self.space.split.batch)
        while len(self.on_rows) >= KEPT:
            del self.on_rows[next(iter(self.on_rows))]
        self.on_rows[key] = known  # those that were asked for last are kept
        return known

    def _times(
        self,
        parts: Mapping[FunctionKey, Part],
        bodies: Mapping[FunctionKey, Function],
        on: OnRows,
        pricer: Pricer,
        hiding: Pricer | None = None,
        only: tuple[type, ...] = (),
    ) -> tuple[float, float, float, float]:
        """Seconds of the loops forward and backward, of the rest, and of that behind the loop, of what works on rows.
        hiding: of messages beside products (None: as all else); only: nothing but such work."""
        looped, rest, tail = dict[FunctionKey, float](), 0.0, 0.0
        for key, part in parts.items():
            loops = self.loops_of(bodies[key])
            behind = _behind(part, loops, key == FORWARD) if len(loops) and len(self.space.split.loops) == 1 else set()
            took = self._took(bodies[key].body, part, on, pricer, hiding, only)
            cut = {i for i, node in enumerate(part.nodes) if node.name in loops}
            looped[key] = took.least(cut)
            others = set(range(len(part.nodes))) - cut
            rest += took.least(others)
            tail += took.least(others & behind)
        forward, backward = looped.get(FORWARD, 0.0), looped.get(BACKWARD, 0.0)
        return forward / PICOSECONDS, backward / PICOSECONDS, rest / PICOSECONDS, tail / PICOSECONDS

    def loops_of(self, function: Function) -> dict[str, str]:
        """Names of the nodes of the loops at the top that stages are cut from, and their labels."""
        labels = {label for label, _ in self.space.split.loops}
        loops = (n for n in function.body.nodes if isinstance(n.op, Repeat))
        return {n.outputs[0].name: n.op.label for n in loops if isinstance(n.op, Repeat) and n.op.label in labels}

    def _took(
        self,
        body: Graph,
        part: Part,
        on: OnRows,
        pricer: Pricer,
        hiding: Pricer | None,
        only: tuple[type, ...],
    ) -> TimesOnRows:
        """Of a body in which a device computes on rows, or waits for messages of these, at the least stretch."""
        mine = on.kernels(body, part)
        inner = {node.outputs[0].name: node.op.body for node in body.nodes if isinstance(node.op, Repeat)}
        loops, kernels = dict[int, float](), dict[int, int]()
        for i, node in enumerate(part.nodes):
            if isinstance(node.work, WorkLoop):
                each = self._took(inner[node.name], node.work.body, on, pricer, hiding, only)
                loops[i] = node.work.count * each.least(range(len(node.work.body.nodes)))
            elif node.name in mine.heads and (not only or isinstance(node.work, only)):
                kernels[i] = self._busy(node, pricer, hiding)
        less = 0.0 if only else mine.seconds(pricer.machine, self.cal) * self.late * PICOSECONDS
        return TimesOnRows(loops, kernels, less)

    def _busy(self, node: WorkNode, pricer: Pricer, hiding: Pricer | None) -> int:
        work = node.work
        if isinstance(work, (WorkLoop, Wait, Post, Meet)) or (node.again and pricer.cal.reentrant <= 0):
            return 0
        if hiding is not None and isinstance(work, Collective) and work.beside:
            priced = hiding.price(replace(work, beside=()))
        else:
            priced = pricer.price(work)
        if priced.stream == COMPUTE:
            return priced.ps if self.late == 1.0 else round(priced.ps * self.late)
        return priced.ps if isinstance(work, Collective) and work.role == "activations" and priced.blocking else 0

    def _saved(self, compiled: Compiled, found: Features, on: OnRows) -> tuple[int, tuple[float, ...]]:
        """Bytes of rows that the loops' iterations keep for the backward pass, each buffer once; and of each of several
        loops, what surely is where that loop is (another one may read its results, too)."""
        (cls,) = compiled.program.classes
        memory = SystemMemory(Systems(compiled, found, before=self.pricer.memories), cls)
        labels = [label for label, _ in self.space.split.loops]
        states = {s.name: {*s.type.names} for s in cls.states}
        every = memory.saved(FORWARD, lambda name: not states[name].isdisjoint(labels) and on.has_rows(name))
        if len(labels) == 1:
            return every, ()
        of_loops, kept = kept_by_loops(cls.functions), list[int]()
        for i in range(len(labels)):  # a buffer that several loops have counts for the first of them
            names = {name for name, label in of_loops.items() if label in labels[: i + 1] and on.has_rows(name)}
            kept.append(memory.saved(FORWARD, names.__contains__) - sum(kept))
        return every, tuple(map(float, kept))


def without_update(program: Program) -> Program:
    """The program of the passes alone."""
    classes = (replace(c, functions=tuple(f for f in c.functions if f.phase in MODEL_PASSES)) for c in program.classes)
    return program.with_classes(tuple(classes))


def _behind(part: Part, loops: Collection[str], forward: bool) -> set[int]:
    """Nodes in no loop whose place is that of the loop's last iteration: in the forward pass what hangs on it; in the
    backward pass what it hangs on, and what else hangs on that."""
    after: set[int] = set()  # what hangs on a loop
    for i, node in enumerate(part.nodes):
        if node.name in loops or after & {*node.deps}:
            after.add(i)
    if forward:
        return after
    before: set[int] = set()
    for i in reversed(range(len(part.nodes))):
        if part.nodes[i].name in loops or i in before:
            before |= {*part.nodes[i].deps} - after
    for i, node in enumerate(part.nodes):
        if i not in after and before & {*node.deps}:
            before.add(i)
    return before


def most_hidden(cal: Calibration) -> Calibration:
    """With all that products may ever hide of messages beside them."""
    return cal.changed(overlap=max(cal.overlap, cal.ring), exchange=max(cal.exchange, cal.ring))


def _beside(node: WorkNode) -> bool:
    return isinstance(node.work, Collective) and bool(node.work.beside)
