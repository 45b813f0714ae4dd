"""What devices' numbers were fitted on, and how far off they are on rows that were left out: `parc devices` says it.

`python -m benchmarks.published.expected [--write] [--jobs N]` takes the numbers as they stand in dsl/std/devices.par,
leaves out each fifth of a group's rows in turn (`validate.Fitted`), and writes dsl/std/fitted.json: no figure in it is
typed by hand. All rows are compiled once (minutes); nothing is fitted anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil, log
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.published.facts import SINGLE_NODE, Row, load
from benchmarks.published.fit import Problem, Sample, Vector, chosen, samples
from benchmarks.published.group import Group
from benchmarks.published.groups import GROUPS
from benchmarks.published.validate import Fitted
from compiler import stacks
from compiler.evaluate.library import standard_devices
from compiler.model import Device

FILE = Path(__file__).resolve().parents[2] / "dsl" / "std" / "fitted.json"
EVERY = 18
"""Of the rows of one node each so-manieth, as in a fit."""

NINE_OF_TEN = 0.9


@cache
def library() -> Mapping[str, Device]:
    """The devices of the standard library, by name."""
    return {device.name: device for device in standard_devices()}


def numbers(group: Group) -> dict[str, dict[str, float]]:
    """Stack -> what the group's first device states for it, in base units."""
    device = library()[group.devices[0]]
    return {s: stacks.stated(device, "efficiency", "" if s == "general" else s) for s in group.stacks}


def as_stated(problem: Problem) -> Vector:
    """The vector of a group at the numbers that the library states; what it does not is at its prior."""
    group, of = problem.group, numbers(problem.group)

    def owner(stack: str, name: str) -> str:
        if stack:
            return stack
        takes = (s for s in group.stacks if s in group.only.get(name, group.stacks))
        return next(s for s in takes if name not in group.own.get(s, ()) and name not in group.shared.get(s, {}))

    x = problem.centre.copy()
    for i, (stack, name) in enumerate(problem.names):
        if value := of[owner(stack, name)].get(name, 0.0):
            x[i] = log(value)
    return np.clip(x, problem.low, problem.high)


def expected(group: Group, rows: Sequence[Sample]) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[str, Vector]]:
    """(device, stack) -> what is said of it; family -> errors of its rows, each left out in its turn."""
    problem = Problem(group, rows)
    left = np.abs(np.expm1(Fitted(problem, as_stated(problem)).folded())) if not group.families else None
    owners = problem.owners
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for device in (*group.devices, *group.relatives):
        for stack in group.stacks:
            if left is None:  # a fit on all families of the device: what it is worth for others is another matter
                mine = list(range(len(rows)))
            else:
                mine = [i for i, s in enumerate(rows) if owners[i] == stack and s.device == device]
            said: dict[str, Any] = {"group": group.name, "rows": len(mine), "of": len(rows)}
            said["numbers"] = len(problem.names)
            said["families"] = sorted({rows[i].row.family for i in mine})
            said["sources"] = sorted({rows[i].row["source"] for i in mine})
            if left is not None and mine:
                said["left_out"] = errors(left[mine])
            found[device, "" if stack == "general" else stack] = said
    families: dict[str, Vector] = {}
    for family in dict.fromkeys(s.row.family for s in rows) if left is not None else ():
        families[family] = left[[i for i, s in enumerate(rows) if s.row.family == family]]
    return found, families


def errors(of: Vector) -> dict[str, Any]:
    """Mean, and what nine of ten are within."""
    ordered = np.sort(of)
    within = ordered[ceil(NINE_OF_TEN * len(of)) - 1]
    return {"rows": len(of), "mean": round(float(of.mean()), 4), "within": round(float(within), 4)}


def rows_of(groups: Sequence[Group], rows: Sequence[Row], jobs: int = 1) -> list[tuple[Group, list[Sample]]]:
    """The groups with their rows, compiled."""
    of = {g.name: [str(row) for row in chosen(g, rows)] for g in groups}
    wanted = {name for names in of.values() for name in names}
    known = {str(s.row): s for s in samples([row for row in rows if str(row) in wanted], jobs)}
    return [(g, [known[name] for name in of[g.name] if name in known]) for g in groups]


def table(groups: Sequence[tuple[Group, Sequence[Sample]]]) -> dict[str, Any]:
    """The whole file."""
    devices: dict[str, dict[str, Any]] = {name: {} for name in library()}
    families: dict[str, list[float]] = {}
    for group, rows in groups:
        if not rows:
            continue
        found, left = expected(group, rows)
        for (device, stack), said in found.items():
            devices[device][stack] = said
        for family, of in left.items():
            families.setdefault(family, []).extend(of)
    told: Mapping[str, Any] = {family: errors(np.array(of)) for family, of in families.items()}
    return {
        "made_by": "python -m benchmarks.published.expected --write",
        "devices": {name: of for name, of in devices.items() if of},
        "families": told,
    }


def text(found: Mapping[str, Any]) -> str:
    """As the file has it."""
    return json.dumps(found, indent=1, sort_keys=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into dsl/std/fitted.json")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    options = parser.parse_args(arguments)
    found = text(table(rows_of(GROUPS, [*load(), *load(SINGLE_NODE)[::EVERY]], options.jobs)))
    if options.write:
        temporary = FILE.with_suffix(".new")
        temporary.write_text(found, encoding="utf-8")
        temporary.replace(FILE)
    else:
        print(found, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
