"""Accelerators by the names that people give them, and what their data sheets say."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from benchmarks.published import words
from benchmarks.published.facts import Row, Unsupported


@dataclass(frozen=True, slots=True)
class Sheet:
    """peak: dense TFLOP/s in 16 bits; memory: GB and GB/s; links: GB/s per device and direction, all links together, to
    others of its node (of its slice) and to other nodes. like: a device of the standard library: itself (`known`), or
    the nearest relative, whose efficiencies, cores and tiles it takes. reach: share of the peak of the best product
    that was measured (0: not known); what training reaches of products is scaled by those of both, and by watts, what a
    device may draw (0: not published). year: of its announcement. mesh: the devices of a node have a link to each
    other, and no switch, so that few of them have few links."""

    peak: float
    memory: float
    bandwidth: float
    like: str
    inner: float
    outer: float
    year: int = 0
    known: bool = False
    single: float = 0.0  # TFLOP/s in 32 bits, where that is what the row states
    reach: float = 0.0
    watts: float = 0.0
    mesh: bool = False


SHEETS = {
    "V100": Sheet(125, 32, 900, "v100", 150, 12.5, 2017, watts=300, known=True),
    "V100-mesh": Sheet(125, 32, 900, "v100", 150, 12.5, 2017, watts=300, known=True, mesh=True),
    "T4": Sheet(65, 16, 320, "v100", 16, 6.25, 2018, watts=70),
    "A100-40": Sheet(312, 40, 1555, "a100_40", 300, 25, 2020, watts=400, known=True, reach=0.869),
    "A100": Sheet(312, 80, 2039, "a100_80", 300, 25, 2020, watts=400, known=True, reach=0.869),
    "A100-PCIe": Sheet(312, 80, 1935, "a100_80", 32, 25, 2020, watts=300, reach=0.811),
    "A800": Sheet(312, 80, 2039, "a100_80", 200, 25, 2022, watts=400, reach=0.869),
    "A6000": Sheet(155, 48, 768, "a100_40", 56, 12.5, 2020, watts=300),
    "A40": Sheet(150, 48, 696, "a100_40", 56, 12.5, 2020, watts=300),
    "A30": Sheet(165, 24, 933, "a100_40", 100, 12.5, 2021, watts=165),
    "A10": Sheet(125, 24, 600, "a100_40", 32, 6.25, 2021, watts=150),
    "RTX": Sheet(165, 24, 1008, "a100_40", 32, 6.25, 2022, watts=450),
    "H100-HBM2e": Sheet(989, 96, 2400, "h100_hbm2e", 450, 50, 2022, watts=500, known=True, reach=0.803),
    "H100": Sheet(989, 80, 3350, "h100", 450, 50, 2022, watts=700, known=True, reach=0.803),
    "H100-PCIe": Sheet(756, 80, 2000, "h100", 64, 25, 2022, watts=350),
    "H800": Sheet(989, 80, 3350, "h100", 200, 50, 2023, watts=700, reach=0.803),
    "H20": Sheet(148, 96, 4000, "h100", 450, 50, 2024, watts=400, reach=0.94),
    "H200": Sheet(989, 141, 4800, "h200", 450, 50, 2023, watts=700, known=True),
    "GH200": Sheet(989, 96, 4000, "h200", 450, 50, 2023, watts=700, reach=0.838),
    "L40S": Sheet(362, 48, 864, "h100", 32, 12.5, 2023, watts=350),
    "L40": Sheet(181, 48, 864, "h100", 32, 12.5, 2022, watts=300),
    "L4": Sheet(121, 24, 300, "h100", 32, 6.25, 2023, watts=72),
    "B200": Sheet(2250, 180, 8000, "b200", 900, 50, 2024, watts=1000, known=True, reach=0.776),
    "GB200": Sheet(2500, 186, 8000, "gb200", 900, 50, 2024, watts=1200, known=True, reach=0.729),
    "B300": Sheet(2250, 270, 8000, "b200", 900, 100, 2025, watts=1100, reach=0.786),
    "GB300": Sheet(2500, 278, 8000, "gb200", 900, 100, 2025, watts=1400),
    "MI250": Sheet(383, 128, 3277, "a100_80", 300, 25, 2021, watts=560, reach=0.65, mesh=True),
    "MI300": Sheet(1307, 192, 5300, "h100", 448, 50, 2023, watts=750, reach=0.511, mesh=True),
    "MI325": Sheet(1307, 256, 6000, "h100", 448, 50, 2024, watts=1000, reach=0.6, mesh=True),
    "MI355": Sheet(2516, 288, 8000, "b200", 538, 50, 2025, watts=1400, reach=0.622, mesh=True),
    "Gaudi2": Sheet(432, 96, 2450, "a100_80", 262, 37.5, 2022, watts=600, reach=0.969, mesh=True),
    "Gaudi3": Sheet(1835, 128, 3700, "h100", 525, 75, 2024, watts=900, reach=0.677, mesh=True),
    "TPU v2": Sheet(46, 16, 700, "tpu_v4", 125, 3.125, 2017),
    "TPU v3": Sheet(123, 32, 900, "tpu_v4", 160, 3.125, 2018),
    "TPU v4": Sheet(275, 32, 1228, "tpu_v4", 300, 6.25, 2022, known=True),
    "TPU v5e": Sheet(197, 16, 810, "tpu_v5e", 180, 3.125, 2023, known=True),
    "TPU v5p": Sheet(459, 95, 2765, "tpu_v5p", 540, 6.25, 2023, known=True),
    "TPU v6e": Sheet(918, 32, 1640, "tpu_v5e", 400, 12.5, 2024),
    "TPU v7": Sheet(2307, 192, 7370, "tpu_v5p", 600, 12.5, 2025),
    "Trainium1": Sheet(95, 16, 410, "tpu_v4", 192, 3.125, 2022),  # a core of two, as AWS counts them
    "Trainium2": Sheet(667, 96, 2900, "tpu_v4", 512, 25, 2024),
    "Ascend 910": Sheet(256, 32, 1200, "ascend910", 90, 12.5, 2019, watts=310),
    "Ascend 910B": Sheet(354, 64, 1600, "ascend910b", 392, 25, 2023, known=True),
    "Ascend 910C": Sheet(752, 128, 3200, "ascend910b", 392, 50, 2025),
}
"""Data sheets; `reach` from the best products of micro.csv (of H20 and MI250, which it lacks, estimates).
Links of a core of Trainium1: two of its chip's four, of 96 GB/s each; of TPUs to other slices: 50 Gbit/s per chip, v5e
25, v6e 100, says the cloud's documentation."""

