"""What allocators and drivers take besides what is allocated, fitted on published memory: `footprint STACK reserve …`.

Measured = kept + turning · (1 + reserve), and + context where a driver was asked. What a stack keeps all the time, and
what comes and goes, follow from the program and from `compiler/cost/memory/footprint.py`, and are never fitted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import parc
from benchmarks.published.facts import Row, Unsupported
from benchmarks.published.generate import job
from benchmarks.published.machines import home, like, sheet
from compiler.cost.memory.systems import Systems
from dsl.source import Source

SHARED = (
    (("a100_80",), "bloom"),
    (("a100_80", "h100_hbm2e", "h200"), "torchtitan"),
    (("h100_hbm2e", "h200"), "torchtitan_eager"),
)
"""Devices that share the numbers of a stack, and of those that are like it and state none of their own."""

RESERVE, CONTEXT = (0.1, 0.05), (2e9, 2e9)
"""What is plausible, and how far that goes: what caching allocators lose between their segments; libraries, workspaces
and message buffers."""

ERROR = 0.04


def footprints(rows: Iterable[Row], jobs: int = 1) -> list[tuple[tuple[str, ...], list[str]]]:
    """Devices and their `footprint` lines."""
    measured = [row for row in rows if row.memory and row.memory_kind in ("reserved", "driver")]
    with ProcessPoolExecutor(jobs) as pool:
        known = [(r, found) for r, found in zip(measured, pool.map(_split, measured)) if found]
    result = []
    own = {stack for _, stack in SHARED}
    for devices, stack in SHARED:
        of = [(r, n) for r, n in known if sheet(r).like in devices and _owner(r, own) == stack]
        if not of:
            continue
        reserve, context = solve([(*n, r.memory or 0.0, r.memory_kind == "driver") for r, n in of])
        lines = [f"footprint {stack} reserve {reserve:.2g}"]
        if any(r.memory_kind == "driver" for r, _ in of):
            lines.append(f"footprint {stack} context {context / 1e9:.2g} GB")
        result.append((devices, lines))
    return result


def _owner(row: Row, own: Collection[str]) -> str:
    """Whose numbers hold for the row's software: the nearest of those that it is like."""
    stack, at = home(row, sheet(row).like)
    while stack and stack not in own:
        stack = like(at, stack) or ""
    return stack


def solve(found: Sequence[tuple[float, float, float, bool]]) -> tuple[float, float]:
    """`reserve` and `context` of (kept, turning, measured, whether by the driver): least squares of relative errors,
    drawn to what is plausible."""
    rows = [[t / m / ERROR, float(driver) / m / ERROR] for _, t, m, driver in found]
    rows += [[1 / RESERVE[1], 0.0], [0.0, 1 / CONTEXT[1]]]
    wanted = [(1 - (k + t) / m) / ERROR for k, t, m, _ in found] + [RESERVE[0] / RESERVE[1], CONTEXT[0] / CONTEXT[1]]
    scale = np.array([1.0, 1e9])
    x = np.linalg.lstsq(np.array(rows) * scale, np.array(wanted), rcond=None)[0] * scale
    return float(max(0.0, x[0])), float(max(0.0, x[1]))


def _split(row: Row) -> tuple[float, float] | None:
    """Bytes that are kept, and that come and go, on the fullest device."""
    try:
        need = Systems(parc.compile(Source(f"{row}.par", job(row)))).fullest
        return need.kept, need.turning
    except (Unsupported, parc.ParcError):
        return None
