"""Further entries of an exported file: each has functions and a schedule of its own, on the states of the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.program import DeviceClass
from parc.exporting.torch.writer import string, tuple_of

Classes = Sequence[tuple[str, DeviceClass]]
"""Each with the name of its namespace."""


def namespace(entry: str) -> str:
    """The class that has what an entry runs; of devices that differ, with more behind it."""
    return f"entry_{entry}"


def listed(entries: Mapping[str, Classes]) -> str:
    """What further entries run on this device."""
    lines = ["ENTRIES = {}  # what else can be asked for, and what this device runs for it"]
    for entry, classes in entries.items():
        there = f"ENTRIES[{string(entry)}] ="
        if len(classes) == 1:
            lines.append(f"{there} {classes[0][0]}")
            continue
        for name, cls in classes:
            lines += [f"if GROUP in {tuple_of(map(str, cls.groups))}:", f"    {there} {name}"]
    return "\n".join(lines)


def options(entries: Sequence[str]) -> str:
    """How often `main` is asked to call each, as lines of it."""
    line = '    options.add_argument("--{0}", type=int, default=0, help="how many batches behind the steps")\n'
    return "".join(line.format(e) for e in entries)


def calls(entries: Sequence[str]) -> str:
    """What `main` does when all steps are done."""
    return "".join(
        f"    for number, (_, batch) in enumerate(zip(range(o.{e}), data if o.data else batches()), 1):\n"
        f"        tell({string(e)}, number, device.call({string(e)}, batch))\n"
        for e in entries
    )