NAMES = (
    (r"v100", "V100"),
    (r"gb300", "GB300"),
    (r"gb200", "GB200"),
    (r"gh200", "GH200"),
    (r"b300", "B300"),
    (r"b200|b100", "B200"),
    (r"h200", "H200"),
    (r"h100", "H100"),
    (r"h800", "H800"),
    (r"h20\b", "H20"),
    (r"a100", "A100"),
    (r"a800", "A800"),
    (r"a6000", "A6000"),
    (r"a10g?\b", "A10"),
    (r"a30\b", "A30"),
    (r"a40\b", "A40"),
    (r"l40s", "L40S"),
    (r"l40\b", "L40"),
    (r"l4\b", "L4"),
    (r"\bt4\b", "T4"),
    (r"rtx|geforce|[34]090", "RTX"),
    (r"mi2[15]0", "MI250"),
    (r"mi300", "MI300"),
    (r"mi325", "MI325"),
    (r"mi35\d", "MI355"),
    (r"gaudi[ -]?2|hl-?225", "Gaudi2"),
    (r"gaudi[ -]?3|hl-?325", "Gaudi3"),
    (r"v5 ?lite|v5e", "TPU v5e"),
    (r"v5p|tpu ?v5\b", "TPU v5p"),
    (r"v6e|trillium|tpu ?v6", "TPU v6e"),
    (r"ironwood|tpu ?v?7", "TPU v7"),
    (r"tpu ?v4", "TPU v4"),
    (r"tpu ?v3", "TPU v3"),
    (r"tpu ?v2", "TPU v2"),
    (r"trainium ?2|trn2", "Trainium2"),
    (r"trainium|trn1", "Trainium1"),
    (r"910 ?c|atlas.*a3", "Ascend 910C"),
    (r"910 ?b|atlas.*a2", "Ascend 910B"),
    (r"910", "Ascend 910"),
)
"""Words of `accel`, the first that is found."""

VENDORS = (("tpu", "tpu_v4"), ("ascend|atlas|npu", "ascend910b"), ("mi\\d|amd|instinct", "h100"))


def accelerator(row: Row) -> str:
    """The name in `SHEETS`, or nothing. Variants are told by the size of the memory, where the row states it."""
    said = row["accel"].lower()
    name = next((name for pattern, name in NAMES if re.search(pattern, said)), "")
    size = row.number("mem_GB")
    if name == "A100" and (re.search(r"\b40 ?g", said) or 0 < size < 60):
        return "A100-40"
    if name in ("A100", "H100") and "pcie" in said and (name == "A100" or row.number("peak_tflops") < 900):
        return f"{name}-PCIe"
    if name == "V100" and re.search(r"dgx-?1|p3\.16|hybrid", said):
        return "V100-mesh"
    if name == "H100" and "hbm2e" in said and size > 85:
        return "H100-HBM2e"
    return name


