"""Which rows compile: `python -m benchmarks.published.coverage [CSV]`. Exits with 1 if a job that is written fails."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import parc
from benchmarks.published.facts import TRAINING, load
from benchmarks.published.generate import Unsupported, job
from dsl.source import Source


def main(arguments: list[str]) -> int:
    tried: Counter[str] = Counter()
    compiled: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    refused: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    for row in load(Path(arguments[0]) if arguments else TRAINING):
        tried[row.family] += 1
        try:
            text = job(row)
        except Unsupported as reason:
            refused[row.family, str(reason)] += 1
            continue
        start = time.process_time()
        try:
            parc.compile(Source(f"{row}.par", text))
        except parc.ParcError as error:
            first = error.diagnostics[0]
            wrong[row.family, f"{first.code} {first.message}"] += 1
            continue
        seconds[row.family] += time.process_time() - start  # type: ignore[assignment]
        compiled[row.family] += 1
    print(f"{'family':<22} {'rows':>5} {'compile':>8} {'CPU s each':>11}")
    for family, n in tried.items():
        mean = seconds[family] / max(compiled[family], 1)
        print(f"{family:<22} {n:>5} {compiled[family]:>8} {mean:>11.2f}")
    for title, found in (("not written", refused), ("does not compile", wrong)):
        for (family, reason), n in found.items():
            print(f"{title}: {n} of {family}: {reason}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
