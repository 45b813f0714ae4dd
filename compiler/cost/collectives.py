"""Seconds of messages over the levels of a cluster."""

from __future__ import annotations

from math import ceil, log2, prod

from compiler.cost.calibration import Calibration
from compiler.cost.machine import Machine
from compiler.cost.work import Collective


def bandwidth(machine: Machine, cal: Calibration, level: int, size: float, members: int = 0) -> float:
    """B(V) = Bmax · V/(V + Vh) of one device's links of a level. Source: shared/costs.md, measured on 8 A100.

    On a full mesh `members` devices use only the links between them: (members-1)/(n-1) of a device's.
    """
    of = machine.levels[level]
    share, half = (cal.inner, cal.inner_half) if level == 0 else (cal.outer, cal.outer_half)
    links = 1.0
    if of.topology == "full_mesh" and 1 < members < of.count:
        links = (members - 1) / (of.count - 1)
    return of.bandwidth * share * links * size / (size + half) if size > 0 else of.bandwidth * share * links


def collective_seconds(work: Collective, machine: Machine, cal: Calibration) -> float:
    """Rings on each level: what has been reduced inside goes out in pieces, each device's over its own link.

    all-reduce of V bytes over n: 2(n-1)/n · V/B(V) + 2·steps·alpha; all-gather and reduce-scatter half of it.
    all-to-all: (n-1)/n · V/B, the part for devices outside over the links of that level.
    On several levels (V, then V/n0, then V/(n0·n1) …) the pieces are pipelined, so that the slowest level counts, and
    latencies add up. Sources: shared/costs.md ("collectives", "NIC sharing": a link is per device, so rings of
    neighbouring groups each have their own).
    """
    counts = machine.span(work.axes)
    total = prod(counts)
    if total <= 1:
        return 0.0
    size = float(work.elements * itemsize(work, cal))
    if work.op in ("halo", "halo_add"):
        level = machine.outermost(work.axes)
        return point_seconds(size, level, machine, cal)
    slowest = latency = 0.0
    left, within = size, 1
    times = 2.0 if work.op == "all_reduce" else 1.0
    for level, n in enumerate(counts):
        if n == 1:
            continue
        outside = within * n - within
        sent = size * outside / total if work.op == "all_to_all" else times * left * (n - 1) / n
        slowest = max(slowest, sent / bandwidth(machine, cal, level, left, n))
        latency += times * _steps(n, machine.levels[level].topology) * machine.levels[level].latency * cal.alpha
        left /= n
        within *= n
    return slowest + latency + cal.launch


def _steps(n: int, topology: str) -> float:
    """Rings go around; where there is a faster way (trees on a switch, all links of a mesh) long ones are not used."""
    return 1.0 if topology == "full_mesh" else min(n - 1, 2.0 * ceil(log2(n)))


def itemsize(work: Collective, cal: Calibration) -> float:
    """Bytes per element on the wire: systems cast weights before they gather them, and some reduce 16-bit gradients."""
    most = {"weights": cal.wire, "gradients": cal.gradient_wire}.get(work.role, float(work.itemsize))
    return min(float(work.itemsize), most)


def sent_bytes(work: Collective, machine: Machine, cal: Calibration) -> float:
    """What one device sends: 2(n-1)/n of the whole in an all-reduce, (n-1)/n in the others."""
    n = prod(machine.sizes[a] for a in work.axes)
    size = work.elements * itemsize(work, cal)
    if work.op in ("halo", "halo_add"):
        return float(size)
    return size * (2.0 if work.op == "all_reduce" else 1.0) * (n - 1) / n


def point_seconds(size: float, level: int, machine: Machine, cal: Calibration) -> float:
    """One message to one device: latency + bytes / B(V). It has one link (NIC) of the level."""
    members = 2 if machine.levels[level].topology == "full_mesh" else 0
    return machine.levels[level].latency * cal.alpha + size / bandwidth(machine, cal, level, size, members)


def meet_seconds(size: float, groups: tuple[int, ...], machine: Machine, cal: Calibration) -> float:
    """All-reduce of `size` bytes between the devices of the same coordinates of several device groups, as a ring."""
    n = len(groups)
    if n <= 1:
        return 0.0
    level = max(machine.between(a, b) for a, b in zip(groups, groups[1:]))
    steps = 2 * min(n - 1, 2.0 * ceil(log2(n)))
    wire = 2 * (n - 1) / n * size / bandwidth(machine, cal, level, size)
    return wire + steps * machine.levels[level].latency * cal.alpha + cal.launch


def copy_seconds(size: float, memory: str, machine: Machine, cal: Calibration) -> float:
    """Between device memory and host or NVMe over the device's own link, or its share of the memory's bandwidth."""
    rate = machine.memories.get(memory)
    return size / rate + cal.launch if rate else 0.0