def sheet(row: Row) -> Sheet:
    """What the row states, and of what it does not the data sheet. Raises `Unsupported` where both are silent."""
    name = accelerator(row)
    of = SHEETS.get(name)
    single = row.number("peak_tflops") if words.precision(row["precision"]) == "f32" else 0.0
    peak, memory = 0.0 if single else row.number("peak_tflops") / ratio(row), row.number("mem_GB")
    if of is None:
        peak = peak or 8 * single
        if not (peak and memory):
            raise Unsupported(f"peak or memory of {row['accel'] or 'the device'} are not stated")
        said = row["accel"].lower()
        near = next((device for pattern, device in VENDORS if re.search(pattern, said)), None)
        nearest = min(("a100_80", "h100", "b200"), key=lambda d: abs(PEAKS[d] - peak))
        # As many bytes per second as H100 has for its size; links as far as the row states them.
        bandwidth = row.number("mem_bw_GBps") or 3350.0 * memory / 80
        return Sheet(peak, memory, bandwidth, near or nearest, 0.0, 0.0, single=single)
    bandwidth = row.number("mem_bw_GBps") or of.bandwidth
    peak, memory = peak or of.peak, memory or of.memory
    found = replace(of, peak=peak, memory=memory, bandwidth=bandwidth, known=False, single=single)
    found = replace(found, reach=of.reach * of.peak / peak)
    stated = ((found.peak, of.peak), (found.bandwidth, of.bandwidth))
    same = all(abs(a / b - 1) < 0.06 for a, b in stated) and 0.4 < found.memory / of.memory < 1.2
    return of if of.known and same and not single else found


POWER, AMPLE = 0.2, 1.3
"""A device that may draw more per TFLOP/s of its peak sustains more of it: a share ~ (W per TFLOP/s)^POWER, up to so
much, which is what A100 has; of those that were measured, from GB200 to A100, 0.1 to 0.4."""

SUSTAINED = 0.95
"""Of the best product that anyone measured, at most so much is reached in training (the best is short, and cold)."""


def power(of: Sheet) -> float:
    """How much of its peak a device sustains, against one with as much power as it can use; 1 where it is not known."""
    return min(1.0, of.watts / of.peak / AMPLE) ** POWER if of.watts else 1.0


def known(device: str) -> Sheet | None:
    """The sheet of a device of the library."""
    return next((s for s in SHEETS.values() if s.known and s.like == device and not s.mesh), None)


def most(of: Sheet | None) -> float:
    """The share of the peak that products have in training at most; 1: not known."""
    return SUSTAINED * of.reach if of and of.reach else 1.0


def scale(of: Sheet, like: str) -> float:
    """How much more of its peak a device reaches in products than one of the library: by the best that was measured of
    both, and by their power."""
    theirs = known(like)
    if theirs is None:
        return 1.0
    times = power(of) / power(theirs) if of.watts and theirs.watts else 1.0
    return times * (of.reach / theirs.reach if of.reach and theirs.reach else 1.0)


def reached(product: float, of: Sheet, like: str) -> float:
    """Of a device, where one of the library that it is like reaches so much of its peak in products."""
    return min(product * scale(of, like), most(of))


PEAKS = {"a100_80": 312.0, "h100": 989.0, "b200": 2250.0}

WORDS = {4: ("nvfp4", "mxfp4", "fp4", "float4"), 2: ("fp8", "float8", "mxfp8", "e4m3", "e5m2")}
"""Words for products in fewer than 16 bits, by how many times the peak of 16 they have as a rule."""


def narrow(row: Row) -> int:
    """How many times the peak of 16 bits products with weights have by their type: 1, 2 or 4."""
    said = row["precision"].lower()
    return next((times for times, of in WORDS.items() if any(word in said for word in of)), 1)


def ratio(row: Row) -> float:
    """The row's peak over that of 16 bits, dense: by the type of its products, or by the data sheet, where the row
    states something else (B300 has 6 times the peak in 4 bits; some state the peak of 16 bits whatever the type, or of
    sparse products)."""
    by_type = float(narrow(row))
    of = SHEETS.get(accelerator(row))
    stated = row.number("peak_tflops")
    if of is None or not stated:
        return by_type
    found = stated / of.peak
    return found if found > 1.4 * by_type or found < 0.6 * by_type and by_type > 1 else by_type
