"""Seconds of kernels on one device."""

from __future__ import annotations

from math import prod, sqrt

from compiler.cluster import INTEGER
from compiler.cost.kernels.work import Hosted, Product, Vector
from compiler.cost.price.calibration import Calibration
from compiler.cost.price.machine import Machine
from compiler.memory.tiers import require_memory
from dsl.diagnostics import fail

SMALLER = ((1.0, 1.0, 1.0), (1.0, 0.5, 0.93), (0.5, 0.5, 0.8), (0.5, 0.25, 0.6))
"""Tiles that libraries choose from, as parts of the economical one, and what a full one reaches of its speed.

Smaller tiles read each operand more often. Derived from the ratio of arithmetic to traffic, tm*tn/(tm+tn), against
on-chip bandwidth; the shares are rounded from published sweeps of square products on A100 and H100.
"""


def product_seconds(work: Product, machine: Machine, cal: Calibration) -> float:
    """max(2MNK / (peak · e · sqrt(q_tile · q_wave) · K/(K+k0)), bytes / (bandwidth · e_vector)) + launch.

    q_tile: how full the tiles are, q_wave: how full the last wave of tiles over the cores is. Where the device states a
    `cube`, its matrix unit computes whole ones. Sources: docs/costs.md (roofline: Williams, Waterman, Patterson 2009;
    tiles and waves: NVIDIA, "Matrix multiplication background"; cubes: Liao et al. 2021); the root, the ramp and the
    choice among tiles are ours, held to rows left out of the fit (docs/validation.md).
    """
    fused = work.core and cal.fused_attention > 0
    flops, moved = work.flops, work.core_bytes if fused else work.bytes
    share = cal.product * work.k / (work.k + cal.ramp)
    if fused:
        # Inside a fused kernel K is the head size, and tiles are of its own making: one share stands for all.
        share = cal.product * cal.core * filled(machine, min(work.k, work.n))
        flops *= (work.most if work.most and cal.balanced <= 0 else work.kept) * (1 + work.again)
    else:
        share *= tile_share(work.m, work.n, work.batch, machine.tile, machine.cores) * filled(machine, work.k, work.n)
        share *= cal.narrow if not work.core and work.dtype != INTEGER else 1.0
    arithmetic = flops / (machine.peak(work.dtype) * share)
    memory = moved / (machine.device.bandwidth * cal.vector)
    return max(arithmetic, memory, cal.grouped * work.groups if work.groups > 1 else 0.0) + cal.launch


def filled(machine: Machine, depth: int, width: int = 0) -> float:
    """What is reached of the speed with rows of these lengths: how full the last cube of each is, or `alignment`."""
    if machine.cube is None:
        return alignment(depth, width)
    steps = ((depth, machine.cube[2]), (width, machine.cube[1]))
    return prod(size / (-(-size // step) * step) for size, step in steps if size)


ALIGNED = ((8, 0.95), (4, 0.5), (2, 0.2))


def alignment(*sizes: int) -> float:
    """What is reached of the speed with rows of such lengths: matrix units load 128 bytes at a time at best, 16 at
    least. Source: NVIDIA, "Matrix multiplication background" (multiples of 64, at least 8, elements of 16 bits);
    the shares are ours, from the hidden sizes of the BLOOM sweep.
    """
    worst = 1.0
    for size in sizes:
        if size > 1 and size % 64:
            worst = min(worst, next((share for unit, share in ALIGNED if size % unit == 0), 0.1))
    return worst


def tile_share(m: int, n: int, batch: int, tile: tuple[int, int, int], cores: int) -> float:
    """The best of the tiles that a library would choose from: sqrt(q_tile · q_wave) times the tile's own share."""
    best = 0.0
    for a, b, own in SMALLER:
        for tm, tn in ((tile[0] * a, tile[1] * b), (tile[1] * b, tile[0] * a)):
            rows, columns = -(-m // tm), -(-n // tn)
            tiles = rows * columns * batch
            waves = -(-tiles // cores)
            full = m / (rows * tm) * n / (columns * tn)
            best = max(best, own * sqrt(full * tiles / (waves * cores)))
    return best


def vector_seconds(work: Vector, machine: Machine, cal: Calibration) -> float:
    """max(bytes / (bandwidth · e_vector), ops / peak of the vector unit) + launches.

    `fusion` lies between one kernel for the run of ops and one for each. Inside fused attention it takes no time of its
    own. Sources: docs/costs.md (roofline: Williams, Waterman and Patterson 2009; fused attention: Dao et al. 2022;
    vector units beside the cube: Liao et al. 2021).
    """
    if work.core and cal.fused_attention > 0:
        return 0.0
    moved = work.loose + (work.bytes - work.loose) * cal.fusion
    unit = machine.vector_peaks.get(work.dtype) or machine.vector_peaks.get("f32") or 0.0
    arithmetic = work.flops / unit if unit else 0.0
    return max(moved / (machine.device.bandwidth * cal.vector), arithmetic) + cal.launch * launches(work, cal)


def launches(work: Product | Vector, cal: Calibration) -> float:
    """Kernels that the host dispatches for it."""
    if isinstance(work, Product):
        return float(work.groups)
    if work.core and cal.fused_attention > 0:
        return 0.0
    return work.ops + (1 - work.ops) * cal.fusion


def hosted_seconds(work: Hosted, machine: Machine) -> float:
    """max(bytes / bandwidth, ops / peak) of a device's part of its server's processors, as all devices of a server have
    theirs. What a cluster states of hosts is what they reach (roofline: Williams, Waterman, Patterson 2009).

    Raises ParcError (E0572) where it does not say what they compute.
    """
    require_memory(machine.memories, work.memory, machine.described)
    host = machine.memories[work.memory]
    if not host.compute:
        help = "beside `host memory …`: `host compute 3 TFLOP/s`, of all processors of a server"
        raise fail("E0572", "the cluster does not say what its hosts compute", machine.described, help=help)
    return max(work.bytes / host.bandwidth, work.flops / host.compute) * host.sharing
