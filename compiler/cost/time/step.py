"""A function's time line on one device: played once, whatever it waits for outside of it.

A function is cut where it waits for other device groups. Between cuts computation, copies and messages of each level
have a stream each, in the order of the program; a piece starts when its stream is free and what it needs is there. At
the end of a segment all streams have ended. A rolled loop is played until an iteration repeats the one before, shifted
in time; the rest of its iterations are that shift, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from compiler.cost.kernels.work import Collective, Loop, Meet, Node, Part, Post, Wait
from compiler.cost.price.pricer import COMM, COMPUTE, Priced, Pricer, picoseconds
from compiler.cost.time.pieces import Piece


@dataclass(frozen=True, slots=True)
class Ready:
    """A message that is ready `at` picoseconds after the segment began."""

    post: Post
    at: int


@dataclass(slots=True)
class Segment:
    """waits: what must have come before it starts; posts: what it sends; meet: what stands at its end.

    compute: picoseconds of kernels; exposed: picoseconds in which they wait for messages, by axes; pieces: what lies
    where, if it was recorded (`record.Recorder`).
    """

    waits: list[Wait] = field(default_factory=list)
    posts: list[Ready] = field(default_factory=list)
    meet: Meet | None = None
    duration: int = 0
    compute: int = 0
    exposed: dict[str, int] = field(default_factory=dict)
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a part: picoseconds of kernels and of messages beside them, and kernels that the host dispatches."""

    compute: int
    beside: int
    launches: float


def totals(part: Part, pricer: Pricer, update: bool, times: int = 1) -> Totals:
    """Sums over all work, loops multiplied out."""
    compute = beside = 0
    number = 0.0
    for node in part.nodes:
        work = node.work
        if isinstance(work, Loop):
            inner = totals(work.body, pricer, update, work.count)
            compute, beside, number = compute + inner.compute, beside + inner.beside, number + inner.launches
        elif not isinstance(work, (Wait, Post, Meet)):
            priced = pricer.price(work, update)
            number += priced.launches
            if priced.stream == COMPUTE:
                compute += priced.ps
            elif not priced.blocking and priced.stream >= COMM:
                beside += priced.ps
    return Totals(compute * times, beside * times, number * times)


def stretch(total: Totals, pricer: Pricer) -> float:
    """By how much kernels take longer because messages run beside them: in proportion to the time that is shared.

    Sources: docs/costs.md (Calculon, Isaev et al. 2023: 15% inside a node, 2% between; Galvatron, Miao et
    al. 2022: 1.3).
    """
    return 1.0 + pricer.cal.slowdown * min(1.0, total.beside / total.compute) if total.compute else 1.0


