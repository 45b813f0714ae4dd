"""`simulate`: how long a step of a compiled job takes on its cluster, and where the time goes.

kernels (once per program)  ─▶  prices (machine and calibration)  ─▶  tasks, stepped (each function once)
  ─▶  the plan (all device groups' schedules)  ─▶  Timeline
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from compiler.cost.kernels.flops import model_flops
from compiler.cost.kernels.program import Features, with_updates
from compiler.cost.kernels.work import Part
from compiler.cost.price.calibration import Calibration, of_cluster
from compiler.cost.price.machine import machine
from compiler.cost.price.pricer import COMM, PICOSECONDS, Pricer, picoseconds
from compiler.cost.time.breakdown import Varied, summarise, varied, with_slow_devices
from compiler.cost.time.clock import Durations, Result, Timing, Watch, evaluate
from compiler.cost.time.groups import Groups
from compiler.cost.time.inside import Inside
from compiler.cost.time.order import Plan
from compiler.cost.time.segments import link_use
from compiler.cost.time.slow import NOMINAL, Classes, Variation, colours
from compiler.cost.time.step import Played, Recording, Together, play, step
from compiler.cost.time.task import longest
from compiler.cost.time.tasks import Segment, tasks
from compiler.cost.time.timeline import Pieces, Player, Timeline
from compiler.limits import TOLD_APART
from compiler.model import Cluster, Training
from compiler.numbering import joined
from compiler.program import FunctionKey, FunctionPhase, Program
from dsl.data import dataclass
from dsl.diagnostics import fail

if TYPE_CHECKING:
    from compiler.cost.time.before import PricedBefore
    from compiler.driver import Compiled

UPDATE: FunctionKey = (FunctionPhase.UPDATE, 0)

UNROLLED = 400
"""Pieces of a loop that are shown one by one, at most; the iterations beyond are one piece per stream."""

Costs = Sequence[Mapping[FunctionKey, Sequence[Played]]]
"""Per class of the program, its functions' segments as they are played on devices that are alike."""


def simulate(
    compiled: Compiled, calibration: Calibration | None = None, variation: Variation | None = None
) -> Timeline:
    """One step of a compiled job. Raises ParcError (E0801) if the job states no cluster."""
    return Simulation.of(compiled).run(calibration, variation)


