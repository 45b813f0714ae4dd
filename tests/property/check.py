"""What becomes of a case: it is proved equal to the serial program, or refused by a coded diagnostic, or it fails."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from math import isclose

from compiler.driver import Compiled, compile_job, joined
from compiler.evaluate import evaluate
from compiler.model import EVALUATE
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source
from runtime.prove import Proof, prove, prove_evaluation, random_batch
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.property.case import Case
from tests.property.contents import contents

REFUSALS = frozenset(
    {
        "E0317",  # all weights are frozen
        "E0407",  # an axis is used for two things
        "E0410",  # a scope that cannot be placed: nothing is computed there
        "E0413",  # a layout does not fit its tensor
        "E0420",  # a piece by hand that micro-batches do not divide
        "E0446",  # what all micro-batches make together, and they go two ways
        "E0447",  # an order by hand by which states are renewed out of turn
        "E0471",  # inputs that are no whole words
        "E0435",  # a dim too short for a zig-zag order
        "E0442",  # an optimizer that needs all iterations of a loop side by side, of which rules speak in part
        "E0501",  # a dim of other tensors does not split into micro-batches
        "E0502",  # not separable over micro-batches
        "E0540",  # indivisible
        "E0542",  # a wild rule that no tensor heeds
        "E0554",  # an optimizer that needs all iterations of a loop that is cut
        "E0563",  # two passes through places that have several stages
        "E0575",  # a cache of a table of which more than rows is needed
    }
)
"""What a strategy may be refused for. Any other code means that the generator draws nonsense, or a bug."""


def refusal(found: Diagnostic) -> bool:
    """Whether a draw may be refused for it: a wild `frozen` may name nothing that its `keep` leaves, too."""
    return found.code in REFUSALS or (found.code == "E0404" and "changes nothing" in found.message)


PRIVATE = 10
"""Every so many cases the devices run one by one as well."""

EVALUATED = 4
"""Every so many cases the model is evaluated as well."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`what`: "proved", "refused" or "failed"; `why`: a refusal's code, a failure's kind; `detail`: for people; `has`:
    what is in the program (`contents.NAMES`), where there is one."""

    what: str
    why: str = ""
    detail: str = ""
    has: tuple[str, ...] = ()


Judge = Callable[[Case], Outcome]


def check(case: Case, run: bool = True) -> Outcome:
    """Compile, verify, print and read again, run beside the serial program (unless that is not asked for). Never
    raises."""
    try:
        compiled = compile_job(evaluate(Source("drawn.par", case.text)))
    except ParcError as e:
        codes = sorted({d.code for d in e.diagnostics})
        text = "\n".join(map(str, e.diagnostics))
        if not all(map(refusal, e.diagnostics)):
            return Outcome("failed", f"refused by {codes[0]}", text)
        if any(d.span is None for d in e.diagnostics):
            return Outcome("failed", f"{codes[0]} without a place", text)
        return Outcome("refused", codes[0], text)
    except Exception as e:
        return Outcome("failed", f"compile: {where(e)}", traceback.format_exc())
    program = compiled.program
    try:
        found = verify(program)
        if found:
            return Outcome("failed", f"verifier: {found[0].code}", "\n".join(map(str, found[:5])))
        if parse_program(show(program)) != program:
            return Outcome("failed", "text: not the same again")
        if not run:
            return Outcome("compiled", has=contents(compiled))
        executor = RankExecutor if case.seed % PRIVATE == 0 and program.devices <= 8 else None
        proof = prove(compiled.training, program, executor=executor)
    except Exception as e:
        return Outcome("failed", f"run: {where(e)}", traceback.format_exc())
    if case.seed % EVALUATED == 0 and (found := _evaluated(case, compiled)) is not None:
        return found
    if proof.equal or (_near(proof) and _twin(case).what == "proved"):
        return Outcome("proved", has=contents(compiled))
    bad = [f"{r.kind} {r.name}: {r.error:.3g} in step {r.step}" for r in proof.rows if not r.ok]
    return Outcome("failed", "not equal", "\n".join(bad[:12]))


def legal(case: Case) -> Outcome:
    """As `check`, of a case that is compiled, and not run."""
    return check(case, run=False)


def _evaluated(case: Case, compiled: Compiled) -> Outcome | None:
    """What is wrong with `evaluate` of the case, which is a second entry of its program."""
    job, executor = compiled.job, RankExecutor if compiled.program.devices <= 4 else Emulator
    try:
        alone = compile_job(job, EVALUATE)
        both = joined([compiled.program, alone.program])
        found = verify(both)
        if (
            found
            and {d.code for d in found} <= {"E0650", "E0651"}
            and any("place drop" in line for rule in case.rules for line in rule.lines)
        ):
            return None  # where dropout alone says where others are: evaluations have none
        if found:
            return Outcome("failed", f"evaluate: {found[0].code}", "\n".join(map(str, found[:5])))
        if parse_program(show(both)) != both:
            return Outcome("failed", "evaluate: text not the same again")
        proof = prove_evaluation(alone.training, alone.program, 1, executor=executor)
        batch = random_batch(both.inputs, 0, 0)
        first, step = Emulator(both).call(EVALUATE, batch), Emulator(both).step(batch)  # each may renew states
    except Exception as e:
        return Outcome("failed", f"evaluate: {where(e)}", traceback.format_exc())
    by_hand = any(p.schedule == "by_hand" for p in job.strategy.pipelines)  # may add up in another order
    near = 1e-12 if first.loss.dtype == "float64" else 1e-6
    same = isclose(first.loss, step.loss, rel_tol=near) if by_hand else first.loss.tobytes() == step.loss.tobytes()
    if job.evaluated is None and not same:
        return Outcome("failed", "evaluate: another loss", f"{first.loss!r} instead of a step's {step.loss!r}")
    if proof.equal or _near(proof):
        return None
    return Outcome("failed", "evaluate: not equal", str([r for r in proof.rows if not r.ok][:12]))


def _near(proof: Proof) -> bool:
    """Whether what differs may be rounding: of models that are drawn, a few enlarge it beyond the tolerance of f32."""
    rows = [r for r in proof.rows if not r.ok]
    return bool(rows) and all(r.error <= 1000 * r.tolerance for r in rows)


def _twin(case: Case) -> Outcome:
    """The same case in f64, in which there is no rounding to speak of."""
    return check(replace(case, precision="f64")) if case.precision.startswith("f32") else Outcome("failed")


def where(error: Exception) -> str:
    """The error's type and the line of ours that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return f"{type(error).__name__} at {last.filename.rpartition('/')[2]}:{last.lineno}"


def shrink(case: Case, outcome: Outcome, how: Judge = check, tries: int = 200) -> Case:
    """A smaller case that fails alike."""
    while tries > 0:
        for smaller in case.smaller():
            tries -= 1
            again = how(smaller)
            if again.what == "failed" and again.why == outcome.why:
                case = smaller
                break
            if tries <= 0:
                break
        else:
            return case
    return case


def report(case: Case, outcome: Outcome, how: Judge = check) -> str:
    """The failure, for people: what, and the file that shows it."""
    small = shrink(case, outcome, how)
    more = {check: "", legal: " --shares"}.get(how, " --costs")
    return (
        f"seed {case.seed}: {outcome.why}\n{how(small).detail}\n"
        f"--- `python -m tests.property --seed {case.seed}{more}` draws it; reduced:\n{small.text}"
    )


def new_ones(seeds: Iterable[int], draw: Callable[[int], Case], kinds: Collection[str]) -> list[int]:
    """The seeds whose cases have one of these kinds that no case before has."""
    seen: set[str] = set()
    found = []
    for seed in seeds:
        new = {*kinds} & {*draw(seed).kinds} - seen
        if new:
            found.append(seed)
            seen |= new
    return found
