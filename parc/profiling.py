"""What a real run took beside what the cost model says: `parc run --profile`. Seconds, per step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from compiler.cost.price.kinds import STAGES, Kind, Over, Stream
from compiler.cost.price.pricer import COMM, PICOSECONDS
from compiler.cost.time.simulate import UPDATE, Simulation
from compiler.cost.time.timeline import Player, Timeline
from compiler.numbering import Ranks
from compiler.ops.effects import Recv, StageReduce
from compiler.program import FunctionPhase, Program
from dsl.data import dataclass
from runtime.rank.timed import SENT, START, TimedSpan

if TYPE_CHECKING:
    from runtime.distribute import Array
    from runtime.torch.engine import Engine
    from runtime.torch.executor import TorchExecutor

NANOSECONDS = 10**9
COMPUTE, BUBBLE, SENDS, HOST, STEP = "compute", "waits for other stages", "sends", "host", "step"
UPDATES = "update"
HIDDEN = "communication over {}, not hidden"


@dataclass(frozen=True, slots=True)
class Kinds:
    """Seconds of one kind in a step: as the cost model has it for the job's cluster (None: there is none), and here."""

    kind: str
    predicted: float | None
    measured: float


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of one kind in a step: how many were sent here, and the seconds that they take, from their start until
    they were seen to be there."""

    op: str
    over: Over
    calls: float
    predicted: float | None
    measured: float

    @property
    def name(self) -> str:
        return f"{self.op} over {self.over}"


@dataclass(frozen=True)
class Prediction:
    """What `parc cost` says of a step. messages: by op and axes, of the class that ends last, seconds; streams: on
    which track of `parc trace` such messages are."""

    cluster: str
    timeline: Timeline
    messages: Mapping[tuple[str, Over], float]
    streams: Mapping[Over, str]

    @staticmethod
    def of(simulation: Simulation) -> Prediction:
        """Of a program on its cluster."""
        timeline, pricer, groups = simulation.run(), simulation.pricer(), simulation.groups
        slowest = timeline.classes[timeline.slowest].group
        messages: dict[tuple[str, Over], float] = {}
        streams: dict[Over, str] = {}
        for group, counts in enumerate(groups.counts):
            for key, n in counts.items():
                parts = groups.parts(group)
                for node, priced, times in pricer.prices(parts[key], key == UPDATE) if key in parts else ():
                    if priced.stream >= COMM:
                        streams[priced.axes] = pricer.names[priced.stream]
                        if group == slowest:
                            of = getattr(node.work, "op", ""), priced.axes
                            messages[of] = messages.get(of, 0.0) + n * times * priced.ps / PICOSECONDS
        for e in timeline.events:
            if e.stream != Stream.COMPUTE:
                op = SENT if e.kind == Kind.SEND else StageReduce.mnemonic
                if op != SENT:
                    streams[STAGES] = e.stream
                if e.cls == timeline.slowest:
                    messages[op, STAGES] = messages.get((op, STAGES), 0.0) + e.duration_ps / PICOSECONDS
        return Prediction(simulation.cluster.name, timeline, messages, streams)


@dataclass(frozen=True)
class Profile:
    """What ran when in a run. players: classes of devices; spans: of the first device of each, by one clock.

    about: processes, device, what carries messages; prediction: None where the program has no cluster.
    """

    job: str
    about: str
    players: tuple[Player, ...]
    spans: Sequence[Sequence[TimedSpan]]
    prediction: Prediction | None = None

    @property
    def steps(self) -> int:
        """Steps that were run."""
        return 1 + max((s.step for of in self.spans for s in of), default=-1)

    @property
    def counted(self) -> range:
        """The steps that the figures are means of: all but the first, in which much is done for once."""
        return range(min(1, self.steps - 1), self.steps)

    @property
    def shown(self) -> int:
        """The class whose figures they are: that which the cost model has end last, or else the first."""
        return self.prediction.timeline.slowest if self.prediction is not None else 0

    @cached_property
    def kinds(self) -> tuple[Kinds, ...]:
        """What a step is for a device of the class `shown`; all but the last add up to the last."""
        found = [_kinds(s for s in self.spans[self.shown] if s.step == n) for n in self.counted]
        measured = {k: fmean(f.get(k, 0.0) for f in found) for k in dict.fromkeys(k for f in found for k in f)}
        predicted = _predicted(self.prediction.timeline) if self.prediction is not None else {}
        names = sorted({*measured, *predicted}, key=_order)
        wanted = [n for n in names if measured.get(n, 0.0) > 0 or predicted.get(n, 0.0) > 0]
        known = self.prediction is not None
        return tuple(Kinds(n, predicted.get(n, 0.0) if known else None, measured.get(n, 0.0)) for n in wanted)

    @cached_property
    def messages(self) -> tuple[Messages, ...]:
        """The messages of a step of a device of the class `shown`."""
        found: dict[tuple[str, Over], list[int]] = {}
        for s in self.spans[self.shown]:
            if s.kind in (Kind.COLLECTIVE, Kind.SEND) and s.step in self.counted:
                found.setdefault((s.op, s.over), []).append(s.end - s.start)
        steps, predicted = len(self.counted), self.prediction.messages if self.prediction is not None else None
        keys = sorted({*found, *(predicted or ())})
        return tuple(
            Messages(
                op,
                over,
                len(found.get(key, ())) / steps,
                None if predicted is None else predicted.get(key, 0.0),
                sum(found.get(key, ())) / steps / NANOSECONDS,
            )
            for key in keys
            for op, over in (key,)
        )

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        of = self.players[self.shown]
        return {
            "measured_on": self.about,
            "predicted_for": self.prediction.cluster if self.prediction is not None else None,
            "device": of.first,
            "steps": len(self.counted),
            "kinds": [asdict(k) for k in self.kinds],
            "messages": [asdict(m) for m in self.messages],
        }


class Profiler:
    """Makes an engine's executor, and the profile once it has run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run: TorchExecutor | None = None
        self.program: Program | None = None

    def executor(self, program: Program, initial: Mapping[str, Array] | None = None) -> TorchExecutor:
        """A program on the engine's processes, which note what they do."""
        self.program, self.run = program, self.engine.executor(program, initial)
        return self.run

    def profile(self, name: str, simulation: Simulation | None = None) -> Profile:
        """What ran since, beside a prediction of the same program."""
        assert self.run is not None and self.program is not None
        prediction = Prediction.of(simulation) if simulation is not None else None
        classes = players(self.program) if prediction is None else prediction.timeline.classes
        spans = self.run.measured([p.first for p in classes])
        return Profile(name, self.engine.about(), classes, spans, prediction)