@dataclass(eq=False)
class Simulation:
    """A program on a cluster, to be priced as often as wanted: `run` takes milliseconds. before: what is
    known of programs that were priced before it, on this cluster."""

    program: Program
    cluster: Cluster
    training: Training
    before: PricedBefore | None = None
    fuses: bool = True

    @staticmethod
    def of(compiled: Compiled, before: PricedBefore | None = None) -> Simulation:
        """Raises ParcError (E0801) if the job states no cluster."""
        job = compiled.job
        if job.cluster is None:
            raise fail(
                "E0801",
                f"the job `{job.name}` does not say on which cluster it runs, so it has no cost",
                job.span,
                help="`train model(…) on pod using strategy`, where `pod` is a `cluster`",
            )
        return Simulation(compiled.program, job.cluster, compiled.training, before, job.strategy.fuses)

    def completed(self, compiled: Compiled) -> Simulation:
        """Of the same program with its updates, which did nothing in this one."""
        assert self.before is not None
        found = Simulation.of(compiled, self.before)
        found.groups.features = with_updates(self.features, compiled.program, self.before.work)
        return found

    @cached_property
    def calibration(self) -> Calibration:
        """Of the device with its software, as the job uses it."""
        return of_cluster(self.cluster, self.fuses)

    @cached_property
    def groups(self) -> Groups:
        """What does not depend on the cluster."""
        return Groups(self.program, self.before)

    @property
    def features(self) -> Features:
        """What the program asks of a machine."""
        return self.groups.features

    def pricer(self, calibration: Calibration | None = None, variation: Variation = NOMINAL) -> Pricer:
        """Prices on this cluster; without a calibration with the job's."""
        found = machine(self.program, self.cluster, dict(variation.links))
        cal, groups = calibration or self.calibration, self.groups
        alone = Pricer(found, cal)
        if groups.number == 1:
            return alone
        known: dict[object, tuple[float, ...]] = {}
        slower = []
        for g, counts in enumerate(groups.counts):
            alike = (groups.of_class[g], tuple(counts.items()))
            if alike not in known:
                known[alike] = slower_sends(groups.parts(g), counts, alone, self.before)
            slower.append(known[alike])
        return alone.shared(slower)

    def run(self, calibration: Calibration | None = None, variation: Variation | None = None) -> Timeline:
        """The timeline of a step."""
        slow = variation or NOMINAL
        pricer = self.pricer(calibration, slow)
        costs = self.costs(pricer)
        durations = self.durations(pricer, costs)
        result = self._pass(self.groups.plan, durations, pricer, range(self.groups.number))
        found = summarise(self.groups, pricer, costs, durations, result, model_flops(self.training))
        return self._varied(found, pricer, slow.devices) if slow.devices else found

    def seconds(self, calibration: Calibration | None = None, variation: Variation | None = None) -> float:
        """Of a step, and nothing else: for fitting, and for what would help."""
        if variation is not None and variation.devices:
            return self.run(calibration, variation).step_seconds
        pricer = self.pricer(calibration, variation or NOMINAL)
        durations = self.durations(pricer, self.costs(pricer) if self.before is None else self.known(pricer))
        ends = self._pass(self.groups.plan, durations, pricer, range(self.groups.number)).ends
        return max(ends, default=0) / PICOSECONDS

    def record(self, unrolled: int = UNROLLED, variation: Variation | None = None) -> Pieces:
        """What lies in each function's segments, of devices that are alike; as long as `Played.duration`, to the
        picosecond."""
        costs = self.costs(self.pricer(None, variation or NOMINAL), unrolled)
        return {
            (c, key, i): segment.pieces
            for c, functions in enumerate(costs)
            for key, found in functions.items()
            for i, segment in enumerate(found)
        }

    def costs(self, pricer: Pricer, unrolled: int | None = None) -> Costs:
        """All functions' segments. unrolled: what lies in them is recorded, so many pieces of a loop one by one."""
        recording = Recording(pricer.names, unrolled) if unrolled is not None else None
        found = []
        for functions in self._tasks(pricer):
            of = functions.items()
            found.append({key: [play(s, pricer.streams, recording) for s in mine] for key, mine in of})
        return found

    def known(self, pricer: Pricer) -> Costs:
        """The same as `costs`; what programs before had as well is not played again."""
        assert self.before is not None
        of = self.before.segments
        found: list[dict[FunctionKey, Sequence[Played]]] = []
        for parts in self.features.parts:
            mine = {key: of.played(part, pricer) for key, part in parts.items() if key[0] != FunctionPhase.UPDATE}
            found.append({**mine})
            if UPDATE in parts:
                less = relief(pricer, {key: sum(p.duration for p in played) for key, played in mine.items()})
                found[-1][UPDATE] = [play(s, pricer.streams) for s in tasks(parts[UPDATE], pricer, True, less)]
        return found

    def _tasks(self, pricer: Pricer) -> list[dict[FunctionKey, list[Segment]]]:
        """Per class of the program, its functions' segments; the update's is relieved of what the passes before and
        behind it hide."""
        found = []
        for parts in self.features.parts:
            mine = {key: tasks(part, pricer) for key, part in parts.items() if key[0] != FunctionPhase.UPDATE}
            if UPDATE in parts:
                beside = (
                    {key: sum(play(s, pricer.streams).duration for s in of) for key, of in mine.items()}
                    if hides(pricer)
                    else {}
                )
                mine[UPDATE] = tasks(parts[UPDATE], pricer, True, relief(pricer, beside))
            found.append(mine)
        return found

    def durations(self, pricer: Pricer, costs: Costs) -> Durations:
        """Of the plan, of devices that are alike."""
        known: dict[int, Timing] = {}
        timings = []
        for line in self.groups.plan.lines:
            played = costs[self.groups.of_class[line.group]][line.key][line.at]
            if id(played) not in known:
                posts = tuple([((0, at),) for at in played.ready])
                known[id(played)] = Timing(((0, played.duration),), posts, played.compute)
            timings.append(known[id(played)])
        return _durations(pricer, self.groups.plan, timings)

    def _pass(
        self, of: Plan, durations: Durations, pricer: Pricer, groups: Iterable[int], watch: Watch | None = None
    ) -> Result:
        """One pass over a plan, and what a step costs once. groups: of the plan's classes."""
        result = evaluate(of, durations, watch)
        fixed = picoseconds(pricer.cal.fixed)
        result.ends = [t + fixed * self.groups.counts[g].get(UPDATE, 0) for t, g in zip(result.ends, groups)]
        return result

    # --- devices that are not alike ------------------------------------------------------------------------------

    def partition(self, devices: Mapping[int, float]) -> list[int]:
        """Per rank its class: see `slow.colours`. Raises ParcError (E0933) where there are too many."""
        if self.program.devices > TOLD_APART:
            message = f"with slow devices {self.program.devices:,} have to be told apart, the most is {TOLD_APART:,}"
            raise fail("E0933", message, help="fewer replicas: what they wait for hardly depends on how many there are")
        return colours(self.groups.ranks, devices, self.groups.axes, self.groups.talks)

    def play_varied(self, pricer: Pricer, devices: Mapping[int, float], partition: Sequence[int]) -> Varied:
        """A step with slow devices, class by class; groups that are alike share what they play."""
        groups, classes = self.groups, Classes(self.groups.ranks, partition)
        factors = [tuple(devices.get(classes.first[c], 1.0) for c in found) for found in classes.of]
        along = [{axes: classes.along(g, axes) for axes in groups.axes} for g in range(groups.number)]
        functions = self._tasks(pricer)
        plan = groups.plan.of_classes(classes)
        known: dict[object, list[Timing]] = {}
        timings: list[Timing] = []
        for line in groups.plan.lines:
            g, c = line.group, groups.of_class[line.group]
            alike = (c, line.key, line.at, factors[g], tuple(along[g].values()))
            if alike not in known:
                known[alike] = _timing(functions[c][line.key][line.at], pricer.streams, factors[g], along[g])
            timings += known[alike]
            timings += [NEVER] * (len(plan.lines) // len(groups.plan.lines) - len(known[alike]))
        durations = _durations(pricer, plan, timings)
        inside = Inside(plan, durations)
        result = self._pass(plan, durations, pricer, [g for g, of in enumerate(classes.of) for _ in of], inside)
        return varied(groups, pricer, plan, durations, result, inside, classes)

    def _varied(self, nominal: Timeline, pricer: Pricer, devices: Mapping[int, float]) -> Timeline:
        partition = self.partition(devices)
        played = self.play_varied(pricer, devices, partition)
        members: dict[int, list[tuple[int, int]]] = {}
        for rank, colour in enumerate(partition):
            members.setdefault(colour, []).append((rank, 1))
        classes = []
        for of in members.values():
            first, group = of[0][0], self.groups.ranks.group(of[0][0])
            classes.append(Player(self.groups.of_class[group], group, first, len(of), joined(of)))
        return with_slow_devices(self.groups, pricer, nominal, played, tuple(classes))


BACKWARD = (FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS)


def hides(pricer: Pricer) -> bool:
    """Whether messages of the update go beside passes."""
    return bool(pricer.cal.hidden or pricer.cal.hidden_gather)


def relief(pricer: Pricer, functions: Mapping[FunctionKey, int]) -> dict[str, int]:
    """Picoseconds of the update's messages that go beside passes, by their role: reductions of gradients beside the
    last backward pass of each chunk (`hidden`), gathers of updated weights beside its first forward pass of the next
    step (`hidden_gather`). functions: how long each takes."""
    found = {}
    for role, share, phases in (
        ("gradients", pricer.cal.hidden, BACKWARD),
        ("weights", pricer.cal.hidden_gather, (FunctionPhase.FORWARD,)),
    ):
        if share:
            found[role] = round(share * sum(ps for key, ps in functions.items() if key[0] in phases))
    return found


def slower_sends(
    parts: Mapping[FunctionKey, Part],
    counts: Mapping[FunctionKey, int],
    pricer: Pricer,
    before: PricedBefore | None = None,
) -> tuple[float, ...]:
    """Per level how much longer a send of a device group takes: 1/(1 - u/2), u = the share of the time outside of the
    update in which collectives use the level's links.

    Collectives of one level wait for each other (`pricer.Priced`), so that axes which cross it at once share it. A send
    of a pipeline goes whenever it is ready, beside the collectives of the activations that run meanwhile: while they
    use the links of its level it has half of them. (That they are slowed as well is not counted: sends are short.)

    counts: how often each function runs in a step; before: what is
    known of programs before.
    """
    used = [0] * pricer.streams
    time = 0
    for key, times in counts.items():
        if key[0] == FunctionPhase.UPDATE or key not in parts:
            continue
        use = link_use(parts[key], pricer) if before is None else before.segments.use(parts[key], pricer)
        time += times * use.time
        for stream, ps in enumerate(use.used):
            used[stream] += times * ps
    return tuple(1.0 / (1.0 - min(1.0, u / time) / 2) if time else 1.0 for u in used[COMM:])


def _durations(pricer: Pricer, of: Plan, timings: Sequence[Timing]) -> Durations:
    posts = [pricer.post(pricer.part(r.post), r.group, r.to) for r in of.routes]
    meets = [pricer.meet(meet) for meet in of.meets]
    return Durations(timings, posts, meets, pricer.cal.blocking_sends > 0)


NEVER = Timing((), (), 0)
"""Of a class that a group does not have."""


def _timing(segment: Segment, streams: int, factors: Sequence[float], together: Together) -> list[Timing]:
    """Of each class. Plays a segment once for each class: it begins so late that all wait that ever do."""
    n = len(factors)
    late = 1 + segment.host + round(max(factors) * 2 * longest(segment.tasks))
    ends: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    posts: list[list[list[tuple[int, int]]]] = [[[] for _ in segment.cut.posts] for _ in range(n)]
    busy = [0] * n
    for origin in range(n):
        begin = [late if c == origin else 0 for c in range(n)]
        for c, p in enumerate(step(segment, streams, begin, factors, together)):
            busy[c] = p.compute
            if p.duration >= late:
                ends[c].append((origin, p.duration - late))
            for i, at in enumerate(p.ready):
                if at >= late:
                    posts[c][i].append((origin, at - late))
    return [Timing(tuple(ends[c]), tuple(map(tuple, posts[c])), busy[c]) for c in range(n)]
