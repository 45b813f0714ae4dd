"""Fitted numbers as lines of dsl/std/devices.par, and those lines put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.published.accelerators import known as sheet
from benchmarks.published.accelerators import reached
from benchmarks.published.group import Group
from compiler.cost.price.calibration import DEFAULT
from compiler.settings import EFFICIENCIES

DEVICES = Path(__file__).resolve().parents[2] / "dsl" / "std" / "devices.par"


def shown(name: str, value: float) -> str:
    """A number with two or three digits, in the unit of the language."""
    unit = EFFICIENCIES[name].unit
    if unit == "s":
        return f"{value * 1e6:.3g} us" if value < 1e-3 else f"{value * 1e3:.3g} ms"
    if unit == "B":
        return f"{value / 1e6:.2g} MB"
    return f"{value:.2g}" if value < 0.95 or 10 <= value < 99 else f"{value:.3g}"


def efficiencies(group: Group, values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """`efficiency STACK NAME VALUE`, of all stacks of a group; of one that is like another what is different."""
    found = []
    usual = DEFAULT.changed(launch=group.launch)
    for stack, of in values.items():
        word = f"{stack} " if stack != "general" else ""
        base = values[group.like[stack]] if stack in group.like else {}
        if base:
            found.append(
                f"stack {stack}" if group.like[stack] == "general" else f"stack {stack} like {group.like[stack]}"
            )
        for name in dict.fromkeys((*of, *base)):
            value = of[name] if name in of else getattr(usual, name)
            if name not in base or shown(name, value) != shown(name, base[name]):
                found.append(f"efficiency {word}{name} {shown(name, value)}")
    return found


def relative(lines: Sequence[str], device: str, known: str) -> list[str]:
    """The lines of a known device for a relative: products by what the best of either reach."""
    of = sheet(device)
    found = []
    for line in lines:
        *words, value = line.split()
        if of and words[0] == "efficiency" and words[-1] == "product":
            line = " ".join((*words, shown("product", reached(float(value), of, known))))
        found.append(line)
    return found


def write(group: Group, lines: list[str], path: Path = DEVICES) -> None:
    """Replaces what the group's devices and their relatives state for its stacks; other lines stay as they are."""
    heads = {f"{word} {s}" for s in group.stacks for word in ("efficiency", "stack") if s != "general"}

    def ours(words: list[str]) -> bool:
        general = "general" in group.stacks and words[:1] == ["efficiency"] and _is_number(words[2])
        return general or (len(words) > 3 or words[:1] == ["stack"]) and " ".join(words[:2]) in heads

    alike, others = (group.devices[:1], group.devices[1:]) if group.power else (group.devices, ())
    replace(alike, ours, lines, path)
    for device in (*others, *group.relatives):
        replace((device,), ours, relative(lines, device, group.devices[0]), path)


def write_footprint(devices: Sequence[str], lines: list[str], path: Path = DEVICES) -> None:
    """Replaces what devices state under the same names."""
    heads = {tuple(line.split()[:3]) for line in lines}
    replace(devices, lambda words: tuple(words[:3]) in heads, lines, path)


def replace(devices: Sequence[str], ours: Callable[[list[str]], bool], lines: list[str], path: Path) -> None:
    """In the definitions of devices: others for the lines of which the words are `ours`. Footprints stand before
    efficiencies."""
    found: list[str] = []
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if line.startswith("device "):
            inside, at = words[1] in devices, 0
        if inside and ours(words):
            at = at or len(found)
            continue
        if inside and line == "}":
            at = at if lines[0].startswith("footprint") and at else len(found)
            found[at:at] = [f"  {text}" for text in lines]
            inside = False
        found.append(line)
    temporary = path.with_suffix(".new")
    temporary.write_text("\n".join(found) + "\n", encoding="utf-8")
    temporary.replace(path)


def _is_number(word: str) -> bool:
    return word.replace(".", "", 1).replace("e", "", 1).replace("-", "", 1).isdigit()
