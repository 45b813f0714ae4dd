"""Which degrees a written job begins with: the fastest of some usual strategies that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import gcd

from dsl.source import Source
from parc.importing.described import Described
from parc.importing.writer import Degrees

SPLITS = (1, 2, 4, 8)
"""Devices that layers are split over: inside of a server."""

WIDEST = 64
"""Devices that experts are split over, at most: as the largest published runs have it."""


def chosen(
    text: Callable[[Degrees], str], of: Described, cluster: tuple[int, str] | None
) -> tuple[Degrees, bool | None]:
    """Degrees with which the job fits in the devices' memories and takes least for a sample; and whether any fit.

    text: the job with these degrees; cluster: number and device.
    """
    if cluster is None:
        return Degrees(), None
    from compiler.evaluate import evaluate_file
    from parc.price import price

    best: tuple[float, Degrees] | None = None
    last = Degrees()
    for kept in candidates(of, cluster[0]):
        for again in (False, True):
            last = replace(kept, again=again)
            found = price(evaluate_file(Source("job.par", text(last))).job)
            if found.fits:
                each = found.seconds / (last.dp * last.ep)
                best = min(best or (each, last), (each, last), key=lambda one: one[0])
                break
    return (best[1], True) if best else (last, False)


def candidates(of: Described, devices: int) -> Iterator[Degrees]:
    """What is tried: layers split over some devices of a server, all that is stored split over all others."""
    together = gcd(*of.divide.values())
    for tp in (n for n in SPLITS if devices % n == 0 and together % n == 0):
        rest = devices // tp
        ep = max((n for n in range(1, min(of.experts, rest, WIDEST) + 1) if of.experts % n == 0 == rest % n), default=1)
        yield Degrees(rest // ep, tp, ep, 3 if rest > 1 else 0)
