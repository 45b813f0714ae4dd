"""What all candidates of a space take and need, roughly, a block of them at a time: by it the first exact prices are
chosen (`scouting`). Nothing is left out for it, so it has to be close rather than sure.

A candidate's time is `max(coef * t, beside) + more`, its memory `states + kept * s + rest`, with t and s of its layers:
seconds of both passes, and bytes that they keep, of a row of the batch. These are known of what was looked at; of other
layers they are put together from what one device takes alone, and from what an axis of two devices adds to that.
Schedules are the usual closed forms: `m` micro-batches through the fullest stage, and the way through the others once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from math import prod

import numpy as np

from parc.planning.bounds import LowerBounds
from parc.planning.columns import AxesBlock, Columns, Floats, Ints, joined
from parc.planning.guess import SplitLayer, kin
from parc.planning.held_layers import held_layers
from parc.planning.layer_work import LayerWork
from parc.planning.layers import Layers
from parc.planning.offloads import Away
from parc.planning.space import (
    DATA,
    EXPERTS,
    INNER,
    POSITIONS,
    STAGES,
    AxisRole,
    FieldWays,
    MeshChoice,
    PlanChoice,
    PlanRules,
    PlanSpace,
)
from parc.planning.spread import Spread, spread_of

MOST = 60_000
"""So many candidates are kept, those that seem best."""

NEAR = 1.25
"""Candidates may seem to need so many times the memory that there is: the estimate is rough."""

LATE = 1.7
"""Under a zero-bubble schedule what weights' gradients are made of stays until they are: so many times what would."""

BESIDE, IN_TURN = 0.1, 0.85
"""Of messages beside passes, which share takes longer all the same; where activations wait for them."""

FORWARD = 0.3
"""Of both passes, the forward one's share: of a zero-bubble schedule's fill."""


