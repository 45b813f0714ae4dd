"""Implementations, tried by themselves: in f64, at the stated sizes or at the smallest, once per content of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from compiler.evaluate.sizes import Sizes
from compiler.implement.alone import ScopeAlone, alone
from compiler.model import Job
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.walk import walk
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic
from dsl.replacing import replacing
from dsl.source import Source, Span
from parc.small_facts import SHORT, axes_by_hand, axis_sizes
from runtime.cache_folder import cache_folder

if TYPE_CHECKING:
    from compiler.evaluate import Evaluation
    from parc.api.options import File, Options

AFFORDABLE = 2e8
"""Operations and elements of a scope that are computed within a fraction of a second."""

KEPT = "implementations"
"""What the cache folder calls notes of those that are equal."""

TRIALS = 2
"""Raised where trials see more than they did: what was noted before is tried again."""

INSTRUCTION = 1000
"""Elements that are computed in the time that it takes to begin an instruction: so loops of small tensors count."""

EFFORT = 5000
"""Nodes evaluated, at most, while smaller sizes are looked for: less than a second."""


@dataclass(frozen=True, slots=True)
class TriedByHand:
    """An implementation of a scope of a job. equal: whether it computes what the scope does; None: not tried. shorter:
    axes that it is given which had fewer devices in that: their sizes (stated, tried)."""

    job: str
    scope: str
    equal: bool | None
    shorter: tuple[tuple[str, int, int], ...] = ()

    def __str__(self) -> str:
        found = {True: "equal to what it replaces", False: "something else", None: "not tried by itself"}
        on = ", ".join(f"{axis} = {n:,} of {full:,}" for axis, full, n in self.shorter)
        return f"{self.job}: {self.scope}, written by hand: {found[self.equal]}" + (f" (tried with {on})" if on else "")


def tried_by_hand(
    file: File, evaluation: Evaluation, options: Options
) -> tuple[tuple[TriedByHand, ...], tuple[Diagnostic, ...]]:
    """As `tried`, of the job of a file that has been evaluated with these options."""
    if not evaluation.job.strategy.implementations:
        return (), ()
    from parc.api.compiling import sizes

    said = [(k, v) for k, v in sorted(options.items()) if k in ("params", "job", "strategy")]
    sized = sizes(file, {**options, "double": True})
    return tried(evaluation.job, sized, evaluation.sources.values(), repr(said))


def tried(
    job: Job, sized: Callable[[Sizes], Job], sources: Iterable[Source], options: object
) -> tuple[tuple[TriedByHand, ...], tuple[Diagnostic, ...]]:
    """What becomes of each implementation of a job, and errors (E0430) and warnings (E0434).

    sized: the job in f64, with other sizes. What was equal once is not tried again while the texts of all sources and
    the options are the same; it is noted in the user's cache folder.
    """
    rules = job.strategy.implementations
    if not rules:
        return (), ()
    key = _key(sources, (job.name, options))
    if _noted(key):
        return tuple(TriedByHand(job.name, job.model.with_numbers(r.scope), True) for r in rules), ()
    outcomes: list[TriedByHand] = []
    found: list[Diagnostic] = []
    chosen = _affordable(sized)
    by_scope, own, now = {one.rule.scope: one for one in alone(chosen)}, axis_sizes(job), axis_sizes(chosen)
    for rule in rules:
        scope = job.model.with_numbers(rule.scope)
        equal, diagnostic = _judged(by_scope.get(rule.scope), scope, rule.by or rule.span)
        shorter = tuple((axis, own[axis], now[axis]) for axis, _ in rule.axes if now[axis] != own[axis])
        outcomes.append(TriedByHand(job.name, scope, equal, shorter if equal is not None else ()))
        if diagnostic is not None:
            found.append(diagnostic)
    if all(o.equal and not o.shorter for o in outcomes):
        _note(key)
    return tuple(outcomes), tuple(found)


def _affordable(sized: Callable[[Sizes], Job]) -> Job:
    """The job in the stated sizes or, where an implementation takes long there, in the smallest: with as many devices
    on the axes that implementations are given or, where that takes long, with fewer."""
    from parc.small import smallest

    full = sized(Sizes(bare=True))
    if _cheap(full):
        return full
    axes = axes_by_hand(full)
    found = smallest(sized, EFFORT, axes, _cheap)
    if _cheap(found) or all(n <= SHORT for a, n in axis_sizes(full).items() if a in axes):
        return found
    return smallest(sized, EFFORT, axes, _cheap, 0)


def _cheap(job: Job) -> bool:
    return all(work(one) <= AFFORDABLE for one in alone(job))


def work(one: ScopeAlone) -> float:
    """Operations and elements of both forms of a scope."""
    total = 0.0
    for model in (one.written, one.implemented):
        for node, times in walk(model.graph):
            if isinstance(node.op, Contract):
                total += times * (INSTRUCTION + node.op.flops([v.type for v in node.inputs]))
            elif not isinstance(node.op, Repeat):
                total += times * (INSTRUCTION + sum(v.type.elements for v in node.outputs))
    return total


def _judged(one: ScopeAlone | None, scope: str, span: Span) -> tuple[bool | None, Diagnostic | None]:
    """scope: as the strategy writes it."""
    from runtime.prove.alone import differences

    if one is None or work(one) > AFFORDABLE:
        why = "it takes too long at these sizes" if one is not None else "the job computes nothing of it"
        message = f"the implementation of `{scope}` was not tried by itself: {why}"
        help = "`parc verify --small` proves the job, and it with it, in the smallest sizes"
        return None, Diagnostic("E0434", message, span, help=help, severity="warning")
    rows = differences(one)
    if not rows:
        return True, None
    worst = max((r for r in rows if r.derivative == rows[0].derivative), key=lambda r: r.error)
    what = "the derivative by" if worst.derivative else "the result"
    name = worst.name.removeprefix(one.rule.scope + ".")
    message = f"the implementation computes something else than `{scope}`: {what} `{name}`"
    message += f" differs by {worst.error:.2g} of its largest value"
    help = "types do not see a block that is left out, a wrong order or a wrong scale: look for one"
    return False, Diagnostic("E0430", message, span, help=help)


# --- what was tried before ------------------------------------------------------------------------------------


def _key(sources: Iterable[Source], options: object) -> str:
    """What all of this is noted by."""
    from parc import __version__

    texts = sorted((s.name, s.text) for s in sources)
    return sha256(repr((__version__, TRIALS, texts, options)).encode("utf-8", "surrogatepass")).hexdigest()


def _noted(key: str) -> bool:
    """Whether it was found equal before."""
    folder = cache_folder(KEPT, make=False)
    return folder is not None and (folder / key).exists()


def _note(key: str) -> None:
    """Note that it is equal. A folder that cannot be written to is no error: it is tried again next time."""
    folder = cache_folder(KEPT)
    if folder is not None:
        with suppress(OSError), replacing(folder / key) as file:
            file.write(b"equal\n")
