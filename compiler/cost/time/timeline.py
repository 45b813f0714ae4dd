"""What a simulation hands on: when what ran on each class of devices, what lies inside, and the figures of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import overload

from compiler.cost.price.kinds import NOTHING, Over
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One activity of the devices of a class.

    stream:   `compute`, `send`, or `comm:LEVEL` (the outermost level of the cluster that is crossed).
    kind:     `F`, `B`, `W`, `U` (activations; what runs inside them is not here: see `Piece`), `host` (what a step
              costs once), `collective` (between device groups), `send`.
    stage:    the device group. chunk: of the rolled loop, where groups have several.
    segment:  which part of its activation: one is cut where it waits for other groups.
    messages: of a send the one it carries, of an activation those that it waited for.
    """

    cls: int
    stream: str
    name: str
    kind: str
    start_ps: int
    end_ps: int
    micro: int = 0
    stage: int = 0
    chunk: int = 0
    segment: int = 0
    messages: tuple[int, ...] = ()

    @property
    def duration_ps(self) -> int:
        return self.end_ps - self.start_ps


@dataclass(frozen=True, slots=True)
class Piece:
    """Something on one stream of a device, in picoseconds from the start of its segment.

    stream: `compute`, `copy`, `comm:LEVEL`. On `compute` pieces follow each other without gaps.
    kind:   `product`, `vector`, `collective`, `copy`; on `compute` also `exposed` (waits for a message over `axes`),
            `wait` (for a loop's end or a copy), `host` (the host has not dispatched all); `repeat`: `times` more
            iterations of a loop, each as the one before.
    bytes:  of a kernel what it moves in device memory, of a message what the device sends.
    """

    stream: str
    name: str
    kind: str
    start: int
    end: int
    axes: Over = NOTHING
    bytes: float = 0.0
    flops: float = 0.0
    times: int = 1

    @property
    def duration(self) -> int:
        return self.end - self.start


Pieces = Mapping[tuple[int, tuple[str, int], int], tuple[Piece, ...]]
"""(program class, (function, chunk), number of its segment) -> what lies in it, in order of the start."""


class Events(Sequence[Event]):
    """Events that are made when somebody looks: there are as many as micro-batches and stages."""

    def __init__(self, make: Callable[[], Sequence[Event]]) -> None:
        self._make = make
        self._made: tuple[Event, ...] | None = None

    def _events(self) -> Sequence[Event]:
        if self._made is None:
            self._made = tuple(self._make())
        return self._made

    def __len__(self) -> int:
        return len(self._events())

    @overload
    def __getitem__(self, at: int) -> Event: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Event]: ...
    def __getitem__(self, at: int | slice) -> Event | Sequence[Event]:
        return self._events()[at]


@dataclass(frozen=True, slots=True)
class Player:
    """A class of devices that do the same at the same time, which one of them stands for.

    program: index among the program's classes; group: index of the device group (pipeline stage);
    first: lowest rank of the class; count: number of devices; runs: their ranks as (first, how many in a row), if they
    are not in a row.
    """

    program: int
    group: int
    first: int
    count: int
    runs: tuple[tuple[int, int], ...] = ()

    @property
    def ranks(self) -> tuple[tuple[int, int], ...]:
        """All ranks, as (first, how many in a row)."""
        return self.runs or ((self.first, self.count),)


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the list of what takes longest on a device: summed over a step."""

    name: str
    kind: str
    seconds: float
    calls: int
    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Link:
    """What a device sends over these axes in a step: "tp", "dp+cp", `stages` (to other device groups), `copy` (to host
    or NVMe memory).

    level: the outermost of the cluster that is crossed. seconds: that messages take, `exposed` of which computation
    waits for; the rest runs beside it.
    """

    axes: Over
    level: str
    calls: int
    bytes: float
    seconds: float
    exposed: float

    @property
    def hidden(self) -> float:
        return max(0.0, self.seconds - self.exposed)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a step is for a device of one class, in seconds, which add up to it.

    products, vectors: kernels of the passes, on the matrix and the vector unit; update: kernels of the update; exposed:
    waits for messages, by axes; host: waits for the host, between kernels and once per step; bubble: waits for other
    device groups. sends: bytes to each other device group.
    """

    products: float
    vectors: float
    update: float
    exposed: dict[Over, float]
    host: float
    bubble: float
    links: tuple[Link, ...] = ()
    sends: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timeline:
    """One step. Times in seconds, per-class figures in the order of `classes`; traffic and exposure by mesh axes.

    busy:            seconds in which the class computes (its own kernels, host dispatch included)
    exposed_by_axis: seconds in which the slowest class waits for communication, by axes ("tp", "dp+cp", "pp" …)
    traffic:         bytes that a device sends per step, by axes; of the class that sends most over them
    candidates:      what -> seconds of the slowest class that it takes; the most of them is the bottleneck
    once_seconds:    what the slowest class spends once per step, however many micro-batches there are: the update, the
                     bubble, the host's fixed work
    spent:           where each class's step goes
    slowest:         the class that ends last, whose step `top` and `bottleneck` tell
    flops_model:     of products that the model needs, each once; flops_hardware: of those that all devices compute,
                     with what recompute makes again and what several devices compute alike
    """

    step_seconds: float
    events: Sequence[Event]
    classes: tuple[Player, ...]
    busy: tuple[float, ...]
    bubble: float
    exposed_by_axis: dict[Over, float]
    flops_model: float
    flops_hardware: float
    peak_flops: float
    devices: int
    samples: int
    tokens: int
    traffic: dict[Over, float] = field(default_factory=dict)
    top: tuple[Cost, ...] = ()
    update_seconds: float = 0.0
    bottleneck: str = ""
    candidates: dict[str, float] = field(default_factory=dict)
    once_seconds: float = 0.0
    spent: tuple[Spent, ...] = ()
    slowest: int = 0

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation: products that the model needs, of what all devices could compute in a step."""
        return self._share(self.flops_model)

    @property
    def hfu(self) -> float:
        """Hardware FLOP utilisation: products that are computed, again or by several devices alike too."""
        return self._share(self.flops_hardware)

    def _share(self, flops: float) -> float:
        total = self.step_seconds * self.peak_flops * self.devices
        return flops / total if total else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of all devices."""
        return self.tokens / self.step_seconds if self.step_seconds else 0.0

    @property
    def samples_per_second(self) -> float:
        """Of all devices."""
        return self.samples / self.step_seconds if self.step_seconds else 0.0

    @property
    def exposed(self) -> float:
        """Seconds of communication that nothing hides, on the slowest class."""
        return sum(self.exposed_by_axis.values())
