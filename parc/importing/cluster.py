"""Clusters by a number and a device, `64 h100`: as its makers and clouds put such devices together."""

from __future__ import annotations

import re

from dsl.data import dataclass
from dsl.diagnostics import suggest


@dataclass(frozen=True, slots=True)
class Housing:
    """How devices of a kind stand together: at most `most` in what is called `inside`, with links of `inner` GB/s per
    device and direction there, and of `outer` to others."""

    most: int
    inner: float
    outer: float
    inside: str = "server"


HOUSINGS = {
    "v100": Housing(8, 150, 12.5),
    "a100_40": Housing(8, 300, 25),
    "a100_80": Housing(8, 300, 25),
    "h100": Housing(8, 450, 50),
    "h100_hbm2e": Housing(8, 450, 50),
    "h200": Housing(8, 450, 50),
    "b200": Housing(8, 900, 50),
    "gb200": Housing(72, 900, 50, "domain"),
    "tpu_v4": Housing(4096, 300, 6.25, "slice"),
    "tpu_v5e": Housing(256, 180, 3.125, "slice"),
    "tpu_v5p": Housing(8960, 540, 6.25, "slice"),
    "ascend910": Housing(8, 90, 12.5),
    "ascend910b": Housing(8, 392, 25),
}
"""Data sheets of the devices: NVLink, ICI and HCCS inside; outside one network card of 100, 200 or 400 Gbit/s per
device (V100, A100, H100 and later), of TPUs 25 or 50 Gbit/s per chip."""

_ASKED = re.compile(r"\s*([0-9][0-9_,]*)\s*(?:x|×)?\s*([A-Za-z]\w*)\s*")


def read_cluster(text: str) -> tuple[int, str]:
    """Number and device of `64 h100`. Raises ValueError, with what to write instead."""
    found = _ASKED.fullmatch(text)
    if found is None:
        raise ValueError(f"`{text}` is not a number and a device, such as `64 h100`")
    number, device = int(re.sub("[_,]", "", found[1])), found[2].lower()
    if not 1 <= number <= 1 << 20:
        raise ValueError(f"a cluster has from 1 to {1 << 20:,} devices, not {number}")
    if device not in HOUSINGS:
        near = suggest(device, HOUSINGS)
        raise ValueError(
            f"there is no device `{device}`" + (f"; did you mean `{near}`?" if near else f": {', '.join(HOUSINGS)}")
        )
    return number, device


def cluster_lines(device: str, number: int) -> tuple[str, ...]:
    """The definition of a cluster of so many devices, whose levels follow from the parameter `devices`."""
    at = HOUSINGS[device]
    inside = max(n for n in range(1, min(at.most, number) + 1) if number % n == 0)
    return (
        "cluster pod(devices) {",
        f"  device npu = {device}",
        f"  level {at.inside} = min(devices, {inside}) npu over {at.inner:g} GB/s, 1 us",
        f"  level pod = devices // min(devices, {inside}) {at.inside} over {at.outer:g} GB/s, 5 us",
        "}",
    )
