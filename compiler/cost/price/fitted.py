"""What a device's numbers for a software stack were fitted on, and how far off a price may be.

The figures are data of the standard library, `dsl/std/fitted.json`, which `python -m benchmarks.published.expected
--write` makes; none is typed by hand.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from compiler import stacks
from compiler.model import Cluster, Device
from dsl.data import dataclass
from dsl.diagnostics import plural
from dsl.files import STD

OTHER_SOFTWARE = 0.27
"""Of software without rows of its own nine of ten steps are within this: factors of families on the same device spread
by 0.13 of the logarithm (docs/validation.md, "unknown software")."""


@dataclass(frozen=True, slots=True)
class Fit:
    """group: of numbers that are fitted together, `numbers` of them on `of` rows; `rows` of those are of this device
    and stack. families: of the rows, by who measured them. mean, within: errors (shares) of this stack's rows, each
    left out of the fit in its turn, and what nine of ten of them are within; None where it has none."""

    group: str
    rows: int
    of: int
    numbers: int
    families: tuple[str, ...]
    sources: tuple[str, ...]
    mean: float | None = None
    within: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        left = {"rows": self.rows, "mean": self.mean, "within": self.within} if self.mean is not None else None
        return {
            "group": self.group,
            "rows": self.rows,
            "group_rows": self.of,
            "numbers": self.numbers,
            "families": list(self.families),
            "sources": list(self.sources),
            "left_out": left,
        }


@dataclass(frozen=True, slots=True)
class Expected:
    """The error to expect of the time of a step, a share: the mean of `rows` that were left out of the fit, nine of ten
    of which are `within`; or, where the stack has no rows (0), what nine of ten are within. why: in words."""

    error: float
    within: float
    rows: int
    why: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"error": self.error, "within": self.within, "rows": self.rows, "why": self.why}


def fit_of(device: Device, stack: str) -> Fit | None:
    """What is known of the numbers of a device of the standard library for a stack ("": for none in particular)."""
    found = _devices().get(device.name, {}).get(stack) if device.library else None
    if found is None:
        return None
    left = found.get("left_out") or {}
    return Fit(
        found["group"],
        found["rows"],
        found["of"],
        found["numbers"],
        tuple(found["families"]),
        tuple(found["sources"]),
        left.get("mean"),
        left.get("within"),
    )


def used(cluster: Cluster) -> str:
    """The stack whose numbers count: the cluster's, or, where the device does not speak of it, "": its general ones."""
    return cluster.stack if cluster.stack in stacks.known(cluster.device) else ""


def expected(cluster: Cluster) -> Expected:
    """How far off the time of a step may be on this cluster."""
    device, stack = cluster.device, used(cluster)
    found = fit_of(device, stack)
    if found is not None and found.mean is not None and found.within is not None:
        why = f"{plural(found.rows, 'step')} left out of the fit"
        return Expected(found.mean, found.within, found.rows, why)
    if found is not None:
        why = f"no published step of `{stack}` on {device.name}" if stack else "software that was not fitted"
    elif cluster.device.library:
        why = f"no published step on {device.name}"
    else:
        why = f"the numbers of {device.name} are the file's own"
    return Expected(OTHER_SOFTWARE, OTHER_SOFTWARE, 0, why)


@cache
def _devices() -> dict[str, Any]:
    text = STD.joinpath("fitted.json").read_text(encoding="utf-8")
    devices: dict[str, Any] = json.loads(text)["devices"]
    return devices
