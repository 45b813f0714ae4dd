"""`python -m tests.matrix`: judges every cell of the matrix and writes `docs/compositions.md`.

What is known is kept in a file: a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import parc  # noqa: E402
from tests.matrix.cells import chosen, expected  # noqa: E402
from tests.matrix.judge import ALL, ROOT, Kept, Outcome, sources  # noqa: E402
from tests.matrix.page import counts, render  # noqa: E402

PAGE = ROOT / "docs" / "compositions.md"


def main() -> int:
    """0 if every cell became what is expected of it; the page is then written."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--kept", type=Path, default=ROOT / ".matrix.jsonl", help="the file of what is known")
    options = parser.parse_args()
    begun, outcomes, wrong = time.monotonic(), dict[str, Outcome](), list[str]()
    for cell, found in Kept(options.kept).outcomes(chosen()):
        outcomes[str(cell)] = found
        if found.what != expected(cell):
            wrong.append(f"{cell}: {found.what} {found.why}, expected {expected(cell)}")
            print(wrong[-1], flush=True)
        if len(outcomes) % 100 == 0:
            print(f"{len(outcomes)} of {len(chosen())} …", file=sys.stderr, flush=True)
    print(f"{len(outcomes)} cells in {time.monotonic() - begun:.0f} s: {counts(outcomes)}")
    if not wrong:
        PAGE.write_text(render(outcomes, made()), encoding="utf-8")
    return int(bool(wrong))


def made() -> str:
    """The version of parc and of its sources."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    commit = f" (commit {asked.stdout.strip()})" if asked.returncode == 0 else ""
    return f"parc {parc.__version__}{commit}, sources `{sources(*ALL)[:12]}`"


if __name__ == "__main__":
    sys.exit(main())
