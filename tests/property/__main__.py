"""`python -m tests.property --count 10000`: the property over many draws, on all cores, with reduced failures."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing import Pool

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from tests.property import costs  # noqa: E402
from tests.property.check import Outcome, check, report  # noqa: E402
from tests.property.draw_strategy import draw  # noqa: E402


def judge(seed: int) -> tuple[int, Outcome]:
    """The outcome of one draw."""
    return seed, check(draw(seed))


def judge_costs(seed: int) -> tuple[int, Outcome]:
    """That of what it costs."""
    return seed, costs.check(draw(seed))


def main() -> int:
    """0 if nothing failed and enough was proved."""
    parser = argparse.ArgumentParser(prog="python -m tests.property", description=__doc__)
    parser.add_argument("--count", type=int, default=1, help="number of draws")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; with --count 1, print the file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--show", type=int, default=5, help="failures to reduce and print")
    parser.add_argument("--costs", action="store_true", help="of what they cost: every rank played, memory measured")
    options = parser.parse_args()
    one = judge_costs if options.costs else judge
    if options.count == 1:
        case = draw(options.seed)
        _, outcome = one(options.seed)
        print(case.text)
        print(f"{outcome.what} {outcome.why}\n{outcome.detail}")
        return int(outcome.what == "failed")
    begun = time.monotonic()
    seeds = range(options.seed, options.seed + options.count)
    if options.jobs > 1:
        with Pool(options.jobs) as pool:
            outcomes = summary(pool.imap_unordered(one, seeds, chunksize=8))
    else:
        outcomes = summary(map(one, seeds))
    whats = Counter(o.what for o in outcomes.values())
    codes = Counter(o.why for o in outcomes.values() if o.what == "refused")
    print(f"{options.count} draws in {time.monotonic() - begun:.0f} s: {dict(whats)}; refusals {dict(codes)}")
    kinds: dict[str, list[int]] = {}
    for seed in sorted(outcomes):
        if outcomes[seed].what == "failed":
            kinds.setdefault(outcomes[seed].why, []).append(seed)
    for why, found in sorted(kinds.items(), key=lambda k: -len(k[1])):
        print(f"  {len(found):5d} × {why}: seeds {found[:8]}")
    for found in list(kinds.values())[: options.show]:
        print("\n" + report(draw(found[0]), outcomes[found[0]], costs.check if options.costs else check))
    return int(bool(kinds) or whats["proved"] < 0.7 * options.count)


def summary(results: Iterable[tuple[int, Outcome]]) -> dict[int, Outcome]:
    """All outcomes, with a line of progress now and then."""
    outcomes: dict[int, Outcome] = {}
    for seed, outcome in results:
        outcomes[seed] = outcome
        if len(outcomes) % 500 == 0:
            print(f"{len(outcomes)} …", file=sys.stderr, flush=True)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
