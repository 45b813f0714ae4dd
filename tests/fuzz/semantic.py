"""Drawn programs are broken so that they compute something else: the verifier or the proof finds each of these."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from tests.fuzz.campaign import commit
from tests.fuzz.cell import Cell, cells
from tests.fuzz.semantic_mutants import all_mutations

if TYPE_CHECKING:
    from compiler.driver import Compiled
    from compiler.program import Program

LATER = (3, 30, 300, 3000, 100_000)
"""Updates after which a proof begins that did not reach a branch in its first two steps, and said so."""

EQUIVALENT: dict[str, str] = {
    r"seed 26, function: map block\.layer_norm\.out\.grad, block\.layer_norm\.gain": "the gain is frozen at 1, and a "
    "layer norm's derivative takes constants out",
    r"seed 48, (scale|function): map update\w*\.(sum|k\w*), update\w*\.mean": "the next line of the optimizer takes "
    "constants out",
    r"seed (32, max: reduce block\.tanh|34, max: reduce block\.bn3\.moved_1\.mul_2)": "the dim has size 1",
    r"seed 49, scale: map update\.sum, update\.mean": "the sum of what a layer norm has made is 0",
    r"seed 49, other: block\.att3\.bv for block\.att3\.bq": "two frozen weights of zeros",
    r"seed (23|45|49), scale: map (encoder\.)?mla\d\.rotary\.cast": "two dims turn, at the "
    "one frequency whose index is 0",
    r"seed 24, function: map block\.layer_norm\..*\(class 0": "the gradient of data, which nobody reads",
    r"seed (5, twice: accumulate x_1\.grad\.sum|24, twice: accumulate who)": "rows of a sparse gradient "
    "are put where their micro-batch's are, not added",
    r"seed 3, (swap|other): cross_entropy_1\.mean_of_counted\.loss(\.whole)? (and|for) cross_entropy": "the loss is a "
    "number times itself",
    r"seed 11, order: elements (1, 2|5, 6) \(class 0": "passes of two chunks that do not wait for each other",
    r"seed 11, other: table#1 for table \(class 1, U": "two copies of one weight",
    r"seed (20|36), function: map block\w*\.(drop2|att5\.dropout)\.random, ": "`gt` for `ge`: no "
    "random number is the rate itself",
    r"seed 20, function: map block_0_1\.x_1\.grad, block_0_1\.u5": "the gradient of data, which nobody reads",
    r"seed 52, .*\batt\d\.([bw]?q|[bw]?k|q\.saved|bv for att1\.bq|bq for att1\.bv)": "attention over one position: "
    "queries and keys count for nothing",
    r"seed 52, (scale|swap): .*(update_2\.sub|block\.att)": "attention over one position: queries and keys count for "
    "nothing, and their gradients are zero",
}
"""Mutations that change nothing (patterns of `seed N, what was done`), and why."""

BLIND: dict[str, str] = {
    r"max: reduce (\w*pool\d+\.)?(max|low)\.grad\.cast": "counts the largest of a window: no two are equal",
    r"max: reduce accuracy\.where": "at most one addend is not 0, and no largest logit is negative",
    r"seed 49, function: map update_5\.g, ": "nothing is clipped (the factor is 1), and the next line "
    "takes constants out",
    r"seed 9, function: map accuracy\.iota, label": "of the few that are right the largest is compared with "
    "itself: rounding may turn each of them, for all that is known of it, as the proof says of most seeds of data",
    r"seed 11, swap: block\.abs\.saved(#1)? and block\.x_1\.saved(#1)? \(class 1": "the same where x is not "
    "negative, as there",
    r"seed 16, swap: moe3\.routed_experts": "the same as long as no expert has more than its capacity",
    r"seed 17, scale: map block\.x_2\.grad\.full_1": "the same to the bit with three other seeds of data",
    r"seed 3, (scale|function): map block\.(x|mul), .*\(class 1": "a side of `where` that no element takes in the "
    "second iteration, as the proof says",
}
"""Mutations that the numbers of a proof cannot show (patterns as above), and why: they change something for others."""


@dataclass
class Caught:
    """How often what was caught by what. `same`: what changes nothing, `blind`: what a proof's
    numbers do not show, both with the reason; `missed`: what else nothing found."""

    programs: int = 0
    mutations: int = 0
    by: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ways = ", ".join(f"{n:,} by {by}" for by, n in self.by.most_common())
        head = (
            f"mutations: {self.mutations:,} of {self.programs} drawn programs: {ways}; {len(self.same)} change "
            f"nothing, {len(self.blind)} with no numbers of a proof, {len(self.missed)} missed  (commit {commit()})"
        )
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in self.kinds.most_common())
        same = [f"  the same: {s}" for s in self.same] + [f"  not shown: {b}" for b in self.blind]
        return "\n".join([head, f"  {kinds}", *same, *(f"  missed: {m}" for m in self.missed)])


def programs(seed: int) -> Iterator[tuple[int, Compiled]]:
    """Drawn jobs that compile, in float64, with what they were drawn from."""
    from compiler.driver import compile_job
    from compiler.evaluate import evaluate_file
    from compiler.model import Precision
    from dsl.diagnostics import ParcError
    from dsl.source import Source
    from tests.property.draw_strategy import draw

    while True:
        case = draw(seed)
        try:
            job = evaluate_file(Source("drawn.par", case.text), precision=Precision("f64", "f64")).job
            compiled = compile_job(job)
        except ParcError:
            compiled = None
        if compiled is not None and 1 < compiled.program.devices <= 8:
            yield seed, compiled
        seed += 1


def judge(count: int, seed: int, each: int | None = None, end: float | None = None, jobs: int = 1) -> Caught:
    """All mutations of so many drawn programs, or `each` of every one: of all kinds alike, as far as there are some.

    end: of `time.monotonic`, when no more are begun.
    """
    found = Caught()
    for at, compiled in programs(seed):
        if found.programs >= count or (end is not None and time.monotonic() > end):
            break
        broken = _some(list(all_mutations(compiled.program)), each, Random(at))
        cases = [(i, _case(compiled, program)) for i, (_, program) in enumerate(broken)]
        for i, ended in cells(cases, jobs):
            name = f"seed {at}, {broken[i][0]}"
            found.mutations += 1
            found.kinds[broken[i][0].partition(":")[0]] += 1
            if ended.finding is not None and ended.finding.kind == "missed":
                _explained(name, found)
            elif ended.finding is not None:
                found.missed.append(f"{name}: {ended.finding}\n{ended.finding.detail}")
            else:
                found.by[ended.notes[-1]] += 1
        found.programs += 1
        print(f"seed {at}: {len(broken)} mutations; missed so far:", *found.missed, sep="\n  ", flush=True)
    return found


def _explained(name: str, found: Caught) -> None:
    for reasons, those in ((EQUIVALENT, found.same), (BLIND, found.blind)):
        reason = next((why for pattern, why in reasons.items() if re.search(pattern, name)), None)
        if reason is not None:
            those.append(f"{name}: {reason}")
            return
    found.missed.append(name)


def _some(broken: list[tuple[str, Program]], each: int | None, rng: Random) -> list[tuple[str, Program]]:
    if each is None or len(broken) <= each:
        return broken
    kinds: dict[str, list[tuple[str, Program]]] = {}
    for one in broken:
        kinds.setdefault(one[0].partition(":")[0], []).append(one)
    for some in kinds.values():
        rng.shuffle(some)
    turns = (some[i] for i in range(len(broken)) for some in kinds.values() if i < len(some))
    return [one for _, one in zip(range(each), turns)]


def _case(compiled: Compiled, broken: Program) -> Callable[[Cell], None]:
    def run(cell: Cell) -> None:
        from compiler.verify import verify
        from dsl.diagnostics import ParcError
        from runtime.prove import prove

        cell.stage("verify")
        if verify(broken):
            cell.note("the verifier")
            return
        try:
            for steps in (1, 2):
                cell.stage("proof")
                proof = prove(compiled.training, broken, steps)
                if not proof.ok:
                    cell.note("the proof")
                    return
            for first in LATER if not all(u.whole for u in proof.unreached) else ():
                cell.stage("later")
                if not prove(compiled.training, broken, 2, first=first).ok:
                    cell.note("the proof after more updates (it says what it did not reach)")
                    return
        except ParcError:  # such as what differs between devices that must hold the same
            cell.note("the run")
            return
        cell.wrong("missed", "mutation")

    return run
