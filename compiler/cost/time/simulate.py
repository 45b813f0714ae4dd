"""`simulate`: how long a step of a compiled job takes on its cluster, and where the time goes.

features (once per program)  ─▶  prices (machine and calibration)  ─▶  segments (each function once)
  ─▶  engine (all device groups' schedules)  ─▶  Timeline
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from compiler.cost.kernels.flops import model_flops
from compiler.cost.kernels.program import Features, features
from compiler.cost.kernels.work import Collective, Loop, Meet, Part, Post, Wait
from compiler.cost.price.calibration import Calibration, of_cluster
from compiler.cost.price.machine import machine
from compiler.cost.price.pricer import Pricer, picoseconds
from compiler.cost.time.order import Key, Plan, Result, evaluate, plan
from compiler.cost.time.sharing import slower_sends
from compiler.cost.time.slow import NOMINAL, Variation, colours
from compiler.cost.time.step import Play, Segment, segments
from compiler.cost.time.step import Player as FunctionPlayer
from compiler.cost.time.summary import summarise, with_slow_devices
from compiler.cost.time.timeline import PICOSECONDS, Player, Timeline
from compiler.cost.time.varied import Classes, Maps, Varied, play_varied
from compiler.model import Cluster, Model
from compiler.numbering import Ranks, joined
from compiler.program import Program
from compiler.schedules import Action, unroll
from dsl.diagnostics import fail

if TYPE_CHECKING:
    from compiler.driver import Compiled

UPDATE: Key = ("U", 0)


def simulate(
    compiled: Compiled, calibration: Calibration | None = None, variation: Variation | None = None
) -> Timeline:
    """One step of a compiled job. Raises ParcError (E0801) if the job states no cluster."""
    return Simulation.of(compiled).run(calibration, variation)


@dataclass(eq=False)
class Simulation:
    """A program on a cluster, to be priced as often as wanted: `run` takes milliseconds."""

    program: Program
    cluster: Cluster
    model: Model
    _plan: Plan | None = None

    @staticmethod
    def of(compiled: Compiled) -> Simulation:
        """Raises ParcError (E0801) if the job states no cluster."""
        job = compiled.job
        if job.cluster is None:
            raise fail(
                "E0801",
                f"the job `{job.name}` does not say on which cluster it runs, so it has no cost",
                job.span,
                help="`train model(…) on pod using strategy`, where `pod` is a `cluster`",
            )
        return Simulation(compiled.program, job.cluster, job.model)

    @cached_property
    def features(self) -> Features:
        """What does not depend on the calibration."""
        return features(self.program)

    @cached_property
    def flops_model(self) -> float:
        """Of products that a step needs, whatever the strategy."""
        return model_flops(self.model)

    @cached_property
    def actions(self) -> tuple[tuple[Action, ...], ...]:
        """Per device group, the schedule written out."""
        p = self.program
        chunks = max(1, p.stages // p.groups)
        of = {g: c for c in p.classes for g in c.groups}
        return tuple(tuple(unroll(of[g].schedule, g, p.groups, chunks)) for g in range(p.groups))

    @cached_property
    def program_class(self) -> tuple[int, ...]:
        """Per device group, the index of its class in the program."""
        where = {g: i for i, c in enumerate(self.program.classes) for g in c.groups}
        return tuple(where[g] for g in range(self.program.groups))

    @cached_property
    def players(self) -> tuple[Player, ...]:
        """A class of devices per group."""
        ranks = Ranks.of(self.program)
        found = []
        for g, c in enumerate(self.program_class):
            runs = ranks.members([g])
            found.append(Player(c, g, runs[0][0], ranks.size, runs if len(runs) > 1 else ()))
        return tuple(found)

    def pricer(self, calibration: Calibration | None = None, variation: Variation = NOMINAL) -> Pricer:
        """Prices on this cluster; without a calibration with the device's own."""
        found = machine(self.program, self.cluster, dict(variation.links))
        pricer = Pricer(found, calibration or of_cluster(self.cluster))
        if self.program.groups > 1:
            of = zip(self.program_class, self.counts)
            pricer.slower = [slower_sends(self.features.parts[c], counts, pricer) for c, counts in of]
        return pricer

    def run(self, calibration: Calibration | None = None, variation: Variation | None = None) -> Timeline:
        """The timeline of a step."""
        varied = variation or NOMINAL
        pricer = self.pricer(calibration, varied)
        costs = self.costs(pricer)
        result = self._evaluate(pricer, costs)
        found = summarise(self, pricer, costs, result, self.players)
        return self._varied(found, pricer, varied.devices) if varied.devices else found

    def seconds(self, calibration: Calibration | None = None, variation: Variation | None = None) -> float:
        """Of a step, and nothing else: for fitting, and for what would help."""
        if variation is not None and variation.devices:
            return self.run(calibration, variation).step_seconds
        pricer = self.pricer(calibration, variation or NOMINAL)
        return max(self._evaluate(pricer, self.costs(pricer)).ends, default=0) / PICOSECONDS

    def costs(self, pricer: Pricer, play: Play = FunctionPlayer) -> list[dict[Key, list[Segment]]]:
        """Per class of the program, its functions' segments."""
        found = []
        for parts in self.features.parts:
            costs = {key: segments(part, pricer, play=play) for key, part in parts.items() if key[0] != "U"}
            if UPDATE in parts:
                costs[UPDATE] = segments(parts[UPDATE], pricer, True, _relief(pricer, costs), play)
            found.append(costs)
        return found

    def _evaluate(self, pricer: Pricer, costs: list[dict[Key, list[Segment]]]) -> Result:
        """When everything happens."""
        if self._plan is None:
            self._plan = plan(self.actions, self.program_class, costs, self.program.groups)
        of = self._plan
        found = [costs[c][key][i] for c, key, i in of.costs]
        groups = self.program.groups
        early = [found[cost].duration - found[cost].posts[i].at for cost, i, _, _ in of.routes]
        posts, meets = self._messages(pricer, found)
        durations = [s.duration for s in found]
        result = evaluate(of, groups, durations, early, posts, meets, pricer.cal.blocking_sends > 0)
        fixed = picoseconds(pricer.cal.fixed)
        for g, counts in enumerate(self.counts):
            result.ends[g] += fixed * counts.get(UPDATE, 0)
        return result

    def _messages(self, pricer: Pricer, found: Sequence[Segment]) -> tuple[list[int], list[int]]:
        """Picoseconds of the plan's routes, and of its all-reduces between groups; `found`: the plan's costs."""
        posts = []
        for cost, i, group, stage in self.plan.routes:
            post = found[cost].posts[i].post
            posts.append(pricer.post(post.bytes, group, (stage + post.to) % self.program.groups))
        meets = []
        for cost, _ in self.plan.meets:
            meet = found[cost].meet
            assert meet is not None
            meets.append(pricer.meet(meet))
        return posts, meets

    @cached_property
    def counts(self) -> tuple[dict[Key, int], ...]:
        """Per device group, how often each function runs in a step."""
        found: list[dict[Key, int]] = []
        for mine in self.actions:
            counts: dict[Key, int] = {}
            for action in mine:
                counts[action[:2]] = counts.get(action[:2], 0) + 1
            found.append(counts)
        return tuple(found)

    @property
    def plan(self) -> Plan:
        """The order in which segments are evaluated."""
        assert self._plan is not None
        return self._plan

    def relief(self, pricer: Pricer, group: int) -> int:
        """Picoseconds of a device group's reductions of gradients that its last backward pass hides."""
        return _relief(pricer, self.costs(pricer)[self.program_class[group]])

    # --- devices that are not alike ------------------------------------------------------------------------------

    def partition(self, devices: Mapping[int, float], pricer: Pricer) -> list[int]:
        """Per rank its class: see `slow.colours`."""
        axes: set[tuple[str, ...]] = set()
        talks: list[set[int]] = [set() for _ in range(self.program.groups)]
        for g, c in enumerate(self.program_class):
            for (_, chunk), part in self.features.parts[c].items():
                _peers(part, chunk * self.program.groups + g, self.program.groups, axes, talks[g])
        return colours(Ranks.of(self.program), devices, sorted(axes), [sorted(t) for t in talks])

    def play_varied(self, pricer: Pricer, devices: Mapping[int, float], partition: Sequence[int]) -> Varied:
        """A step with slow devices, class by class."""
        costs = self.costs(pricer)
        if self._plan is None:
            self._evaluate(pricer, costs)
        relief = [_relief(pricer, costs[c]) for c in self.program_class]
        posts, meets = self._messages(pricer, [costs[c][key][i] for c, key, i in self.plan.costs])
        classes = Classes(Ranks.of(self.program), self.program.groups, partition)
        maps = Maps(self.program, self.features, pricer, self.program_class, classes, devices, relief)
        return play_varied(self.plan, costs, maps, posts, meets)

    def _varied(self, nominal: Timeline, pricer: Pricer, devices: Mapping[int, float]) -> Timeline:
        partition = self.partition(devices, pricer)
        played = self.play_varied(pricer, devices, partition)
        members: dict[int, list[tuple[int, int]]] = {}
        for rank, colour in enumerate(partition):
            members.setdefault(colour, []).append((rank, 1))
        ranks = Ranks.of(self.program)
        classes = []
        for of in members.values():
            first, group = of[0][0], ranks.group(of[0][0])
            classes.append(Player(self.program_class[group], group, first, len(of), joined(of)))
        return with_slow_devices(self, pricer, nominal, played, tuple(classes))


def _relief(pricer: Pricer, costs: Mapping[Key, list[Segment]]) -> int:
    """The share `hidden` of the last backward pass of each chunk."""
    last = (found for key, found in costs.items() if key[0] in ("B", "W"))
    return round(pricer.cal.hidden * sum(s.duration for found in last for s in found))


def _peers(part: Part, stage: int, groups: int, axes: set[tuple[str, ...]], talks: set[int]) -> None:
    for node in part.nodes:
        work = node.work
        if isinstance(work, Loop):
            _peers(work.body, stage, groups, axes, talks)
        elif isinstance(work, Collective):
            axes.add(work.axes)
        elif isinstance(work, Wait):
            talks.add((stage + work.source) % groups)
        elif isinstance(work, Post):
            talks.add((stage + work.to) % groups)
        elif isinstance(work, Meet):
            talks.update(work.groups)
