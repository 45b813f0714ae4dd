"""`python -m tests.property --count 10000 --kept FILE`: the property over many draws, on all cores; failures reduced.

A run that was ended goes on where FILE ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import Pool
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from tests.property import costs  # noqa: E402
from tests.property.check import Outcome, check, legal, report  # noqa: E402
from tests.property.contents import shares  # noqa: E402
from tests.property.draw_strategy import draw  # noqa: E402


def judge(seed: int) -> tuple[int, Outcome]:
    """The outcome of one draw."""
    return seed, check(draw(seed))


def looked_at(seed: int) -> tuple[int, Outcome]:
    """What the program of one draw has; it is not run."""
    return seed, legal(draw(seed))


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
    parser.add_argument("--kept", type=Path, help="a file of outcomes, one per line: a run that was ended goes on")
    parser.add_argument("--shares", action="store_true", help="which share of them has what is counted: none is run")
    options = parser.parse_args()
    one = judge_costs if options.costs else looked_at if options.shares else judge
    if options.count == 1:
        case = draw(options.seed)
        _, outcome = one(options.seed)
        print(case.text)
        print(f"{outcome.what} {outcome.why}\n{outcome.detail}")
        return int(outcome.what == "failed")
    begun = time.monotonic()
    before = read(options.kept, options.costs)
    seeds = [seed for seed in range(options.seed, options.seed + options.count) if seed not in before]
    if options.jobs > 1:
        with Pool(options.jobs) as pool:
            made = summary(noted(pool.imap_unordered(one, seeds, chunksize=8), options.kept, options.costs))
    else:
        made = summary(noted(map(one, seeds), options.kept, options.costs))
    outcomes = made | {s: o for s, o in before.items() if options.seed <= s < options.seed + options.count}
    whats = Counter(o.what for o in outcomes.values())
    codes = Counter(o.why for o in outcomes.values() if o.what == "refused")
    print(f"{options.count} draws in {time.monotonic() - begun:.0f} s: {dict(whats)}; refusals {dict(codes)}")
    programs = [o.has for o in outcomes.values() if o.what in ("proved", "compiled")]
    if programs and not options.costs:
        print(f"of {len(programs)} {'compiled' if options.shares else 'proved'}: {shares(programs)}")
    kinds: dict[str, list[int]] = {}
    for seed in sorted(outcomes):
        if outcomes[seed].what == "failed":
            kinds.setdefault(outcomes[seed].why, []).append(seed)
    for why, found in sorted(kinds.items(), key=lambda k: -len(k[1])):
        print(f"  {len(found):5d} × {why}: seeds {found[:8]}")
    for found in list(kinds.values())[: options.show]:
        how = costs.check if options.costs else legal if options.shares else check
        print("\n" + report(draw(found[0]), outcomes[found[0]], how))
    enough = whats["proved"] + whats["compiled"] >= 0.7 * options.count
    return int(bool(kinds) or not enough)


def read(kept: Path | None, costs: bool) -> dict[int, Outcome]:
    """What stands in the file, by seeds. A last line that is not whole is left out."""
    found: dict[int, Outcome] = {}
    for line in kept.read_text().splitlines() if kept is not None and kept.exists() else ():
        with suppress(ValueError):
            seed, of_costs, what, why, detail, *has = json.loads(line)
            if of_costs == costs and what != "compiled":
                found[seed] = Outcome(what, why, detail, *map(tuple, has))
    return found


def noted(results: Iterable[tuple[int, Outcome]], kept: Path | None, costs: bool) -> Iterator[tuple[int, Outcome]]:
    """The results, each written to the file as it comes."""
    if kept is None:
        yield from results
        return
    with kept.open("a") as file:
        print(file=file)  # the last line may not be whole
        for seed, outcome in results:
            row = [seed, costs, outcome.what, outcome.why, outcome.detail, outcome.has]
            print(json.dumps(row), file=file, flush=True)
            yield seed, outcome


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
