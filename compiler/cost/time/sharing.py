"""Links that sends and collectives share.

Collectives of one level wait for each other (`pricer.Priced`), so that axes which cross it at once share it. A send
of a pipeline goes whenever it is ready, beside the collectives of the activations that run meanwhile: while they use
the links of its level it has half of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler.cost.kernels.work import Loop, Meet, Part, Post, Wait
from compiler.cost.price.pricer import COMM, COMPUTE, Pricer
from compiler.cost.time.order import Key


def slower_sends(parts: Mapping[Key, Part], counts: Mapping[Key, int], pricer: Pricer) -> tuple[float, ...]:
    """Per level how much longer a send of a device group takes: 1/(1 - u/2), u = the share of the time outside of the
    update in which collectives use the level's links. (That they are slowed as well is not counted: sends are short.)

    counts: how often each function runs in a step.
    """
    used = [0.0] * pricer.streams
    time = 0.0
    for key, n in counts.items():
        if key in parts and key[0] != "U":
            time += n * _use(parts[key], pricer, n, used)
    levels = used[COMM:]
    return tuple(1.0 / (1.0 - min(1.0, u / time) / 2) if time else 1.0 for u in levels)


def _use(part: Part, pricer: Pricer, times: int, used: list[float]) -> float:
    """Picoseconds of kernels and of collectives that they wait for; adds those of each level's links to `used`."""
    time = 0.0
    for node in part.nodes:
        work = node.work
        if isinstance(work, Loop):
            time += work.count * _use(work.body, pricer, times * work.count, used)
        elif not isinstance(work, (Wait, Post, Meet)):
            priced = pricer.price(work)
            if priced.stream == COMPUTE or priced.blocking:
                time += priced.ps
            for stream, ps in ((priced.stream, priced.ps), *priced.also):
                if stream >= COMM:
                    used[stream] += times * ps
    return time
