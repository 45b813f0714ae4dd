"""Found plans against hand-tuned ones: `python -m benchmarks.published.plans [ROW_ID …] [--within SECONDS]`.

Of some published recipes (Megatron's tables, Megatron-Bridge's and TorchTitan's) the job is planned as `parc plan`
does, without a look at the recipe; both strategies are priced alike, with the recipe's software. A search is ended
after so many seconds of CPU, however busy the machine is.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import parc
from benchmarks.published.facts import SINGLE_NODE, Row, load
from benchmarks.published.generate import degrees, job, microbatches
from dsl.source import Source
from parc.planning.answer import planned_file
from parc.planning.reasons import choices_of
from parc.price import Price, price
from parc.units import amount

ROWS = (
    *("megatron_sc21_t1-0004", "megatron_sc21_t1-0006", "megatron_sc21_t2-0007"),
    *("megatron_bridge-0024", "megatron_bridge-0007", "megatron_bridge-0042"),
    *("torchtitan_a100-0007", "torchtitan_h100-0005", "torchtitan_h100-0031"),
)
"""By default: 8B to 405B parameters, 16 to 1,024 devices, one with experts."""


@dataclass(frozen=True, slots=True)
class Against:
    """A recipe and what was found in its place. gap: by how much others can be better; spent: seconds of CPU."""

    row: Row
    recipe: Price
    found: Price | None
    chosen: str
    gap: float
    spent: float

    def lines(self) -> list[str]:
        """For people."""
        row, recipe = self.row, self.recipe
        head = f"{row}: {row['model']} on {row['n_dev']} {row['accel']}, batch {row['gbs']}, {row['seq_len']} positions"
        fits = "" if recipe.fits else ", which does not fit by our count"
        lines = [head, f"  recipe {recipe.seconds:8.3f} s  {amount(recipe.needed):>10}{fits}  {by_hand(row)}"]
        if self.found is None:
            return [*lines, "  found  nothing that fits"]
        lines.append(f"  found  {self.found.seconds:8.3f} s  {amount(self.found.needed):>10}  {self.chosen}")
        proved = "proved" if not self.gap else f"at most {self.gap:.0%} better is possible"
        change = self.found.seconds / recipe.seconds - 1
        return [*lines, f"  {change:+.1%}; {proved}; {self.spent:.0f} s of CPU"]


def by_hand(row: Row) -> str:
    """What the recipe chooses."""
    mesh = " ".join(f"{axis} {n}" for axis, n in degrees(row).items() if n > 1)
    experts = f" ep {row['ep']}" if row.whole("ep") > 1 else ""
    chunks = f" of {row['vpp']} chunks" if row.whole("vpp") > 1 else ""
    again = row["recompute"].partition(" (")[0] or "not stated"
    zero = row["zero_stage"] or "0"
    along = ", positions on tp" if row.yes("sp") else ""
    return f"{mesh}{experts}, {microbatches(row)} micro-batches, ZeRO {zero}{chunks}{along}, recompute {again}"


def against(row: Row, within: float) -> Against:
    """Plan the row's job. Raises `Unsupported` for what has no job."""
    source = Source(f"{row}.par", job(row))
    recipe = price(parc.evaluate(source).job)
    began = time.process_time()
    signal.signal(signal.SIGPROF, lambda *_: signal.raise_signal(signal.SIGINT))  # as Ctrl-C: what is known is told
    signal.setitimer(signal.ITIMER_PROF, within)
    try:
        found = planned_file(source, {}, None, "serial", None, "step", None, 1)  # not the recipe
    except (parc.ParcError, KeyboardInterrupt):
        return Against(row, recipe, None, "", 1.0, time.process_time() - began)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    best, spent = found.best[0], time.process_time() - began
    said = [f"{name} {of}" for name, of in choices_of(found.planned.space, best.candidate) if of not in PLAIN]
    return Against(row, recipe, best.price, ", ".join(said), found.planned.found.gap, spent)


PLAIN = ("nothing", "gathered", "none", "whole on the data axis")
"""What is as usual goes without saying."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", default=ROWS, metavar="ROW_ID", help=f"default: {', '.join(ROWS)}")
    parser.add_argument("--within", type=float, default=20.0, help="seconds of CPU of each search (default: 20)")
    options = parser.parse_args(arguments)
    known = {str(row): row for row in (*load(), *load(SINGLE_NODE))}
    if missing := [name for name in options.rows if name not in known]:
        print(f"no row {', '.join(missing)}", file=sys.stderr)
        return 2
    for name in options.rows:
        print("\n".join(against(known[name], options.within).lines()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
