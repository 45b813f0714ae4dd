"""`python -m tests.fuzz par --count 2000`: mutants of files, each in a process of its own, with reduced failures."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BEGUN = time.monotonic()

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from click.testing import CliRunner  # noqa: E402

from parc.cli import cli  # noqa: E402
from tests.fuzz.bundles import Scenes  # noqa: E402
from tests.fuzz.campaign import Target, campaign, furnish, record, text_of  # noqa: E402
from tests.fuzz.cell import cell  # noqa: E402
from tests.fuzz.kills import TEXT  # noqa: E402
from tests.fuzz.par import COMMANDS, MORE  # noqa: E402

OTHERS = ("data", "tokens", "stored")
"""Kinds of files of others: each a module with `scenes`."""


def target(name: str) -> Target:
    """What is mutated, with all loaded that its cases need."""
    if name == "par":
        from tests.fuzz import par

        made = par.corpus()
        return Target("par", ".par", lambda rng: par.drawn(made, rng), par.case)
    if name == "counts":
        from tests.fuzz import counts

        return Target("counts", ".par", counts.drawn, counts.case)
    if name in OTHERS:
        scenes: Scenes = importlib.import_module(f"tests.fuzz.{name}").scenes()
        return Target(name, f".{name}", scenes.draw, scenes.case, scenes.warm)
    from tests.fuzz import npu

    programs = npu.corpus()
    return Target(
        "npu", ".npu", lambda rng: npu.drawn(programs, rng), lambda text, folder: npu.case(text, folder, programs)
    )


def main() -> int:
    """0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=("par", "npu", "counts", *OTHERS, "mutations", "kills"))
    parser.add_argument("--count", type=int, default=2000, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, help="mutations of a program, if not all")
    parser.add_argument("--minutes", type=float, help="end after so many, with all that is loaded first")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep totals there, and go on from them")
    parser.add_argument("--found", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-found", help="for failures")
    parser.add_argument("--show", action="store_true", help="print failing mutants, too")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--record", action="store_true", help="add the totals to tests/fuzz/totals.csv")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="print this mutant, and what becomes of it")
    parser.add_argument("--file", type=Path, nargs="+", help="judge these files instead of mutants")
    options = parser.parse_args()
    end = None if options.minutes is None else BEGUN + 60 * options.minutes
    if options.what == "kills":
        from tests.fuzz.kills import kills, summary

        _warm()
        killed = kills(options.count, options.seed, end)
        print(summary(killed, options.seed))
        _record(options, killed.count, len(killed.wrong), f"{killed.hit} while a file was written")
        return int(bool(killed.wrong))
    if options.what == "mutations":
        from tests.fuzz.semantic import judge

        _warm()
        caught = judge(options.count, options.seed, options.each, end, options.jobs)
        print(caught)
        _record(options, caught.mutations, len(caught.missed), f"{caught.programs} programs")
        return int(bool(caught.missed))
    chosen = target(options.what)
    _warm(chosen.warm)
    if options.file:
        return max(_judged(chosen, file.read_bytes().decode("utf-8", "surrogatepass"), file) for file in options.file)
    if options.only is not None:
        text = text_of(chosen, options.seed, options.only)
        print(text)
        return _judged(chosen, text, f"mutant {options.only}")
    totals = campaign(chosen, options.count, options.seed, end, options.resume, options.found, options.jobs)
    print(totals)
    _record(options, totals.done, sum(totals.failures.values()), "; ".join(totals.failures))
    for path in sorted(options.found.glob(f"*{chosen.suffix}")) if options.show and totals.failures else ():
        print(f"\n{path.with_suffix('.txt').read_text(errors='replace')}\n{path.read_text(errors='replace')}")
    return int(bool(totals.failures))


def _judged(chosen: Target, text: str, what: object) -> int:
    """Tell what becomes of a text; 1 if something is wrong."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        furnish(Path(folder))
        ended = cell(chosen.case(text, Path(folder)))
    notes = "".join(f", {note}" for note in ended.notes)
    print(f"{what}: {ended.stage}: {ended.finding or 'fine'}{notes}; {ended.cpu:.1f} s, {ended.peak / 2**20:.0f} MiB")
    print(ended.finding.detail if ended.finding else "")
    return int(ended.finding is not None)


def _record(options: argparse.Namespace, count: int, failures: int, note: str) -> None:
    """A line of the file of long runs, if that is asked for."""
    if options.record:
        record(options.what, options.seed, count, failures, note)


def _loaded() -> None:
    """What commands about jobs load when they run."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        names = {"path": f"{folder}/a.par", "npu": f"{folder}/a.npu", "out": f"{folder}/out"}
        Path(names["path"]).write_text(TEXT)
        for command in (*COMMANDS, *MORE):
            result = CliRunner().invoke(cli, [word.format(**names) for word in command])
            assert result.exit_code == 0, result.output


def _warm(load: Callable[[], None] | None = None) -> None:
    """Load in this process what cases need, and keep the collector's hands off it."""
    (load or _loaded)()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)  # as the command does


if __name__ == "__main__":
    sys.exit(main())
