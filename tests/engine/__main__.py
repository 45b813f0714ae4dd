"""`python -m tests.engine`: proves cells of the matrix (`tests/matrix`) by processes over gloo, or by exported files.

    python -m tests.engine --size 2 --first 3 --step 7 --seconds 1200 --kept cells.jsonl
    python -m tests.engine --by export --size 1

What is known is kept in a file: a run that was interrupted, or whose time was up, goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from runtime.torch.engine import ProcessPool  # noqa: E402
from tests.engine.cells import devices, judge  # noqa: E402
from tests.export.exported import outcomes  # noqa: E402
from tests.matrix.cells import Cell, cells, expected  # noqa: E402

TOGETHER = 16
"""How many files the same processes run."""


def by_engine(wanted: list[Cell]) -> Iterator[tuple[Cell, str]]:
    """Each with what came of it."""
    with ProcessPool(max(map(devices, wanted), default=1), patience=600) as pool:
        for cell in wanted:
            yield cell, judge(pool, cell)


def by_export(wanted: list[Cell]) -> Iterator[tuple[Cell, str]]:
    """Each with what came of it."""
    for at in range(0, len(wanted), TOGETHER):
        some = {str(cell): cell for cell in wanted[at : at + TOGETHER]}
        with tempfile.TemporaryDirectory() as folder:
            programs = {name: cell.compile().program for name, cell in some.items()}
            for name, what in outcomes(programs, Path(folder)).items():
                yield some[name], what


def main() -> int:
    """0 if all is proved."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--by", choices=("engine", "export"), default="engine")
    parser.add_argument("--size", type=int, default=2, help="how many tactics together")
    parser.add_argument("--first", type=int, default=0, help="the number of the first cell")
    parser.add_argument("--step", type=int, default=1, help="every step-th of them")
    parser.add_argument("--devices", type=int, default=4, help="only cells of so many devices at most")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no cell is begun later")
    parser.add_argument("--kept", type=Path, help="the file of what is known")
    o = parser.parse_args()
    lines = o.kept.read_text().splitlines() if o.kept is not None and o.kept.exists() else []
    known = {found["cell"]: found["what"] for found in map(json.loads, lines) if found["by"] == o.by}
    wanted = [c for c in cells(o.size)[o.first :: o.step] if devices(c) <= o.devices and expected(c) == "proved"]
    begun, wrong, count = time.monotonic(), 0, sum(str(c) in known for c in wanted)
    for cell, what in (by_engine if o.by == "engine" else by_export)([c for c in wanted if str(c) not in known]):
        count += 1
        if o.kept is not None:
            with o.kept.open("a") as kept:
                kept.write(json.dumps({"by": o.by, "cell": str(cell), "what": what}) + "\n")
        if what != "proved":
            wrong += 1
            print(f"{cell}: {what}", flush=True)
        if count % 50 == 0:
            print(f"{count} of {len(wanted)}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        if time.monotonic() - begun > o.seconds:
            break
    wrong += sum(known.get(str(c), "proved") != "proved" for c in wanted)
    print(f"{count} of {len(wanted)} cells by {o.by}: {count - wrong} proved, {wrong} not")
    return int(bool(wrong))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of torch may abort what Python does at its end
