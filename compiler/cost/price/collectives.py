"""Seconds of messages over the levels of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, log2, prod

from compiler.cost.kernels.work import Collective
from compiler.cost.price.calibration import Calibration
from compiler.cost.price.machine import Machine
from compiler.memory.tiers import move_rate, require_memory
from compiler.ops.comm import Pattern

QUICK = (0.5, 0.25)
"""Of a protocol for short messages: share of the bandwidth, and of `inner_half`. NCCL's LL sends a flag with each half
of eight bytes and waits for no fence; the second from its all-reduces of 1 MiB (benchmarks/published/micro.csv)."""


def bandwidth(machine: Machine, cal: Calibration, level: int, size: float, members: int = 0) -> float:
    """B(V) = Bmax · V/(V + Vh) of one device's links of a level. Source: R. Hockney, "The communication
    challenge for MPP", 1994; benchmarks/published/micro.csv has measured messages.

    Of a device's n-1 links on a full mesh of n, `members` devices use only those between them: (members-1)/(n-1). On
    a ring each device has two links; a part of it is a line, on which what would go around comes back instead: half.
    Inside a server short messages go by a protocol of their own (`QUICK`), if that is faster.
    """
    of = machine.levels[level]
    share, half = (cal.inner, cal.inner_half) if level == 0 else (cal.outer, cal.outer_half)
    links = 1.0
    if of.topology != "switch" and 1 < members < of.count:
        links = (members - 1) / (of.count - 1) if of.topology == "full_mesh" else 0.5
    half *= links * (machine.links if level == 0 else 1.0)  # the time that it takes to get going stays
    if size > 0:
        links *= max(size / (size + half), QUICK[0] * size / (size + half * QUICK[1]) if level == 0 else 0.0)
    return of.bandwidth * share * links


def collective_seconds(work: Collective, machine: Machine, cal: Calibration) -> float:
    """Rings on each level: what has been reduced inside goes out in pieces, each device's over its own link.

    all-reduce of V bytes over n: 2(n-1)/n · V/B(V) + 2·steps·alpha; all-gather and reduce-scatter half of it.
    Weights and gradients go in `messages` of V bytes.
    all-to-all: (n-1)/n · V/B, the part for devices outside over the links of that level.
    On several levels (V, then V/n0, then V/(n0·n1) …) the pieces are pipelined, so that the slowest level counts, and
    latencies add up; a link is per device, so rings of neighbouring groups each have their own. Sources: docs/costs.md
    (rings: Patarasuk and Yuan 2009; on several levels: Thakur, Rabenseifner and Gropp 2005).
    """
    counts = machine.span(work.axes)
    if prod(counts) <= 1:
        return 0.0
    if work.comm.pattern is Pattern.NEIGHBOURS:
        return point_seconds(work.elements * itemsize(work, cal), machine.outermost(work.axes), machine, cal)
    latency = sum(
        work.comm.passes * steps * of.latency * cal.alpha
        for steps, of in zip(_steps_of(work, counts, machine), machine.levels)
    )
    return max(level_seconds(work, machine, cal)) + messages(work, cal) * (latency + cal.launch)


def messages(work: Collective, cal: Calibration) -> int:
    """In how many messages it goes: systems collect weights and gradients up to a `bucket` (DDP's `bucket_cap_mb`,
    Megatron's `ddp_bucket_size`)."""
    if cal.bucket <= 0 or work.role not in ("weights", "gradients"):
        return 1
    return max(1, ceil(work.elements * itemsize(work, cal) / cal.bucket))


def level_seconds(work: Collective, machine: Machine, cal: Calibration) -> tuple[float, ...]:
    """For how long a collective (no exchange of borders) needs a device's links of each level."""
    counts = machine.span(work.axes)
    found, number = [], messages(work, cal)
    for level, (n, (of, sent)) in enumerate(zip(counts, _level_bytes(work, counts, cal))):
        detour = _detour(n, machine.levels[level].topology) if work.comm.pattern is Pattern.DIRECT else 1.0
        found.append(sent * detour / bandwidth(machine, cal, level, of / number, n) if n > 1 else 0.0)
    return tuple(found)


def _level_bytes(work: Collective, counts: Sequence[int], cal: Calibration) -> Iterator[tuple[float, float]]:
    """Of each level: the size of the message, and what of it a device sends over its links there.

    Where copies are `distinct`, one goes to each domain of a level in which somebody wants it, and is passed on inside
    (DeepEP's README: "forwarding from RDMA to NVLink"): of k at random, N(1 - (1 - 1/N)^k) domains of N. Where copies
    are made in two steps, the first is for places, which lie on servers (DeepSeek-V3's report: "node-limited routing").
    """
    total, within = prod(counts), 1
    size = left = work.elements * itemsize(work, cal)
    times = work.comm.passes
    for level, n in enumerate(counts):
        if work.comm.pattern is not Pattern.DIRECT:
            yield left, times * left * (n - 1) / n
        elif cal.distinct > 0 and work.copies > 1:
            domains = total // within
            if level and work.places:
                domains = min(domains, work.places)
            of = size * distinct(domains, work.copies)
            yield of, of * (n - 1) / n
        else:
            yield size, size * (within * n - within) / total
        left /= n
        within *= n


def distinct(domains: int, copies: int) -> float:
    """In how many of some domains so many places drawn at random lie, as a share of the places."""
    return domains * (1 - (1 - 1 / domains) ** copies) / copies


def _steps_of(work: Collective, counts: Sequence[int], machine: Machine) -> Iterator[float]:
    """Steps over each level. All-gathers and reduce-scatters go around one ring of all n devices, n-1 steps in all, of
    which each server but the last has one to the next (NCCL, which has trees for all-reduces alone)."""
    once = work.comm.passes == 1 and work.comm.pattern is not Pattern.DIRECT
    for level, n in enumerate(counts):
        topology = machine.levels[level].topology
        ring = once and topology == "switch"
        yield ((n - 1) * prod(counts[level + 1 :]) if ring else _steps(n, topology)) if n > 1 else 0.0


def _steps(n: int, topology: str) -> float:
    """A ring goes around; all links of a mesh at once; on a switch long rings are not used, but trees."""
    if topology == "full_mesh":
        return 1.0
    return n - 1.0 if topology == "ring" else min(n - 1.0, 2.0 * ceil(log2(n)))


def _detour(n: int, topology: str) -> float:
    """How many links a message of an all-to-all takes: on a ring in both directions n/4 on the average, where n²/4
    of distance are shared by n-1 messages."""
    return max(1.0, n * n / 4 / (n - 1)) if topology == "ring" and n > 1 else 1.0


def itemsize(work: Collective, cal: Calibration) -> float:
    """Bytes per element on the wire: systems cast weights before they gather them, and some reduce 16-bit gradients,
    where they compute in 16 bits."""
    if work.whole:
        return float(work.itemsize)
    most = {"weights": cal.wire, "gradients": cal.gradient_wire}.get(work.role, float(work.itemsize))
    return min(float(work.itemsize), most)


def sent_bytes(work: Collective, machine: Machine, cal: Calibration) -> float:
    """What one device sends: 2(n-1)/n of the whole in an all-reduce, (n-1)/n in the others; of copies that are
    `distinct` what goes out, and what is passed on inside."""
    n = prod(machine.sizes[a] for a in work.axes)
    size = work.elements * itemsize(work, cal)
    if work.comm.pattern is Pattern.NEIGHBOURS:
        return float(size)
    if work.comm.pattern is Pattern.DIRECT:
        return sum(sent for _, sent in _level_bytes(work, machine.span(work.axes), cal))
    return size * work.comm.passes * (n - 1) / n


def point_seconds(size: float, level: int, machine: Machine, cal: Calibration) -> float:
    """One message to one device: latency + bytes / B(V). It has one link (NIC) of the level."""
    return machine.levels[level].latency * cal.alpha + size / bandwidth(machine, cal, level, size, 2)


def meet_seconds(size: float, groups: tuple[int, ...], machine: Machine, cal: Calibration) -> float:
    """All-reduce of `size` bytes between the devices of the same coordinates of several device groups, as a ring."""
    n = len(groups)
    if n <= 1:
        return 0.0
    level = meet_level(groups, machine)
    steps = 2 * _steps(n, machine.levels[level].topology)
    wire = 2 * (n - 1) / n * size / bandwidth(machine, cal, level, size, n)
    return wire + steps * machine.levels[level].latency * cal.alpha + cal.launch


def meet_level(groups: tuple[int, ...], machine: Machine) -> int:
    """The outermost level that these device groups' messages to each other cross."""
    return max((machine.between(a, b) for a, b in zip(groups, groups[1:])), default=0)


def copy_seconds(size: float, source: str, target: str, machine: Machine, cal: Calibration) -> float:
    """From one memory to another: over the device's links to them, or its share of their bandwidths. Raises ParcError
    (E0412) for a memory that the cluster does not have."""
    for memory in (source, target):
        require_memory(machine.memories, memory, machine.described)
    return size / move_rate(machine.memories, source, target) + cal.launch