def players(program: Program) -> tuple[Player, ...]:
    """The device groups of a program: the devices of each do the same."""
    ranks, found = Ranks.of(program), []
    for index, cls in enumerate(program.classes):
        for group in cls.groups:
            base = ranks.base(group)
            runs = tuple((base + first, n) for first, n in ranks.runs)
            found.append(Player(index, group, base, ranks.size, runs if len(runs) > 1 else ()))
    return tuple(sorted(found, key=lambda p: p.group))


def _kinds(spans: Iterable[TimedSpan]) -> dict[str, float]:
    """Seconds of one device in one step, by kind. A pass computes where it neither starts nor waits for a message."""
    found: dict[str, float] = {}
    actions: list[tuple[int, int, str]] = []
    messages: list[TimedSpan] = []
    for s in spans:
        taken = (s.end - s.start) / NANOSECONDS
        if s.kind == "step":
            found[STEP] = taken
        elif s.stream == Stream.COMPUTE and s.kind in (START, Kind.EXPOSED):
            messages.append(s)
            kind = SENDS if s.op == SENT else BUBBLE if s.op == Recv.mnemonic else HIDDEN.format(s.over)
            found[kind] = found.get(kind, 0.0) + taken
        elif s.stream == Stream.COMPUTE and s.kind != Kind.HOST:
            actions.append((s.start, s.end, UPDATES if s.kind == FunctionPhase.UPDATE else COMPUTE))
    messages.sort(key=lambda s: s.start)
    at = 0
    for start, end, kind in sorted(actions):
        taken = end - start
        while at < len(messages) and messages[at].start < end:
            taken -= messages[at].end - messages[at].start if messages[at].start >= start else 0
            at += 1
        found[kind] = found.get(kind, 0.0) + taken / NANOSECONDS
    found[HOST] = found[STEP] - sum(s for kind, s in found.items() if kind != STEP)
    return found


def _predicted(timeline: Timeline) -> dict[str, float]:
    """The same of the class that ends last, on its cluster."""
    if not timeline.spent:
        return {}
    spent = timeline.spent[timeline.slowest]
    waits = {HIDDEN.format(over): s for over, s in spent.exposed.items()}
    return {
        COMPUTE: spent.products + spent.vectors,
        **waits,
        BUBBLE: spent.bubble,
        UPDATES: spent.update,
        HOST: spent.host,
        STEP: timeline.step_seconds,
    }


def _order(kind: str) -> tuple[int, str]:
    known = (COMPUTE, "", BUBBLE, SENDS, UPDATES, HOST, STEP)
    return (known.index(kind), kind) if kind in known else (1, kind)
