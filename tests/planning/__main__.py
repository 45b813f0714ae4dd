"""`python -m tests.planning --count 200 --kept FILE`: searches of plans held to brute force over many drawn spaces.

Of each space all candidates are priced, without a bound. A search has to end with the best of them, no bound may be
above a price, and certificates of some have to hold. A run that was ended goes on where FILE ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import Pool
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from tests.planning.drawn_spaces import drawn_space  # noqa: E402
from tests.planning.judged import LEAST, MOST, JudgedSpace, judged  # noqa: E402

ENOUGH = 500
"""Candidates that can be lowered, of a space that counts."""


def outcome(seed: int) -> JudgedSpace:
    """Of one draw; what raises is wrong, too."""
    try:
        return judged(seed)
    except Exception:  # told with the seed, and the next ones are judged all the same
        return JudgedSpace(seed, wrong=traceback.format_exc())


def read(kept: Path | None) -> dict[int, JudgedSpace]:
    """What stands in the file, by seeds. A last line that is not whole is left out."""
    found: dict[int, JudgedSpace] = {}
    for line in kept.read_text().splitlines() if kept is not None and kept.exists() else ():
        with suppress(ValueError, TypeError):
            of = JudgedSpace(**json.loads(line))
            found[of.seed] = of
    return found


def noted(results: Iterable[JudgedSpace], kept: Path | None) -> Iterator[JudgedSpace]:
    """The results, each written to the file as it comes."""
    if kept is None:
        yield from results
        return
    with kept.open("a") as file:
        print(file=file)  # the last line may not be whole
        for of in results:
            print(json.dumps(of.row), file=file, flush=True)
            yield of


def told(spaces: Iterable[JudgedSpace]) -> str:
    """What became of all, in a few lines."""
    every = list(spaces)
    good = [of for of in every if not of.wrong]
    rows = [
        f"{len(every)} spaces, {len(good)} agree, {sum(of.legal >= ENOUGH for of in good)} of at least {ENOUGH} "
        f"candidates that can be lowered: {sum(of.legal for of in every)} priced, {sum(of.refused for of in every)} "
        f"refused, {sum(of.seconds for of in every):.0f} s of CPU",
        f"the optimum is in no corner: {sum(of.inside for of in good)}; between the ends in two choices or more: "
        f"{sum(of.between > 1 for of in good)}",
        f"searches priced {sum(of.tried for of in good)} of {sum(of.legal + of.refused for of in good)}; "
        f"{sum(of.bounds for of in good)} bounds held; {sum(of.certified for of in good)} certificates",
        f"models {dict(Counter(of.kind for of in every))}; minimised {dict(Counter(of.minimise for of in every))}; "
        f"devices {dict(sorted(Counter(of.devices for of in every).items()))}",
    ]
    return "\n".join(rows + [f"seed {of.seed} ({of.kind}): {of.wrong}" for of in every if of.wrong])


def main() -> int:
    """0 if all agree, each space is as large as it should be, and half of the optima are in no corner."""
    parser = argparse.ArgumentParser(prog="python -m tests.planning", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="number of draws")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; with --count 1, print the file")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--kept", type=Path, help="a file of outcomes, one per line: a run that was ended goes on")
    options = parser.parse_args()
    if options.count == 1:
        print(drawn_space(options.seed, LEAST, MOST).text)
    before = read(options.kept)
    every = range(options.seed, options.seed + options.count)
    seeds = [seed for seed in every if seed not in before]
    found = {seed: of for seed, of in before.items() if seed in every}
    with Pool(options.jobs) as pool:
        results = pool.imap_unordered(outcome, seeds) if options.jobs > 1 else map(outcome, seeds)
        for of in noted(results, options.kept):
            found[of.seed] = of
            print(f"{len(found)} of {options.count}: {of.wrong or 'agrees'} …", file=sys.stderr, flush=True)
    print(told(found[seed] for seed in sorted(found)))
    good = [of for of in found.values() if not of.wrong and of.legal >= ENOUGH]
    return int(len(good) < len(found) or 2 * sum(of.inside for of in good) < len(good))


if __name__ == "__main__":
    sys.exit(main())
