"""What a strategy takes and needs at least, in closed forms of a few numbers: admissible, for all that is left out
only adds. `parc/certifying` has them once more, in words of its own.

Time. All devices together do the work of the serial program, so that one of them does its share at least:

    passes / N + launches * micro-batches / stages + update + messages of gradients and weights

- kernels take their launches, and a device's passes as long as the host needs to dispatch them, per micro-batch
  (what a stage sends may be ready before that), where no product becomes one with a vector, which others join
- of p stages that run m micro-batches one after the other (1F1B, GPipe), stage k begins when the first micro-batch has
  gone through those before it, and these end when the last has come back: with t of a micro-batch through all, the
  slowest takes at least t / (1 - (1 - 1/m)^p), however they are cut (what weights make of the p inequalities
  m*t_k + t_0 + … + t_{k-1} <= T); and a stage has at least the layers that come out even, rounded up
- where the backward pass is in one, a micro-batch goes through all stages and back, whatever the order of chunks
- gradients: (d-1)/d of a device's share goes over the link of each level that the axis of data spans, once to be
  reduced and once as weights (or sums) come back; what systems hide beside a pass is taken off. From ZeRO-2 on they are
  reduced as they come, beside the passes, m times: then the longer of both counts; from ZeRO-3 on weights are gathered
  for each micro-batch as well, and once more for the backward pass where that reads them.

Memory. Weights, gradients and the optimizer's states, evenly over all devices that may share them, and the driver's;
what rests with the hosts does not count, but the states of the optimizer come over the device's link to these.
"""

from __future__ import annotations

from dataclasses import field, replace
from math import prod
from typing import NamedTuple

from dsl.data import dataclass
from parc.planning.held_layers import held_layers, held_moments, held_of_loops
from parc.planning.layer_work import LayerWork, LoopRoom, Pace
from parc.planning.offloads import Away
from parc.planning.space import DATA, MeshChoice, PlanChoice, PlanRules, PlanSpace
from parc.planning.spread import Spread, over_links, spread_of
from parc.planning.stage_cuts import stage_cut
from parc.planning.work import ClusterWork, ModelWork

IN_TURN = ("gpipe", "one_f_one_b")
"""Schedules in which a stage has one chunk, and waits for the backward pass of those behind it."""

BUBBLES = "zero_bubble"
"""The schedule whose backward pass is in two, so that nobody waits for its second half."""

SURE = 1 - 1e-9
"""Of a bound that may be the price itself: sums of floats hang on their order."""


class SecondsOfLayer(NamedTuple):
    """What candidates share that differ in chunks alone, or in schedules of the same kind. plain: bound, whatever stage
    has which layers; layer, through: of a micro-batch, of all stages; slower: the layers with what goes beside them."""

    plain: float
    layer: LayerWork
    through: float
    slower: LayerWork | None


class OfLayer(NamedTuple):
    """Of candidates of a mesh with such layers: see `SecondsOfLayer`; and bytes, which hang on no order of axes."""

    layer: LayerWork
    mesh: MeshChoice
    seconds: dict[tuple[Spread, int, int, str, Away], SecondsOfLayer]
    bytes: dict[tuple[int, str, int, bool, Away, LoopRoom | None], float]


