"""Playing functions once more, to record what lies where in them. A simulation does without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from compiler.cost.kernels.work import Node, Product, Vector
from compiler.cost.price.pricer import COMM, COMPUTE, COPY, Priced, Pricer
from compiler.cost.time.order import Key
from compiler.cost.time.pieces import Piece
from compiler.cost.time.slow import NOMINAL, Variation
from compiler.cost.time.step import Player, Segment

if TYPE_CHECKING:
    from compiler.cost.time.simulate import Simulation

UNROLLED = 400
"""Pieces of a loop that are shown one by one, at most; the iterations beyond are one piece per stream."""

Pieces = Mapping[tuple[int, Key, int], tuple[Piece, ...]]
"""(program class, function, number of its segment) -> what lies in it, in order of the start."""


def record(simulation: Simulation, unrolled: int = UNROLLED, variation: Variation | None = None) -> Pieces:
    """What lies in each function's segments, of devices that are alike; as long as `Segment.duration`, to the
    picosecond."""
    costs = simulation.costs(simulation.pricer(None, variation or NOMINAL), partial(Recorder, unrolled=unrolled))
    return {
        (c, key, i): segment.pieces
        for c, functions in enumerate(costs)
        for key, found in functions.items()
        for i, segment in enumerate(found)
    }


class Recorder(Player):
    """A player that keeps the pieces."""

    def __init__(self, pricer: Pricer, update: bool, stretch: float, unrolled: int = UNROLLED) -> None:
        super().__init__(pricer, update, stretch)
        self.unrolled = unrolled
        self.pieces: list[Piece] = []
        levels = [f"comm:{level.name}" for level in pricer.machine.levels] or ["comm"]
        self.names = {COMPUTE: "compute", COPY: "copy"} | {COMM + i: name for i, name in enumerate(levels)}

    def run(self, node: Node, priced: Priced, ps: int, ready: int, cause: str) -> int:
        work = node.work
        end = super().run(node, priced, ps, ready, cause)
        flops = work.flops if isinstance(work, (Product, Vector)) else 0
        moved = work.bytes if isinstance(work, (Product, Vector)) else priced.sent
        stream = self.names[priced.stream]
        self.add(Piece(stream, node.name, priced.kind, end - ps, end, priced.axes, float(moved), float(flops)))
        return end

    def idle(self, start: int, end: int, axes: str) -> None:
        """Computation stands still, for a message if there are `axes`."""
        name, kind = (f"waits for {axes}", "exposed") if axes else ("waits", "wait")
        self.add(Piece("compute", name, kind, start, end, axes))

    def add(self, piece: Piece) -> None:
        if piece.end > piece.start:
            self.pieces.append(piece)

    def mark(self) -> int:
        return len(self.pieces)

    def repeat(
        self, times: int, by: int, used: Sequence[int], exposed: dict[str, int], compute: int, mark: int
    ) -> None:
        last = self.pieces[mark:]
        if times * len(last) <= self.unrolled:
            for i in range(1, times + 1):
                self.pieces += [replace(p, start=p.start + i * by, end=p.end + i * by) for p in last]
        else:
            for stream in dict.fromkeys(p.stream for p in last):
                start = max(p.end for p in last if p.stream == stream)
                name = f"× {times} more iterations"
                self.add(Piece(stream, name, "repeat", start, start + times * by, times=times))
        super().repeat(times, by, used, exposed, compute, mark)

    def close(self, segment: Segment, host: int) -> None:
        last = max(self.free)
        super().close(segment, host)
        self.add(Piece("compute", "waits for the host", "host", last, segment.duration))
        segment.pieces = tuple(sorted(self.pieces, key=lambda p: (p.start, -p.end)))
        self.pieces = []
