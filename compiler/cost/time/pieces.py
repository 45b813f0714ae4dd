"""What lies inside an activation, for traces: kernels, messages and copies, and what is waited for between them."""

from __future__ import annotations

from dataclasses import dataclass


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
    axes: str = ""
    bytes: float = 0.0
    flops: float = 0.0
    times: int = 1

    @property
    def duration(self) -> int:
        return self.end - self.start
