"""What layers take of a device: a data type of its own, for bounds ask for it and searches find it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dsl.data import dataclass

TIMES = ("forward", "backward", "rest", "tail")
SCALED = (*TIMES, "saved")
"""What fewer rows take less of."""


@dataclass(frozen=True, slots=True)
class LayerWork:
    """Of a micro-batch, on one of the devices that share a layer. rows: of the batch, that it has.

    forward, backward: seconds of the loops at the top, all iterations; rest: of what else both passes do, but for what
    adds gradients up; tail: of that, what comes behind a single loop, and back to it; saved: bytes that the loops keep
    from one to the other; kept: of that, of each loop, where there are several, what its iterations make and its
    backward pass reads. replicas: of the strategy that was lowered. fewer: seconds of forward, backward, rest, tail
    with messages beside products as far as these may ever hide them: products of fewer rows, or in more pieces, take
    longer and hide more. products: of the same, seconds of products and messages alone, of the loops in both passes, of
    rest, of tail: what holds of more that is computed again, where less is kept, so that kernels may be fewer.
    added: seconds in which a micro-batch's gradients are added to those of the loops, whatever the rows; of a candidate
    (`bounds`), not of what was lowered.
    """

    rows: int
    replicas: int
    forward: float
    backward: float
    rest: float
    tail: float
    saved: float
    fewer: tuple[float, float, float, float]
    products: tuple[float, float, float] = (0.0, 0.0, 0.0)
    added: float = 0.0
    kept: tuple[float, ...] = ()

    @property
    def both(self) -> float:
        """Seconds of the loops in both passes, and of what they add to gradients."""
        return self.forward + self.backward + self.added

    def covers(self, rows: int) -> bool:
        """Whether it is a bound for so many rows."""
        return self.rows % rows == 0

    def of(self, rows: int) -> LayerWork:
        """Of so many rows: as it is, or in proportion what holds of fewer."""
        if rows == self.rows:
            return self
        found, share = self.loose, rows / self.rows
        scaled: dict[str, Any] = {name: getattr(found, name) * rows / self.rows for name in SCALED}
        fewer = tuple([scaled[name] for name in TIMES])
        products = (self.products[0] * share, self.products[1] * share, self.products[2] * share)
        kept = tuple([size * share for size in self.kept])
        return replace(found, rows=rows, fewer=fewer, products=products, kept=kept, **scaled)

    @property
    def loose(self) -> LayerWork:
        """What holds of fewer rows (in proportion), of more devices that share a layer."""
        forward, backward, rest, tail = self.fewer
        return replace(self, forward=forward, backward=backward, rest=rest, tail=tail)

    @property
    def again(self) -> LayerWork:
        """What holds whatever is computed again: which of the passes has the work, and what is kept, is not known."""
        both, rest, tail = self.products
        fewer = (0.0, both, rest, tail)
        return replace(self, forward=0.0, backward=both, rest=rest, tail=tail, saved=0.0, fewer=fewer, kept=())


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of an iteration at least: forward, backward, and of both passes together."""

    forward: float = 0.0
    backward: float = 0.0
    both: float = 0.0

    def max(self, forward: float, backward: float, each: bool) -> Pace:
        """With more that is known: of each pass, or of both alone, where which of them has the work is not known."""
        both = max(self.both, forward + backward)
        return (
            Pace(max(self.forward, forward), max(self.backward, backward), both) if each else replace(self, both=both)
        )


@dataclass(frozen=True, slots=True)
class LoopRoom:
    """Bytes of a device, besides what loops keep from the forward pass to the backward pass, at the fullest moment of
    an iteration. backward, weights: what it makes in either part of the backward pass, while all is still there that
    the loop reads (weights: 0 where the pass is in one); shards: of all gradients that have no place of their own
    before they are there.

    Where the pass is in two, of each layer: between, what is kept from one to the other; stacks: of that, what there is
    room for before the first iteration of the first.
    """

    backward: float
    weights: float
    shards: float
    between: float
    stacks: float


@dataclass(frozen=True, slots=True)
class KeptHalves:
    """Bytes of rows that a device keeps of a micro-batch from the first half of the backward pass to the second. layer:
    of each layer; behind: of all else, on the last stage."""

    layer: float
    behind: float

    def times(self, share: float) -> KeptHalves:
        """Of so many times the rows."""
        return KeptHalves(self.layer * share, self.behind * share)