class Estimates:
    """Of a space. has_room: whether the states of a mesh's candidates have room, by stage of ZeRO."""

    def __init__(
        self,
        space: PlanSpace,
        bounds: LowerBounds,
        layers: Layers,
        has_room: Callable[[MeshChoice, int, Away], bool],
    ) -> None:
        self.space, self.bounds, self.layers, self.has_room = space, bounds, layers, has_room
        self.kinds: dict[SplitLayer, int] = {}
        self._kinds: list[SplitLayer] = []
        self.times: list[float] = []
        self.saves: list[float] = []
        self.blocks: list[AxesBlock] = []
        self.alone = self._looked(SplitLayer((), 0, "", False, ()))
        self.two: dict[tuple[str, str, bool, int], tuple[float, float]] = {}
        self.states: dict[tuple[Spread, int, int, int, Away], float] = {}

    # --- layers --------------------------------------------------------------------------------------------------

    def look(self, kind: SplitLayer) -> bool:
        """Look at layers of a kind (but for what is computed again), if that was not done."""
        plain = replace(kind, recompute=0)
        found = self.layers.look(plain, self.layers.many(plain)) or (
            plain != kind and not self.layers.known.get(plain) and self.layers.look(kind, self.layers.many(kind))
        )
        if found:
            for of, i in self.kinds.items():
                self.times[i], self.saves[i] = self._of(of)
        return found

    def _looked(self, kind: SplitLayer) -> LayerWork | None:
        self.layers.look(kind, self.layers.many(kind))
        return self._known(kind)

    def _known(self, kind: SplitLayer) -> LayerWork | None:
        """Of a row."""
        if not (known := self.layers.known.get(kind)):
            return None
        of = max(known, key=lambda w: w.rows)
        n = of.rows
        times = of.forward / n, of.backward / n, of.rest / n, of.tail / n
        return LayerWork(1, of.replicas, *times, of.saved / n, times)

    def _kind(self, kind: SplitLayer) -> int:
        if kind not in self.kinds:
            self.kinds[kind] = len(self.kinds)
            self._kinds.append(kind)
            seconds, saved = self._of(kind)
            self.times.append(seconds)
            self.saves.append(saved)
        return self.kinds[kind]

    def _of(self, kind: SplitLayer) -> tuple[float, float]:
        """Seconds of both passes, and bytes that layers keep, of a row."""
        model, space = self.bounds.model, self.space
        if kind.recompute and (own := self._known(kind)) is not None:
            return own.both + own.rest, own.saved
        longer = model.passes[kind.recompute] / model.passes[0] if model.passes[0] else 1.0
        share = kind.devices / self.layers.experts(kind)
        less = (model.activations[0] - model.activations[kind.recompute]) / space.batch / share
        known = self._known(replace(kind, recompute=0))
        if known is not None:
            return (known.both + known.rest) * longer, max(known.saved - less, 0.02 * known.saved)
        assert self.alone is not None
        seconds, saved = (self.alone.both + self.alone.rest) / share, self.alone.saved / share
        stride, added = 1, 0.0
        links, inner = self.bounds.cluster.links, self.bounds.cluster.domains[0]
        for name, n in reversed(kind.inside):
            more, whole = self._two(kind, name)
            each = share / n if self.layers.roles[name].kind != EXPERTS else share
            slower = links[0] / links[1] if stride * n > inner and len(links) > 1 else 1.0
            added += more * 2 * (n - 1) / n / each * slower
            saved *= 1 + whole * (n - 1)
            stride *= n
        return (seconds + added) * longer, max(saved - less, 0.02 * saved)

    def _two(self, kind: SplitLayer, name: str) -> tuple[float, float]:
        """What an axis of two devices adds to their share of the time of a row; which share of what layers keep it does
        not split."""
        role = self.layers.roles[name]
        key = (
            name,
            kind.along if role.kind not in (EXPERTS, POSITIONS) else "",
            kind.heads and role.kind == POSITIONS,
            kind.by if role.kind == POSITIONS else 0,
        )
        if key not in self.two:
            self.two[key] = 0.0, 0.0
            assert self.alone is not None
            for tables in ((), self.space.split.rows):
                work = self._looked(SplitLayer(((name, 2),), 0, key[1], key[2], tables, key[3]))
                if work is not None:
                    n = 1 if role.kind == EXPERTS else 2
                    added = work.both + work.rest - (self.alone.both + self.alone.rest) / n
                    whole = n * work.saved / self.alone.saved - 1 if self.alone.saved else 0.0
                    self.two[key] = max(0.0, added), min(1.0, max(0.0, whole))
                    break
        return self.two[key]

    # --- candidates ----------------------------------------------------------------------------------------------

    def columns(self) -> Columns | None:
        """All that may fit, or those of them that seem best; None where nothing is known of the model's layers."""
        if self.alone is None:
            return None
        blocks: list[Columns] = []
        for axes, meshes in groupby(self.space.meshes(), key=lambda mesh: mesh.axes):
            if (found := self._block(axes, tuple(mesh.microbatches for mesh in meshes))) is not None:
                blocks.append(found)
        if not blocks:
            return None
        every = joined(blocks)
        seconds, _ = self.estimates(every)
        if len(seconds) > MOST:
            every = every.some(np.sort(np.argpartition(seconds, MOST)[:MOST]))
        return every

    def estimates(self, of: Columns) -> tuple[Floats, Floats]:
        """Seconds and bytes."""
        times, saves = np.array(self.times), np.array(self.saves)
        passes = of.coef * times[of.kind]
        seconds = np.maximum(passes, of.beside) + of.waits * np.minimum(passes, of.beside) + of.more
        return seconds, of.states + of.kept * saves[of.saver] + of.rest

    def candidate(self, of: Columns, i: int) -> PlanChoice:
        """The one at a place."""
        number, b, m, z, s, f = of.at[i]
        block = self.blocks[number]
        name, chunks = block.ways.schedules[s]
        rules = replace(
            block.bunches[b], first=block.ways.first[f], zero=block.ways.zero[z], schedule=name, chunks=chunks
        )
        return PlanChoice(MeshChoice(block.axes, block.microbatches[m]), rules)

    def _block(self, axes: tuple[tuple[AxisRole, int], ...], microbatches: tuple[int, ...]) -> Columns | None:
        space, bounds = self.space, self.bounds
        mesh = MeshChoice(axes, 1)
        ways = space.ways(mesh)
        zero = [z for z in ways.zero if any(self.has_room(mesh, z, away) for away in ways.offload)]
        if not zero:
            return None
        ways = replace(ways, zero=tuple(zero))
        bunches = tuple(rules for rules, _ in space.bunches(mesh))
        kinds = tuple(self._kind(kin(space, mesh, rules).layer) for rules in bunches)
        of = AxesBlock(axes, microbatches, bunches, ways, kinds)
        p, n = mesh.size(STAGES), bounds.devices
        # the axes: bunches, micro-batches, ZeRO, schedules, which axis is outermost
        m = np.array(microbatches, float)[None, :, None, None, None]
        rows = space.batch / (mesh.size(DATA) * mesh.size(EXPERTS)) / m
        kind = np.array(kinds)[:, None, None, None, None]
        alive = np.array([[self._alive(p, each, *s) for s in ways.schedules] for each in microbatches])
        kept = rows * alive[None, :, None, :, None] * (1 + bounds.cluster.reserve)
        late = np.array([name == "zero_bubble" for name, _ in ways.schedules])[None, None, None, :, None]
        plain = tuple(self._kind(replace(self._kinds[k], recompute=0)) for k in kinds)
        saver = np.where(late, np.array(plain)[:, None, None, None, None], kind)
        kept = kept * np.where(late, LATE, 1.0)
        known: dict[object, list[float]] = {}  # what bytes of states hang on
        for r in bunches:
            if (alike := (r.first, r.heads, r.offload)) not in known:
                known[alike] = [self._states(mesh, r, z) for z in zero]
        states = np.array([known[r.first, r.heads, r.offload] for r in bunches])[:, None, :, None, None]
        rest = rows * (self._rest() / (n / p / mesh.size(DATA) / mesh.size(EXPERTS)))
        saves, times = np.array(self.saves), np.array(self.times)
        needed = states + kept * saves[saver] + rest + np.zeros((1, 1, 1, 1, len(ways.first)))
        places = np.nonzero(needed <= NEAR * bounds.cluster.memory)
        if not len(places[0]):
            return None
        number = len(self.blocks)
        self.blocks.append(of)
        turns = np.array([[self._turns(p, each, *s) for s in ways.schedules] for each in microbatches])
        turns = turns[None, :, None, :, None]
        looped = self._looped
        shares = [self._shares(p, chunks) for _, chunks in ways.schedules]
        longer = np.array([max(0.0, (last - most) * looped[0] + looped[1]) for most, last in shares])
        coef = rows * (m if p == 1 else turns * looped[0] + m * longer[None, None, None, :, None])
        launched = np.array([bounds.model.launches[r.recompute] for r in bunches])[:, None, None, None, None]
        beside, more = self._messages(of, m, turns, times[kind] * rows / p)
        more = more + m / p * launched + self._sent(mesh, ways, m, p)
        shape = needed.shape

        def flat(x: Floats) -> Floats:
            return np.broadcast_to(x, shape)[places]

        b, i, z, s, f = places
        at = np.stack([np.full(len(b), number), b, i, z, s, f], axis=1)
        what = np.stack([*self._what(of, b, i, z, s, number)], axis=1)
        return Columns(
            at,
            np.array(kinds)[b],
            np.broadcast_to(saver, shape)[places],
            flat(coef),
            flat(beside),
            np.full(len(b), self._waits(mesh)),
            flat(more),
            flat(states),
            flat(kept),
            flat(rest),
            what,
        )

    @property
    def _looped(self) -> tuple[float, float]:
        """Which share of both passes the loops have, and what else a stage has that has most of that."""
        assert self.alone is not None
        of = self.alone
        both, behind = of.both + of.rest, of.tail if self.bounds.loops == 1 else of.rest
        return (of.both / both, max(behind, of.rest - behind) / both) if both else (1.0, 0.0)

    def _rest(self) -> float:
        """Bytes of a row that are there at the fullest moment besides what loops keep."""
        assert self.alone is not None
        return max(0.0, self.bounds.model.activations[0] / self.space.batch - self.alone.saved)

    def _alive(self, p: int, m: int, schedule: str, chunks: int) -> float:
        """Which share of all layers keeps something of a micro-batch, of the stage that has most."""
        if p == 1:
            return 1.0
        layers = self.bounds.layers
        if schedule == "interleaved":
            ahead = min(m * chunks, (chunks - 1) * p + 2 * (p - 1) + 1)
            return ahead * -(-layers // (p * chunks)) / layers
        if self.bounds.loops == 1:
            return max(alive for _, alive in held_layers(layers, p, chunks, m, schedule)) / layers
        return (m if schedule == "gpipe" else min(m, p)) / p

    def _turns(self, p: int, m: int, schedule: str, chunks: int) -> float:
        """How often all layers of a micro-batch are gone through on a device, those it waits for counted."""
        most, _ = self._shares(p, chunks)
        through = (p - 1) / p
        if schedule == "interleaved":
            through /= chunks
        elif schedule == "zero_bubble":
            through *= FORWARD
        return m * most + through

    def _shares(self, p: int, chunks: int) -> tuple[float, float]:
        """Which shares of all layers the stage has that has most, and the last one, which gets one more last."""
        layers = max(1, self.bounds.layers)
        base, extra = divmod(layers, p * chunks)
        most = min(layers, (base + (extra > 0)) * chunks) / layers
        return max(most, 1 / p), (base * chunks + max(0, extra - (p - 1) * chunks)) / layers

    def _states(self, mesh: MeshChoice, rules: PlanRules, zero: int) -> float:
        """Bytes of weights, gradients and the optimizer's states of the fullest stage."""
        p = mesh.size(STAGES)
        if not self.has_room(mesh, zero, rules.offload):
            return np.inf
        key = spread_of(PlanChoice(mesh, rules)), mesh.size(INNER), p, zero, rules.offload
        if key not in self.states:  # what is computed again changes nothing
            self.states[key] = self._stored(*key)
        return self.states[key]

    def _stored(self, spread: Spread, t: int, p: int, zero: int, away: Away) -> float:
        """The same, of devices of which so many split what is inner."""
        cluster, n = self.bounds.cluster, self.bounds.devices
        layers = max(1, self.bounds.layers)
        own = -(-layers // p) / layers
        with_states, with_weights = "optimizer" not in away, "weights" not in away
        kept = cluster.context
        for w in self.bounds.model.weights:
            same = prod(size for size, _ in spread.whole(w))
            if t > 1 and not any(taken and size % t == 0 for size, taken in w.own):
                same *= t  # no dim of it can be split so often
            part = (own if w.loop else 1.0 if p == 1 else 0.5) / (n / p)
            apart = part * same
            elements = w.elements * (part if zero >= 2 else apart) * cluster.gradient
            elements += w.elements * (part if zero == 3 else apart) * cluster.copy * with_weights
            optimizer = w.elements * cluster.stored * with_weights + w.moments * with_states
            kept += elements + optimizer * (part if zero else apart)
            if zero == 3 and w.loop:  # two layers that are gathered
                kept += 2 * w.elements / layers * cluster.copy / (n / p / same)
        return kept

    def _messages(self, of: AxesBlock, m: Floats, turns: Floats, passes: Floats) -> tuple[Floats, Floats]:
        """Seconds beside passes, and behind them with the update."""
        bounds, cluster, n = self.bounds, self.bounds.cluster, self.bounds.devices
        mesh = MeshChoice(of.axes, 1)
        p, d = mesh.size(STAGES), mesh.size(DATA)
        ways = of.ways
        sent = np.zeros((2, 2, len(of.bunches), 1, 1, 1, len(ways.first)))
        for b, rules in enumerate(of.bunches):
            for f, first in enumerate(ways.first):
                spread = spread_of(PlanChoice(mesh, replace(rules, first=first)))
                sent[0, :, b, 0, 0, 0, f] = bounds.messages(spread)
                sent[1, :, b, 0, 0, 0, f] = bounds.messages(spread, "loops")
        zero = np.array(ways.zero)[None, None, :, None, None]
        (reduced, gathered), (each_reduced, each_gathered) = sent
        times = turns * (p if p > 1 else 1)
        beside = np.where(zero >= 2, times * (each_reduced + (zero == 3) * 2 * each_gathered), 0.0)
        behind = np.where(
            zero == 0, 2 * reduced, np.where(zero == 1, reduced + np.minimum(reduced, gathered), gathered)
        )
        behind = np.where(zero == 3, 0.0, np.maximum(0.0, behind - cluster.hidden * passes))
        update = bounds.model.update / n * np.where(zero > 0, 1, d) + bounds.model.fixed
        each = bounds.adding(spread_of(PlanChoice(mesh, of.bunches[0])))
        added = np.where((zero < 2) & (m > 1), m / p * each, 0.0)
        return beside, behind + update + added

    def _waits(self, mesh: MeshChoice) -> float:
        """Which share of what goes beside passes is not beside them. Messages of activations wait for those of weights
        and gradients that want the same links, and for what these wait for."""
        inside = prod(n for role, n in mesh.axes if role.kind not in (STAGES, DATA, EXPERTS))
        spread = spread_of(PlanChoice(mesh, PlanRules(mesh.axes[0][0].kind if mesh.axes else "")))
        near = any(stride < self.bounds.cluster.domains[0] for _, _, stride in spread.axes)
        return IN_TURN if inside > 1 and near else BESIDE

    def _sent(self, mesh: MeshChoice, ways: FieldWays, m: Floats, p: int) -> Floats:
        """Seconds in which a stage sends, where it waits for that."""
        if p == 1:
            return np.zeros(1)
        there, back = self.bounds.hop(spread_of(PlanChoice(mesh, PlanRules(ways.first[0]))), 1)
        chunks = np.array([c for _, c in ways.schedules], float)[None, None, None, :, None]
        once = (p - 1) * (there + back) / m
        return once + (chunks * (there + back) if self.bounds.cluster.waits else 0.0)

    def _what(self, of: AxesBlock, b: Ints, i: Ints, z: Ints, s: Ints, number: int) -> Iterator[Ints]:
        """Properties: small numbers, alike where candidates are."""
        schedules = np.array([_schedule_number(*each) for each in of.ways.schedules])
        inside = np.array([self._kind(replace(kind, recompute=0)) for kind in self._layers_of(of)])
        again = np.array([rules.recompute + 10 * rules.by for rules in of.bunches])
        rows = np.array([int(np.log2(max(1, self.space.batch // each))) for each in of.microbatches])
        yield np.zeros(len(b), int)
        yield inside[b]
        yield inside[b] * 64 + rows[i] + 0 * b
        yield schedules[s]
        yield np.array(of.ways.zero)[z] * 16 + schedules[s]
        yield np.full(len(b), self._stages(of))
        yield again[b]
        yield again[b] * 16 + schedules[s]
        yield np.full(len(b), number)

    def _stages(self, of: AxesBlock) -> int:
        return MeshChoice(of.axes, 1).size(STAGES)

    def _layers_of(self, of: AxesBlock) -> Iterator[SplitLayer]:
        mesh = MeshChoice(of.axes, 1)
        return (kin(self.space, mesh, rules).layer for rules in of.bunches)


def _schedule_number(name: str, chunks: int) -> int:
    return ("", "gpipe", "one_f_one_b", "zero_bubble", "interleaved").index(name) + (chunks - 1)