@dataclass(frozen=True, slots=True)
class LowerBounds:
    """Lower bounds of a job's strategies on so many devices. layers: iterations of all loops from which stages are cut,
    turns: of each, in the order of the row.

    layer: what the layers of a micro-batch are known to take (`layers`), of any candidate that has such: then most that
    is left out is which stage has what is in no loop, and how long what stages send each other is on its way.
    """

    model: ModelWork
    cluster: ClusterWork
    devices: int
    layers: int
    turns: tuple[int, ...]
    known: dict[tuple[Spread, str, bool], tuple[float, float]] = field(default_factory=dict, compare=False)
    sizes: dict[tuple[Spread, int, int, Away], float] = field(default_factory=dict, compare=False)
    last: list[OfLayer] = field(default_factory=list, compare=False)

    @property
    def loops(self) -> int:
        """From so many stages are cut."""
        return len(self.turns)

    def seconds(self, of: PlanChoice, layer: LayerWork | None = None, pace: Pace | None = None) -> float:
        """Of a step. pace: of an iteration of the loop, with the messages beside it (`paces`)."""
        rules, m, spread = of.rules, of.mesh.microbatches, spread_of(of)
        again = self.which(rules.recompute, rules.by)
        if layer is None:
            return self._plain(spread, m, again, rules)
        key = (spread, again, rules.zero, rules.schedule, rules.offload)
        known = self._of_layer(layer, of.mesh).seconds
        if key not in known:
            if rules.zero < 2 and m > 1 and not rules.offload:
                layer = replace(layer, added=self.adding(spread))
            slower = self.sharded(spread, rules.zero, layer) if rules.zero > 1 and layer.forward else None
            through = self.through(spread.stages, m, again, layer)
            known[key] = SecondsOfLayer(self._plain(spread, m, again, rules, layer), layer, through, slower)
        plain, layer, through, slower = known[key]
        numbers = spread, m, rules.zero, again, rules.schedule, rules.chunks
        row = self.row(*numbers, layer, through)
        if slower is not None:
            row = max(row, self.row(*numbers, slower, slower.both, layer))
            if pace is not None:
                slower = self.paced(slower, pace)
                row = max(row, self.row(*numbers, slower, slower.both, layer))
        return max(plain, row * SURE)

    def _plain(self, spread: Spread, m: int, again: int, rules: PlanRules, layer: LayerWork | None = None) -> float:
        """Whatever stage has which layers, and however many chunks there are."""
        plain = self.of(spread, m, rules.zero, again, rules.schedule, layer)
        return max(plain, self.moved(spread, rules.zero)) if "optimizer" in rules.offload else plain

    def _of_layer(self, layer: LayerWork, mesh: MeshChoice) -> OfLayer:
        """What was found of these very objects: candidates of a mesh are asked for one after the other."""
        if not self.last or self.last[0].layer is not layer or self.last[0].mesh is not mesh:
            self.last[:] = [OfLayer(layer, mesh, {}, {})]
        return self.last[0]

    def adding(self, spread: Spread) -> float:
        """Seconds in which gradients of all loops' weights are added to those of micro-batches before, where they are
        not sharded, on the average device of a stage that has all layers."""
        if (spread, "added", False) not in self.known:
            looped = [w for w in self.model.weights if w.loop]
            elements = sum(w.elements * prod(n for n, _ in spread.whole(w)) for w in looped)
            seconds = elements * spread.stages / self.devices * self.cluster.added
            self.known[spread, "added", False] = seconds, 0.0
        return self.known[spread, "added", False][0]

    def which(self, recompute: int, by: int) -> int:
        """At which place a choice of what is computed again, and by what, stands in the model's numbers."""
        return by * len(self.model.activations) + recompute

    def apart(self, stages: int, data: int, m: int) -> bool:
        """Whether each product is a kernel of its own, however it is split: a matrix times a vector is not."""
        each, of = self.devices // stages, self.model.least
        return (not of.rows or of.rows >= 2 * m * each) and (not of.columns or of.columns >= 2 * (each // data))

    def sharded(self, spread: Spread, zero: int, layer: LayerWork) -> LayerWork:
        """The same with what goes beside each pass, all of which ends with the pass: gradients beside the backward
        pass, weights beside each. Of the loops alone, for there is time for it beside the rest as well; of all stages,
        one after the other."""
        reduced, gathered = self.messages(spread, "loops", True)
        _, again = self.messages(spread, "again", True)
        forward = max(layer.forward, spread.stages * gathered if zero == 3 else 0.0)
        backward = max(layer.backward, spread.stages * (reduced + (again if zero == 3 else 0.0)))
        return replace(layer, forward=forward, backward=backward, rest=0.0, tail=0.0)

    def paced(self, layer: LayerWork, pace: Pace) -> LayerWork:
        """The same with loops that last so long."""
        forward = max(layer.forward, self.layers * pace.forward)
        backward = max(layer.backward, self.layers * pace.backward, self.layers * pace.both - forward)
        return replace(layer, forward=forward, backward=backward)

    def of(self, spread: Spread, m: int, zero: int, again: int, schedule: str, layer: LayerWork | None = None) -> float:
        """The same in numbers, of the average of all devices."""
        model, cluster, n, stages = self.model, self.cluster, self.devices, spread.stages
        work = model.passes[again] / n
        apart = self.apart(stages, spread.data, m)
        through = work / m * stages + apart * model.launches[again]  # of a micro-batch, through all stages
        share = m / stages * max(through, apart * model.host[again])
        passes = [share]
        if stages > 1 and model.loop[again]:
            passes.append(model.loop[again] * -(-self.layers // stages) * stages / n)
        if schedule in IN_TURN:
            passes.append(through / (1 - (1 - 1 / m) ** stages))
        elif schedule != BUBBLES:
            passes.append(through)
        if layer is not None:
            share = max(share, m / stages * self.through(stages, m, again, layer) * SURE)
        least = max(*passes, share)
        update = self.updating(spread, zero) + model.fixed
        if zero < 2:
            reduced, gathered = self.messages(spread)
            messages = reduced + (min(reduced, gathered) if zero else reduced)
            return max(least, share + max(0.0, messages - cluster.hidden * share / m)) + update
        reduced, gathered = self.messages(spread, sharded=True)
        _, back = self.messages(spread, "again", True)
        beside = m * (reduced + (gathered + back if zero == 3 else 0.0))
        behind = gathered if zero == 2 else 0.0
        return max(least, max(share, beside) + max(0.0, behind - cluster.hidden * share / m)) + update

    def moved(self, spread: Spread, zero: int) -> float:
        """Seconds in which the states of the optimizer come from the hosts, once in a step, on the average device."""
        n = self.devices
        states = (w.moments / (n if zero else n // prod(s for s, _ in spread.whole(w))) for w in self.model.weights)
        return sum(states) / self.cluster.host * SURE if self.cluster.host else 0.0

    def beside(self, of: PlanChoice) -> float:
        """Seconds of the messages that go beside the passes, of the average of all devices."""
        zero = of.rules.zero
        if zero < 2:
            return 0.0
        reduced, gathered = self.messages(spread_of(of), sharded=True)
        return of.mesh.microbatches * (reduced + (2 * gathered if zero == 3 else 0.0))

    def through(self, stages: int, m: int, again: int, layer: LayerWork) -> float:
        """Seconds of a micro-batch's way through all stages, of devices that share a layer. What is in no loop is known
        of a single stage; of several, what it takes on all devices at their best share."""
        if stages == 1:
            return layer.both + layer.rest
        return layer.both + max(layer.tail, self.outside(again) / self.devices * stages / m)

    def shared(self, layer: LayerWork, rows: float) -> float:
        """What a step takes at least where its layers are such, whatever else there is. rows: times the devices that
        share a layer, over those that such a layer has of the batch: so often all of it is done."""
        return rows / self.devices * (layer.forward + layer.backward) * SURE + self.model.fixed

    def outside(self, again: int) -> float:
        """Of the work, what is in no loop. Where it is not known, nothing."""
        model = self.model
        return max(0.0, model.passes[again] - model.loop[again] * self.layers) if self.loops == 1 else 0.0

    def updating(self, spread: Spread, zero: int) -> float:
        """Seconds of the optimizer on the average device. Where its work is shared, new weights are sent to others, in
        messages with more such."""
        if zero:
            return (self.model.update - self.model.written) / self.devices
        return self.model.update * spread.updates / self.devices

    def row(
        self,
        spread: Spread,
        m: int,
        zero: int,
        again: int,
        schedule: str,
        chunks: int,
        layer: LayerWork,
        through: float,
        alone: LayerWork | None = None,
    ) -> float:
        """Of the stage that ends last: it waits for those before it as the first micro-batch comes, they for it as the
        last goes back; what the first stage has to send then comes on top of that. through: what a micro-batch takes of
        all stages together. alone: the layers without what goes beside them, which nobody waits for: activations are
        sent on before gradients are reduced, and weights are there before the first of them comes."""
        p, alone = spread.stages, alone or layer
        first = through  # of a micro-batch, on the first stage
        parts = 1.0  # of the weights of the loops, times the stages, that it has
        update = self.model.fixed
        if p == 1:
            longest = m * through
            update += self.updating(spread, zero)
        elif self.loops != 1:  # stages before go back without adding gradients up first
            idle = 1 - (1 - 1 / m) ** p if schedule in IN_TURN else 1.0
            back = (through - layer.added) / idle if alone is layer and schedule != BUBBLES else 0.0
            longest = max(m / p * through, back)
            first = parts = 0.0
        else:
            cut = stage_cut(self.layers, p, chunks)
            both, added = layer.both / self.layers, layer.added / self.layers
            there, back = self.hop(spread, m)
            bubbles = schedule == BUBBLES
            ahead, least = alone.forward / self.layers, alone.both / self.layers
            waits, hops = (ahead, there) if bubbles else (least - added, there + back)
            each = there if self.cluster.waits else 0.0
            ends = []
            for of in cut.longest:
                sends = m * (chunks - (of.stage == p - 1)) * each
                # What this stage's last sum takes longer than the first stage's is not waited for.
                later = max(0, of.first - cut.first) * added + of.own * (both - least) if of.stage else 0.0
                ends.append(of.before * waits + of.stage * hops + m * of.own * both + sends - later)
            ends[0] += m * layer.tail
            if schedule in IN_TURN:
                ends[0] += through - self.layers * both - layer.tail  # it waits for all else that a micro-batch needs
            if not bubbles:  # the last micro-batch begins behind all others, and goes through all chunks and back
                way = alone.forward + alone.backward + alone.tail + chunks * (p - 1) * hops
                ends.append((m - 1) * cut.first * ahead + way)
            longest = max(ends)
            first, parts = cut.all * both, cut.all * p / self.layers
        reduced, gathered = self.messages(spread, "" if p == 1 else "loops", zero > 1)
        behind = parts * (2 * reduced, reduced + min(reduced, gathered), gathered, 0.0)[zero]
        return longest + max(0.0, behind - self.cluster.hidden * first) + update

    def hop(self, spread: Spread, m: int) -> tuple[float, float]:
        """Seconds in which a micro-batch gets from one stage to the next at least, forward and back: devices of a stage
        send a part each, over the links that neighbouring stages have in common at best. Nothing where it is not known
        how far apart they are."""
        p, n = spread.stages, self.devices
        if p == 1 or (not spread.axes and p < n):
            return 0.0, 0.0
        data = next(((size, stride) for kind, size, stride in spread.axes if kind == DATA), (1, n))
        apart = n // p if data[0] == 1 or data[0] * data[1] < n else n // (p * data[0])
        level = next(
            (i for i, domain in enumerate(self.cluster.domains) if apart < domain), len(self.cluster.links) - 1
        )
        share = p / (m * n * self.cluster.links[level])
        return self.model.sent[0] * share, self.model.sent[1] * share

    def messages(self, spread: Spread, which: str = "", sharded: bool = False) -> tuple[float, float]:
        """Seconds in which gradients are reduced, and weights gathered, of the average of all devices: of the level
        that needs longest. which: of weights `loops`, or those of them that are read `again`, or all; sharded: those
        alone that are surely stored in pieces."""
        key = (spread, which, sharded)
        if key not in self.known:
            sent = [0.0] * len(self.cluster.links)
            for w in self.model.weights:
                if (which and not w.loop) or (which == "again" and not w.again):
                    continue
                axes = spread.whole(w)
                if not axes or (sharded and not spread.shards(w, self.devices)):
                    continue
                elements = w.elements * prod(n for n, _ in axes) / self.devices
                for level, share in enumerate(over_links(axes, self.cluster.domains)):
                    sent[level] += elements * share
            longest = max(amount / link for amount, link in zip(sent, self.cluster.links, strict=True))
            self.known[key] = longest * self.cluster.gradient_wire, longest * self.cluster.wire
        return self.known[key]

    def bytes(self, of: PlanChoice, layer: LayerWork | None = None, room: LoopRoom | None = None) -> float:
        """Of device memory, that the fullest device needs. room: of the loop, if it is known (`rooms`)."""
        if layer is None:
            return self._bytes(of, None, None)
        rules, known = of.rules, self._of_layer(layer, of.mesh).bytes
        key = rules.zero, rules.schedule, rules.chunks, rules.heads, rules.offload, room
        if key not in known:
            known[key] = self._bytes(of, layer, room)
        return known[key]

    def _bytes(self, of: PlanChoice, layer: LayerWork | None, room: LoopRoom | None) -> float:
        mesh, rules, spread = of.mesh, of.rules, spread_of(of)
        p, times = spread.stages, 1 + self.cluster.reserve
        plain = self.needed(spread, rules.zero, away=rules.offload)
        if layer is None or "activations" in rules.offload or (p > 1 and self.loops != 1 and not layer.kept):
            return plain
        if p == 1:
            held = layer.saved * times
            if room is not None:
                held = max(held, (layer.saved + room.backward) * times * SURE - room.shards * self.cluster.reserve)
            return plain + held
        if self.loops != 1:
            each_of = [kept / n * times for kept, n in zip(layer.kept, self.turns, strict=True)]
            for own, alive in held_of_loops(self.turns, p, rules.chunks, mesh.microbatches, rules.schedule):
                held = sum([n * size for n, size in zip(alive, each_of, strict=True)])
                plain = max(plain, self.needed(spread, rules.zero, own, rules.offload) + held)
            return plain
        numbers, each = (self.layers, p, rules.chunks, mesh.microbatches, rules.schedule), layer.saved / self.layers
        every = [(own, alive * each * times) for own, alive in held_layers(*numbers)]
        if room is not None:  # pieces of gradients have room besides, but no reserve
            moments = held_moments(*numbers, each, room)
            every += [(own, held * times * SURE - room.shards * self.cluster.reserve) for own, held in moments]
        return max(plain, *(self.needed(spread, rules.zero, (own,), rules.offload) + n for own, n in every))

    def needed(self, spread: Spread, zero: int, own: tuple[int, ...] = (), away: Away = ()) -> float:
        """The same in numbers: of the average of all devices, or of those of a stage with so many layers of each loop
        (`own`), besides what is in no loop. away: what rests with the hosts."""
        if not own:
            return self._stored(spread, zero, 0, away) + self.cluster.context
        parts = (
            self._stored(spread, zero, loop, away) * (n * spread.stages / turns)
            for loop, (n, turns) in enumerate(zip(own, self.turns, strict=True), 1)
            if n
        )
        return sum(parts) + self.cluster.context

    def _stored(self, spread: Spread, zero: int, loop: int, away: Away) -> float:
        """Of all weights, or of a loop's, on the average device."""
        key = (spread, zero, loop, away)
        if key not in self.sizes:
            cluster, n, kept = self.cluster, self.devices, 0.0
            states, weights = float("optimizer" not in away), float("weights" not in away)
            for w in self.model.weights:
                if loop and w.loop != loop:
                    continue
                if zero == 3:
                    kept += (weights * w.stored + states * w.moments) / n
                    continue
                apart = n // prod(size for size, _ in spread.whole(w))
                kept += w.elements * (weights * cluster.copy / apart + cluster.gradient / (n if zero == 2 else apart))
                kept += (weights * w.elements * cluster.stored + states * w.moments) / (n if zero else apart)
            self.sizes[key] = kept
        return self.sizes[key]


def lower_bounds(space: PlanSpace, model: ModelWork, cluster: ClusterWork) -> LowerBounds:
    """Of a job's strategies in a space."""
    return LowerBounds(model, cluster, space.devices, space.split.layers, tuple(n for _, n in space.split.loops))