class Player:
    """Plays one function."""

    def __init__(self, pricer: Pricer, update: bool, stretch: float) -> None:
        self.pricer, self.update, self.stretch = pricer, update, stretch
        self.free = [0] * pricer.streams
        self.last = [""] * pricer.streams
        self.sent: dict[int, tuple[int, str]] = {}  # when a message ended -> when it began, and its axes
        self.exposed: dict[str, int] = {}
        self.compute = 0

    def price(self, node: Node) -> tuple[Priced, int]:
        """The price and, of a kernel, its stretched duration."""
        work = node.work
        priced = self.pricer.price(work, self.update)
        if priced.stream == COMPUTE and self.stretch != 1.0:
            return priced, round(priced.ps * self.stretch)
        return priced, priced.ps

    def run(self, node: Node, priced: Priced, ps: int, ready: int, cause: str) -> int:
        """When a piece ends that could start at `ready`; `cause`: axes of the message that made it wait so long."""
        free, stream = self.free, priced.stream
        if stream == COMPUTE:
            start = free[0]
            if ready > start:
                self.wait(start, ready, cause or self.cause(ready))
                start = ready
            free[0] = end = start + ps
            self.compute += ps
            return end
        start = max([ready, free[stream], *(free[s] for s, _ in priced.also)])
        if priced.blocking:
            before = free[0]
            start = max(start, before)
            free[0] = start + ps
        if ps:
            self.sent[start + ps] = (start, priced.axes)
        if priced.blocking:
            self.wait(before, start + ps, priced.axes)
        free[stream] = start + ps
        self.last[stream] = priced.axes
        for s, share in priced.also:
            free[s] = start + min(share, ps)
            self.last[s] = priced.axes
        return start + ps

    def wait(self, start: int, end: int, axes: str) -> None:
        """Computation stands still, until a message over `axes` has come ("": for no message).

        What that one waited for itself, others on its link or what they brought, is told as theirs.
        """
        while end > start:
            began, of = self.sent.get(end, (start, axes)) if axes else (start, axes)
            began = max(began, start)
            if of:
                self.exposed[of] = self.exposed.get(of, 0) + end - began
            self.idle(began, end, of)
            end, axes = began, of

    def idle(self, start: int, end: int, axes: str) -> None:
        """A part of a wait in which one message is under way: nothing is recorded."""

    def cause(self, ready: int) -> str:
        """The axes of the message that ended then, if one did: of loops only the end is known."""
        ended = (s for s in range(COMM, len(self.free)) if self.free[s] == ready)
        return next((self.last[s] for s in ended), "")

    def loop(self, loop: Loop, start: int) -> int:
        """When the loop's last iteration has ended; `start`: when all that it reads is there."""
        nodes = loop.body.nodes
        prices = [self.price(n) if not isinstance(n.work, Loop) else None for n in nodes]
        used = sorted({s for p, _ in filter(None, prices) for s in (p.stream, *(i for i, _ in p.also))} | {COMPUTE})
        if any(p is None for p in prices):
            used = list(range(len(self.free)))
        carried = sorted({c for n in nodes for c in n.carried})
        before: Sequence[int] = ()
        began = before_began = start
        shape: tuple[int, ...] = ()
        for i in range(loop.count):
            # The message with layer i's weights goes when layer i-1 starts: systems prefetch one layer.
            before_began, began = began, max(self.free[0], start)
            origin, exposed, compute, mark = self.free[0], dict(self.exposed), self.compute, self.mark()
            ends: list[int] = []
            for node, found in zip(nodes, prices):
                ready = max(start, before_began) if is_prefetch(node) else start
                cause = ""
                for others, deps in ((ends, node.deps), (before, node.carried)):
                    for d in deps if others else ():
                        if others[d] > ready:
                            ready, cause = others[d], axes_of(prices[d])
                if found is None:
                    assert isinstance(node.work, Loop)
                    ends.append(self.loop(node.work, ready))
                else:
                    ends.append(self.run(node, *found, ready, cause))
            before = ends
            relative = (began, *(self.free[s] for s in used), *(ends[c] for c in carried))
            relative = tuple(t - self.free[0] for t in relative)
            if relative == shape:
                times, by = loop.count - 1 - i, self.free[0] - origin
                self.repeat(times, by, used, exposed, compute, mark)
                return max((t + times * by for t in ends), default=start)
            shape = relative
        return max((*before, start))

    def mark(self) -> int:
        """Where an iteration begins in what is recorded: nothing is."""
        return 0

    def repeat(
        self, times: int, by: int, used: Sequence[int], exposed: dict[str, int], compute: int, mark: int
    ) -> None:
        """As many iterations more as the last one, which began at `mark`, with these totals."""
        recent = self.free[0] - 2 * by
        self.sent = {
            end + times * by: (began + times * by, axes) for end, (began, axes) in self.sent.items() if end > recent
        }
        for s in used:
            self.free[s] += times * by
        for axes, ps in self.exposed.items():
            self.exposed[axes] = ps + times * (ps - exposed.get(axes, 0))
        self.compute += times * (self.compute - compute)

    def close(self, segment: Segment, host: int) -> None:
        """All streams end, and the host has dispatched all kernels; the next segment starts at 0."""
        last = max(self.free)
        self.wait(self.free[0], last, self.last[self.free.index(last)])
        segment.duration = max(last, host)
        segment.compute, segment.exposed = self.compute, self.exposed
        self.free = [0] * self.pricer.streams
        self.sent, self.exposed, self.compute = {}, {}, 0


Play = Callable[[Pricer, bool, float], Player]


def is_prefetch(node: Node) -> bool:
    """Whether this gathers what an iteration needs of weights, and nothing that it computes."""
    return isinstance(node.work, Collective) and node.work.role == "weights" and not node.deps and not node.carried


def axes_of(found: tuple[Priced, int] | None) -> str:
    """The axes of a message; nothing of a kernel or loop."""
    return found[0].axes if found is not None else ""


def segments(part: Part, pricer: Pricer, update: bool = False, relief: int = 0, play: Play = Player) -> list[Segment]:
    """A function's segments. `relief`: picoseconds of its collectives of gradients that have run before it began."""
    total = totals(part, pricer, update)
    player = play(pricer, update, stretch(total, pricer))
    found = [Segment()]
    ends: list[int] = []
    causes: list[str] = []
    number = 0.0
    begun = False

    def close() -> None:
        nonlocal number, begun
        player.close(found[-1], picoseconds(number * pricer.cal.host))
        number, begun = 0.0, False
        ends[:] = [0] * len(ends)
        causes[:] = [""] * len(causes)
        found.append(Segment())

    for node in part.nodes:
        work = node.work
        ready = max((ends[d] for d in node.deps), default=0)
        cause = next((causes[d] for d in node.deps if ends[d] == ready), "")
        end, axes = ready, ""
        if isinstance(work, Wait):
            if begun:
                close()
            found[-1].waits.append(work)
            end = 0
        elif isinstance(work, Post):
            found[-1].posts.append(Ready(work, ready))
        elif isinstance(work, Meet):
            found[-1].meet = work
            close()
            end = 0
        elif isinstance(work, Loop):
            begun = True
            number += totals(work.body, pricer, update, work.count).launches
            end = player.loop(work, ready)
        else:
            begun = True
            priced, ps = player.price(node)
            number += priced.launches
            axes = priced.axes
            if relief and isinstance(work, Collective) and work.role == "gradients":
                less = min(relief, ps)
                relief, ps = relief - less, ps - less
            end = player.run(node, priced, ps, ready, cause)
        ends.append(end)
        causes.append(axes)
    close()
    found.pop()
    return found
