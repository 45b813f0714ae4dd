"""The stacks of software that a device speaks of, and what holds for each: a stack inherits what it does not state.

efficiency torchtitan product 0.74
footprint torchtitan reserve 0.13
stack torchtitan_float8 like torchtitan   # all of it, efficiencies and footprints alike, but for:
efficiency torchtitan_float8 narrow 2.9
stack float8                              # what the device states for no stack, but for …
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler.model import Device

KEYWORDS = ("efficiency", "footprint")
"""Settings that may be those of a stack: words before a name and its value."""


def bases(device: Device) -> Mapping[str, str]:
    """Stack -> the one that it is like, of those of which the device says so; "": what is stated for no stack."""
    return {name: base for name, base in _of(device, "stack")}


def known(device: Device) -> tuple[str, ...]:
    """All stacks that the device speaks of, in the order in which it does."""
    found: dict[str, None] = {}
    for keyword, words in device.settings:
        if keyword == "stack" or (keyword in KEYWORDS and len(words) == 3):
            found[words[0]] = None
    return tuple(found)


def lineage(device: Device, stack: str) -> tuple[str, ...]:
    """The stack and those that it inherits from, the nearest first; "" stands for what is stated for no stack, which
    holds for a stack of which the device does not speak."""
    if stack not in known(device):
        return ("",)
    found, base = [stack], bases(device)
    while found[-1] in base and base[found[-1]] not in found:
        found.append(base[found[-1]])
    return tuple(found)


def stated(device: Device, keyword: str, stack: str) -> dict[str, float]:
    """`efficiency` or `footprint`: name -> value, of all that the device states and that holds for the stack. Where
    nothing is stated for it or for what it is like, what is stated for no stack holds: of footprints it always does,
    for efficiencies are fitted together, and footprints are not."""
    of: dict[str, dict[str, float]] = {}
    for words in _of(device, keyword):
        of.setdefault("".join(words[:-2]), {})[words[-2]] = float(words[-1])
    found: dict[str, float] = {}
    for name in reversed(lineage(device, stack)):
        found.update(of.get(name, {}))
    general = of.get("", {})
    return general | found if keyword == "footprint" else found or general


def _of(device: Device, keyword: str) -> list[tuple[Any, ...]]:
    return [words for k, words in device.settings if k == keyword]
